# Every target works from a fresh clone on a machine with Python >= 3.10 and make: the environment is made on first use.
#   make test VENV=dir       puts the environment elsewhere
#   make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv

BIN := $(abspath $(VENV))/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
REQUIREMENTS := setup.cfg pyproject.toml constraints.txt pyro_spvae/_version.py
# mypy does not read setup.cfg's package_dir, so it is shown the installed layout as a tree of links.
TYPING := build/typing

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test lint format docs bench gpu-check clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1	\2/' | expand -t 18

# One stamp file for each set of extras, so that pip runs again only when the requirements changed.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else "pyro-spvae needs Python >= 3.10, and $(PYTHON) is " + sys.version.split()[0] + "; choose another by make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(REQUIREMENTS) | $(VENV)/bin/python
	$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.installed-test: $(REQUIREMENTS) | $(VENV)/bin/python
	$(PIP_INSTALL) -e '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-lint: $(REQUIREMENTS) | $(VENV)/bin/python
	$(PIP_INSTALL) -e '.[test,lint]'
	@touch $@ $(VENV)/.installed $(VENV)/.installed-test

$(VENV)/.installed-docs: $(REQUIREMENTS) | $(VENV)/bin/python
	$(PIP_INSTALL) -e '.[docs]'
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed ## create the environment and install the package in it

demo: $(VENV)/.installed ## train the default model on the bundled digits and show what it learned
	$(BIN)/pyro-spvae demo

# One worker a core, which takes over tests of the others when it has none left; each worker has one thread.
test: $(VENV)/.installed-test ## run the whole test suite and print the slowest tests
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist worksteal --durations 20

lint: $(VENV)/.installed-lint ## check style (ruff) and types (mypy)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@rm -rf $(TYPING) && mkdir -p $(TYPING)/pyro_spvae
	@ln -s $(CURDIR)/pyro_spvae/* $(CURDIR)/models $(CURDIR)/guides $(TYPING)/pyro_spvae
	@ln -s $(CURDIR)/tests $(CURDIR)/benchmarks $(TYPING)
	cd $(TYPING) && $(BIN)/mypy --config-file $(CURDIR)/setup.cfg --cache-dir $(CURDIR)/.mypy_cache pyro_spvae tests benchmarks

format: $(VENV)/.installed-lint ## rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-docs ## build the site of docs/ into build/docs, without a network
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs build/docs
	@echo "build/docs/index.html"

bench: $(VENV)/.installed ## time the package against its peers and write benchmarks/README.md
	$(BIN)/python -m benchmarks

gpu-check: $(VENV)/.installed-test ## check a CUDA device in 8 minutes, with DATA=dir that has MNIST
	$(BIN)/python -m benchmarks.gpu $(if $(DATA),--data-dir $(DATA))

clean: ## remove builds and caches, but not the environment
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path './.venv*' -prune -o -name __pycache__ -type d -exec rm -rf {} +

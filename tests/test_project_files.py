# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What contributors go by agrees with the project: guide, changelog, citation, forms, and what runs on every change."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
import yaml

from benchmarks import circuit
from benchmarks.__main__ import TEXT
from pyro_spvae import Circuit, __version__, poon_domingos
from pyro_spvae.testing import PriorTests
from tests.test_package import LAYERS

ROOT = Path(__file__).parents[1]
CONTRIBUTING, CHANGELOG = ((ROOT / name).read_text(encoding="utf-8") for name in ("CONTRIBUTING.md", "CHANGELOG.md"))
PRIOR, TESTS = re.findall(r"^```python\n(.*?)^```", CONTRIBUTING, flags=re.DOTALL | re.MULTILINE)
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

exec(compile(PRIOR, "CONTRIBUTING.md", "exec"))


class TestPriorOfTheGuide(PriorTests):
    """The prior that the guide adds passes what every prior inherits, in the three lines that it shows."""

    def make(self):
        return globals()["LearnedNormal"]()


def test_the_guide_shows_these_three_lines():
    lines = ["class TestLearnedNormal(PriorTests):", "    def make(self):", "        return LearnedNormal()"]
    assert TESTS.splitlines()[-3:] == lines


def test_rooms_of_the_guide_are_those_that_imports_are_checked_by():
    rows = re.findall(r"^\| (`.*?) \|", CONTRIBUTING, flags=re.MULTILINE)
    assert [set(re.findall(r"`(\w+)`", row)) for row in rows] == [set(layer) for layer in LAYERS]


def test_the_page_of_benchmarks_has_the_text_that_it_is_written_with():
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    pieces = re.split(r"\{\w+\}", TEXT)
    assert len(pieces) > 15 and re.fullmatch(".*?".join(map(re.escape, pieces)), page, flags=re.DOTALL)


@pytest.mark.parametrize("side, units", [case[:2] for case in circuit.CASES])
def test_the_page_of_benchmarks_counts_weights_of_circuits(side, units):
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    regions = poon_domingos((side, side), 1)
    for name, options in circuit.OPTIONS.items():
        weights = Circuit(regions, units, **options).num_weights
        assert f"| {side}x{side} | {units} | {name} | {weights:,} |" in page


@pytest.mark.parametrize("text", [CONTRIBUTING, CHANGELOG], ids=["CONTRIBUTING", "CHANGELOG"])
def test_links_and_files_exist(text):
    """Files in code are told by their folder: those of a user's own have none."""
    made = {"pyro_spvae/priors/learned_normal.py", "tests/priors/test_learned_normal.py"}
    named = set(re.findall(r"`((?:pyro_spvae|tests|benchmarks|examples|models|guides)/[\w/.-]*)`", text)) - made
    linked = set(re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text))
    assert linked | named and all((ROOT / path).exists() for path in linked | named)


def targets(text: str) -> set[str]:
    """Targets of make that commands call."""
    return {
        name for names in re.findall(r"^\s*make +([a-z][a-z -]*)", text, flags=re.MULTILINE) for name in names.split()
    }


def test_targets_of_make_exist():
    known = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert targets((ROOT / ".ci" / "run").read_text()) == {"lint", "test"} <= known
    code = "".join(re.findall(r"```bash\n(.*?)```", CONTRIBUTING, flags=re.DOTALL)).replace(" #", "\n#")
    named = targets(code) | set(re.findall(r"`make ([a-z-]+)", CONTRIBUTING + CHANGELOG))
    assert {"test", "lint", "docs", "bench", "format"} & named <= known and named <= known
    called = set()
    for path in WORKFLOWS:
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            commands = [step["run"] for step in job["steps"] if "run" in step]
            assert commands and all(re.fullmatch(r"make [a-z]+", command) for command in commands), path
            called |= {command.removeprefix("make ") for command in commands}
    assert called == {"lint", "test", "docs"} and called <= known


def test_workflows_run_the_versions_of_python_that_are_promised():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    promised = re.findall(r"Python :: (3\.\d+)$", setup["metadata"]["classifiers"], flags=re.MULTILINE)
    assert setup["options"]["python_requires"] == f">={promised[0]}"
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python-version"] == promised
    used = [step.get("with", {}).get("python-version") for job in workflow["jobs"].values() for step in job["steps"]]
    assert set(used) <= {None, "${{ matrix.python-version }}", *promised}
    assert f"Python {promised[0]} to {promised[-1]}" in CONTRIBUTING


def test_version_is_cited_and_has_its_section():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["version"] == __version__
    assert citation["authors"] == [{"name": "Contributors to the pyro-spvae project"}]
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Tan", "Peharz"] and paper["year"] == 2019
    sections = re.findall(r"^## \[(.*?)\] - (\d{4}-\d\d-\d\d)$", CHANGELOG, flags=re.MULTILINE)
    assert sections[0] == (__version__, str(citation["date-released"]))
    numbers = [tuple(map(int, version.split("."))) for version, _ in sections]
    assert numbers == sorted(set(numbers), reverse=True)
    assert sorted((date for _, date in sections), reverse=True) == [date for _, date in sections]


def test_forms_ask_for_the_command_and_bugs_for_configuration_and_versions():
    required = {}
    for name in ("bug", "feature"):
        form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
        fields = [field for field in form["body"] if field["type"] != "markdown"]
        assert form["name"] and form["description"] and len({field["id"] for field in fields}) == len(fields)
        required[name] = {field["id"]: field.get("validations", {}).get("required", False) for field in fields}
    assert required["bug"] == {"what": True, "command": True, "config": False, "versions": True}
    assert required["feature"]["command"]

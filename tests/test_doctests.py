# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Examples of docstrings are what users copy: every public name has one, and every one runs as it stands."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pyro
import pytest
import torch

import pyro_spvae

REPOSITORY = Path(__file__).parents[1]
SOURCES = [path for folder in ("pyro_spvae", "models", "guides") for path in (REPOSITORY / folder).rglob("*.py")]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

# packages that say what they export; that of the command line is documented by its help
PUBLIC = sorted(
    ".".join(path.parent.relative_to(REPOSITORY).parts).removeprefix("pyro_spvae").removeprefix(".")
    for path in SOURCES
    if path.name == "__init__.py" and "__all__" in path.read_text(encoding="utf-8") and path.parent.name != "commands"
)
# public names that are no class or function, or are shown elsewhere
WITHOUT = {
    "pyro_spvae.__version__": "a text",
    "pyro_spvae.data.DATA_SETS": "a dict of what load_data takes",
    "pyro_spvae.likelihoods.families.COLUMN_FAMILIES": "a dict, used in the example of ColumnFamily",
    "pyro_spvae.likelihoods.families.Unit": "used in the example of ColumnFamily",
}


def examples(path: Path) -> Iterator[doctest.DocTest]:
    """The docstrings of a file that have examples, of members and of inner functions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            text = ast.get_docstring(node, clean=False)
            if text and ">>>" in text:
                name = path.relative_to(REPOSITORY).as_posix()
                where = f"{name}::{getattr(node, 'name', 'module')}"
                line = node.body[0].lineno - 1
                yield doctest.DocTestParser().get_doctest(text, {}, where, str(path), line)


def namespace() -> dict[str, Any]:
    """What an example may use without an import: torch, and what ``from pyro_spvae import *`` brings."""
    names = {name: getattr(pyro_spvae, name) for name in pyro_spvae.__all__}
    return {"__name__": "__main__", "torch": torch} | names


@pytest.fixture
def as_users_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Single precision, and a folder to write to."""
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(torch.float64)


FOUND = {path.relative_to(REPOSITORY).as_posix(): list(examples(path)) for path in sorted(SOURCES)}
WITH_EXAMPLES = {name: found for name, found in FOUND.items() if found}


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_run_as_they_stand(name: str, as_users_have_it: None, capsys: pytest.CaptureFixture[str]) -> None:
    for example in WITH_EXAMPLES[name]:
        pyro.clear_param_store()
        pyro.set_rng_seed(0)  # torch's too
        example.globs = namespace()
        with pyro.settings.context(**pyro.settings.get()):  # which an example may set
            result = doctest.DocTestRunner(optionflags=OPTIONS).run(example)
        assert not result.failed, capsys.readouterr().out
        assert any(part.want for part in example.examples), f"{example.name} shows no result"


def public(package: str) -> tuple[ModuleType, list[str]]:
    module = importlib.import_module(f"pyro_spvae.{package}".rstrip("."))
    return module, list(module.__all__)


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_has_an_example(package: str) -> None:
    module, names = public(package)
    shown = {name: ">>> " in (getattr(module, name).__doc__ or "") for name in names}
    lacking = {f"{module.__name__}.{name}" for name, has in shown.items() if not has}
    assert lacking == {name for name in WITHOUT if name.rpartition(".")[0] == module.__name__}


def test_examples_of_public_names_are_among_those_that_run() -> None:
    """A docstring that is made at run time, or stands in another file, would be counted above and not run."""
    run = {inspect.cleandoc(example.docstring or "") for found in WITH_EXAMPLES.values() for example in found}
    for package in PUBLIC:
        module, names = public(package)
        for name in names:
            if f"{module.__name__}.{name}" not in WITHOUT:
                assert inspect.getdoc(getattr(module, name)) in run, f"{module.__name__}.{name}"

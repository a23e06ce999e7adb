# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The package itself: its names are there, and looked up only when they are used."""

from __future__ import annotations

import ast
import configparser
import graphlib
import importlib
import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pyro_spvae

REPOSITORY = Path(__file__).parents[1]


def test_neither_the_package_nor_the_registry_imports_torch() -> None:
    code = (
        "import sys, pyro_spvae, pyro_spvae.registry as registry;"
        "dir(pyro_spvae); registry.parse('prior', 'a.b:C(d=1)'); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    assert done.returncode == 0


@pytest.mark.parametrize("name", sorted(set(pyro_spvae.__all__) - {"__version__"}))
def test_every_name_is_that_of_its_subpackage(name: str) -> None:
    home = importlib.import_module(f"pyro_spvae.{pyro_spvae._HOME[name]}")
    assert getattr(pyro_spvae, name) is getattr(home, name)
    assert name in home.__all__
    assert name in dir(pyro_spvae)


def test_type_checkers_see_the_same_names() -> None:
    """The imports under TYPE_CHECKING say what the table for look-up says."""
    tree = ast.parse(Path(pyro_spvae.__file__).read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    stated = {
        alias.name: (node.module or "").removeprefix("pyro_spvae.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    # a function that has the name of its module is imported from there
    assert {name: module.removesuffix(f".{name}") for name, module in stated.items()} == pyro_spvae._HOME
    assert set(pyro_spvae.__all__) == set(stated) | {"__version__"}


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'pyro_spvae' has no attribute 'sum_product'"):
        _ = pyro_spvae.sum_product  # type: ignore[attr-defined]


def test_version_is_that_of_the_installed_package() -> None:
    assert importlib.metadata.version("pyro-spvae") == pyro_spvae.__version__


def test_every_package_is_installed() -> None:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    folders = (path.parent for depth in ("*", "*/*") for path in REPOSITORY.glob(f"pyro_spvae/{depth}/__init__.py"))
    inner = {".".join(folder.relative_to(REPOSITORY).parts) for folder in folders}
    wanted = inner | {"pyro_spvae", "pyro_spvae.models", "pyro_spvae.guides"}
    assert set(setup["options"]["packages"].split()) == wanted


LAYERS = (
    ("_version", "checks", "locking", "denormals"),
    ("circuits", "data", "part"),
    ("distributions", "registry"),
    ("blocks",),
    ("nn", "checkpoint", "distributed"),
    ("infer", "priors", "likelihoods"),
    ("evaluating", "joining"),
    ("conditionals",),
    ("leaves",),
    ("guides", "queries"),
    ("models",),
    ("plots",),
    ("training",),
    ("reproduce", "sklearn"),
    ("commands", "testing"),
)
RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names}
FILES = [path for folder in ("pyro_spvae", "models", "guides") for path in sorted((REPOSITORY / folder).rglob("*.py"))]


def _part(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return parts[1] if parts[0] == "pyro_spvae" else parts[0]


def test_every_part_has_its_layer() -> None:
    assert {_part(path) for path in FILES} - {"__init__", "__main__"} == set(RANKS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_imports_run_one_way(path: Path) -> None:
    """What a module imports, when it is loaded or later, belongs to the same part or to one below."""
    own = _part(path)
    if own in ("__init__", "__main__"):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pyro_spvae" and not node.level:
            modules = [node.module] if node.module != "pyro_spvae" else [f"pyro_spvae.{a.name}" for a in node.names]
            for module in modules:
                other = str(module).split(".")[1]
                lower = other == own or RANKS.get(other, 0) < RANKS[own]
                assert lower or (own, other) == ("models", "training"), f"{own} imports {module}"  # SPVAE.fit


def test_modules_do_not_import_each_other_in_circles() -> None:
    """Neither when they are loaded nor later, nor for type checkers alone."""
    modules = {}
    for path in FILES:
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        parts = parts if parts[0] == "pyro_spvae" else ("pyro_spvae", *parts)
        modules[".".join(part for part in parts if part != "__init__")] = path
    graph = {}
    for name, path in modules.items():
        package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
        graph[name] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                home = ".".join([*package[: len(package) + 1 - node.level], *filter(None, [node.module])])
                home = home if node.level else str(node.module)
                graph[name] |= {child if (child := f"{home}.{a.name}") in modules else home for a in node.names}
        graph[name] = (graph[name] & modules.keys()) - {"pyro_spvae", name}  # whose names are looked up when used
    graphlib.TopologicalSorter(graph).prepare()

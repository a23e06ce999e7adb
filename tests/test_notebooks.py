# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The tutorials run, and the outputs they have in the repository are those of one clean run from top to bottom."""

from __future__ import annotations

import copy
import re
import sys
from pathlib import Path

import pytest
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook

from tests.notebooks import NOTEBOOKS, execute, read, scrub

MACHINE_PATH = re.compile(r"/(home|root|tmp|work|Users|usr|opt|var)/|[A-Z]:\\")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell):
    """What a cell shows: text, pictures, values; not what a library may write to stderr on one machine only."""
    shown = [output for output in cell.outputs if output.get("name") != "stderr"]
    return [sorted(output["data"]) if "data" in output else output.output_type for output in shown]


def test_there_are_notebooks():
    assert "01_sum_product_vae" in [path.stem for path in NOTEBOOKS]


@each_notebook
def test_runs_and_shows_what_the_committed_one_shows(path, tmp_path):
    committed = read(path)
    fresh = execute(committed, tmp_path, smoke_test=True)  # raises where a cell fails
    for old, new in zip(code_cells(committed), code_cells(fresh), strict=True):
        assert new.execution_count is not None
        assert kinds(new) == kinds(old), new.source


@each_notebook
def test_committed_outputs(path):
    notebook = read(path)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for output in outputs:
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text
    text = [cell.source for cell in notebook.cells]
    text += [output.text if "text" in output else output.data.get("text/plain", "") for output in outputs]
    assert not [part for part in text if MACHINE_PATH.search(part)]
    assert path.stat().st_size < 300_000
    assert notebook == scrub(copy.deepcopy(notebook))


@pytest.mark.parametrize("smoke_test", [False, True])
def test_a_cell_that_fails_in_the_running_python_is_an_error(smoke_test, tmp_path, monkeypatch):
    monkeypatch.setenv("CI", "true")
    source = "import os, sys\nprint(sys.executable, os.getcwd(), 'CI' in os.environ, sep='\\n', file=open('seen', 'w'))"
    notebook = new_notebook(cells=[new_code_cell(source), new_code_cell("1 / 0")])
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute(notebook, tmp_path, smoke_test)
    executable, folder, in_ci = (tmp_path / "seen").read_text().splitlines()
    assert executable == sys.executable
    assert Path(folder).resolve() == tmp_path.resolve()
    assert in_ci == str(smoke_test)
    assert not any(cell.execution_count for cell in notebook.cells), "a copy is run"

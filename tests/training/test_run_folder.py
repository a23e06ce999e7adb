# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a run folder holds and how it is written."""

from __future__ import annotations

import json
import math

import pytest
import torch

from pyro_spvae.training.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "deep" / "run")


def _names(folder):
    return sorted(path.name for path in folder.path.iterdir())


def test_json_round_trip_leaves_no_other_file(folder):
    folder.write_json("a.json", {"x": [1, None], "y": "ü"})
    assert json.loads((folder.path / "a.json").read_text(encoding="utf-8")) == {"x": [1, None], "y": "ü"}
    assert _names(folder) == ["a.json", "figures"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_json_lacks_is_refused_and_leaves_nothing(folder, value):
    with pytest.raises(ValueError, match="JSON"):
        folder.write_json("a.json", {"x": value})
    with pytest.raises(ValueError, match="JSON"):
        folder.append_metrics({"x": value})
    assert _names(folder) == ["figures"]


def test_a_failed_write_keeps_the_old_file(folder):
    folder.write_json("a.json", {"x": 1})
    folder.save("a.pt", {"x": torch.ones(2)})
    with pytest.raises(ValueError, match="JSON"):
        folder.write_json("a.json", {"x": math.nan})
    with pytest.raises(Exception, match="pickle"):
        folder.save("a.pt", {"x": lambda: None})
    assert json.loads((folder.path / "a.json").read_text()) == {"x": 1}
    assert torch.equal(folder.load("a.pt")["x"], torch.ones(2))


def test_metrics_are_appended_in_order(folder):
    lines = [{"epoch": i, "elbo": -i / 3} for i in range(3)]
    for line in lines:
        folder.append_metrics(line)
    assert folder.read_metrics() == lines
    assert (folder.path / "metrics.jsonl").read_text().count("\n") == 3


def test_checkpoints_carry_a_format_and_run_no_code(folder):
    folder.save("good.pt", {"x": torch.ones(2), "name": "run", "none": None})
    state = folder.load("good.pt")
    assert state["format"] == 1 and state["name"] == "run" and torch.equal(state["x"], torch.ones(2))
    torch.save({"x": torch.nn.Linear(1, 1)}, folder.path / "bad.pt")
    with pytest.raises(Exception, match="[Ww]eights"):
        folder.load("bad.pt")


@pytest.mark.parametrize("make", ["mkdir", "touch"])
def test_an_existing_path_is_refused_and_untouched(tmp_path, make):
    path = tmp_path / "run"
    getattr(path, make)()
    with pytest.raises(ValueError, match=r"^out is .*run, which exists already; choose another folder for the run$"):
        RunFolder.create(path)
    assert [p.name for p in tmp_path.iterdir()] == ["run"] and not list(path.glob("*"))


def test_a_parent_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^the run folder .* cannot be made: Not a directory$"):
        RunFolder.create(tmp_path / "file" / "run")


def test_only_a_folder_without_checkpoint_is_discarded(tmp_path):
    empty, trained = RunFolder.create(tmp_path / "empty"), RunFolder.create(tmp_path / "trained")
    trained.save("last.pt", {})
    empty.discard_unless_trained()
    trained.discard_unless_trained()
    assert not empty.path.exists() and _names(trained) == ["figures", "last.pt"]

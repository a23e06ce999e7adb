# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a run folder holds and how it is written."""

from __future__ import annotations

import json
import math
import os

import pytest
import torch

from pyro_spvae.training.run_folder import RunFolder

BARE = ["config.json", "data.json", "figures"]


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "deep" / "run", {"lr": 1}, {"name": "x"})


def _names(folder):
    return sorted(path.name for path in folder.path.iterdir())


def test_a_new_folder_has_its_configuration_and_nothing_beside_it(folder):
    assert _names(folder) == BARE
    assert (folder.read_json("config.json"), folder.read_json("data.json")) == ({"lr": 1}, {"name": "x"})
    assert [path.name for path in folder.path.parent.iterdir()] == ["run"]
    assert folder.path.stat().st_mode & 0o777 == 0o777 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_json_round_trip_leaves_no_other_file(folder):
    folder.write_json("a.json", {"x": [1, None], "y": "ü"})
    assert json.loads((folder.path / "a.json").read_text(encoding="utf-8")) == {"x": [1, None], "y": "ü"}
    assert _names(folder) == ["a.json", *BARE]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_json_lacks_is_refused_and_leaves_nothing(folder, value):
    with pytest.raises(ValueError, match="JSON"):
        folder.write_json("a.json", {"x": value})
    with pytest.raises(ValueError, match="JSON"):
        folder.append_metrics({"x": value})
    assert _names(folder) == BARE


def test_a_failed_write_keeps_the_old_file(folder):
    folder.write_json("a.json", {"x": 1})
    folder.save("a.pt", {"x": torch.ones(2)})
    with pytest.raises(ValueError, match="JSON"):
        folder.write_json("a.json", {"x": math.nan})
    with pytest.raises(Exception, match="pickle"):
        folder.save("a.pt", {"x": lambda: None})
    assert json.loads((folder.path / "a.json").read_text()) == {"x": 1}
    assert torch.equal(folder.load("a.pt")["x"], torch.ones(2))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_told_in_one_sentence_and_loses_nothing(folder):
    folder.save("last.pt", {"x": torch.ones(2)})
    folder.append_metrics({"epoch": 1})
    before = (folder.path / "last.pt").read_bytes()
    (folder.path / "last.pt.partial").symlink_to("/dev/full")
    with pytest.raises(ValueError, match=r"^the file .*last.pt cannot be written: No space left on device$"):
        folder.save("last.pt", {"x": torch.zeros(2)})
    assert (folder.path / "last.pt").read_bytes() == before
    (folder.path / "metrics.jsonl").unlink()
    (folder.path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(ValueError, match=r"^the file .*metrics.jsonl cannot be written: No space left on device$"):
        folder.append_metrics({"epoch": 2})


def test_metrics_are_appended_in_order(folder):
    lines = [{"epoch": i, "elbo": -i / 3} for i in range(3)]
    for line in lines:
        folder.append_metrics(line)
    assert folder.read_metrics() == lines
    assert (folder.path / "metrics.jsonl").read_text().count("\n") == 3


def test_a_line_that_was_cut_off_is_not_read(folder):
    folder.append_metrics({"epoch": 1})
    folder.append_metrics({"epoch": 2})
    path = folder.path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-4])
    assert folder.read_metrics() == [{"epoch": 1}]


def test_rewinding_takes_back_what_came_after_the_checkpoint(folder):
    for epoch in (1, 2, 3):
        folder.append_metrics({"epoch": epoch})
    folder.save("best.pt", {})
    assert folder.rewind(2) == folder.read_metrics() == [{"epoch": 1}, {"epoch": 2}]
    assert (folder.path / "best.pt").exists()
    with pytest.raises(ValueError, match="has 2 lines, but last.pt counts 5 validations"):
        folder.rewind(5)
    assert folder.rewind(0) == folder.read_metrics() == []
    assert not (folder.path / "best.pt").exists()


def test_checkpoints_carry_a_format_and_run_no_code(folder):
    folder.save("good.pt", {"x": torch.ones(2), "name": "run", "none": None})
    state = folder.load("good.pt")
    assert state["format"] == 2 and state["name"] == "run" and torch.equal(state["x"], torch.ones(2))
    torch.save({"x": torch.nn.Linear(1, 1)}, folder.path / "bad.pt")
    with pytest.raises(ValueError, match="^the (file|checkpoint) .*bad.pt"):
        folder.load("bad.pt")


@pytest.mark.parametrize("make", ["mkdir", "touch"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_existing_path_is_refused_and_untouched(tmp_path, make, overwrite):
    path = tmp_path / "run"
    getattr(path, make)()
    message = "exists and is no run, so it is not" if overwrite else "exists already; choose another folder"
    with pytest.raises(ValueError, match=rf"^out is .*run, which {message}"):
        RunFolder.create(path, {}, {}, overwrite)
    assert [p.name for p in tmp_path.iterdir()] == ["run"] and not list(path.glob("*"))


def test_a_run_is_replaced_when_asked_to(folder):
    folder.write_json("results.json", {})
    with pytest.raises(ValueError, match="exists already"):
        RunFolder.create(folder.path, {}, {})
    assert folder.is_finished
    again = RunFolder.create(folder.path, {"lr": 2}, {"name": "y"}, overwrite=True)
    assert not again.is_finished and _names(again) == BARE and again.read_json("config.json") == {"lr": 2}


def test_a_parent_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^the run folder .* cannot be made: (Not a directory|File exists)$"):
        RunFolder.create(tmp_path / "file" / "run", {}, {})


def test_only_a_folder_without_checkpoint_is_discarded(tmp_path):
    empty, trained = (RunFolder.create(tmp_path / name, {}, {}) for name in ("empty", "trained"))
    trained.save("last.pt", {})
    empty.discard_unless_trained()
    trained.discard_unless_trained()
    assert not empty.path.exists() and _names(trained) == sorted([*BARE, "last.pt"])


def test_opening_what_is_no_run(tmp_path, folder):
    assert RunFolder.open(folder.path).path == folder.path
    with pytest.raises(ValueError, match="^there is no run folder .*none$"):
        RunFolder.open(tmp_path / "none")
    with pytest.raises(ValueError, match="^the folder .* is no run: it has no config.json"):
        RunFolder.open(tmp_path)

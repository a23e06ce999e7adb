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


def test_metrics_are_appended_in_order_and_a_line_that_was_cut_off_is_not_read(folder):
    lines = [{"epoch": i, "elbo": -i / 3} for i in range(3)]
    for line in lines:
        folder.append_metrics(line)
    path = folder.path / "metrics.jsonl"
    assert folder.read_metrics() == lines and path.read_text().count("\n") == 3
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes()[:-4])  # a byte-order mark, as some editors write it
    assert folder.read_metrics() == lines[:2]


def test_rewinding_takes_back_what_came_after_the_checkpoint(folder):
    for epoch in (1, 2, 3):
        folder.append_metrics({"epoch": epoch})
    folder.save("best.pt", {})
    assert folder.rewind(2) == folder.read_metrics() == [{"epoch": 1}, {"epoch": 2}]
    assert (folder.path / "best.pt").exists()
    assert folder.rewind(0) == folder.read_metrics() == []
    assert not (folder.path / "best.pt").exists()


def test_a_run_is_replaced_when_asked_to(folder):
    folder.write_json("results.json", {})
    assert folder.is_finished
    again = RunFolder.create(folder.path, {"lr": 2}, {"name": "y"}, overwrite=True)
    assert not again.is_finished and _names(again) == BARE and again.read_json("config.json") == {"lr": 2}


class TestReplaced:
    """A run that is replaced lies beside the folder until the new one has a checkpoint."""

    @pytest.fixture
    def again(self, folder):
        folder.save("last.pt", {"x": torch.ones(2)})
        return RunFolder.create(folder.path, {"lr": 2}, {}, overwrite=True)

    def test_it_is_gone_with_the_first_checkpoint(self, again):
        again.save("best.pt", {})
        assert (again.replaced / "last.pt").exists() and not (again.path / "last.pt").exists()
        again.save("last.pt", {})
        assert [path.name for path in again.path.parent.iterdir()] == ["run"]

    def test_it_comes_back_if_the_new_one_fails_before(self, again):
        again.discard_unless_trained()
        assert again.read_json("config.json") == {"lr": 1} and torch.equal(again.load("last.pt")["x"], torch.ones(2))
        assert [path.name for path in again.path.parent.iterdir()] == ["run"]

    def test_one_that_replaced_it_and_was_killed_is_replaced_itself(self, again):
        third = RunFolder.create(again.path, {"lr": 3}, {}, overwrite=True)
        third.discard_unless_trained()
        assert third.read_json("config.json") == {"lr": 1}

    def test_what_a_kill_left_beside_a_later_run_is_no_more_in_the_way(self, again):
        (again.path / "last.pt").touch()  # killed before the other was removed
        third = RunFolder.create(again.path, {"lr": 3}, {}, overwrite=True)
        third.discard_unless_trained()
        assert third.read_json("config.json") == {"lr": 2}

    def test_a_folder_of_that_name_which_is_no_run_stays(self, folder):
        folder.replaced.mkdir()
        (folder.replaced / "mine.txt").touch()
        folder.save("last.pt", {})
        with pytest.raises(ValueError, match="^the run folder .*run cannot be made: Directory not empty$"):
            RunFolder.create(folder.path, {}, {}, overwrite=True)
        assert (folder.replaced / "mine.txt").exists() and folder.read_json("config.json") == {"lr": 1}

    def test_a_link_is_not(self, folder):
        link = folder.path.with_name("link")
        link.symlink_to(folder.path)
        with pytest.raises(ValueError, match="^out is .*link, which is a link, so it is not overwritten; give the "):
            RunFolder.create(link, {}, {}, overwrite=True)
        assert link.is_symlink() and folder.read_json("config.json") == {"lr": 1}


def test_only_a_folder_without_checkpoint_is_discarded(tmp_path):
    empty, trained = (RunFolder.create(tmp_path / name, {}, {}) for name in ("empty", "trained"))
    trained.save("last.pt", {})
    empty.discard_unless_trained()
    trained.discard_unless_trained()
    assert not empty.path.exists() and _names(trained) == sorted([*BARE, "last.pt"])


EXISTS, NO_RUN = "exists already; choose another folder", "exists and is no run, so it is not"


@pytest.mark.parametrize(
    ("message", "act"),
    [
        *(
            ("JSON", lambda run, value=value, write=write: write(run, {"x": value}))
            for value in (math.nan, math.inf)
            for write in (lambda run, content: run.write_json("a.json", content), RunFolder.append_metrics)
        ),
        ("has 1 lines, but last.pt counts 5 validations", lambda run: run.rewind(5)),
        ("^the (file|checkpoint) .*bad.pt", lambda run: run.load("bad.pt")),
        *(
            (
                rf"^out is .*{name}, which {message}",
                lambda run, name=name, o=o: RunFolder.create(run.path / name, {}, {}, o),
            )
            for name in ("empty", "file")
            for o, message in ((False, EXISTS), (True, NO_RUN))
        ),
        (f"^out is .*run, which {EXISTS}", lambda run: RunFolder.create(run.path, {}, {})),
        (
            "^the run folder .* cannot be made: (Not a directory|File exists)$",
            lambda run: RunFolder.create(run.path / "file" / "run", {}, {}),
        ),
        ("^there is no run folder .*none$", lambda run: RunFolder.open(run.path / "none")),
        ("^the folder .* is no run: it has no config.json", lambda run: RunFolder.open(run.path / "empty")),
    ],
)
def test_refusals_leave_everything_as_it_was(folder, message, act):
    (folder.path / "empty").mkdir()
    (folder.path / "file").touch()
    folder.append_metrics({"epoch": 1})
    torch.save({"x": torch.nn.Linear(1, 1)}, folder.path / "bad.pt")  # which would run code

    def content():
        return {path: path.is_file() and path.read_bytes() for path in folder.path.parent.rglob("*")}

    before = content()
    with pytest.raises(ValueError, match=message) as caught:
        act(folder)
    assert content() == before and "\n" not in str(caught.value)

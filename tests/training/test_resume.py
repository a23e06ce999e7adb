# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Runs that are killed and resumed end as if they never had been; what cannot be resumed is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.train import resume, train
from pyro_spvae.training.trainer import Trainer
from tests.training import killer
from tests.training.cases import TINY

TIMINGS = ("seconds", "images_per_second", "train_seconds")


def outcome(path):
    """Parameters, optimiser, metrics and results of a run, without timings."""
    folder = RunFolder(path)
    metrics = [{k: v for k, v in line.items() if k not in TIMINGS} for line in folder.read_metrics()]
    results = {k: v for k, v in json.loads((path / "results.json").read_text()).items() if k not in TIMINGS}
    return folder.load("best.pt")["model"], folder.load("last.pt"), metrics, results


def assert_same(one, other):
    (best, last, metrics, results), (other_best, other_last, other_metrics, other_results) = one, other
    assert metrics == other_metrics
    assert results == other_results
    for key, value in best.items():
        assert torch.equal(value, other_best[key]), key
    for key, value in last["model"].items():
        assert torch.equal(value, other_last["model"][key]), key
    for name, state in last["optimiser"]["state"].items():
        for key, value in state.items():
            assert torch.equal(value, other_last["optimiser"]["state"][name][key])
    assert last["schedule"] == other_last["schedule"]


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The folder that the killer filled, and its report."""
    folder = tmp_path_factory.mktemp("killed")
    np.save(folder / "data.npy", np.random.default_rng(0).integers(0, 100, (120, 4, 4), dtype=np.uint8))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.killer", str(folder)],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads((folder / "report.json").read_text()), done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
class TestKilled:
    @pytest.mark.parametrize("name", killer.CASES)
    def test_at_a_chosen_moment(self, killed, name):
        folder, report, errors = killed
        assert report["whole"] == [0] and report[name] == [-9, 0], errors
        assert_same(outcome(folder / name), outcome(folder / "whole"))

    @pytest.mark.parametrize("seconds", killer.TIMES)
    def test_at_any_moment(self, killed, seconds):
        folder, report, errors = killed
        name = f"after {seconds} seconds"
        assert report[name][-1] == 0 or report[name] == [-9], errors
        assert_same(outcome(folder / name), outcome(folder / "whole"))

    def test_two_processes(self, killed):
        folder, report, errors = killed
        assert report["two"] == [-9, 0], errors
        assert_same(outcome(folder / "two"), outcome(folder / "whole of two"))

    def test_a_refusal_ends_both_processes_and_is_told_once(self, killed):
        _, report, errors = killed
        assert report["whole of two"] == [0, 2], errors
        assert errors.count("Error: out is") == 1

    def test_nothing_else_is_left(self, killed):
        folder, report, _ = killed
        hidden = [path.name for path in folder.iterdir() if path.name.startswith(".")]
        assert len(hidden) == 1, "the folder that was being made"
        for name in report:
            names = {path.name for path in (folder / name).iterdir()}
            assert names - {"last.pt.partial"} == {path.name for path in (folder / "whole").iterdir()}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """They would take longer than all the rest."""
    monkeypatch.setattr("pyro_spvae.training.train._write_pictures", lambda *args: None)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "data.npy"
    np.save(path, np.random.default_rng(0).normal(size=(40, 3)))
    return path


@pytest.fixture
def stopped(tmp_path, file, monkeypatch):
    """A run that was interrupted after its first epoch."""
    advance = Trainer._advance
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt, match="continue with: pyro-spvae train --"):
        patched.setattr(Trainer, "_advance", lambda self, *args: advance(self, *args) or self.step == 3)
        train(dataclasses.replace(TINY, data=str(file), epochs=4, patience=9), tmp_path / "run")
    return tmp_path / "run"


def test_a_stopped_run_goes_on(stopped, tmp_path, file):
    lines = []
    resume(stopped, report=lines.append)
    assert lines[0] == f"resuming    {stopped} after step 3"
    train(dataclasses.replace(TINY, data=str(file), epochs=4, patience=9), tmp_path / "whole")
    assert_same(outcome(stopped), outcome(tmp_path / "whole"))


def test_what_the_run_was_started_with_may_be_said_again(stopped):
    resume(stopped, {"epochs": 4, "lr": TINY.lr, "device": "cpu"})
    assert RunFolder(stopped).is_finished


def other_checkpoint(run):
    """Puts the checkpoint of another architecture into a run."""
    data, other = json.loads((run / "config.json").read_text())["data"], run.with_name("other")
    train(dataclasses.replace(TINY, data=data, latent_dim=3), other)
    (run / "last.pt").write_bytes((other / "last.pt").read_bytes())


def damaged(name, damage):
    """Spoils a file of a run."""

    def spoil(run):
        content = (run / name).read_bytes()
        broken = {"truncated": content[: len(content) // 2], "empty": b"", "noise": bytes(range(256)) * 9}
        (run / name).write_bytes(broken[damage])

    return spoil


def option(**changes):
    """Asks for other options than those of the run."""
    return lambda run: changes


REFUSALS = {
    "other data": (
        option(data="digits"),
        "^data is 'digits', but the run .* was started with '.*data.npy'; leave it out to resume",
    ),
    "epochs": (option(epochs=9), "^epochs is 9, but the run .* was started with 4"),
    "seed": (option(seed=1), "^seed is 1, but the run .* was started with 0"),
    "device": (option(device="gpu"), "device is 'gpu'; accepted are"),
    "other content": (
        lambda run: np.save(run.with_name("data.npy"), np.random.default_rng(1).normal(size=(40, 3))),
        "^the data .*data.npy are not those that the run .* was started with",
    ),
    "no data": (lambda run: run.with_name("data.npy").unlink(), "data.npy"),
    "no metrics": (
        lambda run: (run / "metrics.jsonl").unlink(),
        "metrics.jsonl has 0 lines, but last.pt counts 1 validations",
    ),
    "finished": (
        lambda run: resume(run) and None,
        "is finished, there is nothing to resume; train another one from its config",
    ),
    "another architecture": (other_checkpoint, "last.pt .*another (architecture|configuration)"),
    **{
        f"{damage} {name}": (damaged(name, damage), name.partition(".")[0])
        for name in ("last.pt", "config.json", "data.json")
        for damage in ("truncated", "empty", "noise")
    },
}


@pytest.mark.parametrize(("change", "message"), REFUSALS.values(), ids=REFUSALS)
def test_refusals_leave_every_file_as_it_was(stopped, change, message):
    changes = change(stopped)
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=message) as caught:
        resume(stopped, changes)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()} == before

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Runs that are killed and resumed end as if they never had been; what cannot be resumed is refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.train import resume, train
from tests.cli_cases import Forked, command
from tests.training.cases import TINY, assert_same_outcome, same, stopped_after
from tests.training.killer import CONFIG, MOMENTS, act


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped, and its configuration."""
    folder = tmp_path_factory.mktemp("killed")
    np.save(folder / "data.npy", np.random.default_rng(0).integers(0, 100, (120, 4, 4), dtype=np.uint8))
    config = dataclasses.replace(CONFIG, data=str(folder / "data.npy"))
    Forked(act, None, train, config, folder / "whole").succeed()
    return folder / "whole", config


class TestKilled:
    """By one process and by two, each time in new ones."""

    def go_on(self, whole, run):
        path, config = whole
        if run.exists():
            assert not RunFolder(run).is_finished
            Forked(act, None, resume, run).succeed()
        else:  # nothing was there yet
            Forked(act, None, train, config, run).succeed()
        assert_same_outcome(run, path)
        names = {path.name for path in run.iterdir()}
        assert names - {"last.pt.partial"} == {path.name for path in path.iterdir()}

    @pytest.mark.parametrize("moment", MOMENTS)
    def test_at_a_chosen_moment(self, whole, tmp_path, moment):
        assert Forked(act, moment, train, whole[1], tmp_path / "run").codes == [-9]
        hidden = [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
        assert len(hidden) == (moment == "while the folder is made")
        self.go_on(whole, tmp_path / "run")

    @pytest.mark.parametrize("seconds", [0.3, 0.5])
    def test_at_any_moment(self, whole, tmp_path, seconds):
        """From outside, wherever it is; or it has ended before."""
        killed = Forked(act, None, train, whole[1], tmp_path / "run", after=seconds).codes == [-9]
        if killed and not RunFolder(tmp_path / "run").is_finished:
            self.go_on(whole, tmp_path / "run")
        assert_same_outcome(tmp_path / "run", whole[0])

    def test_two_processes(self, whole, tmp_path):
        (tmp_path / "config.json").write_text(json.dumps(whole[1].to_dict()))
        run, other = (
            [command, "train", "--config", tmp_path / "config.json", "--out", tmp_path / name, "--quiet"]
            for name in ("run", "whole")
        )
        Forked(act, None, *other, number=2).succeed()
        assert set(Forked(act, "in the middle of an epoch", *run, number=2).codes) == {-9}
        Forked(act, None, command, "train", "--resume", tmp_path / "run", "--quiet", number=2).succeed()
        assert_same_outcome(tmp_path / "run", tmp_path / "whole")
        again = Forked(act, None, *other, number=2)
        assert again.codes == [2, 2] and again.stderr.count("Error: out is") == 1, "both end, one tells"


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """A run without pictures that was interrupted after its first epoch, of data beside it, and its configuration."""
    monkeypatch.setattr("pyro_spvae.training.train._write_pictures", lambda *args: None)
    np.save(tmp_path / "data.npy", np.random.default_rng(0).normal(size=(40, 3)))
    config = dataclasses.replace(TINY, data=str(tmp_path / "data.npy"), epochs=4, patience=9)
    with stopped_after(3, match="continue with: pyro-spvae train --"):
        train(config, tmp_path / "run")
    return tmp_path / "run", config


def test_a_stopped_run_goes_on(stopped, tmp_path):
    """What it was started with may be said again."""
    (run, config), lines = stopped, []
    resume(run, {"epochs": 4, "lr": 0.005, "device": "cpu"}, report=lines.append)
    assert lines[0] == f"resuming    {run} after step 3"
    train(config, tmp_path / "whole")
    assert_same_outcome(run, tmp_path / "whole")


def test_a_balanced_warm_up_goes_on(tmp_path, monkeypatch):
    """Stopped while its latent sites are weighed; without the weights it would end elsewhere."""
    monkeypatch.setattr("pyro_spvae.training.train._write_pictures", lambda *args: None)
    np.save(tmp_path / "data.npy", np.random.default_rng(0).normal(size=(40, 3)))
    options = {"leaf": "hvae", "objective": "elbo", "particles": 1, "kl": "z2", "warmup": 3, "epochs": 4, "patience": 9}
    config = dataclasses.replace(TINY, data=str(tmp_path / "data.npy"), balance=True, **options)
    with stopped_after(3):
        train(config, tmp_path / "run")
    resume(tmp_path / "run", {"balance": True, "kl": "z2"})
    train(config, tmp_path / "whole")
    assert_same_outcome(tmp_path / "run", tmp_path / "whole")
    with pytest.raises(ValueError, match="^balance is False, but the run .* was started with True"):
        resume(tmp_path / "run", {"balance": False})
    train(dataclasses.replace(config, balance=False), tmp_path / "plain")
    assert not same(*(RunFolder(tmp_path / name).load("last.pt")["model"] for name in ("whole", "plain")))


def other_checkpoint(run):
    """Puts the checkpoint of another architecture into a run."""
    other = run.with_name("other")
    train(dataclasses.replace(TINY, data=str(run.with_name("data.npy")), latent_dim=3), other)
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


REFUSED = {
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
    "no metrics": (lambda run: (run / "metrics.jsonl").unlink(), "metrics.jsonl has 0 lines, but last.pt counts 1 "),
    "finished": (
        lambda run: resume(run) and None,
        "is finished, there is nothing to resume; train another one from its config",
    ),
    "best in the place of last": (
        lambda run: (run / "last.pt").write_bytes((run / "best.pt").read_bytes()) and None,
        "^the checkpoint .*last.pt holds no state of training; a run goes on from its own",
    ),
    "no name of the data": (
        lambda run: (run / "data.json").write_text("{}") and None,
        "^the file .*data.json lacks 'name'; the run cannot be resumed without it$",
    ),
    "another architecture": (other_checkpoint, "last.pt .*another (architecture|configuration)"),
    **{
        f"{damage} {name}": (damaged(name, damage), name.partition(".")[0])
        for name in ("last.pt", "config.json", "data.json")
        for damage in ("truncated", "empty", "noise")
    },
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_refusals_leave_every_file_as_it_was(stopped, change, message):
    run, _ = stopped
    changes = change(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=message) as caught:
        resume(run, changes)
    assert "\n" not in str(caught.value)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Finished runs are trained on, and end as those that had all epochs from their start; their results stay till then."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from pyro_spvae.commands.listing import info
from pyro_spvae.training import trainer as trainer_module
from pyro_spvae.training.evaluation import TERMS
from pyro_spvae.training.run import open_run
from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.train import resume, train
from pyro_spvae.training.trainer import Trainer
from tests.cli_cases import Forked, command, invoke, refused
from tests.training.cases import TINY, assert_same_outcome, same, stopped_after
from tests.training.killer import GOING_ON, act


@pytest.fixture
def folder(tmp_path):
    """Where files of numbers, of grey levels and of bits lie."""
    random = np.random.default_rng(0)
    np.save(tmp_path / "data.npy", random.normal(size=(60, 3)))
    np.save(tmp_path / "bits.npy", random.integers(0, 2, (60, 4, 4), dtype=np.uint8))
    return tmp_path


@pytest.fixture(autouse=True)
def without_pictures(request, monkeypatch):
    if "pictures" not in request.node.name:
        monkeypatch.setattr("pyro_spvae.training.train._write_pictures", lambda *args: None)


def config_of(folder, **options):
    """A configuration that nothing is left open in; 3 epochs of 3 steps."""
    name = folder / f"{'bits' if options.pop('bits', False) else 'data'}.npy"
    base = {"epochs": 3, "patience": 20, "schedule": "constant", "device": "cpu", "data": str(name)}
    return dataclasses.replace(TINY, **(base | options))


MACHINE = "discrete-vae(latent_dim=4,prior=boltzmann-machine(chains=10,sweeps=1),smoothing=exponential(beta=8))"
BITS = "discrete-vae(latent_dim=4,smoothing=none)"
DISCRETE = {"bits": True, "structure": "whole", "latent_dim": None, "objective": "elbo", "particles": 1}
KINDS = {
    "constant": {},
    "plateau": {"schedule": "plateau", "patience": 3, "lr": 0.5},
    "warm-up": {"warmup": 5},
    "clipped": {"clip": 0.1},
    "normalised": {"optimiser": "adam-normgrad"},
    "averaged": {"average": "ema", "average_decay": 0.9},
    "averaged alike": {"average": "swa", "average_start": 0.0},
    "drawn anew": {"bits": True, "preprocess": "binarize"},
    "validations across epochs": {"validate_every": 3},
    "em": {"bits": True, "leaf": "factorized", "latent_dim": None, "optimiser": "em", "units": 2},
    "online em": {"leaf": "gaussian", "latent_dim": None, "optimiser": "online-em", "step_size": 0.4},
    "persistent chains": DISCRETE | {"leaf": MACHINE},
    "persistent chains, averaged": DISCRETE | {"leaf": MACHINE, "average": "ema"},
    "an estimator with parameters": DISCRETE | {"leaf": BITS, "estimator": "nvil(hidden_dims=(4,))"},
    "another estimator": DISCRETE | {"leaf": BITS, "estimator": "rebar"},
}
HELD = {"persistent chains": "prior.states", "an estimator with parameters": "weight", "another estimator": "log"}


class TestBitForBit:
    @pytest.mark.parametrize("kind", KINDS)
    def test_three_epochs_and_three_more_are_six(self, folder, kind):
        options = KINDS[kind]
        if "binarize" in options.values():
            options = {"preprocess": "binarize"} | options
            np.save(folder / "bits.npy", np.random.default_rng(0).integers(0, 9, (60, 4, 4), dtype=np.uint8))
        train(config_of(folder, **options, epochs=6), folder / "whole")
        train(config_of(folder, **options), folder / "run")
        first = RunFolder(folder / "run").load("last.pt")["model"]
        resume(folder / "run", {"epochs": 6})
        assert_same_outcome(folder / "run", folder / "whole")
        for name in ("config.json", "data.json"):
            assert (folder / "run" / name).read_text() == (folder / "whole" / name).read_text()
        whole, run = (RunFolder(folder / name).load("last.pt") for name in ("whole", "run"))
        assert run["epoch"] == 6 and not same(first, run["model"])
        assert run["config"] == whole["config"]
        if kind in HELD:
            names = [name for own in whole["processes"] for name in (*own, *whole["estimator"])]
            assert any(HELD[kind] in name for name in names)

    def test_one_and_one_and_four_more_are_six(self, folder):
        train(config_of(folder, epochs=6), folder / "whole")
        train(config_of(folder, epochs=1), folder / "run")
        for epochs in (2, 6):
            resume(folder / "run", {"epochs": epochs})
        assert_same_outcome(folder / "run", folder / "whole")

    def test_where_the_best_epoch_was_among_the_first(self, folder, monkeypatch):
        """Best parameters, which are prepared for evaluation when a run ends, stay those that they are."""
        options = KINDS["persistent chains"]
        for name in ("whole", "run"):
            bounds = iter([-5.0, -3.0, *[-9.0] * 9])
            scripted(monkeypatch, bounds)
            train(config_of(folder, **options, epochs=6 if name == "whole" else 3), folder / name)
        resume(folder / "run", {"epochs": 6})
        assert_same_outcome(folder / "run", folder / "whole")
        assert RunFolder(folder / "run").read_json("results.json")["best_epoch"] == 2

    def test_stopped_and_resumed_in_the_second_half(self, folder):
        train(config_of(folder, epochs=6), folder / "whole")
        train(config_of(folder), folder / "run")
        with stopped_after(13):
            resume(folder / "run", {"epochs": 6})
        assert RunFolder(folder / "run").status == "stopped at step 12 (results are of step 9)"
        resume(folder / "run")
        assert_same_outcome(folder / "run", folder / "whole")


def scripted(monkeypatch, bounds):
    """Validation gives the bounds one by one."""
    monkeypatch.setattr(trainer_module, "mean_bounds", lambda *args: dict.fromkeys(TERMS, next(bounds)))


def part_of_rate(schedule, part, epochs):
    """Of the first, after a part of so many epochs of 3 steps; of one-cycle with its rise to 0.3 (T + 1) - 1."""
    if schedule == "one-cycle":
        steps = 3 * epochs
        turn = 0.3 * (steps + 1) - 1
        risen = steps * part <= turn
        here = steps * part / turn if risen else (steps * part - turn) / (steps - turn)
        first, last = (0.04, 1) if risen else (1, 4e-6)
        return last + (first - last) * (1 + math.cos(math.pi * here)) / 2
    return (1 + math.cos(math.pi * part)) / 2 if schedule == "cosine" else 1 - part


@pytest.mark.parametrize("schedule", ["cosine", "linear", "one-cycle"])
def test_a_rate_that_had_come_to_its_end_goes_on_as_if_all_epochs_had_been_asked_for(folder, schedule):
    """At step t of T it is half of (1 + cos(pi t / T)), or 1 - t / T, of the first; where T grew it rises again."""

    def rate(epoch, epochs):
        return 0.01 * part_of_rate(schedule, epoch / epochs, epochs)

    config, lines = config_of(folder, schedule=schedule, lr=0.01), []
    train(config, folder / "run")
    resume(folder / "run", {"epochs": 8}, report=lines.append)
    rates = [line["lr"] for line in RunFolder(folder / "run").read_metrics()]
    wanted = [rate(epoch, 3) for epoch in (1, 2, 3)] + [rate(epoch, 8) for epoch in (4, 5, 6, 7, 8)]
    assert rates == pytest.approx(wanted, abs=1e-12) and rates[2] < 1e-7 < rates[3]
    assert "training on from epoch 3 to 8 at most, where 3 was the last before" in lines
    now = f"{rate(3, 8):.3g}"
    assert (
        f"schedule    {schedule}, as if all 8 epochs had been asked for at once: the learning rate goes on at {now}"
        in lines
    )
    with stopped_after(3 * 8 + 4):
        resume(folder / "run", {"epochs": 10})
    lines.clear()
    resume(folder / "run", report=lines.append)
    rates = [line["lr"] for line in RunFolder(folder / "run").read_metrics()]
    assert rates[8:] == pytest.approx([rate(9, 10), rate(10, 10)], abs=1e-12)
    assert not any(line.startswith(("schedule", "training on ")) for line in lines), "said when it was so"


def test_other_schedules_say_nothing_of_a_rate(folder):
    lines = []
    train(config_of(folder), folder / "run")
    resume(folder / "run", {"epochs": 4}, report=lines.append)
    assert any(line.startswith("training on ") for line in lines) and not any(
        line.startswith("schedule") for line in lines
    )


class TestEarlyStopping:
    """Bounds that are best in epoch 2, and in epoch 7 again."""

    BOUNDS = (-5.0, -3.0, -4.0, -4.0, -4.0, -4.0, -1.0, *[-9.0] * 20)

    def run(self, folder, monkeypatch, **options):
        scripted(monkeypatch, bounds := iter(self.BOUNDS))
        train(config_of(folder, **options), folder / "run")
        return bounds

    def test_more_patience_goes_on(self, folder, monkeypatch):
        for schedule in ("constant", "plateau"):
            options = {"patience": 6, "epochs": 30, "schedule": schedule}
            scripted(monkeypatch, iter(self.BOUNDS))
            train(config_of(folder, **options), folder / f"whole-{schedule}")
        self.run(folder, monkeypatch, epochs=30, patience=3)
        assert RunFolder(folder / "run").load("last.pt")["epoch"] == 5
        resume(folder / "run", {"patience": 6})
        assert_same_outcome(folder / "run", folder / "whole-constant")
        results = RunFolder(folder / "run").read_json("results.json")
        assert (results["best_epoch"], results["epochs"]) == (7, 13)

    def test_the_rate_is_halved_by_the_new_patience(self, folder, monkeypatch):
        """After a third of it, so after two more epochs without a better one, and not after every one."""
        self.run(folder, monkeypatch, epochs=30, patience=3, schedule="plateau", lr=0.008)
        resume(folder / "run", {"patience": 6})
        rates = [line["lr"] for line in RunFolder(folder / "run").read_metrics()]
        halved = [0.008, 0.008, 0.008, 0.004, 0.002, 0.001, 0.001, 0.001, 0.001, 0.0005, 0.0005, 0.00025, 0.00025]
        assert rates == pytest.approx(halved)

    def test_fewer_epochs_than_were_allowed_but_more_than_it_had(self, folder, monkeypatch):
        self.run(folder, monkeypatch, epochs=30, patience=3)
        resume(folder / "run", {"patience": 9, "epochs": 6})
        assert RunFolder(folder / "run").load("last.pt")["epoch"] == 6

    def test_both(self, folder, monkeypatch):
        self.run(folder, monkeypatch, epochs=4, patience=9)
        resume(folder / "run", {"patience": 4, "epochs": 30})
        assert RunFolder(folder / "run").load("last.pt")["epoch"] == 6, "four after the best"

    @pytest.mark.parametrize(
        ("options", "changes", "message"),
        [
            (
                {"epochs": 30, "patience": 3},
                {"epochs": 60},
                "^patience is 3, but the run .* stopped after 3 validations without a better bound, in epoch 5; a "
                "patience above 3 is needed to train it on$",
            ),
            ({"epochs": 30, "patience": 3}, {"patience": 3}, "^patience is 3, but the run .* stopped after 3 valid"),
            ({"epochs": 30, "patience": 3}, {"epochs": 30}, "^patience is 3, but the run .* stopped after 3 valid"),
            ({"epochs": 4, "patience": 9}, {"epochs": 5, "patience": 2}, "^patience is 2, but .* after 2 validations"),
            (
                {"epochs": 4, "patience": 9},
                {"patience": 20},
                "^epochs is 4, and epochs are not given, but the run .* was trained for 4 already; more are needed",
            ),
            ({"epochs": 4, "patience": 9}, {"epochs": 4}, "^epochs is 4, but the run .* was trained for 4 already; mo"),
            ({"epochs": 4, "patience": 9}, {"epochs": 3}, "^epochs is 3, but the run .* was trained for 4 already; mo"),
            ({"epochs": 4, "patience": 9}, {"epochs": 0}, "^epochs is 0; a positive integer is needed$"),
            ({"epochs": 4, "patience": 9}, {"epochs": 9, "lr": 1.0}, "^lr is 1.0, but the run .* was started with"),
            ({"epochs": 4, "patience": 9}, {}, "^the run .* is finished, .* train it on by --epochs, or evaluate it$"),
        ],
    )
    def test_refusals_leave_every_file_as_it_was(self, folder, monkeypatch, options, changes, message):
        self.run(folder, monkeypatch, **options)
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        with pytest.raises(ValueError, match=message) as caught:
            resume(folder / "run", changes)
        assert "\n" not in str(caught.value)
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


class TestResults:
    def test_old_ones_stay_until_there_are_new_ones(self, folder):
        train(config_of(folder), folder / "run")
        old, seen = (folder / "run" / "results.json").read_text(), []

        def look(line):
            seen.append((line.split()[0], (folder / "run" / "results.json").read_text() == old, status(folder)))

        resume(folder / "run", {"epochs": 5}, report=look)
        assert seen[0] == ("resuming", True, "finished")
        assert ("training", True, "stopped at step 9 (results are of step 9)") in seen
        assert ("trained", True, "stopped at step 15 (results are of step 9)") in seen
        assert ("evaluating", True, "trained, not evaluated (results are of step 9)") in seen
        assert seen[-1] == ("written", False, "finished")
        assert json.loads((folder / "run" / "results.json").read_text())["steps"] == 15

    def test_the_model_that_is_asked_meanwhile_is_the_best_so_far(self, folder):
        train(config_of(folder), folder / "run")
        with stopped_after(10):
            resume(folder / "run", {"epochs": 6})
        assert open_run(folder / "run").config.epochs == 6
        assert (open_run(folder / "run").samples, info([folder / "run"])[0]["samples"]) == (TINY.samples, TINY.samples)


def status(folder):
    """By the folder itself; the list says the same."""
    words = RunFolder(folder / "run").status
    assert info([folder / "run"])[0]["status"] == words
    return words


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A run of six epochs, and one of three to be copied."""
    folder = tmp_path_factory.mktemp("going-on")
    np.save(folder / "data.npy", np.random.default_rng(0).normal(size=(120, 3)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyro_spvae.training.train._write_pictures", lambda *args: None)
        train(config_of(folder, batch_size=10, epochs=6), folder / "whole")
        train(config_of(folder, batch_size=10), folder / "run")
    return folder


class TestKilled:
    @pytest.mark.parametrize("moment", GOING_ON)
    def test_in_the_second_half(self, both, moment, tmp_path):
        run = tmp_path / "run"
        run.mkdir()
        for file in (both / "run").iterdir():
            if file.is_file():
                (run / file.name).write_bytes(file.read_bytes())
        old = (run / "results.json").read_text()
        assert Forked(act, moment, resume, run, {"epochs": 6}).codes == [-9]
        folder = RunFolder(run)
        kept = (run / "results.json").read_text() == old
        assert kept == (moment != "before it is said that there are results")
        if moment == "before its results count as old":
            assert folder.is_finished
            return
        assert not folder.is_finished and folder.status == info([run])[0]["status"]
        changed = moment != "before its configuration is written"
        assert folder.read_json("config.json")["epochs"] == (6 if changed else 3)
        resume(run, {"epochs": 6})
        assert_same_outcome(run, both / "whole")

    def test_by_two_processes(self, both, tmp_path):
        run = tmp_path / "run"
        first = [command, "train", "--config", both / "run" / "config.json", "--quiet", "--out"]
        Forked(act, None, *first, run, number=2).succeed()
        Forked(act, None, *first, tmp_path / "whole", "--epochs", 6, number=2).succeed()
        more = [command, "train", "--quiet", "--resume", run, "--epochs", 6]
        assert set(Forked(act, "in the middle of an epoch", *more, number=2).codes) == {-9}
        Forked(act, None, *more, number=2).succeed()
        assert_same_outcome(run, tmp_path / "whole")


class TestNotEvaluated:
    """A run that is stopped in its evaluation has its pictures, says so, and is then evaluated alone."""

    @pytest.fixture
    def run_with_pictures(self, folder):
        def stop(*args):
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("pyro_spvae.training.train._results", stop)
            train(config_of(folder, bits=True), folder / "run")
        return folder / "run"

    def test_pictures_are_there_and_the_rest_is_an_evaluation(self, folder, run_with_pictures, monkeypatch):
        run = run_with_pictures
        pictures = {path.name for path in (run / "figures").iterdir()}
        assert pictures == {"learning_curve.png", "samples.png", "means.png", "reconstructions.png"}
        assert not (run / "results.json").exists()
        kept = json.loads((run / "status.json").read_text())
        metrics = RunFolder(run).read_metrics()
        assert kept["status"] == "trained" and kept["steps"] == metrics[-1]["step"] and kept["epochs"] == 3
        assert kept["val_elbo"] == max(line["val_elbo"] for line in metrics)
        (row,) = info([run])
        assert row["status"] == "trained, not evaluated" and row["parameters"] == kept["parameters"]
        monkeypatch.setattr(Trainer, "_step", lambda *args: pytest.fail("trained"))
        resume(run, {"epochs": 3})
        monkeypatch.undo()
        train(config_of(folder, bits=True), folder / "whole")
        assert_same_outcome(run, folder / "whole")
        assert {path.name for path in (run / "figures").iterdir()} == pictures | {"log_likelihoods.png"}
        assert status(folder) == "finished"

    def test_it_can_be_trained_on_at_once_with_pictures(self, folder, run_with_pictures):
        resume(run_with_pictures, {"epochs": 4})
        train(config_of(folder, bits=True, epochs=4), folder / "whole")
        assert_same_outcome(run_with_pictures, folder / "whole")

    def test_not_by_fewer_epochs_with_pictures(self, run_with_pictures):
        with pytest.raises(ValueError, match="^epochs is 2, but the run .* was trained for 3 already"):
            resume(run_with_pictures, {"epochs": 2})


def test_by_command(folder):
    run = folder / "run"
    train(config_of(folder), run)
    result = invoke("train", "--resume", run, "--epochs", 5)
    assert result.exit_code == 0 and "training on from epoch 3 to 5" in result.stdout
    assert len(RunFolder(run).read_metrics()) == 5
    assert refused("train", "--resume", run, "--epochs", 5).startswith("epochs is 5, but the run ")
    quiet = invoke("train", "--resume", run, "--epochs", 6, "--quiet")
    assert (quiet.exit_code, quiet.stdout, quiet.stderr) == (0, "", "")

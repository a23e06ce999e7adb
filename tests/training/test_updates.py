# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Expectation maximisation in the training loop: the parameters are those of ``fit_em``."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from pyro_spvae import poon_domingos
from pyro_spvae.likelihoods import Bernoulli, Likelihood, Normal
from pyro_spvae.models import SPN, SPVAE, GaussianLeaf
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.train import resume
from pyro_spvae.training.train import train as train_run
from pyro_spvae.training.trainer import Trainer
from tests.cli_cases import refused, train
from tests.training.cases import TINY, assert_same_outcome, same, stopped_after


def make_spn(likelihood: Likelihood | None = None) -> SPN:
    torch.manual_seed(3)
    return SPN(poon_domingos((2, 2), delta=1), units=2, likelihood=likelihood or Bernoulli()).double()


def binary(rows: int = 60) -> torch.Tensor:
    shared = torch.rand(rows, 1, 1, 1) < 0.4
    return torch.where(torch.rand(rows, 1, 2, 2) < 0.1, ~shared, shared).double()


def assert_same(ours: SPN, theirs: SPN) -> None:
    for (name, one), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("smoothing", [0.0, 0.5])
@pytest.mark.parametrize("batch_size", [60, 7])
@pytest.mark.parametrize("partly", [False, True])
def test_epochs_are_steps_of_em_on_all_data(smoothing, batch_size, partly):
    x = binary()
    observed = torch.rand(x.shape) < 0.7 if partly else None
    options = {} if observed is None else {"observed": observed, "validation_observed": observed}
    ours = make_spn()
    theirs = copy.deepcopy(ours)
    lines = ours.fit(x, x, optimiser="em", smoothing=smoothing, epochs=4, patience=9, batch_size=batch_size, **options)
    history = theirs.fit_em(x, 4, observed, smoothing=smoothing, tolerance=-1)
    assert_same(ours, theirs)
    assert [line["elbo"] for line in lines] == pytest.approx(history[:-1], rel=1e-9)  # before each step
    assert [line["val_elbo"] for line in lines] == pytest.approx(history[1:], rel=1e-9)  # after it
    assert "lr" not in lines[0]


def test_validation_decides_which_parameters_are_kept():
    x, other = binary(12), 1 - binary(12)
    lines = make_spn().fit(x, other, optimiser="em", smoothing=0.0, epochs=30, patience=3)
    bounds = [line["val_elbo"] for line in lines]
    assert len(lines) == bounds.index(max(bounds)) + 4 < 30


def test_goes_on_from_the_middle_of_an_epoch(tmp_path):
    x = binary()
    config = FitConfig(optimiser="em", epochs=3, batch_size=20)

    def trainer(spn: SPN, name: str) -> Trainer:
        folder = RunFolder.create(tmp_path / name, config.to_dict(), {})
        return Trainer(spn, x, x, config, folder)

    whole, first, second = (trainer(make_spn(), name) for name in ("whole", "first", "second"))
    whole.run()
    first.run(max_steps=5)  # one epoch and two batches of the next
    first.folder.save("last.pt", first.state())
    second.load_state(first.folder.load("last.pt"), [])
    second.run()
    assert same(whole.spvae.state_dict(), second.spvae.state_dict())


@pytest.mark.parametrize("make", [make_spn, lambda: SPN(poon_domingos((2, 2), delta=1), 2, leaf=GaussianLeaf(0))])
@pytest.mark.parametrize("schedule", ["constant", "plateau"])
def test_online_steps_of_one_batch_of_all_rows_are_those_of_em(make, schedule):
    x = binary()
    torch.manual_seed(3)
    ours = make().double()
    theirs = copy.deepcopy(ours)
    options = {"epochs": 3, "seed": 4, "patience": 99, "smoothing": 0.5}
    lines = ours.fit(x, x, optimiser="online-em", step_size=1.0, batch_size=60, schedule=schedule, **options)
    theirs.fit(x, x, optimiser="em", **options)
    assert_same(ours, theirs)
    assert [line["lr"] for line in lines] == [1.0] * 3


def test_online_steps_by_hand():
    """Batches in the order of the run, a step size that falls as a half cosine, statistics of all rows."""
    x = binary()
    ours = make_spn()
    theirs = copy.deepcopy(ours)
    config = FitConfig(optimiser="online-em", step_size=0.5, schedule="cosine", epochs=2, batch_size=20, smoothing=0.2)
    trainer = Trainer(ours, x, x, config)
    order = [trainer.batches(epoch, batch)[0] for epoch in range(2) for batch in range(3)]
    trainer.run()
    sums: list[torch.Tensor] = []
    for step, rows in enumerate(order):
        expected = theirs.expected_statistics()
        theirs.expect(expected, rows)
        gamma = max(0.5 * (1 + np.cos(np.pi * step / 6)) / 2, 1 / (step + 1))
        new = [3 * total for total in expected.sums]
        sums = [(1 - gamma) * old + gamma * own for old, own in zip(sums, new, strict=True)] if sums else new
        if step >= 2:  # the step size is a third by then, or all rows have been seen
            expected.sums = sums
            theirs.maximise(expected, 0.2)
    best = max(trainer.metrics, key=lambda line: line["val_elbo"])
    assert best["epoch"] == 2
    assert_same(ours, theirs)


def test_online_goes_on_bit_for_bit(tmp_path):
    x = binary() + 0.1 * torch.randn(60, 1, 2, 2)
    config = FitConfig(optimiser="online-em", epochs=3, batch_size=20, schedule="cosine")

    def trainer(name: str) -> Trainer:
        torch.manual_seed(3)
        spn = SPN(poon_domingos((2, 2), delta=[2, 1]), units=2, leaf=GaussianLeaf()).double()
        return Trainer(spn, x, x, config, RunFolder.create(tmp_path / name, config.to_dict(), {}))

    whole, first, second = map(trainer, ("whole", "first", "second"))
    whole.run()
    first.run(max_steps=5)
    first.folder.save("last.pt", first.state())
    second.load_state(first.folder.load("last.pt"), [])
    second.run()
    assert same(whole.spvae.state_dict(), second.spvae.state_dict())


class NoStatistics(Bernoulli):
    statistics = Likelihood.statistics


def vaes() -> SPVAE:
    return SPVAE(poon_domingos((2, 2), delta=1), latent_dim=1, likelihood=Normal())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (vaes, r"optimiser is 'em', which trains vanilla SPNs .*--leaf factorized\); the model is SPVAE of VAE$"),
        (lambda: make_spn(NoStatistics()), "the likelihood NoStatistics has no sufficient statistics, which EM needs"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make().fit(binary(), optimiser="em")


def test_a_run_of_a_circuit_without_weights_goes_on_within_an_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_spvae.training.train._write_pictures", lambda *args: None)
    np.save(tmp_path / "bits.npy", np.random.default_rng(0).integers(0, 2, (60, 4, 4), dtype=np.uint8))
    config = dataclasses.replace(
        TINY, data=str(tmp_path / "bits.npy"), leaf="factorized", latent_dim=None, optimiser="em", structure="whole"
    )
    train_run(config, tmp_path / "whole")
    with stopped_after(2):
        train_run(config, tmp_path / "run")
    resume(tmp_path / "run")
    assert_same_outcome(tmp_path / "run", tmp_path / "whole")


def test_by_command(tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_spvae.training.train._write_pictures", lambda *args: None)
    run = tmp_path / "run"
    options = ("--preprocess", "binarize-static", "--leaf", "factorized", "--optimiser", "em", "--epochs", 5)
    train("digits", *options, "--out", run)
    lines = RunFolder(run).read_metrics()
    bounds = [line["elbo"] for line in lines]
    assert len(lines) == 5 and bounds == sorted(bounds) and bounds[-1] > bounds[0] + 5
    spn = SPN.load(run)
    assert spn.mpe().x.shape == (1, 1, 8, 8)
    message = refused("train", "digits", "--optimiser", "em", "--out", tmp_path / "other")
    assert message.startswith("optimiser is 'em', which trains vanilla SPNs")
    assert not (tmp_path / "other").exists()

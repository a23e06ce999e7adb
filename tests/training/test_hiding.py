# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Entries that are hidden in training: which they are, and that a step is that of the rows without them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from pyro_spvae import distributed
from pyro_spvae.data import Rows, load_data
from pyro_spvae.evaluating import lean
from pyro_spvae.training.batches import Batches, kept_entries
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.objective import check_objective
from pyro_spvae.training.train import resume, train
from tests.training.cases import TINY, assert_same_outcome, built, images, same, stopped_after, table, trainer_of


def test_part_of_the_entries_is_hidden():
    kept = kept_entries(torch.Size((4000, 5)), 0.3, 1, 2)
    error = math.sqrt(0.3 * 0.7 / 4000)
    assert bool(((kept.double().mean(0) - 0.7).abs() < 5 * error).all())
    both = kept.double() - 0.7
    correlations = both.T @ both / (4000 * 0.21) - torch.eye(5)
    assert float(correlations.abs().max()) < 5 / math.sqrt(4000), "each for itself"
    assert torch.equal(kept, kept_entries(kept.shape, 0.3, 1, 2))
    assert not torch.equal(kept, kept_entries(kept.shape, 0.3, 1, 3))
    assert not torch.equal(kept, kept_entries(kept.shape, 0.3, 2, 2))
    pixels = kept_entries(torch.Size((50, 3, 4, 4)), 0.3, 0, 0)
    assert torch.equal(pixels, pixels[:, :1].expand(50, 3, 4, 4)) and 0 < float(pixels.double().mean()) < 1


HOLES = torch.rand(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
HOLES[HOLES < 0.2] = torch.nan


@pytest.mark.parametrize("masked", [False, True])
def test_what_is_missing_stays_so(masked):
    observed = torch.rand(30, 4) < 0.7 if masked else None
    batches, plain = (Batches(Rows(HOLES, missing=True), observed, 8, 3, hide) for hide in (0.4, 0.0))
    hidden = 0
    for epoch in range(2):
        for batch in range(len(batches)):
            (x, seen), (same_x, known) = batches(epoch, batch), plain(epoch, batch)
            torch.testing.assert_close(x, same_x, equal_nan=True, rtol=0, atol=0)
            kept = kept_entries(x.shape, 0.4, 3, epoch * len(batches) + batch)
            assert torch.equal(seen, known & kept)
            hidden += int((known & ~kept).sum())
    assert hidden


def test_processes_share_what_is_hidden(monkeypatch):
    x = torch.arange(44.0).view(11, 4)
    alone = Batches(x, None, 11, 0, 0.5)(1, 0)
    found = []
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed, "world", lambda: 2)
        found.append(Batches(x, None, 11, 0, 0.5)(1, 0))
        monkeypatch.undo()
    for place, whole in enumerate(alone):
        assert torch.equal(found[0][place], whole[::2]) and torch.equal(found[1][place], whole[1::2])


def test_a_step_is_that_of_what_is_left(monkeypatch):
    """The gradient is that of the marginal of the entries that are kept."""
    spvae, data, config = built(table(), leaf="factorized", latent_dim=None, hide=0.5, batch_size=1000, seed=2)
    trainer = trainer_of(spvae, data, config)
    kept = kept_entries(torch.Size(data.train.shape), 0.5, config.seed, 0)
    index = trainer.batches.index(0, 0)
    with lean():
        wanted = torch.autograd.grad(-spvae.log_prob(data.train[index], kept).mean(), list(spvae.parameters()))
        trainer.update.optimiser.step = lambda: None
        trainer._advance(trainer.objective, _Bar(), False)
    for parameter, gradient in zip(spvae.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


class _Bar:
    def update(self, number):
        pass


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_spvae.training.train._write_pictures", lambda *args: None)
    x = np.random.default_rng(0).normal(size=(60, 4))
    x[np.random.default_rng(1).random(x.shape) < 0.2] = np.nan
    np.save(tmp_path / "x.npy", x)
    return dataclasses.replace(TINY, data=str(tmp_path / "x.npy"), epochs=4, patience=9, hide=0.3, fraction=0.8)


@pytest.mark.parametrize("step", [2, 5])
def test_a_stopped_run_hides_the_same(config, tmp_path, step):
    """Of a part of the rows of a table with holes."""
    train(config, tmp_path / "whole")
    with stopped_after(step):
        train(config, tmp_path / "run")
    resume(tmp_path / "run")
    assert_same_outcome(tmp_path / "run", tmp_path / "whole")
    train(dataclasses.replace(config, hide=0.0), tmp_path / "plain")
    states = [torch.load(tmp_path / name / "last.pt", weights_only=True)["model"] for name in ("whole", "plain")]
    assert not same(*states)


def test_rows_are_chosen_and_evaluated_as_without(config):
    data = load_data(config.data)
    hiding, plain = (trainer_of(*built(data, hide=hide)) for hide in (0.3, 0.0))
    for epoch in range(2):
        assert torch.equal(hiding.batches.index(epoch, 0), plain.batches.index(epoch, 0))
    for trainer in (hiding, plain):
        trainer.summed, trainer.epoch = [0.0, 1.0, 1.0], 1  # as after an epoch
        trainer._validate(_Postfix())
    assert hiding.metrics[0]["val_elbo"] == plain.metrics[0]["val_elbo"]


class _Postfix:
    def set_postfix(self, **values):
        pass


def test_what_cannot_be_hidden_is_refused():
    for value, message in (
        (1.0, "^hide is 1.0; a number of at least 0 and below 1"),
        (-0.1, "^hide is -0.1; a number"),
    ):
        with pytest.raises(ValueError, match=message):
            FitConfig(hide=value)
    with pytest.raises(ValueError, match="^hide is 0.2, but the optimiser 'em' takes all that is seen"):
        FitConfig(hide=0.2, optimiser="em")
    spvae, data, config = built(images(), decoder="pixelcnn(filters=2, layers=1)")
    check_objective(config, spvae, data.train)
    with pytest.raises(ValueError, match="^hide is 0.2, which hides single entries, but "):
        check_objective(dataclasses.replace(config, hide=0.2), spvae, data.train)
    with pytest.raises(ValueError, match="^hide is 0.2, which hides single entries, but "):
        spvae.fit(data.train, hide=0.2)


def test_fit_takes_it():
    x = table().train[:]
    found = []
    for hide in (0.0, 0.4):
        torch.manual_seed(0)
        vae = built(table())[0]
        vae.fit(x, hide=hide, epochs=1, batch_size=16)
        found.append(vae.state_dict())
    assert not same(*found)

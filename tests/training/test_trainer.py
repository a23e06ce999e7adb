# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The training loop: what it optimises, when it stops, what it keeps."""

from __future__ import annotations

import dataclasses
import math

import pyro
import pytest
import torch
from pyro.infer.util import is_validation_enabled

from pyro_spvae.infer import CircuitELBO
from pyro_spvae.training.build import build_model, modelled, resolve
from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.trainer import Trainer
from tests.training.cases import TINY, images, table

TERMS = ("val_elbo", "val_leaf_elbo", "val_reconstruction", "val_latent_kl", "val_tree_kl")


@pytest.fixture
def make(tmp_path):
    """Makes trainers, each with a folder of its own and options over the tiny configuration."""

    def trainer(data=None, report=lambda line: None, **options):
        data = table() if data is None else data
        config = resolve(dataclasses.replace(TINY, **options), data)
        pyro.set_rng_seed(config.seed)
        with pyro.settings.context(module_local_params=True):
            spvae = build_model(config, data)
        folder = RunFolder.create(tmp_path / f"run{len(list(tmp_path.iterdir()))}")
        return Trainer(spvae, data, modelled(config, data), config, folder, report=report)

    return trainer


def script(trainer, monkeypatch, bounds):
    """Lets validation give the listed bounds, and records the parameters that each was given for."""
    states = []

    def validate():
        states.append({key: value.clone() for key, value in trainer.spvae.state_dict().items()})
        return dict.fromkeys(TERMS, bounds[len(states) - 1])

    monkeypatch.setattr(trainer, "_validate", validate)
    return states


def same(state, other):
    return state.keys() == other.keys() and all(torch.equal(state[key], other[key]) for key in state)


def test_training_raises_the_bound(make):
    trainer = make(images(levels=2), epochs=30, patience=30, lr=0.02)
    trainer.run()
    bounds = [line["elbo"] for line in trainer.folder.read_metrics()]
    assert bounds[-1] > bounds[0] + 0.1
    assert all(math.isfinite(bound) for bound in bounds)


def test_a_step_is_one_of_adam_on_the_mean_bound(make):
    trainer = make()
    x = trainer.data.train[:8]
    loss = CircuitELBO(TINY.particles)(trainer.spvae.model, trainer.spvae.guide)
    parameters = list(trainer.spvae.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    with pyro.settings.context(module_local_params=True), pyro.validation_enabled(False):
        torch.manual_seed(3)
        value = loss(x)
        gradients = torch.autograd.grad(value / len(x), parameters)
        torch.manual_seed(3)
        bound = trainer.train_step(x)
    assert bound == pytest.approx(-value.item(), rel=1e-6)
    for parameter, old, gradient in zip(parameters, before, gradients, strict=True):
        # Adam hardly notices the scale of a gradient, so the gradient is compared too
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)
        # the first step of Adam is lr * g / (|g| + eps), whatever the size of g
        expected = old - TINY.lr * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(parameter.detach(), expected, atol=1e-5, rtol=0)


def test_every_row_is_seen_once_an_epoch_in_another_order(make):
    trainer = make(batch_size=7)
    first, second = (list(trainer._batches()) for _ in range(2))
    rows = sorted(map(tuple, trainer.data.train.tolist()))
    for epoch in (first, second):
        assert sorted(map(tuple, torch.cat(epoch).tolist())) == rows
        assert {len(x) for x in epoch} <= {6, 7}
    assert not torch.equal(torch.cat(first), torch.cat(second))


def test_grey_levels_get_new_noise_in_every_epoch(make):
    trainer = make(images(levels=4), likelihood="normal", batch_size=1000)
    (first,), (second,) = (list(trainer._batches()) for _ in range(2))
    levels = sorted(map(tuple, trainer.data.train.flatten(1).tolist()))
    for x in (first, second):
        assert sorted(map(tuple, (x * 4).floor().flatten(1).tolist())) == levels
    assert len(set(first.flatten().tolist()) & set(second.flatten().tolist())) < 5  # of 320, by chance


def test_validation_has_the_same_noise_each_time_and_leaves_that_of_training_alone(make):
    trainer = make(images())
    state = torch.get_rng_state()
    first = trainer._validate()
    torch.rand(5)
    assert trainer._validate() == first
    torch.set_rng_state(state)
    trainer._validate()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("structure", ["poon-domingos", "whole"])
def test_validation_terms(make, structure):
    options = {"delta": 2} if structure == "poon-domingos" else {}
    trainer = make(images(), alpha=1.0, structure=structure, units=2, **options)
    elbo = trainer._validate()
    parts = elbo["val_reconstruction"] - elbo["val_latent_kl"] - elbo["val_tree_kl"]
    assert elbo["val_elbo"] == pytest.approx(parts, abs=1e-4)
    assert elbo["val_tree_kl"] >= 0
    trainer.elbo = CircuitELBO(TINY.particles, alpha=0.0)
    weighted = trainer._validate()
    assert weighted["val_elbo"] > elbo["val_elbo"] + 1e-3, "the same noise, hence Jensen's inequality holds exactly"
    assert [weighted[name] for name in TERMS[1:]] == [elbo[name] for name in TERMS[1:]]


def test_validation_is_the_mean_over_all_rows_however_they_are_cut(make, monkeypatch):
    trainer = make(images())
    rows = []
    bound = trainer.elbo.bound
    monkeypatch.setattr(trainer.elbo, "bound", lambda m, g, x: rows.append(bound(m, g, x)) or rows[-1])
    monkeypatch.setattr("pyro_spvae.training.bounds._ROWS", 4)
    value = trainer._validate()["val_elbo"]
    assert [len(part) for part in rows] == [4, 4, 2]
    assert value == pytest.approx(float(torch.cat(rows).double().mean()), rel=1e-6)


def test_early_stopping_restores_the_best(make, monkeypatch):
    trainer = make(epochs=50, patience=3)
    states = script(trainer, monkeypatch, [-5.0, -3.0, -4.0, -3.0, -6.0] + [-1.0] * 50)
    trainer.run()
    assert trainer.epoch == 5, "an equal bound is no improvement"
    assert (trainer.best, trainer.best_epoch) == (-3.0, 2)
    assert same(trainer.spvae.state_dict(), states[1]) and not same(states[1], states[4])
    last, best = trainer.folder.load("last.pt"), trainer.folder.load("best.pt")
    assert same(best["model"], states[1]) and same(last["model"], states[4])
    assert (best["epoch"], last["epoch"], last["best_epoch"]) == (2, 5, 2)
    assert [line["epoch"] for line in trainer.folder.read_metrics()] == [1, 2, 3, 4, 5]


def test_a_run_that_never_improves_keeps_its_first_epoch(make, monkeypatch):
    trainer = make(epochs=50, patience=4)
    states = script(trainer, monkeypatch, [-float(i) for i in range(50)])
    trainer.run()
    assert (trainer.epoch, trainer.best_epoch) == (5, 1)
    assert same(trainer.spvae.state_dict(), states[0])


def test_a_run_that_always_improves_uses_all_epochs(make, monkeypatch):
    trainer = make(epochs=6, patience=1)
    states = script(trainer, monkeypatch, [float(i) for i in range(6)])
    trainer.run()
    assert (trainer.epoch, trainer.best_epoch) == (6, 6)
    assert same(trainer.spvae.state_dict(), states[5])


@pytest.mark.parametrize(("patience", "halved_after"), [(9, 3), (8, 2), (3, 1), (6, 2)])
def test_the_learning_rate_is_halved_after_a_third_of_the_patience(make, monkeypatch, patience, halved_after):
    trainer = make(epochs=patience, patience=patience, lr=0.008)
    script(trainer, monkeypatch, [-1.0] * patience)
    trainer.run()
    rates = [line["lr"] for line in trainer.folder.read_metrics()]
    # epoch 1 is the best; `halved_after` epochs without a better one follow, and the next has half the rate
    expected = [0.008 * 0.5 ** (max(epoch - 2, 0) // halved_after) for epoch in range(1, patience + 1)]
    assert rates == pytest.approx(expected)
    assert rates[0] == 0.008 and rates[-1] < 0.008


def test_an_improvement_resets_the_wait(make, monkeypatch):
    trainer = make(epochs=6, patience=6, lr=0.008)
    script(trainer, monkeypatch, [-5.0, -6.0, -4.0, -6.0, -3.0, -6.0])
    trainer.run()
    assert {line["lr"] for line in trainer.folder.read_metrics()} == {0.008}


def test_metrics_and_checkpoint_say_where_training_stands(make):
    trainer = make(epochs=3)
    trainer.run()
    lines = trainer.folder.read_metrics()
    assert [line["step"] for line in lines] == [2, 4, 6]  # 20 rows, batches of at most 16
    state = trainer.folder.load("last.pt")
    assert (state["step"], state["epoch"], state["seconds"]) == (6, 3, trainer.seconds)
    assert state["best"] == max(line["val_elbo"] for line in lines)
    assert state["config"] == trainer.config.to_dict()
    assert state["optimiser"]["state"][0]["step"] == 6


def test_one_line_is_reported_for_an_epoch(make):
    lines = []
    trainer = make(report=lines.append, epochs=3, patience=3)
    trainer.run()
    metrics = trainer.folder.read_metrics()
    assert len(lines) == 3
    for number, (line, values) in enumerate(zip(lines, metrics, strict=True), start=1):
        assert line.split()[:2] == ["epoch", str(number)]
        assert f"{values['elbo']:.2f}" in line and f"{values['val_elbo']:.2f}" in line
    assert " * " in lines[0], "the first epoch is the best so far"


def test_the_progress_bar_shows_bound_validation_speed_and_time_left(make, capsys):
    trainer = make(epochs=2)
    trainer.progress = True
    trainer.run()
    bar = capsys.readouterr().err
    line = trainer.folder.read_metrics()[-1]
    assert f"elbo={line['elbo']:.2f}" in bar and f"val={line['val_elbo']:.2f}" in bar and "img/s" in bar
    assert "40.0/40.0" in bar and "<" in bar  # images done of 2 x 20; elapsed<left


@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf])
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_bound_that_is_not_finite_ends_training(make, monkeypatch, bad, epoch):
    trainer = make(epochs=5, batch_size=16)  # 2 steps an epoch
    step = trainer.train_step
    monkeypatch.setattr(trainer, "train_step", lambda x: step(x) * (bad if trainer.step == 2 * epoch else 1))
    kept = "the last good parameters are in .*last.pt" if epoch == 2 else "nothing was kept"
    with pytest.raises(
        ValueError, match=rf"^the bound became -?(nan|inf) at step {2 * epoch}; {kept}; try a smaller lr"
    ):
        trainer.run()
    assert (trainer.folder.path / "last.pt").exists() == (epoch == 2)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_validation_bound_that_is_not_finite_ends_training(make, monkeypatch, epoch):
    trainer = make(epochs=5)
    states = script(trainer, monkeypatch, [-1.0] * (epoch - 1) + [math.nan])
    with pytest.raises(ValueError, match=f"^the val_elbo became nan at step {2 * epoch}; "):
        trainer.run()
    assert len(states) == epoch
    if epoch == 2:
        assert same(trainer.folder.load("last.pt")["model"], states[0])
        assert len(trainer.folder.read_metrics()) == 1
    else:
        assert [path.name for path in trainer.folder.path.iterdir()] == ["figures"]


@pytest.mark.parametrize("fails", [False, True])
def test_pyros_global_state_is_left_as_it_was(make, monkeypatch, fails):
    trainer = make()
    if fails:
        monkeypatch.setattr(trainer, "train_step", lambda x: math.nan)
        with pytest.raises(ValueError, match="^the bound became nan"):
            trainer.run()
    else:
        trainer.run()
    assert is_validation_enabled()
    assert not pyro.settings.get("module_local_params")
    assert not list(pyro.get_param_store().keys())

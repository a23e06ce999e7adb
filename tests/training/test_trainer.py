# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The training loop: what it optimises and keeps; when it stops is in test_stopping."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pyro
import pytest
import torch
from pyro.infer.util import is_validation_enabled

from pyro_spvae.data import DataSet, Values
from pyro_spvae.evaluating import lean
from pyro_spvae.infer import CircuitELBO
from pyro_spvae.training import trainer as trainer_module
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.trainer import Trainer
from tests.helpers import small_spvae
from tests.training.cases import TINY, images, same, script


def test_training_raises_the_bound(make):
    bounds = [line["elbo"] for line in make(images(levels=2), epochs=12, patience=30, lr=0.05).run()]
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
        expected = old - 0.005 * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(parameter.detach(), expected, atol=1e-5, rtol=0)


def test_metrics_and_checkpoint_say_where_training_stands(make):
    trainer = make(epochs=3)
    trainer.run()
    lines = trainer.folder.read_metrics()
    assert [line["step"] for line in lines] == [2, 4, 6]  # 20 rows, batches of at most 16
    state = trainer.folder.load("last.pt")
    assert (state["step"], state["epoch"], state["seconds"]) == (6, 3, trainer.seconds)
    assert state["best"] == max(line["val_elbo"] for line in lines)
    assert state["optimiser"]["state"][0]["step"] == 6


def test_one_line_is_reported_for_an_epoch(make):
    lines = []
    metrics = make(report=lines.append, epochs=3, patience=3).run()
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


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_bound_that_is_not_finite_ends_training_before_it_does_harm(make, epoch):
    trainer = make(epochs=5, batch_size=16)  # 2 steps an epoch
    weight = trainer.spvae.leaf.pixels.decoder.stacks[0].weights[0]
    advance = trainer._advance

    def spoil(*args):
        if trainer.step == 2 * epoch - 1:
            with torch.no_grad():
                weight[0, 0, 0] = math.nan
        return advance(*args)

    trainer._advance = spoil
    kept = "the last good parameters are in .*last.pt" if epoch == 2 else "nothing was kept"
    with pytest.raises(
        ValueError,
        match=rf"^the bound became nan at step {2 * epoch} \(values of leaf.pixels.decoder.stacks.0.weights.0 are not "
        rf"finite\); {kept}; try a smaller lr",
    ):
        trainer.run()
    assert (trainer.folder.path / "last.pt").exists() == (epoch == 2)
    if epoch == 2:
        assert all(value.isfinite().all() for value in trainer.folder.load("last.pt")["model"].values())
    others = [value for value in trainer.spvae.parameters() if value is not weight]
    assert all(value.isfinite().all() for value in others), "no step was made of it"


def test_gradients_that_are_not_finite_are_named(make):
    trainer = make()
    trainer.objective.elbo.differentiable_loss = lambda model, guide, x: (
        (trainer.spvae.leaf.pixels.decoder.stacks[0].biases[0].sum() * 0).sqrt() / 0.0
    )
    with pytest.raises(
        ValueError, match=r"^the bound became nan at step 1 \(gradients of leaf.pixels.decoder.stacks.0.biases.0 are"
    ):
        trainer.run()


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_validation_bound_that_is_not_finite_ends_training(make, monkeypatch, epoch):
    trainer = make(epochs=5)
    states = script(trainer, monkeypatch, [-1.0] * (epoch - 1) + [math.nan])
    with pytest.raises(ValueError, match=f"^the val_elbo became nan at step {2 * epoch}; "):
        trainer.run()
    assert len(states) == epoch and len(trainer.folder.read_metrics()) == epoch - 1
    kept = {path.name for path in trainer.folder.path.iterdir()} - {"config.json", "data.json", "figures"}
    assert kept == (set() if epoch == 1 else {"metrics.jsonl", "best.pt", "last.pt"})
    assert epoch == 1 or same(trainer.folder.load("last.pt")["model"], states[0])


@pytest.mark.parametrize("fails", [False, True])
def test_global_state_is_left_as_it_was(make, monkeypatch, fails):
    trainer = make()
    state = torch.get_rng_state()
    if fails:
        script(trainer, monkeypatch, [math.nan])
        with pytest.raises(ValueError, match="^the val_elbo became nan"):
            trainer.run()
    else:
        trainer.run()
    assert is_validation_enabled()
    assert not pyro.settings.get("module_local_params")
    assert not list(pyro.get_param_store().keys())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_larger_weight_of_the_kl_makes_codes_say_less(make):
    shared = 0.7 * torch.randn(120, 1) + 0.2 * torch.randn(120, 4)
    shared = shared.clamp(-2, 2).float()
    data, ends = DataSet("shared", shared[:80], shared[80:100], shared[100:], Values(low=-2, high=2)), {}
    for beta in (1.0, 20.0):
        options = {"structure": "whole", "objective": "elbo", "epochs": 15, "patience": 30, "lr": 0.05, "particles": 4}
        trainer = make(data, beta=beta, **options)
        trainer.run()
        ends[beta] = trainer.metrics[-1]["val_latent_kl"]
        assert [program.beta for program in trainer._annealed] == [beta, beta]
    assert ends[20.0] < 0.5 * ends[1.0]


def test_warm_up_changes_the_objective_and_validation_has_none(make):
    warm, plain = make(warmup=10, epochs=1), make(epochs=1)
    one, other = warm.run()[0], plain.run()[0]
    assert one["elbo"] > other["elbo"] + 0.01, "a tenth of the KL"
    untrained, same_untrained = make(warmup=10), make()
    for trainer in (untrained, same_untrained):
        trainer.means = trainer_module.mean_bounds(trainer.spvae, trainer.elbo, trainer.validation, 0)
    assert untrained.means == same_untrained.means


@pytest.mark.parametrize(
    ("optimiser", "kind", "options"),
    [
        ("adam", torch.optim.Adam, {}),
        ("adamax", torch.optim.Adamax, {}),
        ("adamw", torch.optim.AdamW, {"weight_decay": 0.3}),
        ("adam-normgrad", torch.optim.Adam, {}),
    ],
)
def test_optimisers(make, optimiser, kind, options):
    made = make(optimiser=optimiser, lr=0.01, **options).update.optimiser
    assert type(made) is kind
    for name, value in {"lr": 0.01, **options}.items():
        assert {group[name] for group in made.param_groups} == {value}


@pytest.mark.parametrize("schedule", ["plateau", "constant", "cosine", "linear", "one-cycle"])
def test_schedules(make, schedule):
    rates = [line["lr"] for line in make(epochs=4, batch_size=10, schedule=schedule, lr=0.01).run()]
    steps = [2, 4, 6, 8]
    falls = {
        "linear": [0.01 * (1 - step / 8) for step in steps],
        "cosine": [0.01 * (1 + math.cos(math.pi * step / 8)) / 2 for step in steps],
        # from 1 / 25 to all at 0.3 * 9 - 1 = 1.7, and to 1e-4 / 25 at 8, by half cosines
        "one-cycle": [4e-8 + (0.01 - 4e-8) * (1 + math.cos(math.pi * (step - 1.7) / 6.3)) / 2 for step in steps],
    }
    assert rates == pytest.approx(falls.get(schedule, [0.01] * 4), abs=1e-12)


def test_gradients_are_clipped_to_the_norm(make):
    free, clipped = make(), make(clip=1e-3)
    norms = []
    for trainer in (free, clipped):
        torch.manual_seed(0)
        with pyro.settings.context(module_local_params=True), pyro.validation_enabled(False):
            trainer.train_step(trainer.data.train[:8])
        norms.append(math.sqrt(sum(float(p.grad.square().sum()) for p in trainer.spvae.parameters())))
    assert norms[1] == pytest.approx(1e-3, rel=1e-2) and norms[0] > 0.1


@pytest.mark.parametrize("clip", [1e-3, 1e6])
def test_steps_are_made_of_clipped_gradients(clip):
    """Gradient descent of rate 1 moves parameters by min(1, clip / |g|) g, with |g| the norm of the whole gradient."""
    x = torch.rand(8, 1, 2, 2)
    moves = []
    for config in (FitConfig(clip=clip), FitConfig()):
        pyro.set_rng_seed(0)
        spvae = small_spvae()
        before = [parameter.detach().clone() for parameter in spvae.parameters()]
        trainer = Trainer(spvae, x, x, config, optimiser=lambda parameters: torch.optim.SGD(parameters, lr=1.0))
        with lean():
            trainer.train_step(x)
        moves.append([parameter.detach() - old for parameter, old in zip(spvae.parameters(), before, strict=True)])
    norm = math.sqrt(sum(float(move.square().sum()) for move in moves[1]))
    assert norm > 0.1
    for clipped, free in zip(*moves, strict=True):
        torch.testing.assert_close(clipped, free * min(1.0, clip / norm), rtol=1e-4, atol=1e-12)


def test_loggers_get_every_validation(make):
    seen = []
    logger = SimpleNamespace(log=lambda step, metrics: seen.append((step, metrics)))
    lines = make(epochs=2, loggers=[logger]).run()
    assert [step for step, _ in seen] == [2, 4]
    assert seen[1][1] == {name: value for name, value in lines[1].items() if name != "step"}

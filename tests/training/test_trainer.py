# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The training loop: what it optimises, when it stops, what it keeps."""

from __future__ import annotations

import math
import signal
from types import SimpleNamespace

import pyro
import pytest
import torch
from pyro.infer.util import is_validation_enabled

from pyro_spvae import poon_domingos
from pyro_spvae.data import DataSet, Values
from pyro_spvae.infer import CircuitELBO
from pyro_spvae.training import trainer as trainer_module
from pyro_spvae.training.config import FitConfig
from pyro_spvae.training.evaluation import TERMS
from pyro_spvae.training.interruption import Interrupted, Interruption
from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.trainer import Trainer
from tests.helpers import small_spvae
from tests.training.cases import TINY, built, images, same, stopped_after, table, trainer_of, untimed


@pytest.fixture
def make(tmp_path):
    """Makes trainers, each with a folder of its own and options over the tiny configuration."""

    def trainer(data=None, report=lambda line: None, loggers=(), folder=True, **options):
        spvae, data, config = built(table() if data is None else data, **options)
        path = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        kept = RunFolder.create(path, config.to_dict(), {}) if folder else None
        made = trainer_of(spvae, data, config, kept, report=report, loggers=loggers)
        made.data = data
        return made

    return trainer


def script(trainer, monkeypatch, bounds):
    """Lets validation give the listed bounds, and records the parameters that each was given for."""
    states = []

    def validate(spvae, *args):
        states.append({key: value.clone() for key, value in spvae.state_dict().items()})
        return dict.fromkeys(TERMS, bounds[len(states) - 1])

    monkeypatch.setattr(trainer_module, "mean_bounds", validate)
    return states


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
        expected = old - TINY.lr * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(parameter.detach(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("folder", [True, False])
@pytest.mark.parametrize(
    ("patience", "bounds", "epochs", "best"),
    [
        (3, [-5.0, -3.0, -4.0, -3.0, -6.0, -1.0], 5, 2),  # an equal bound is no improvement
        (4, [-0.0, -1.0, -2.0, -3.0, -4.0, -5.0], 5, 1),  # none at all
        (1, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], 6, 6),
    ],
)
def test_early_stopping_restores_the_best(make, monkeypatch, folder, patience, bounds, epochs, best):
    trainer = make(folder=folder, epochs=6, patience=patience)
    states = script(trainer, monkeypatch, bounds)
    lines = trainer.run()
    assert [line["epoch"] for line in lines] == list(range(1, epochs + 1)) and trainer.epoch == epochs
    assert [line["val_elbo"] for line in lines] == bounds[:epochs]
    assert (trainer.best, trainer.best_epoch) == (bounds[best - 1], best)
    assert same(trainer.spvae.state_dict(), states[best - 1]) and not same(states[0], states[-1])
    if folder:
        kept, last = trainer.folder.load("best.pt"), trainer.folder.load("last.pt")
        assert same(kept["model"], states[best - 1]) and same(last["model"], states[-1])
        assert (kept["epoch"], last["epoch"], last["best_epoch"]) == (best, epochs, best)
        assert "optimiser" not in kept and "optimiser" in last, "the best parameters have no state to go on from"


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
    assert {line["lr"] for line in trainer.run()} == {0.008}


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


def test_validation_by_batches_goes_on_across_epochs(make, monkeypatch):
    trainer = make(epochs=5, batch_size=4, validate_every=3, patience=20)  # 5 steps an epoch
    script(trainer, monkeypatch, [float(i) for i in range(20)])
    lines = trainer.run()
    assert [line["step"] for line in lines] == [3, 6, 9, 12, 15, 18, 21, 24, 25]
    assert [line["epoch"] for line in lines] == [1, 2, 2, 3, 3, 4, 5, 5, 5]


def test_patience_counts_validations(make, monkeypatch):
    trainer = make(epochs=50, batch_size=4, validate_every=2, patience=3)
    script(trainer, monkeypatch, [-5.0, -1.0] + [-2.0] * 50)
    trainer.run()
    assert (trainer.step, trainer.validations, trainer.best_epoch) == (10, 5, 1)


def test_warm_up_raises_the_weight_of_the_kl_and_does_not_count(make, monkeypatch):
    trainer = make(epochs=8, warmup=4, patience=2)
    script(trainer, monkeypatch, [-1.0] + [-2.0] * 20)
    seen, advance = [], trainer._advance

    def record(*args):
        result = advance(*args)
        seen.append([program.beta for program in trainer._annealed])
        return result

    trainer._advance = record
    trainer.run()
    assert seen[::2] == [[beta] * 2 for beta in (0.25, 0.5, 0.75, 1.0, 1.0)]
    assert trainer.epoch == 5, "validations 4 and 5 count"


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


@pytest.mark.parametrize("schedule", ["plateau", "constant", "cosine", "linear"])
def test_schedules(make, schedule):
    rates = [line["lr"] for line in make(epochs=4, batch_size=10, schedule=schedule, lr=0.01).run()]
    steps = [2, 4, 6, 8]
    falls = {
        "linear": [0.01 * (1 - step / 8) for step in steps],
        "cosine": [0.01 * (1 + math.cos(math.pi * step / 8)) / 2 for step in steps],
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


def test_loggers_get_every_validation(make):
    seen = []
    logger = SimpleNamespace(log=lambda step, metrics: seen.append((step, metrics)))
    lines = make(epochs=2, loggers=[logger]).run()
    assert [step for step, _ in seen] == [2, 4]
    assert seen[1][1] == {name: value for name, value in lines[1].items() if name != "step"}


@pytest.mark.parametrize(
    ("stop_after", "options"),
    [
        *((step, {}) for step in (1, 3, 4)),
        (4, {"validate_every": 3}),
        (5, {"schedule": "cosine", "warmup": 2}),
        (4, {"clip": 0.5}),
        (5, {"optimiser": "adam-normgrad"}),
    ],
)
def test_training_goes_on_bit_for_bit_from_any_step(make, stop_after, options):
    data = images(levels=4)
    options = {"likelihood": "normal", "epochs": 4, "batch_size": 7, "patience": 3, **options}  # 3 steps an epoch
    whole, first, second = make(data, **options), make(data, **options), make(data, **options)
    whole.run()
    message = f"^stopped after step {stop_after}, everything is saved; continue with: "
    with stopped_after(stop_after, Interrupted, message):
        first.run()
    torch.rand(3)  # what happens in between does not matter
    state = first.folder.load("last.pt")
    second.folder = first.folder
    second.load_state(state, first.folder.rewind(state["validations"]))
    second.run()
    assert same(second.spvae.state_dict(), whole.spvae.state_dict())
    kept = [[untimed(line) for line in trainer.folder.read_metrics()] for trainer in (whole, second)]
    assert kept[0] == kept[1] and kept[0]
    last, other = whole.folder.load("last.pt"), second.folder.load("last.pt")
    assert same(last["model"], other["model"])
    for one, two in zip(last["optimiser"]["state"].values(), other["optimiser"]["state"].values(), strict=True):
        assert same(one, two)


def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(make):
    trainer = make(epochs=50)
    advance = trainer._advance

    def signalled(*args):
        if trainer.step == 3:
            signal.raise_signal(signal.SIGINT)
        return advance(*args)

    trainer._advance = signalled
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match=r"continue with: pyro-spvae train --resume .*run0$"):
        trainer.run()
    assert signal.getsignal(signal.SIGINT) is handler
    assert trainer.folder.load("last.pt")["step"] == trainer.step == 4, "the step was finished"


def test_a_second_signal_acts_at_once(make):
    with pytest.raises(KeyboardInterrupt) as caught, Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        assert interruption.asked
        signal.raise_signal(signal.SIGINT)
    assert not isinstance(caught.value, Interrupted)


def test_training_in_turns_is_training_at_one_go():
    torch.set_default_dtype(torch.float32)
    x = torch.rand(40, 1, 4, 4)
    states = []
    for turns in (None, 3):
        torch.manual_seed(0)
        spvae = small_spvae(poon_domingos((4, 4), delta=2))
        trainer = Trainer(spvae, x, x[:8], FitConfig(epochs=3, batch_size=16, lr=0.01))
        while not trainer.finished:
            before = trainer.step
            trainer.run(turns)
            assert turns is None or trainer.step - before <= turns
        assert trainer.step_seconds > 0
        states.append(spvae.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""When training stops, by itself or because it is asked to, and that it then goes on as if it had not been."""

from __future__ import annotations

import signal
from contextlib import nullcontext

import pytest
import torch

from pyro_spvae import poon_domingos
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.interruption import Interrupted, Interruption
from pyro_spvae.training.trainer import Trainer
from tests.helpers import small_spvae
from tests.training.cases import images, same, same_average, script, stopped_after, untimed


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


@pytest.mark.parametrize("every", [None, 1])
def test_warm_up_raises_the_weight_of_the_kl_by_epochs_and_does_not_count(make, monkeypatch, every):
    trainer = make(epochs=8, warmup=4, patience=2, validate_every=every)
    script(trainer, monkeypatch, [-1.0] + [-2.0] * 20)
    seen, advance = [], trainer._advance

    def record(*args):
        result = advance(*args)
        seen.append([program.beta for program in trainer._annealed])
        return result

    trainer._advance = record
    trainer.run()
    assert seen[::2] == [[beta] * 2 for beta in (0.25, 0.5, 0.75, 1.0, 1.0)]
    assert trainer.step == (10 if every is None else 9), "that after step 8, and one more, count"


@pytest.mark.parametrize("warmup", [0, 1, 4])
def test_validations_of_the_warm_up_do_not_lower_the_rate(make, monkeypatch, warmup):
    """The first that counts is after the epoch in which the weight is 1; three worse ones after it halve the rate."""
    trainer = make(epochs=9, warmup=warmup, patience=9, lr=0.008)
    script(trainer, monkeypatch, [-float(number) for number in range(9)])
    first = max(warmup, 1)
    expected = [0.008 * 0.5 ** (max(epoch - first - 1, 0) // 3) for epoch in range(1, 10)]
    assert [line["lr"] for line in trainer.run()] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("stop_after", "options"),
    [
        *((step, {}) for step in (1, 3, 4)),
        (4, {"validate_every": 3}),
        (5, {"schedule": "cosine", "warmup": 2}),
        (4, {"clip": 0.5}),
        (5, {"optimiser": "adam-normgrad"}),
        *((step, {"average": "ema"}) for step in (1, 4, 6)),
        *((step, {"average": "swa", "average_start": 0.4}) for step in (4, 5, 8)),
        (5, {"schedule": "one-cycle", "average": "ema", "warmup": 2}),
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
    assert same(last["model"], other["model"]) and same_average(last["average"], other["average"])
    for one, two in zip(last["optimiser"]["state"].values(), other["optimiser"]["state"].values(), strict=True):
        assert same(one, two)


@pytest.mark.parametrize("stop_after", [5, 6, 9])
def test_what_was_waited_for_before_a_stop_counts(make, monkeypatch, stop_after):
    """Patience of training and of its schedule, the best bound and its epoch: all as if it had not been stopped."""
    options = {"epochs": 30, "batch_size": 10, "patience": 6, "lr": 0.008, "warmup": 1}  # 2 steps an epoch
    bounds = [-5.0, -3.0, -4.0, -3.5, -3.2, -4.0, -4.1, -4.2, 0.0, *[-9.0] * 30]
    whole, first, second = make(**options), make(**options), make(**options)
    script(whole, monkeypatch, bounds)
    lines = whole.run()
    assert (whole.epoch, whole.best, whole.best_epoch) == (8, -3.0, 2) and lines[-1]["lr"] < 0.008
    script(first, monkeypatch, bounds)
    with stopped_after(stop_after, Interrupted):
        first.run()
    state = first.folder.load("last.pt")
    second.folder = first.folder
    second.load_state(state, first.folder.rewind(state["validations"]))
    again, names = second.state(), ("step", "epoch", "batch", "validations", "best", "best_epoch", "waited", "summed")
    assert {name: again[name] for name in names} == {name: state[name] for name in names}
    script(second, monkeypatch, bounds[state["validations"] :])
    assert [untimed(line) for line in second.run()] == [untimed(line) for line in lines]
    assert (second.epoch, second.best, second.best_epoch, second.waited) == (8, -3.0, 2, 6)
    assert same(second.spvae.state_dict(), whole.spvae.state_dict())


@pytest.fixture(params=["raises", "ignored"])
def interrupts(request):
    """SIGINT with Python's own handler, or ignored, as in programs that shells and nohup start in the background."""
    ignored = request.param == "ignored"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    yield request.param
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
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


def test_a_path_with_a_space_is_quoted(make):
    trainer = make()
    trainer.folder.path.rename(trainer.folder.path.with_name("my run"))
    trainer.folder.path = trainer.folder.path.with_name("my run")
    with stopped_after(1, Interrupted, f"continue with: pyro-spvae train --resume '{trainer.folder.path}'$"):
        trainer.run()


def test_a_second_signal_acts_as_it_would_have_before(interrupts):
    raises = pytest.raises(KeyboardInterrupt) if interrupts == "raises" else nullcontext()
    with raises as caught, Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        assert interruption.asked
        signal.raise_signal(signal.SIGINT)
    assert caught is None or not isinstance(caught.value, Interrupted)


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

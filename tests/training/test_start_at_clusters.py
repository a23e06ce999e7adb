# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Training that starts at clusters: once, by the seed, and only where it is asked to."""

from __future__ import annotations

import copy
import signal

import pytest
import torch

from pyro_spvae import Circuit, chow_liu, whole
from pyro_spvae.likelihoods import Categorical, Normal
from pyro_spvae.models import SPN, SPVAE
from pyro_spvae.training import start as starting
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.interruption import Interrupted
from pyro_spvae.training.resolve import resolve
from pyro_spvae.training.trainer import Trainer
from tests.training.cases import same, table

FIT = FitConfig(epochs=2, batch_size=16, particles=1, patience=5, lr=1e-3, start="clusters")


def rows(num=60, seed=5):
    generator = torch.Generator().manual_seed(seed)
    group = torch.randint(3, (num, 1), generator=generator)
    return (group + torch.randint(2, (num, 5), generator=generator)).to(torch.get_default_dtype())


def make(seed=3):
    torch.manual_seed(seed)
    return SPN(Circuit(chow_liu(rows()), 3, weights="cp"), likelihood=Categorical(4))


def state_of(spn):
    return {name: value.clone() for name, value in spn.state_dict().items()}


def after_start(seed=0, noise=1, x=None, observed=None, **options):
    spn = make(noise)
    torch.manual_seed(noise)
    trainer = Trainer(
        spn, rows() if x is None else x, rows(), FitConfig(**vars(FIT) | {"seed": seed} | options), observed=observed
    )
    trainer._start()
    return state_of(spn)


def test_follows_from_the_seed_alone_whatever_parameters_were_drawn():
    first, again, other = after_start(), after_start(noise=2), after_start(seed=1)
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.parametrize("start", ["auto", "random"])
def test_otherwise_parameters_stay_as_they_are(start):
    spn = make()
    before = state_of(spn)
    trainer = Trainer(spn, rows(), rows(), FitConfig(**vars(FIT) | {"start": start}))
    trainer._start()
    assert same(before, state_of(spn))


def test_training_goes_on_from_there():
    spn = make()
    spn.fit(rows(), epochs=1, lr=1e-9, start="clusters", batch_size=60)
    started = spn.log_prob(rows()).mean().item()
    drawn = make().log_prob(rows()).mean().item()
    assert started > drawn + 1
    spn.fit(rows(), epochs=1, lr=1e-9, batch_size=60)  # does not start again
    assert spn.log_prob(rows()).mean().item() == pytest.approx(started, abs=1e-4)


def test_resumed_training_gives_the_same_values_and_does_not_start_again(monkeypatch):
    whole_run, first = Trainer(make(), rows(), rows(), FIT), Trainer(make(), rows(), rows(), FIT)
    whole_run.run()
    first.run(max_steps=3)
    state = copy.deepcopy(first.state())
    monkeypatch.setattr(starting, "_some", None)  # which the start needs
    second = Trainer(make(), rows(), rows(), FIT)
    second.load_state(state, first.metrics)
    second.run()
    assert same(state_of(second.spvae), state_of(whole_run.spvae))


def test_stopped_while_it_starts_it_starts_again():
    whole_run = Trainer(make(), rows(), rows(), FIT)
    whole_run.run()
    spn = make()
    before, told = state_of(spn), []

    def signalled(done):
        told.append(done)
        if len(told) == 2:
            signal.raise_signal(signal.SIGINT)

    trainer = Trainer(spn, rows(), rows(), FIT)
    trainer.pace.counting = lambda *what: lambda done, of: signalled(done)
    with pytest.raises(Interrupted, match="stopped after step 0"):
        trainer.run()
    assert len(told) == 2 and same(before, state_of(spn)) and trainer.step == 0
    again = Trainer(spn, rows(), rows(), FIT)
    again.load_state(copy.deepcopy(trainer.state()), trainer.metrics)
    again.run()
    assert same(state_of(spn), state_of(whole_run.spvae))


def test_em_starts_there_too():
    found = []
    for start in ("random", "clusters"):
        spn = make()
        trainer = Trainer(
            spn, rows(), rows(), FitConfig(**vars(FIT) | {"start": start, "optimiser": "em", "epochs": 1, "lr": None})
        )
        trainer.run()
        found.append(spn.log_prob(rows()).mean().item())
    assert found[1] > found[0]


def test_missing_entries_are_left_out():
    x, seen = rows(), torch.rand(60, 5, generator=torch.Generator().manual_seed(1)) < 0.6
    one = after_start(x=torch.where(seen, x, 0.0), observed=seen)
    other = after_start(x=torch.where(seen, x, 3.0), observed=seen)
    assert same(one, other)


def test_it_is_counted_while_it_goes_on(monkeypatch):
    lines = []
    monkeypatch.setattr("pyro_spvae.training.pace.EVERY", 0.0)
    trainer = Trainer(make(), rows(), rows(), FIT, report=lines.append)
    trainer._start()
    assert trainer.seconds > 0  # of training, which it is a part of
    regions = make().circuit.regions.num_regions
    assert sum(line.startswith("clusters ") and f"of {regions} regions" in line for line in lines) == regions


@pytest.mark.parametrize(
    "model, message",
    [
        (
            lambda: SPVAE(whole(5), 2, likelihood=Normal()),
            "start is 'clusters', where SPNs can start .* is SPVAE of VAE",
        ),
    ],
)
def test_models_with_latent_variables_are_refused_before_anything_is_written(model, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        model().fit(rows(), epochs=1, start="clusters", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options, start",
    [
        ({"structure": "chow-liu", "leaf": "factorized"}, "clusters"),
        ({"structure": "chow-liu", "leaf": "factorized", "start": "random"}, "random"),
        ({"structure": "chow-liu", "leaf": "factorized", "weights": "cp", "block": 2}, "clusters"),
        ({"structure": "random-binary-tree", "leaf": "factorized"}, "random"),
        ({"structure": "random-binary-tree", "leaf": "factorized", "weights": "full", "start": "clusters"}, "clusters"),
        ({"structure": "chow-liu", "leaf": "vae"}, "random"),
        ({"structure": "chow-liu", "block": 2, "leaf": "vae+factorized"}, "random"),
    ],
)
def test_by_command_it_is_the_default_of_hidden_trees(options, start):
    assert resolve(TrainConfig(**options), table()).start == start

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Models that start from training data do so by themselves, by the seed, once."""

from __future__ import annotations

import copy

import pytest
import torch

from pyro_spvae import poon_domingos
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import SPVAE
from pyro_spvae.priors import VampPrior
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.trainer import Trainer
from tests.training.cases import same

GRID = poon_domingos((2, 2), delta=1)
FIT = FitConfig(epochs=2, batch_size=8, particles=2, patience=5, lr=1e-2)


def make(frozen=True, components=5):
    torch.manual_seed(3)
    prior = VampPrior(components, init="data", frozen=frozen)
    return SPVAE(GRID, units=2, likelihood=Normal(), latent_dim=2, hidden_dims=(3,), prior=prior)


def rows(num=20):
    return torch.rand(num, 1, 2, 2, generator=torch.Generator().manual_seed(5))


def pseudo_inputs(spvae):
    return spvae.leaf.prior.pseudo_inputs.detach().clone()


class TestTrainer:
    def test_frozen_pseudo_inputs_are_training_rows_before_and_after(self):
        spvae, x, watched = make(), rows(), rows(26)[20:]
        trainer = Trainer(spvae, x, watched, FIT)
        start = pseudo_inputs(spvae)
        patches = spvae.view(x)  # [20, L, 1]
        places = [int((patches == one).all(-1).all(-1).nonzero()) for one in start.movedim(1, 0)]
        assert len(set(places)) == 5 and spvae.wanted_rows == 0
        before = {name: value.clone() for name, value in spvae.named_parameters()}
        trainer.run()
        assert torch.equal(pseudo_inputs(spvae), start)
        assert all(not torch.equal(value, before[name]) for name, value in spvae.named_parameters())

    def test_learned_ones_start_near_rows_and_move(self):
        spvae, x = make(frozen=False), rows()
        trainer = Trainer(spvae, x, x, FIT)
        start = pseudo_inputs(spvae)
        distance = (start.movedim(1, 0).unsqueeze(1) - spvae.view(x)).abs().amax((-1, -2)).min(-1).values
        assert (distance < 0.06).all() and (distance > 0).all()
        trainer.run()
        assert not torch.equal(pseudo_inputs(spvae), start)

    def test_follow_from_the_seed_alone(self):
        found = []
        for seed, noise in ((0, 1), (0, 2), (1, 1)):
            spvae = make()
            torch.manual_seed(noise)
            state = torch.get_rng_state()
            Trainer(spvae, rows(), rows(), FitConfig(**vars(FIT) | {"seed": seed}))
            assert torch.equal(torch.get_rng_state(), state)
            found.append(pseudo_inputs(spvae))
        assert torch.equal(found[0], found[1])
        same, other = (sorted(values[0, :, 0].tolist()) for values in found[1:])
        assert same != other, "other rows, not only another order"

    @pytest.mark.parametrize("frozen", [False, True])
    def test_resumed_training_gives_the_same_values(self, frozen):
        whole, first, second = (Trainer(make(frozen), rows(), rows(), FIT) for _ in range(3))
        whole.run()
        first.run(max_steps=2)
        state = copy.deepcopy(first.state())
        second.load_state(state, first.metrics)
        assert torch.equal(pseudo_inputs(second.spvae), state["model"]["leaf.prior.pseudo_inputs"])
        second.run()
        assert same(whole.spvae.state_dict(), second.spvae.state_dict())

    def test_too_few_rows_are_refused(self):
        with pytest.raises(ValueError, match="^components is 21, but there are 20 data; at most as many as data are a"):
            Trainer(make(components=21), rows(), rows(), FIT)
        spvae = make(components=20)
        Trainer(spvae, rows(), rows(), FIT)
        assert spvae.wanted_rows == 0

    def test_entries_that_are_not_seen_are_not_looked_at(self):
        spvae, x = make(), rows()
        observed = torch.rand(x.shape) < 0.5
        Trainer(spvae, torch.where(observed, x, torch.nan), x, FIT, observed=observed)
        seen = torch.where(spvae.view(observed), spvae.view(x), 0.0)  # [20, L, 1]
        for one in pseudo_inputs(spvae).movedim(1, 0):
            assert (seen == one).all(-1).all(-1).any(), "a row with zeros in the place of what is not seen"


class TestFit:
    def test_starts_and_keeps_what_has_started(self):
        spvae, x = make(), rows()
        spvae.fit(x, epochs=1, batch_size=8)
        start = pseudo_inputs(spvae)
        assert spvae.wanted_rows == 0
        spvae.fit(rows(40)[20:], epochs=1, batch_size=8, seed=7)
        assert torch.equal(pseudo_inputs(spvae), start)

    def test_rows_to_watch_are_no_pseudo_inputs(self):
        spvae = make(components=18)
        x = rows()
        spvae.fit(x, epochs=1, batch_size=8)  # a tenth of 20 is held out
        inputs = spvae.leaf.prior.inputs
        found = (inputs.unsqueeze(1) == spvae.view(x)).all(-1).all(-1)  # [18, 20]
        assert (found.sum(-1) == 1).all() and int(found.any(0).sum()) == 18
        with pytest.raises(ValueError, match="^components is 19, but there are 18 data"):
            make(components=19).fit(x, epochs=1, batch_size=8)

    def test_is_resumed_from_a_folder(self, tmp_path):
        x = rows()
        whole = make(frozen=False)
        whole.fit(x, epochs=3, batch_size=8)
        make(frozen=False).fit(x, epochs=3, batch_size=8, out=tmp_path / "run")
        loaded = SPVAE.load(tmp_path / "run")
        assert loaded.wanted_rows == 0 and same(whole.state_dict(), loaded.state_dict())


class TestState:
    """A prior that waits for data still does when it was saved and loaded."""

    @pytest.mark.parametrize("frozen", [False, True])
    def test_saved_before_it_saw_data(self, frozen, tmp_path):
        make(frozen).save(tmp_path)
        loaded = SPVAE.load(tmp_path)
        assert loaded.wanted_rows == 5
        with pytest.raises(ValueError, match="start from data, which it has not seen; call spvae.start"):
            loaded.model(rows())
        loaded.start(rows())
        inputs = loaded.leaf.prior.inputs
        assert loaded.wanted_rows == 0 and bool(inputs.isfinite().all())
        assert (inputs.unsqueeze(1) - loaded.view(rows())).abs().amax((-1, -2)).min(-1).values.max() < 0.06

    def test_a_part_of_a_state_starts_nothing(self):
        spvae = make()
        state = {name: value for name, value in make().state_dict().items() if "prior" not in name}
        spvae.load_state_dict(state, strict=False)
        assert spvae.wanted_rows == 5

    def test_a_state_from_before_puts_it_back(self):
        spvae, before = make(), make().state_dict()
        spvae.start(rows())
        started = {name: value.clone() for name, value in spvae.state_dict().items()}
        spvae.load_state_dict(before)
        assert spvae.wanted_rows == 5
        spvae.load_state_dict(started)
        assert spvae.wanted_rows == 0 and same(spvae.state_dict(), started)

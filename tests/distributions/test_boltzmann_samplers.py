# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Samplers of Boltzmann machines leave the exact law invariant, by listing all states and transitions."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from pyro_spvae.distributions.boltzmann import (
    Gibbs,
    annealed_importance_sampling,
    enumeration,
    log_normaliser,
    tempering,
)
from pyro_spvae.distributions.boltzmann.annealed_importance import _softplus_difference
from pyro_spvae.distributions.boltzmann.gibbs import Coins
from tests.distributions.boltzmann_cases import KINDS, check_frequencies, every, machine, masses


class Told:
    """Coins whose probabilities are written down."""

    def throw(self, probs, out):
        self.probs = probs.clone()
        return out


class TestCoins:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_have_their_probabilities(self, dtype):
        """Also those below the resolution of 16 bits, over many calls."""
        probs = torch.tensor([0.0, 4e-6, 1e-3, 0.3, 0.5, 0.9, 1 - 4e-6, 1.0], dtype=dtype)
        calls, number = 400, 5001
        coins, total = Coins((number, 8), probs), torch.zeros(8, dtype=dtype)
        out = torch.empty(number, 8, dtype=dtype)
        for _ in range(calls):
            thrown = coins.throw(probs.repeat(number, 1), out)
            assert ((thrown == 0) | (thrown == 1)).all()
            total += thrown.sum(0)
        found = total / (calls * number)
        error = (probs * (1 - probs) / (calls * number)).sqrt()
        error[[1, -2]] *= 1.2  # what is decided by the common number has a little more variance
        assert ((found - probs).abs() <= 4.5 * error + 1e-7).all()
        assert found[0] == 0 and found[1] > 0 and found[-2] < 1

    def test_are_independent_and_follow_the_seed(self):
        probs = torch.full((20_000, 5), 0.4)
        coins, out = Coins(probs.shape, probs), torch.empty_like(probs)
        torch.manual_seed(3)
        first = coins.throw(probs.clone(), out).clone()
        second = coins.throw(probs.clone(), out).clone()
        torch.manual_seed(3)
        assert torch.equal(coins.throw(probs.clone(), out), first)
        columns = torch.cat([first, second], -1)
        assert (columns.T.corrcoef() - torch.eye(10)).abs().max() < 4.5 / math.sqrt(len(probs))
        assert (torch.stack([first[1:, 0], first[:-1, 0]]).corrcoef()[0, 1]).abs() < 4.5 / math.sqrt(len(probs))


class TestGibbs:
    @pytest.mark.parametrize(("left", "right"), [(3, 3), (2, 4)])
    @pytest.mark.parametrize("scale", [1.0, 0.3])
    def test_block_transitions_leave_the_law_invariant(self, left, right, scale):
        """pi T = pi, and each half of T holds the exact conditionals."""
        made = machine(left=left, right=right)
        lefts, rights = every(left), every(right)
        pi = masses(replace(made, weight=scale * made.weight)).T.reshape(2, 2**left, 2**right)

        def told(name, given, states, draw):
            sampler = Gibbs.of(made, len(given))
            side = name == "_right_coins"
            coins = Told()
            setattr(sampler, name, coins)
            getattr(sampler, draw)(given.expand(2, -1, -1).contiguous(), scale, sampler.halves(made.bias)[side])
            p = coins.probs.unsqueeze(2)  # [leaf, given, 1, unit]
            return torch.where(states > 0, p, 1 - p).prod(-1)  # [leaf, given, state]

        to_right = told("_right_coins", lefts, rights, "draw_right")
        to_left = told("_left_coins", rights, lefts, "draw_left")
        torch.testing.assert_close(to_right, pi / pi.sum(2, keepdim=True))
        torch.testing.assert_close(to_left, (pi / pi.sum(1, keepdim=True)).mT)
        through = torch.einsum("lab,lac,lcd->ldc", pi, to_right, to_left)
        torch.testing.assert_close(through, pi)

    @pytest.mark.parametrize("restricted", KINDS.values(), ids=KINDS)
    def test_a_sweep_is_what_it_says(self, restricted, monkeypatch):
        """From one state: the units in turn (of a restricted machine sides) by exact conditionals; blocks of two."""
        monkeypatch.setattr("pyro_spvae.distributions.boltzmann.gibbs._BLOCK", 2)
        made = machine(restricted, 2, 1)
        pi = masses(made).T.reshape(2, 2, 2, 2)
        now = torch.zeros_like(pi)
        now[:, 1, 0, 1] = 1.0
        for units in ([3], [1, 2]) if restricted else ([1], [2], [3]):
            rest = now.sum(units, keepdim=True)
            now = rest * pi / pi.sum(units, keepdim=True)
        start = torch.tensor([1.0, 0.0, 1.0]).expand(2, 20_000, -1)
        check_frequencies(Gibbs.of(made, 20_000).sweep(start, 1), now.reshape(2, 8).T)

    @pytest.mark.parametrize("restricted", KINDS.values(), ids=KINDS)
    def test_stays_in_the_law(self, restricted):
        made = machine(restricted)
        states = Gibbs.of(made, 20_000).sweep(enumeration.sample(made, 20_000) > 0, 3)
        check_frequencies(states, masses(made))


class TestTempering:
    def test_ladder(self):
        assert tempering.ladder(1) == [1.0] and tempering.ladder(2) == [1.0, 0.0]
        assert tempering.ladder(5) == [1.0, 0.75, 0.5, 0.25, 0.0]

    @pytest.mark.parametrize("restricted", KINDS.values(), ids=KINDS)
    def test_exchanges_are_in_detailed_balance(self, restricted):
        """Of all pairs of states at two temperatures."""
        made = machine(restricted, 1, 2)
        betas = torch.tensor([0.9, 0.2])
        pi = masses(made.tempered(betas)).reshape(8, 2, 2)  # [state, leaf, temperature]
        joint = pi[:, None, :, 0] * pi[None, :, :, 1]
        energies = made.energy(every(3).unsqueeze(1).expand(-1, 2, -1))
        log_probability = tempering.swap_log_probability(*betas, energies[:, None], energies[None])
        flow = joint * log_probability.exp()
        torch.testing.assert_close(flow, flow.transpose(0, 1))
        assert log_probability.max() == 0 and log_probability.min() < -0.1

    @pytest.mark.parametrize("first", [0, 1])
    def test_exchanges_happen_as_often_as_they_should(self, first):
        made = machine(left=1, right=2)
        betas = torch.tensor(tempering.ladder(4))
        one = every(3)[torch.randint(8, (2, 4, 1))].expand(-1, -1, 20_000, -1).clone()
        energies = made.energy(one.permute(1, 2, 0, 3)).permute(2, 0, 1)
        swapped = tempering.swap(one.clone(), energies, betas, first)
        for place in range(4):
            partner = place + 1 if (place - first) % 2 == 0 else place - 1
            if partner in (-1, 4) or min(place, partner) < first:
                assert torch.equal(swapped[:, place], one[:, place])
                continue
            log_probability = tempering.swap_log_probability(
                betas[place], betas[partner], energies[:, place, 0], energies[:, partner, 0]
            )
            for leaf in range(2):
                if torch.equal(one[leaf, place, 0], one[leaf, partner, 0]):
                    continue
                moved = (swapped[leaf, place] == one[leaf, partner]).all(-1).double().mean()
                p = log_probability[leaf].exp()
                assert (moved - p).abs() <= 4.5 * (p * (1 - p) / 20_000).sqrt() + 1e-9

    @pytest.mark.parametrize("restricted", KINDS.values(), ids=KINDS)
    @pytest.mark.parametrize("temperatures", [1, 3])
    def test_stays_in_the_law_at_every_temperature(self, restricted, temperatures):
        made = machine(restricted, 2, 2)
        all_of_them = made.tempered(torch.tensor(tempering.ladder(temperatures)))
        start = enumeration.sample(all_of_them, 20_000).reshape(2, temperatures, 20_000, 4)
        states = tempering.tempered_sweep(made, start > 0, 3)
        assert states.shape == start.shape
        check_frequencies(states.reshape(2 * temperatures, 20_000, 4), masses(all_of_them))

    def test_exchanges_leave_a_mode_that_gibbs_sampling_does_not(self):
        """Two modes of equal weight, all units off or all on."""
        made = machine(left=6, right=6, leaves=1)
        made.weight.fill_(2.0)
        made.bias.fill_(-6.0)
        shares = []
        for temperatures in (1, 8):
            states = torch.zeros(1, temperatures, 200, 12)
            shares.append(tempering.tempered_sweep(made, states, 60)[:, 0].mean().item())
        assert shares[0] < 0.15 and shares[1] == pytest.approx(0.5, abs=0.2)


class TestAnnealedImportanceSampling:
    @pytest.mark.parametrize("temperatures", [2, 30])
    @pytest.mark.parametrize("restricted", KINDS.values(), ids=KINDS)
    def test_is_right_and_knows_its_error(self, restricted, temperatures):
        """Many runs, as leaves: deviations are as large as it says; Z itself is unbiased."""
        one = machine(restricted, leaves=1, scale=0.8)
        many = type(one)(one.bias.repeat(300, 1), one.weight.repeat(300, 1, 1))
        found = annealed_importance_sampling(many, chains=150, temperatures=temperatures)
        exact = log_normaliser(one)
        deviation = (found.log_z - exact) / found.standard_error
        assert (deviation.abs() < 6).all()
        assert deviation.square().mean().sqrt() == pytest.approx(1.0, abs=0.2)
        ratio = (found.log_z - exact).exp()
        assert (ratio.mean() - 1).abs() < 4 * ratio.std() / math.sqrt(300)
        assert (found.effective_samples < 150).all() and (found.effective_samples > 5).all()

    def test_of_12_and_12_units(self):
        made = machine(left=12, right=12, scale=0.7)
        exact = log_normaliser(made)
        found = annealed_importance_sampling(made, 200, 100)
        assert ((found.log_z - exact).abs() < 4 * found.standard_error).all() and (found.standard_error < 0.2).all()

    def test_independent_units_have_no_error(self):
        made = machine(left=5, right=7, scale=0.0)
        found = annealed_importance_sampling(made, 8, 5)
        torch.testing.assert_close(found.log_z, log_normaliser(made))
        assert found.standard_error.max() < 1e-6
        torch.testing.assert_close(found.effective_samples, torch.full((2,), 8.0))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_differences_of_softplus(self, dtype):
        """Also of more numbers than a product holds, and of large ones."""
        x, y = (200 * torch.randn(4, 1100, dtype=dtype) for _ in range(2))
        x[0], y[0] = 1e-3, -1e-3
        x[1], y[1] = 0.0, 60.0  # all factors are 2
        expected = (torch.nn.functional.softplus(x.double()) - torch.nn.functional.softplus(y.double())).sum(-1)
        found = _softplus_difference(x, y.clone(), torch.empty_like(x), torch.empty_like(x))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3 if dtype == torch.float32 else 1e-5)

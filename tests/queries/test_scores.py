# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Scores of draws, against closed forms and integrals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch

from pyro_spvae.queries.scores import fair_crps, inside, randomised_pit


def normal_crps(mean, scale, value):
    """Gneiting and Raftery 2007, eq. (21)."""
    z = (value - mean) / scale
    normal = scipy.stats.norm
    return scale * (z * (2 * normal.cdf(z) - 1) + 2 * normal.pdf(z) - 1 / math.sqrt(math.pi))


class TestFairCrps:
    @pytest.mark.parametrize("number", [2, 3, 50])
    def test_is_unbiased_for_the_closed_form_of_a_normal(self, number):
        generator = torch.Generator().manual_seed(0)
        repeats = 400_000 // number
        draws = 1.5 + 2 * torch.randn(number, repeats, generator=generator)
        for value in (-3.0, 1.5, 4.0):
            found = fair_crps(draws, torch.full((repeats,), value))
            error = float(found.std()) / repeats**0.5
            assert abs(float(found.mean()) - normal_crps(1.5, 2, value)) < 4 * error

    def test_the_closed_form_is_the_integral(self):
        def squared(t):
            return (scipy.stats.norm.cdf(t, 1.5, 2) - (t >= 4.0)) ** 2

        integral = scipy.integrate.quad(squared, -30, 4)[0] + scipy.integrate.quad(squared, 4, 30)[0]
        assert normal_crps(1.5, 2, 4.0) == pytest.approx(integral, abs=1e-8)

    def test_all_pairs_by_hand(self):
        draws, value = torch.randn(7, 3, 2), torch.randn(3, 2)
        pairs = (draws.unsqueeze(0) - draws.unsqueeze(1)).abs().sum((0, 1)) / (2 * 7 * 6)
        torch.testing.assert_close(fair_crps(draws, value), (draws - value).abs().mean(0) - pairs)

    def test_of_two_values_it_is_the_brier_score(self):
        """All 2^4 draws weighed by their probability."""
        p = 0.3
        draws = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4).T
        weight = (p**draws * (1 - p) ** (1 - draws)).prod(0)
        for value in (0.0, 1.0):
            found = fair_crps(draws, torch.full((16,), value))
            assert float((weight * found).sum()) == pytest.approx((p - value) ** 2)

    def test_a_right_prediction_scores_best(self):
        torch.manual_seed(1)
        value = torch.randn(20_000)

        def score(mean, scale):
            return float(fair_crps(mean + scale * torch.randn(20, 20_000), value).mean())

        assert score(0, 1) < min(score(0.5, 1), score(0, 2), score(0, 0.3))


class TestPit:
    @pytest.mark.parametrize("number", [1, 5, 40])
    @pytest.mark.parametrize("law", ["normal", "binary", "poisson"])
    def test_is_uniform_if_the_truth_is_one_more_draw(self, law, number):
        generator = np.random.default_rng(3)
        size = (number + 1, 5000)
        every = {
            "normal": lambda: generator.normal(size=size),
            "binary": lambda: (generator.random(size) < 0.2).astype(float),
            "poisson": lambda: generator.poisson(1.3, size).astype(float),
        }[law]()
        draws, value = torch.tensor(every[1:]), torch.tensor(every[0])
        pit = randomised_pit(draws, value, torch.tensor(generator.random(size[1])))
        assert scipy.stats.kstest(pit.numpy(), "uniform").pvalue > 1e-3
        for level in (0.1, 0.5, 0.9):
            share = float(inside(pit, level).double().mean())
            assert abs(share - level) < 4 * (level * (1 - level) / size[1]) ** 0.5

    def test_ranks_and_ties_by_hand(self):
        draws = torch.tensor([0.0, 1.0, 1.0, 3.0]).unsqueeze(1)
        for value, least, most in ((-1, 0, 1), (0, 0, 2), (1, 1, 4), (2, 3, 4), (3, 3, 5), (9, 4, 5)):
            for uniform in (0.0, 0.25, 1.0):
                found = randomised_pit(draws, torch.tensor([float(value)]), torch.tensor([uniform]))
                assert float(found) == pytest.approx((least + uniform * (most - least)) / 5)

    def test_a_prediction_that_is_too_sure_is_found_out(self):
        torch.manual_seed(0)
        pit = randomised_pit(0.5 * torch.randn(100, 4000), torch.randn(4000), torch.rand(4000))
        assert float(inside(pit, 0.9).double().mean()) < 0.65

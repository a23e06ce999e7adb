# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Likelihoods that start from training data are like these, as if one more row had come that is spread evenly."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_spvae import poon_domingos
from pyro_spvae.likelihoods import (
    BetaBinomial,
    Binomial,
    Categorical,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    LowRankCategorical,
    Normal,
)
from pyro_spvae.likelihoods.summaries import level_frequencies, unit_moments
from pyro_spvae.models import SPVAE, VAE
from pyro_spvae.testing.block_tests import LEAVES, PIXELS

LEVELS, ROWS = 9, 60


@pytest.fixture
def rows():
    """Levels of pixels that differ, and which of them are seen: of the last pixel of one leaf, none."""
    torch.manual_seed(0)
    most = torch.randint(1, LEVELS, (LEAVES, PIXELS))
    x = (torch.rand(ROWS, LEAVES, PIXELS) * (most + 1)).floor()
    x[:, 0, 0] = 0.0
    seen = torch.rand(ROWS, LEAVES, PIXELS) < 0.8
    seen[:, 2, 3] = False
    return x, seen


def with_even_row(values, seen, spread, number):
    """Seen values of a pixel, each ``number`` times, and ``number`` that are spread: weighted as one row."""
    return [
        [torch.cat([values[seen[:, leaf, p], leaf, p].repeat_interleave(number), spread]) for p in range(PIXELS)]
        for leaf in range(LEAVES)
    ]


def moments_by_hand(values, seen):
    """Of values in [0, 1] and a row that is uniform there, by a fine grid."""
    number = 20_000
    grid = (torch.arange(number) + 0.5) / number
    every = with_even_row(values, seen, grid, number)
    both = [[(own.mean(), own.var(correction=0)) for own in leaf] for leaf in every]
    return torch.tensor(both).unbind(-1)


def bound(likelihood):
    return likelihood.bind(leaves=LEAVES, pixels=PIXELS)


def test_moments(rows):
    x, seen = rows
    for found, expected in zip(unit_moments(x / 8, seen.double()), moments_by_hand(x / 8, seen), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


def test_frequencies(rows):
    x, seen = rows
    levels = torch.arange(float(LEVELS))
    every = with_even_row(x, seen, levels, LEVELS)
    expected = torch.tensor([[[(own == level).double().mean() for level in levels] for own in leaf] for leaf in every])
    torch.testing.assert_close(level_frequencies(torch.where(seen, x, -7.0), seen.double(), LEVELS), expected)
    full = bound(Categorical(LEVELS))
    torch.testing.assert_close(full(full.outputs_from(x, seen.double())).probs, expected)


def test_binomial_means(rows):
    x, seen = rows
    part = bound(Binomial(8))
    mean, _ = unit_moments(x / 8, seen.double())
    torch.testing.assert_close(part(part.outputs_from(x, seen.double())).mean, 8 * mean)


def test_beta_binomial_moments(rows):
    """Where the variance is one that it can have: above that of the Binomial, and below that of the ends alone."""
    x, seen = rows
    part = bound(BetaBinomial(8))
    x[:20, 1, 1], x[20:, 1, 1] = 4.0, 5.0  # varies less than a binomial
    mean, variance = unit_moments(x / 8, seen.double())
    law = part(part.outputs_from(x, seen.double()))
    correlation = (8 * variance / (mean * (1 - mean)) - 1) / 7
    can = (correlation > 1e-3) & (mean > 0.05)
    assert not can[1, 1] and can.sum() >= 8
    torch.testing.assert_close(law.mean[can], 8 * mean[can])
    torch.testing.assert_close(law.variance[can], 64 * variance[can])
    assert law.concentration1.min() >= 2e-3 and law.concentration0.min() >= 2e-3
    torch.testing.assert_close(law.mean[1, 1], 8 * mean[1, 1])


@pytest.mark.parametrize("scale", ["softplus", "exp"])
@pytest.mark.parametrize("location", ["free", "sigmoid"])
def test_logistic_moments(rows, location, scale):
    x, seen = rows
    part = bound(DiscretizedLogistic(LEVELS, scale=scale, location=location))
    mean, variance = unit_moments((x + 0.5) / LEVELS, seen.double())
    law = part(part.outputs_from(x, seen.double()))
    torch.testing.assert_close(law.loc, mean)
    torch.testing.assert_close(law.log_scale.exp() * math.pi / math.sqrt(3), variance.sqrt())
    nothing = bound(DiscretizedLogistic(scale=scale, location=location))
    black = nothing(nothing.outputs_from(torch.zeros(10_000, LEAVES, PIXELS), torch.ones(10_000, LEAVES, PIXELS)))
    torch.testing.assert_close(black.log_scale.exp(), torch.full((LEAVES, PIXELS), 0.01))


@pytest.mark.parametrize("components", [1, 2, 5])
def test_mixture_moments(rows, components):
    """Of the logistic variables before they fall into bins; their means are apart, in order."""
    x, seen = rows
    part = bound(DiscretizedLogisticMixture(LEVELS, components))
    mean, variance = unit_moments((x + 0.5) / LEVELS, seen.double())
    law = part(part.outputs_from(x, seen.double()))
    weight = law.logits.softmax(-1)
    first = (weight * law.loc).sum(-1)
    second = (weight * (law.loc.square() + (law.log_scale.exp() * math.pi).square() / 3)).sum(-1)
    torch.testing.assert_close(first, mean)
    torch.testing.assert_close(second - first.square(), variance)
    assert bool((law.loc.diff(dim=-1) > 0).all()) and torch.equal(weight, torch.full_like(weight, 1 / components))


def test_coupled_channels_start_uncoupled():
    part = DiscretizedLogisticMixture(4, 3, coupled=True).bind(leaves=2, pixels=6, channels=2)
    outputs = part.outputs_from(torch.randint(4, (9, 2, 6)).double(), torch.ones(9, 2, 6))
    assert [output.shape for output in outputs] == [(2, head) for head in part.heads]
    assert torch.equal(part(outputs).coefficients, torch.zeros(2, 3, 1, 3))


def test_normal_moments(rows):
    x, seen = rows
    part = bound(Normal())
    law = part(part.outputs_from(x, seen.double()))
    for leaf, pixel in ((0, 1), (1, 2), (2, 2)):
        own = x[seen[:, leaf, pixel], leaf, pixel]
        torch.testing.assert_close(law.loc[leaf, pixel], own.mean())
        torch.testing.assert_close(law.scale[leaf, pixel], own.std(correction=0))
    assert law.loc[2, 3] == 0 and float(law.scale.min()) == pytest.approx(1e-3, rel=2e-3)


STARTING = {
    "binomial": lambda own: Binomial(8, **own),
    "beta-binomial": lambda own: BetaBinomial(8, **own),
    "categorical": lambda own: Categorical(LEVELS, **own),
    "low rank": lambda own: LowRankCategorical(LEVELS, 3, **own),
    "logistic": lambda own: DiscretizedLogistic(LEVELS, **own),
    "mixture": lambda own: DiscretizedLogisticMixture(LEVELS, 3, **own),
}


@pytest.mark.parametrize("name", STARTING)
def test_a_model_starts_from_the_data(name):
    """By default, once; and not where it is told not to. What it starts from describes the data better than nothing."""
    x = (torch.rand(200, 1, 4, 4) * torch.linspace(0, 9, 16).reshape(4, 4)).floor()
    for own, starts in (({}, True), ({"from_mean": False}, False)):
        torch.manual_seed(1)
        spvae = SPVAE(poon_domingos((4, 4), 2), 2, leaf=VAE(STARTING[name](own), 2, (3,)))
        before = spvae.log_likelihood(x, num_samples=20).mean()
        assert (spvae.wanted_rows > 0) == starts
        spvae.start(x)
        state = {key: value.clone() for key, value in spvae.state_dict().items()}
        spvae.start(8 - x)
        assert all(torch.equal(value, state[key]) for key, value in spvae.state_dict().items())
        after = spvae.log_likelihood(x, num_samples=20).mean()
        assert spvae.wanted_rows == 0 and float(after - before) > 3 if starts else abs(float(after - before)) < 1


@pytest.mark.parametrize("mean", [100.0, 1000.0, -3.0])
def test_deviations_far_from_zero_in_single_precision(mean):
    """Squares of means do not cancel."""
    torch.manual_seed(0)
    likelihood = Normal().bind(leaves=1, pixels=3)
    x = (mean + 0.01 * torch.randn(500, 1, 3)).float()
    outputs = likelihood.outputs_from(x, torch.ones_like(x))
    torch.testing.assert_close(likelihood(outputs).scale, x.double().std(0, correction=0).float(), rtol=0.02, atol=0)

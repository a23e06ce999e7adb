# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of counts of any size, against 60 digits."""

from __future__ import annotations

import math

import mpmath
import pyro.distributions as dist
import pytest
import torch

from pyro_spvae.distributions import LeafNegativeBinomial, LeafPoisson
from pyro_spvae.distributions.large_counts import stirling_error
from pyro_spvae.likelihoods import NegativeBinomial, Poisson

MEANS = [3.0, 9e4, 1.1e5, 1e6, 1e9, 1e12, 1e15, 3e18]


@pytest.fixture(autouse=True)
def digits():
    with mpmath.workdps(60):
        yield


def tensor(value):
    return torch.tensor([float(value)], dtype=torch.float64)


def negative_binomial(x, r, logits):
    x, r, logits = map(mpmath.mpf, (x, r, logits))
    choose = mpmath.loggamma(x + r) - mpmath.loggamma(r) - mpmath.loggamma(x + 1)
    return float(choose - x * mpmath.log1p(mpmath.exp(-logits)) - r * mpmath.log1p(mpmath.exp(logits)))


def poisson(x, rate):
    x, rate = mpmath.mpf(x), mpmath.mpf(rate)
    return float(x * mpmath.log(rate) - rate - mpmath.loggamma(x + 1))


@pytest.mark.parametrize("r", [0.02, 6.8, 300.0, 1e5 + 1, 1e7])
@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("factor", [0.0, 0.1, 0.99999, 1.3, 8.0])
def test_negative_binomial(mean, r, factor):
    x, logits = float(round(factor * mean)), math.log(mean / r)
    found = LeafNegativeBinomial(tensor(r), tensor(logits)).log_prob(tensor(x)).item()
    # a mean has an error of about 50 units in its last place, since it is given by its logarithm
    sensitivity = (
        abs(x - mean) / (1 + mean / r) * 1e-14 + r * math.log(1 + r) * 1e-15
    )  # and terms of the size of r log r are subtracted
    assert found == pytest.approx(negative_binomial(x, r, logits), rel=1e-9, abs=1e-8 + sensitivity)


@pytest.mark.parametrize("mean", MEANS)
@pytest.mark.parametrize("deviations", [-1.5, 0.0, 4.0, 40.0])
def test_poisson(mean, deviations):
    x = float(max(0, round(mean + deviations * math.sqrt(mean))))
    found = LeafPoisson(tensor(mean)).log_prob(tensor(x)).item()
    assert found == pytest.approx(poisson(x, mean), rel=1e-9, abs=1e-8 + abs(x - mean) * 2e-16)


@pytest.mark.parametrize("law", ["poisson", "negative binomial"])
def test_gradients_are_those_of_the_formula(law):
    x = torch.tensor([0.0, 7.0, 2e5, 4e5], dtype=torch.float64)
    first = torch.full((4,), 2.0, dtype=torch.float64, requires_grad=True)
    second = torch.full((4,), 11.0, dtype=torch.float64, requires_grad=True)
    if law == "poisson":
        ours, theirs = LeafPoisson(second.exp()), dist.Poisson(second.exp())
    else:
        ours, theirs = LeafNegativeBinomial(first.exp(), second), dist.NegativeBinomial(first.exp(), logits=second)
    parameters = [second] if law == "poisson" else [first, second]
    gradients = [
        torch.autograd.grad(found.log_prob(x).sum(), parameters, retain_graph=True) for found in (ours, theirs)
    ]
    for one, other in zip(*gradients, strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-6)


def test_far_parameters_have_finite_values_and_gradients():
    logits = torch.tensor([-500.0, 500.0], dtype=torch.float64, requires_grad=True)
    found = LeafNegativeBinomial(torch.ones(2, dtype=torch.float64), logits).log_prob(
        torch.full((2,), 1e9, dtype=torch.float64)
    )
    found.backward()
    assert found.isfinite().all() and logits.grad.isfinite().all()
    wanted = sum(negative_binomial(1e9, 1.0, value) for value in (-500.0, 500.0))
    assert found.item() == pytest.approx(wanted, rel=1e-9)


def test_stirlings_error():
    x = torch.tensor([1e5, 3e5, 1e12], dtype=torch.float64)
    for value, found in zip(x.tolist(), stirling_error(x).tolist(), strict=True):
        v = mpmath.mpf(value)
        wanted = mpmath.loggamma(v + 1) - (v + 0.5) * mpmath.log(v) + v - mpmath.log(2 * mpmath.pi) / 2
        assert found == pytest.approx(float(wanted), rel=1e-12, abs=1e-25)


@pytest.mark.parametrize(("location", "exact"), [(20.0, False), (3e7, True)])
def test_likelihoods_take_the_form_that_their_counts_need(location, exact):
    """Which follows from location and scale, not from values, and is quicker where counts are small."""
    for kind in (Poisson, NegativeBinomial):
        likelihood = kind(location=location, scale=location / 3).bind(leaves=1, pixels=1)
        law = likelihood(tuple(torch.zeros(1, size) for size in likelihood.heads))
        assert law.large is exact and law.expand((3, 1)).large is exact

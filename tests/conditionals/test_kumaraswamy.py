# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Kumaraswamy distributions of networks' outputs: what the outputs mean."""

from __future__ import annotations

import math

import pytest
import torch
from pyro.distributions import Beta
from torch.distributions import kl_divergence

from pyro_spvae.conditionals import Kumaraswamy
from pyro_spvae.conditionals.kumaraswamy import _concentrations, concentrations
from pyro_spvae.nn import MLP


def block(count=1):
    return Kumaraswamy().bind(leaves=1, event_shape=(count,))


def law(raw, place):
    return block()(torch.tensor([raw]), torch.tensor([place])).base_dist


def test_outputs_of_zero_are_uniform():
    uniform = law(0.0, 0.0)
    assert float(kl_divergence(uniform, Beta(torch.ones(1), torch.ones(1)))) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("value", [0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("raw", [2.5, 3.5])
def test_a_fraction_is_where_the_second_output_says_however_narrow_it_is(raw, value):
    narrow = law(raw, -math.log(value))
    a = math.exp(4 * math.tanh(raw / 4))
    tail = 40 * math.tanh(-a * math.log(value) / 40)
    assert float(narrow.concentration1) == pytest.approx(a) and float(narrow.concentration0.log()) == pytest.approx(
        tail
    )
    if a * -math.log(value) < 10:  # of which the limit leaves nearly all
        median = float(narrow.icdf(torch.tensor(0.5)))
        assert median == pytest.approx(value * math.log(2) ** (1 / a), rel=0.05)
        spread = float(narrow.icdf(torch.tensor(0.84)) - narrow.icdf(torch.tensor(0.16))) / 2
        assert spread < 1.5 * median / a, "narrower with every a"


def test_networks_are_bound_with_two_outputs_a_fraction():
    own = Kumaraswamy(MLP((4,), networks="shared")).bind(leaves=2, inputs=5, event_shape=(3,))
    h = torch.randn(6, 2, 5)
    found, expected = own(h), block(3)(*own.network(h))
    assert found.batch_shape == (6, 2) and found.event_shape == (3,)
    torch.testing.assert_close(found.base_dist.concentration0, expected.base_dist.concentration0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("raw", [-1000.0, -3.0, 0.0, 3.0, 1000.0])
@pytest.mark.parametrize("place", [-1000.0, -1.0, 0.0, 1.0, 30.0, 1000.0])
def test_draws_densities_and_gradients_are_finite_whatever_a_network_says(raw, place, dtype):
    outputs = [torch.full((1,), value, dtype=dtype, requires_grad=True) for value in (raw, place)]
    torch.manual_seed(0)
    found = block()(*outputs)
    assert found.base_dist.concentration0.dtype == torch.float32
    v = found.rsample((2000,))
    loss = (found.log_prob(v) + v.log().sum(-1) + torch.log1p(-v).sum(-1)).mean() + found.base_dist.mean.sum()
    loss = loss + kl_divergence(found.base_dist, Beta(torch.ones(1), 5 * torch.ones(1))).sum()
    loss.backward()
    assert bool((v > 0).all()) and bool((v < 1).all()) and math.isfinite(float(loss.detach()))
    assert all(bool(output.grad.isfinite().all()) for output in outputs)


def test_derivatives_by_hand_are_autograds():
    torch.manual_seed(0)
    outputs = [torch.randn(50, 3, requires_grad=True) for _ in range(2)]
    weights = torch.randn(2, 50, 3)
    found, expected = (
        torch.autograd.grad(
            sum((w * term.log()).sum() for w, term in zip(weights, act(*outputs), strict=True)), outputs
        )
        for act in (concentrations, _concentrations)
    )
    torch.testing.assert_close(concentrations(*outputs), _concentrations(*outputs))
    torch.testing.assert_close(found, expected)

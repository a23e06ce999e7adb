# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Weights of broken sticks."""

from __future__ import annotations

import pytest
import torch
from pyro.distributions import Beta, Dirichlet

from pyro_spvae.distributions import Kumaraswamy
from pyro_spvae.distributions.sticks import log_stick_weights, mean_stick_weights, stick_fractions, stick_weights


def test_weights_by_hand_and_back():
    v = torch.tensor([[0.5, 0.5, 0.25], [0.1, 0.9, 0.3]])
    weights = torch.tensor([[0.5, 0.25, 0.0625, 0.1875], [0.1, 0.81, 0.027, 0.063]])
    torch.testing.assert_close(stick_weights(v), weights)
    torch.testing.assert_close(stick_fractions(weights.log()), v)
    v = torch.rand(50, 7)
    torch.testing.assert_close(stick_fractions(log_stick_weights(v)), v)
    torch.testing.assert_close(stick_weights(v).sum(-1), torch.ones(50))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logarithms_are_finite_at_the_ends(dtype):
    v = torch.tensor([[0.0, 1.0, 1.0, 0.5], [1.0, 1.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    log_weights = log_stick_weights(v)
    (grad,) = torch.autograd.grad(log_weights.sum(), v)
    assert bool(log_weights.isfinite().all()) and bool(grad.isfinite().all())


def test_means_are_exact():
    q = Kumaraswamy(torch.tensor([0.7, 2.0, 1.0]), torch.tensor([1.5, 0.8, 3.0]))
    torch.manual_seed(0)
    drawn = stick_weights(q.sample((200_000,))).mean(0)
    torch.testing.assert_close(mean_stick_weights(q.mean), drawn, atol=3e-3, rtol=0)


def test_dirichlet_weights_are_made_of_beta_fractions():
    """v_k ~ Beta(alpha, (K - k) alpha): densities agree, with the volume of the map."""
    alpha, count = 0.7, 4
    left = torch.arange(count - 1, 0, -1.0)
    v = torch.rand(9, count - 1)
    sticks = Beta(torch.full((count - 1,), alpha), left * alpha).log_prob(v).sum(-1)
    weights = stick_weights(v)
    rest = 1 - weights.cumsum(-1)[..., :-2]  # what is left before the second break on
    expected = Dirichlet(torch.full((count,), alpha)).log_prob(weights) + rest.log().sum(-1)
    torch.testing.assert_close(sticks, expected)

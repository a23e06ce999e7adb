# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Weights of broken sticks."""

from __future__ import annotations

import pytest
import torch
from pyro.distributions import Beta, Dirichlet
from torch.distributions import kl_divergence

from pyro_spvae.distributions import Kumaraswamy, StickWeights, divergence
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


def test_derivatives_by_hand_are_numerical_ones():
    """And 0 for fractions at the ends, which are constants."""
    v = (0.05 + 0.9 * torch.rand(4, 3, 5)).requires_grad_()
    assert torch.autograd.gradcheck(log_stick_weights, v)
    ends = torch.tensor([0.0, 0.5, 1.0], requires_grad=True)
    (grad,) = torch.autograd.grad(log_stick_weights(ends)[1], ends)
    torch.testing.assert_close(grad, torch.tensor([0.0, 2.0, 0.0]))


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


class TestStickWeights:
    def test_of_a_dirichlet_distribution(self):
        """Fractions v_k ~ Beta(alpha, (K - k) alpha) make a symmetric Dirichlet distribution: its density and draws."""
        alpha, count = 0.7, 4
        fractions = Beta(torch.full((3,), alpha), alpha * torch.arange(3, 0, -1.0)).to_event(1)
        law, twin = StickWeights(fractions, validate_args=True), Dirichlet(torch.full((count,), alpha))
        torch.manual_seed(0)
        weights = law.sample((50_000,))
        torch.testing.assert_close(law.log_prob(weights), twin.log_prob(weights), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(law.log_prob(weights.clone()), twin.log_prob(weights), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(law.mean, twin.mean)
        torch.testing.assert_close(weights.mean(0), twin.mean, rtol=0, atol=5e-3)
        torch.testing.assert_close(weights.var(0), twin.variance, rtol=0.03, atol=0)

    def test_divergence_is_that_of_the_fractions(self):
        q = Kumaraswamy(torch.tensor([0.7, 2.0]), torch.tensor([1.5, 0.8])).to_event(1)
        p = Beta(torch.ones(2), torch.tensor([3.0, 3.0])).to_event(1)
        found = divergence(StickWeights(q), StickWeights(p), StickWeights(q).sample())
        torch.manual_seed(0)
        one = StickWeights(q)
        weights = one.sample((100_000,))
        ratio = one.log_prob(weights) - StickWeights(p).log_prob(weights)
        assert abs(float(found - ratio.mean())) < 4 * float(ratio.std()) / 100_000**0.5
        assert torch.equal(found, kl_divergence(q, p))

    def test_gradients_and_shapes(self):
        a = torch.tensor([[0.7, 2.0]] * 5, requires_grad=True)
        law = StickWeights(Kumaraswamy(a, torch.ones(5, 2)).to_event(1))
        assert law.has_rsample and law.expand((4, 5)).rsample((3,)).shape == (3, 4, 5, 3)
        (grad,) = torch.autograd.grad(law.rsample()[:, 0].sum(), a)
        assert bool((grad[:, 0] != 0).all()) and not law.sample().requires_grad
        with pytest.raises(ValueError, match=r"^fractions have events of shape \[\]; a vector of them is needed"):
            StickWeights(Beta(torch.ones(3), torch.ones(3)))

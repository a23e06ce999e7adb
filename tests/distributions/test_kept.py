# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Fractions and weights whose rounded values are asked about: by guide, prior and gradients, in single precision."""

from __future__ import annotations

import gc
import itertools

import pyro
import pytest
import torch
from torch.distributions import kl_divergence

from pyro_spvae import SPVAE, whole
from pyro_spvae.distributions import Beta, Kumaraswamy, StickWeights
from pyro_spvae.distributions.joined import SomeLeaves
from pyro_spvae.distributions.kept import _KEPT, LogFractions, carried, keep, kept, log_fractions
from pyro_spvae.infer import CircuitELBO
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import SBVAE, FactorizedLeaf, MixedLeaf

FAR = [(49, 5.0, 1.0), (49, 20.0, 0.5), (15, 50.0, 0.1), (199, 1.0, 1.0)]  # sticks, a, b


def fractions(count, a, b, rows=4000):
    return Kumaraswamy(*(torch.full((rows, count), value, dtype=torch.float32) for value in (a, b))).to_event(1)


def uniform_sticks(count):
    ones = torch.ones(count, dtype=torch.float32)
    return StickWeights(Beta(ones, ones).to_event(1))


@pytest.mark.parametrize(("count", "a", "b"), FAR)
def test_divergence_by_draws_is_the_divergence(count, a, b):
    """Where weights underflow: both densities are of the same fractions, whichever distribution drew them."""
    torch.manual_seed(0)
    q, p = StickWeights(fractions(count, a, b)), uniform_sticks(count)
    weights = q.rsample()
    ratio = (q.log_prob(weights) - p.log_prob(weights)).double()
    exact = float(kl_divergence(q, p)[0])
    assert abs(float(ratio.mean()) - exact) < 4.5 * float(ratio.std()) / len(ratio) ** 0.5 + 1e-4 * (1 + exact)
    again = StickWeights(fractions(count, a, b)).log_prob(weights)  # as a guide that is run a second time
    torch.testing.assert_close(again, q.log_prob(weights), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(("a", "b"), [(1.0, 0.05), (50.0, 0.1), (50.0, 0.02), (0.05, 0.2)])
def test_fractions_under_a_beta(a, b):
    torch.manual_seed(0)
    rows = 200_000
    q = Kumaraswamy(*(torch.full((rows,), value, dtype=torch.float32) for value in (a, b)))
    p = Beta(torch.tensor(1.0, dtype=torch.float32), torch.tensor(5.0, dtype=torch.float32))
    v = q.rsample()
    ratio = (q.log_prob(v) - p.log_prob(v)).double()
    assert abs(float(ratio.mean() - kl_divergence(q, p)[0])) < 4.5 * float(ratio.std()) / rows**0.5
    assert abs(float((q.log_prob(v.clone()) - p.log_prob(v.clone())).mean() - ratio.mean())) > 1 or a < 1


def test_values_of_others_have_fractions_by_the_sums_that_are_rounded_least():
    """A weight next to 0 or 1 tells its fraction and the rest of it, as far as its type holds it."""
    log_v = torch.tensor([-60.0, -1e-9, -30.0, -0.5]).double()
    left = torch.log(-torch.expm1(log_v)).cumsum(-1)
    weights = (torch.cat([log_v, log_v.new_zeros(1)]) + torch.cat([left.new_zeros(1), left])).exp()
    prior = Beta(torch.tensor([2.0, 1.0, 3.0, 1.0]), torch.tensor([1.0, 4.0, 1.0, 2.0])).to_event(1)
    p = StickWeights(prior, validate_args=False)
    exact = keep(log_v.exp().clamp(max=1 - 1e-16), LogFractions(log_v, torch.log(-torch.expm1(log_v))))
    expected = p.fractions.log_prob(exact) - left[:-1].sum()
    torch.testing.assert_close(p.log_prob(weights), expected, rtol=1e-6, atol=1e-6)
    assert torch.autograd.gradcheck(p.log_prob, (torch.rand(5).softmax(-1).requires_grad_(),))


def test_kept_as_long_as_the_value():
    v = torch.rand(3)
    keep(v, LogFractions(v.log(), torch.log1p(-v)))
    assert kept(v) is not None and kept(v.clone()) is None
    gc.collect()
    size = len(_KEPT)
    del v
    gc.collect()
    assert len(_KEPT) == size - 1


def test_what_is_rearranged_keeps_it():
    q = StickWeights(Kumaraswamy(torch.full((2, 3), 5.0), torch.full((2, 3), 0.1)).to_event(1))
    weights = q.rsample()
    turned = carried(weights, lambda values: values.flip(0))
    found, own = log_fractions(kept(turned)), log_fractions(kept(weights))
    assert torch.equal(found.log_value, own.log_value.flip(0)) and torch.equal(found.log_rest, own.log_rest.flip(0))
    some = SomeLeaves(q, torch.tensor([2, 0]), 3)
    value = some.rsample()
    assert torch.equal(kept(some.gather(value)), kept(value)[torch.tensor([2, 0])])
    torch.testing.assert_close(some.log_prob(value)[[2, 0]], q.log_prob(kept_weights(q, some, value)))


def kept_weights(q, some, value):
    """The value of the leaves meant, as the distribution of them drew it."""
    gathered = some.gather(value)
    return keep(gathered, kept(gathered))


def test_a_rest_that_was_asked_for_without_gradients_has_them_later():
    q = Kumaraswamy(torch.tensor([5.0], requires_grad=True), torch.tensor([0.5]))
    logs = kept(q.rsample())
    with torch.no_grad():
        assert not logs.log_rest.requires_grad
    assert logs.log_rest.requires_grad and logs.log_rest is logs.log_rest


class TestModels:
    IMAGES = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)), dtype=torch.float32).reshape(-1, 1, 2, 3)

    def test_probabilities_of_all_images_sum_to_one(self):
        torch.manual_seed(0)
        spvae = SPVAE(whole((2, 3)), units=1, leaf=SBVAE(Bernoulli(), truncation=50)).float()
        assert abs(float(spvae.log_likelihood(self.IMAGES, num_samples=3000).exp().sum()) - 1) < 0.3

    @pytest.mark.parametrize("options", [{}, {"gradient": "dreg"}, {"gradient": "dreg", "vectorize_particles": False}])
    def test_bounds_and_gradients_are_those_of_double_precision(self, options):
        found = []
        for dtype in (torch.float32, torch.float64):
            torch.manual_seed(0)
            spvae = SPVAE(whole((2, 3)), units=1, leaf=SBVAE(Bernoulli(), truncation=50)).to(dtype)
            torch.manual_seed(1)
            loss = CircuitELBO(3, **options).differentiable_loss(spvae.model, spvae.guide, self.IMAGES.to(dtype))
            loss.backward()
            grads = [parameter.grad.flatten() for parameter in spvae.parameters()]
            found.append((loss.detach().double(), torch.cat(grads).double()))
        (loss, grad), (exact, exact_grad) = found
        torch.testing.assert_close(loss, exact, rtol=1e-4, atol=0)
        assert float((grad - exact_grad).norm()) < 2e-3 * float(exact_grad.norm())

    def test_of_some_of_the_leaves(self):
        """Which have no parameters to be cut from, so that gradients without the score run the guide again."""
        pyro.clear_param_store()
        leaf = MixedLeaf([SBVAE(Bernoulli()), FactorizedLeaf(Bernoulli())])
        spvae = SPVAE(whole((2, 3)), units=2, leaf=leaf)
        losses = []
        for gradient in ("iwae", "dreg"):
            torch.manual_seed(0)
            elbo = CircuitELBO(3, gradient=gradient)
            losses.append(float(elbo.differentiable_loss(spvae.model, spvae.guide, self.IMAGES.double()).detach()))
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Divergences by pair of distributions in the place of sampled ones."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import constraints, kl_divergence

from pyro_spvae import CircuitELBO, Latent, poon_domingos, whole
from pyro_spvae.distributions import LeafNormal, LeafStandardNormal, divergence, register_divergence
from pyro_spvae.distributions.divergences import divergence_by_dimension
from pyro_spvae.guides import LeafGuide
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import VAE, LeafModel
from pyro_spvae.priors import MixtureOfGaussians
from tests.helpers import assert_same_gradients, gradients, small_spvae
from tests.infer.cases import annealed

X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 1, 2, 2)


class Sticks(LeafModel):
    """A Beta variable beside a vector, whose guide is Beta too."""

    latents = {"v": Latent((), constraints.unit_interval), "z": Latent(2)}

    def build(self, leaves, pixels):
        self.raw = nn.Parameter(torch.randn(leaves, 2))
        self.weight = nn.Parameter(torch.randn(leaves, 3, pixels))

    def forward(self, x=None, mask=None):
        a, b = self.raw.exp().unbind(-1)
        v = pyro.sample("v", dist.Beta(1 + a, 1 + b))
        z = pyro.sample("z", LeafStandardNormal(2))
        h = torch.cat([z, v.unsqueeze(-1).expand(*z.shape[:-1], 1)], -1)
        pixels = torch.einsum("...ld,ldp->...lp", h, self.weight)
        return pyro.sample("x", LeafNormal(pixels, torch.tensor(0.5), mask), obs=x)


class SticksGuide(LeafGuide):
    def build(self, leaves, pixels):
        self.raw = nn.Parameter(torch.randn(leaves, pixels, 2))
        self.weight = nn.Parameter(torch.randn(leaves, pixels, 2))

    def forward(self, x):
        a, b = (1 + torch.einsum("blp,lpk->blk", x, self.raw).exp()).unbind(-1)
        pyro.sample("v", dist.Beta(a, b))
        pyro.sample("z", LeafNormal(torch.einsum("blp,lpd->bld", x, self.weight), torch.tensor(0.4)))


def sticks():
    return small_spvae(poon_domingos((2, 2), 1), leaf=Sticks(), guide=SticksGuide())


@pytest.mark.parametrize("beta", [1.0, 0.4])
@pytest.mark.parametrize("particles", [1, 3])
def test_value_and_gradients_by_hand(particles, beta):
    """Of every leaf: the mean of log p(x | v, z) less torch's divergences, through the circuit."""
    spvae = sticks()
    torch.manual_seed(1)
    loss = CircuitELBO(particles, alpha=1.0, kl="analytic").differentiable_loss(*annealed(spvae, beta), X)
    torch.manual_seed(1)
    terms = CircuitELBO(particles, alpha=1.0).terms(spvae.model, spvae.guide, (X,), {})
    leaf, guide, patches = spvae.leaf, spvae.leaf_guide, spvae.view(X)
    a, b = (1 + torch.einsum("blp,lpk->blk", patches, guide.raw).exp()).unbind(-1)
    p, r = leaf.raw.exp().unbind(-1)
    loc = torch.einsum("blp,lpd->bld", patches, guide.weight)
    kl = kl_divergence(dist.Beta(a, b), dist.Beta(1 + p, 1 + r))
    kl = kl + kl_divergence(dist.Normal(loc, 0.4), dist.Normal(0.0, 1.0)).sum(-1)
    expected = -spvae.circuit(terms.observed.mean(0) - beta * kl).sum()
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
    assert_same_gradients(gradients(spvae, loss), gradients(spvae, expected))


def test_a_divergence_that_is_not_known_is_sampled():
    spvae = small_spvae(leaf=VAE(Normal(), 2, (3,), prior=MixtureOfGaussians(3)))
    results = []
    for kl in ("sample", "analytic"):
        torch.manual_seed(1)
        loss = CircuitELBO(3, alpha=1.0, kl=kl).differentiable_loss(*annealed(spvae, 0.4), X)
        results.append((loss.detach(), gradients(spvae, loss)))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=1e-10)
    assert_same_gradients(results[0][1], results[1][1])


class Shifted(dist.Normal):
    """A class of its own, so that a divergence can be registered for it alone."""

    def expand(self, batch_shape, _instance=None):
        return super().expand(batch_shape, self._get_checked_instance(Shifted, _instance))


@register_divergence(Shifted, dist.Normal)
def _of_the_value(q, p, value):
    """The sampled log-ratio itself, and 3 nats more: of the value that was drawn."""
    return q.log_prob(value) - p.log_prob(value) + 3.0


class Scalar(LeafModel):
    latents = {"u": Latent(())}

    def build(self, leaves, pixels):
        self.loc = nn.Parameter(torch.randn(leaves, pixels))

    def forward(self, x=None, mask=None):
        u = pyro.sample("u", dist.Normal(torch.zeros(()), 1.0))
        return pyro.sample("x", LeafNormal(self.loc + u.unsqueeze(-1), torch.tensor(0.5), mask), obs=x)


class ScalarGuide(LeafGuide):
    def build(self, leaves, pixels):
        self.weight = nn.Parameter(torch.randn(leaves, pixels))

    def forward(self, x):
        pyro.sample("u", Shifted((self.weight * x).sum(-1), 0.7))


def test_a_registered_divergence_sees_the_value():
    spvae = small_spvae(whole((2, 2)), units=1, leaf=Scalar(), guide=ScalarGuide())
    bounds = []
    for kl in ("sample", "analytic"):
        torch.manual_seed(1)
        bounds.append(CircuitELBO(4, alpha=1.0, kl=kl).bound(spvae.model, spvae.guide, X))
    torch.testing.assert_close(bounds[0] - bounds[1], torch.full((3,), 3.0))


def test_what_is_known_of_pairs():
    q, p = LeafNormal(torch.randn(3, 2), torch.rand(3, 2) + 0.2), LeafStandardNormal(2)
    z = q.rsample()
    expected = kl_divergence(dist.Normal(q.loc, q.scale), dist.Normal(0.0, 1.0))
    torch.testing.assert_close(divergence(q, p, z), expected.sum(-1))
    torch.testing.assert_close(divergence_by_dimension(q, p), expected)
    mixture = MixtureOfGaussians(2).bind(leaves=3, event_shape=(2,))()
    assert divergence(q, mixture, z) is None and divergence_by_dimension(q, mixture) is None


class NoDensity(LeafNormal):
    """A normal distribution whose density nobody may ask for."""

    def _log_prob(self, value):
        raise AssertionError("the density was asked for")


def test_a_reparameterised_site_in_closed_form_needs_no_density():
    class Guide(SticksGuide):
        law = LeafNormal

        def forward(self, x):
            a, b = (1 + torch.einsum("blp,lpk->blk", x, self.raw).exp()).unbind(-1)
            pyro.sample("v", dist.Beta(a, b))
            pyro.sample("z", self.law(torch.einsum("blp,lpd->bld", x, self.weight), torch.tensor(0.4)))

    spvae = small_spvae(poon_domingos((2, 2), 1), leaf=Sticks(), guide=Guide())
    found = []
    with pyro.validation_enabled(False):
        for spvae.leaf_guide.law in (LeafNormal, NoDensity):
            found.append([])
            for kl in ("analytic", "z"):
                torch.manual_seed(1)
                loss = CircuitELBO(2, alpha=1.0, kl=kl).differentiable_loss(spvae.model, spvae.guide, X)
                found[-1] += [loss, *torch.autograd.grad(loss, list(spvae.parameters()))]
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
        with pytest.raises(AssertionError, match="the density was asked for"):
            CircuitELBO(2, alpha=1.0, kl="v").differentiable_loss(spvae.model, spvae.guide, X)

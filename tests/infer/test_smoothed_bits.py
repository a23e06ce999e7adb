# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Smoothed latent bits under the objectives: the bounds of the joint law and of the marginals, and the binary limit."""

from __future__ import annotations

import itertools

import pyro
import pytest
import torch
from torch import nn
from torch.distributions import constraints

from pyro_spvae import CircuitELBO, poon_domingos, whole
from pyro_spvae.blocks import Latent
from pyro_spvae.distributions import (
    BinaryHierarchy,
    FactorialBernoulli,
    LeafBernoulli,
    OverlappingExponentials,
    OverlappingLogistics,
    PowerFunctions,
    SpikeAndExponential,
    bernoulli_divergence,
)
from pyro_spvae.guides import DiscreteGuide, LeafGuide
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import DiscreteVAE, LeafModel
from pyro_spvae.priors import BoltzmannMachine
from tests.helpers import assert_same_gradients, gradients, leaf_log_weights, small_spvae

X = torch.tensor([[[0.0, 1.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64).unsqueeze(1)
SIZES = (2, 1)


class TwoGroups(LeafModel):
    """Three latent bits in two groups, and pixels whose log-odds are linear in them."""

    latents = {"z": Latent(3, constraints.boolean)}

    def __init__(self, smoothing):
        super().__init__()
        self.smoothing = smoothing

    def build(self, leaves, pixels):
        self.first = nn.Parameter(torch.randn(leaves, 2))
        self.second = nn.Parameter(torch.randn(leaves, 2, 1))
        self.weight = nn.Parameter(2 * torch.randn(leaves, 3, pixels))

    def logits(self, group, before):
        return self.first if group == 0 else torch.einsum("...lz,lzy->...ly", before, self.second)

    def forward(self, x=None, mask=None):
        z = pyro.sample("z", self.smoothing(BinaryHierarchy(SIZES, self.logits)))
        return pyro.sample("x", LeafBernoulli(torch.einsum("...lz,lzp->...lp", z, self.weight), mask), obs=x)


class TwoGroupsGuide(LeafGuide):
    """The same groups given the pixels."""

    def __init__(self, smoothing):
        super().__init__()
        self.smoothing = smoothing

    def build(self, leaves, pixels):
        self.first = nn.Parameter(torch.randn(leaves, pixels, 2))
        self.second = nn.Parameter(torch.randn(leaves, 2, 1))
        self.offset = nn.Parameter(torch.randn(leaves, pixels, 1))

    def forward(self, x):
        def logits(group, before):
            if group == 0:
                return torch.einsum("...lp,lpz->...lz", x, self.first)
            return torch.einsum("...lz,lzy->...ly", before, self.second) + torch.einsum(
                "...lp,lpy->...ly", x, self.offset
            )

        pyro.sample("z", self.smoothing(BinaryHierarchy(SIZES, logits)))


def smoothed(cls, beta=3.0):
    return small_spvae(poon_domingos((2, 2), 1), leaf=TwoGroups(cls(beta)), guide=TwoGroupsGuide(cls(beta)))


SMOOTHINGS = (OverlappingExponentials, OverlappingLogistics, PowerFunctions, SpikeAndExponential)


@pytest.mark.parametrize("cls", SMOOTHINGS)
def test_bound_of_the_joint_law_by_hand(cls):
    """Eq. (4): of every leaf log p(x | zeta) less the divergences of the bits of each group."""
    spvae = smoothed(cls)
    elbo = CircuitELBO(3, alpha=1.0, kl="analytic")
    pyro.set_rng_seed(1)
    loss = elbo.differentiable_loss(spvae.model, spvae.guide, X)
    pyro.set_rng_seed(1)
    terms = CircuitELBO(3, alpha=1.0).terms(spvae.model, spvae.guide, (X,), {})
    pyro.set_rng_seed(1)
    zeta = pyro.poutine.trace(pyro.plate("particles", 3, dim=-3)(spvae.guide)).get_trace(X).nodes["z"]["value"]
    leaf, guide, patches = spvae.leaf, spvae.leaf_guide, spvae.view(X)
    first = torch.einsum("blp,lpz->blz", patches, guide.first)
    second = torch.einsum("kblz,lzy->kbly", zeta[..., :2], guide.second)
    second = second + torch.einsum("blp,lpy->bly", patches, guide.offset)
    kl = bernoulli_divergence(first, leaf.first).sum(-1)
    prior = torch.einsum("kblz,lzy->kbly", zeta[..., :2], leaf.second)
    expected = -spvae.circuit((terms.observed - kl - bernoulli_divergence(second, prior).sum(-1)).mean(0)).sum()
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
    assert_same_gradients(gradients(spvae, loss), gradients(spvae, expected))


@pytest.mark.parametrize("cls", SMOOTHINGS)
def test_bound_of_the_marginals_is_that_of_the_log_weights(cls):
    """Eq. (5); where a draw passes a jump its gradient is refused."""
    spvae = smoothed(cls)
    pyro.set_rng_seed(1)
    loss = CircuitELBO(3, alpha=1.0).differentiable_loss(spvae.model, spvae.guide, X)
    weights = leaf_log_weights(spvae, X, 3)
    torch.testing.assert_close(loss, -spvae.circuit(weights.mean(0)).sum(), rtol=0, atol=1e-10)
    if cls is SpikeAndExponential:
        with pytest.raises(ValueError, match='kl="analytic" is needed$'):
            loss.backward()
    else:
        assert_same_gradients(gradients(spvae, loss), gradients(spvae, -spvae.circuit(weights.mean(0)).sum()))


def test_evaluation_is_of_the_bits():
    """The importance weighted bound of many draws is the evidence, by enumeration of the bits."""
    spvae = smoothed(OverlappingExponentials).eval()
    bits = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)[:, None, None]
    leaf, bits = spvae.leaf, bits.expand(8, 1, spvae.leaf.first.size(0), 3)
    likelihood = LeafBernoulli(torch.einsum("kblz,lzp->kblp", bits, leaf.weight)).log_prob(spvae.view(X))
    evidence = (likelihood + BinaryHierarchy(SIZES, leaf.logits).log_prob(bits)).logsumexp(0)
    pyro.set_rng_seed(1)
    found = CircuitELBO(20_000).bound(spvae.model, spvae.guide, X)
    torch.testing.assert_close(found, spvae.circuit(evidence).detach(), rtol=0, atol=0.02)


def test_doubly_reparameterised_gradients():
    """The same expectation as the plain gradient, though the guide's parameters cannot be held in its law."""
    spvae = small_spvae(poon_domingos((1, 1), 1), units=1, leaf=TwoGroups(r := OverlappingExponentials(2.0)),
                        guide=TwoGroupsGuide(r))  # fmt: skip
    x, means = torch.ones(2000, 1, 1, 1), []
    for gradient in ("iwae", "dreg"):
        elbo = CircuitELBO(3, gradient=gradient)
        pyro.set_rng_seed(1)
        losses = (elbo.differentiable_loss(spvae.model, spvae.guide, x) / len(x) for _ in range(10))
        found = [gradients(spvae.leaf_guide, loss) for loss in losses]
        means.append({name: torch.stack([each[name] for each in found]) for name in found[0]})
    for name, plain in means[0].items():
        dreg = means[1][name]
        error = ((plain.var(0) + dreg.var(0)) / 10).sqrt()
        assert ((plain.mean(0) - dreg.mean(0)).abs() < 5 * error + 1e-12).all(), name
        assert (plain.mean(0).abs() > 10 * error).any(), name


@pytest.mark.parametrize("validate", [False, True])
def test_density_of_a_prior_that_has_none_is_not_asked_for(validate):
    """A smoothed Boltzmann machine of 13 and 13 units has a divergence alone; eq. (6) by hand."""
    size = {"hidden_dims": (), "normalise": False}
    leaf = DiscreteVAE(
        Bernoulli(), 26, BoltzmannMachine(chains=2, gradient="exact"), OverlappingExponentials(3.0), **size
    )
    spvae = small_spvae(whole((2, 2)), 1, leaf=leaf, guide=DiscreteGuide(**size))
    elbo = CircuitELBO(2, alpha=1.0, kl="analytic")
    with pyro.validation_enabled(validate):
        pyro.set_rng_seed(1)
        loss = elbo.differentiable_loss(spvae.model, spvae.guide, X)
    pyro.set_rng_seed(1)
    site = pyro.poutine.trace(pyro.plate("particles", 2, dim=-3)(spvae.guide)).get_trace(X).nodes["z"]
    patches, prior = spvae.view(X), leaf.prior
    log_x = leaf.pixels(2 * site["value"] - 1).log_prob(patches)
    probs = site["fn"].bits.mean
    energy = -(probs @ prior.bias[0]) - ((probs[..., :13] @ prior.weight[0]) * probs[..., 13:]).sum(-1)
    entropy = FactorialBernoulli(site["fn"].logits).entropy()
    expected = -(log_x - prior().log_z - energy + entropy).mean(0).sum()
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
    assert_same_gradients(gradients(spvae, loss), gradients(spvae, expected))

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Entropies of the guide and cross-entropies to the prior, eq. (5) of the VampPrior paper."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import kl_divergence

from pyro_spvae import whole
from pyro_spvae.distributions import InducedTree
from pyro_spvae.guides import HierarchicalGuide, LeafGuide, MixedGuide, NormalGuide
from pyro_spvae.infer import bound_terms
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import HVAE, SPVAE, VAE, FactorizedLeaf, MixedLeaf
from pyro_spvae.priors import MixtureOfGaussians, VampPrior
from tests.helpers import small_spvae
from tests.infer.cases import traces
from tests.linear_gaussian import LinearGaussian

LOG_2_PI = math.log(2 * math.pi)


def by_leaf(spvae, guide, model, names):
    """Exact leaf posterior ``[data, leaf]`` under the leaf ELBOs of traces, by enumeration of trees."""
    weight = model["x"]["log_prob"] + sum(model[name]["log_prob"] - guide[name]["log_prob"] for name in names)
    trees = InducedTree(spvae.circuit).enumerate_support()
    log_prior = InducedTree(spvae.circuit).log_prob(trees)
    leaf = weight.mean(0).unsqueeze(1)
    joint = (log_prior + torch.where(trees, leaf, 0.0).sum(-1)).softmax(-1)  # [B, T]
    return joint @ trees.to(joint)


def assert_split(spvae, x, names, *arguments, num_particles=4):
    """Every term of every site from Pyro's traces, and their sum."""
    pyro.set_rng_seed(1)
    terms = bound_terms(spvae.model, spvae.guide, x, *arguments, num_particles=num_particles)
    guide, model = traces(spvae, x, num_particles, *arguments)
    posterior = by_leaf(spvae, guide, model, names)
    assert list(terms.latents) == names
    for name, found in terms.latents.items():
        entropy = guide[name]["fn"].entropy()
        if guide[name]["mask"] is not None:
            entropy = torch.where(guide[name]["mask"], entropy, 0.0)
        kl = (guide[name]["log_prob"] - model[name]["log_prob"]).mean(0)
        torch.testing.assert_close(found.entropy, (posterior * entropy.mean(0)).sum(-1))
        torch.testing.assert_close(found.kl, (posterior * kl).sum(-1))
        assert found.kl.abs().max() > 1e-3 and found.entropy.abs().max() > 1e-3
    total = sum(found.kl for found in terms.latents.values())
    torch.testing.assert_close(total, terms.latent_kl)
    return terms


def layered(order="top-down", prior=None, **options):
    guide = HierarchicalGuide(hidden_dims=(3,), order=order)
    leaf = HVAE(Normal(), latent_dim=2, top_dim=3, hidden_dims=(3,), prior=prior)
    return small_spvae(leaf=leaf, guide=guide, **options)


class TestOneLayer:
    @pytest.mark.parametrize("num_particles", [1, 4])
    def test_several_leaves(self, num_particles):
        spvae = small_spvae()
        assert_split(spvae, torch.randn(5, *spvae.event_shape), ["z"], num_particles=num_particles)

    def test_closed_forms(self):
        """Linear-Gaussian leaves: entropies are exact whatever was drawn, cross-entropies within standard errors."""
        model, draws = LinearGaussian(), 40_000
        spvae, x = model.spvae, torch.randn(4, 1, 2, 4)
        with torch.no_grad():
            spvae.leaf_guide.z.network.stacks[0].biases[0].add_(1.0)  # away from the prior
        terms = bound_terms(spvae.model, spvae.guide, x, num_particles=draws).latents["z"]
        q = spvae.leaf_guide.encode(spvae.view(x))
        leaf = model.leaf_elbo(x).requires_grad_()
        (posterior,) = torch.autograd.grad(spvae.circuit(leaf).sum(), leaf)
        entropy = (q.scale.log() + 0.5 * (1 + LOG_2_PI)).sum(-1)
        cross_entropy = 0.5 * (q.scale.square() + q.loc.square() + LOG_2_PI).sum(-1)
        # the estimated posterior differs a little from that of exact leaf ELBOs
        torch.testing.assert_close(terms.entropy, (posterior * entropy).sum(-1), atol=0.02, rtol=0)
        torch.testing.assert_close(terms.cross_entropy, (posterior * cross_entropy).sum(-1), atol=0.04, rtol=0)
        assert float((terms.cross_entropy - terms.entropy).min()) > 0.5
        sums = terms.dimension_kl.sum((-1, -2))
        torch.testing.assert_close(sums, (posterior * (cross_entropy - entropy)).sum(-1), atol=0.02, rtol=0)

    def test_by_dimension(self):
        spvae = small_spvae(whole((1, 2)), units=1, latent_dim=3)
        x = torch.randn(6, *spvae.event_shape)
        terms = bound_terms(spvae.model, spvae.guide, x, num_particles=2).latents["z"]
        q = spvae.leaf_guide.encode(spvae.view(x))
        wanted = kl_divergence(dist.Normal(q.loc, q.scale), dist.Normal(0.0, 1.0))
        torch.testing.assert_close(terms.dimension_kl, wanted)

    @pytest.mark.parametrize("prior", [MixtureOfGaussians(3), VampPrior(3)])
    def test_mixtures_of_one_dimension_by_quadrature(self, prior):
        spvae = small_spvae(whole((1, 2)), units=1, latent_dim=1, prior=prior)
        x = torch.randn(3, *spvae.event_shape)
        terms = bound_terms(spvae.model, spvae.guide, x, num_particles=100_000).latents["z"]
        q, p = spvae.leaf_guide.encode(spvae.view(x)), prior()
        grid = torch.linspace(-12, 12, 40_001)
        weights = p.component_posterior(torch.zeros(1, 1)).new_full((3,), 1 / 3)
        if isinstance(prior, MixtureOfGaussians):
            weights = prior.weights[:, 0]
        components = [
            weight * dist.Normal(loc, scale).log_prob(grid).exp()
            for weight, loc, scale in zip(weights, p.loc[:, 0, 0], p.scale[:, 0, 0], strict=True)
        ]
        log_p = torch.stack(components).sum(0).log()
        for n in range(3):
            density = dist.Normal(q.loc[n, 0, 0], q.scale[n, 0, 0]).log_prob(grid)
            cross = -torch.trapezoid(density.exp() * log_p, grid)
            assert terms.cross_entropy[n].item() == pytest.approx(cross.item(), abs=0.015)
            entropy = -torch.trapezoid(density.exp() * density, grid)
            assert terms.entropy[n].item() == pytest.approx(entropy.item(), abs=1e-8)
        assert terms.dimension_kl is None, "no sum over dimensions"

    def test_leaves_that_see_nothing(self):
        model = LinearGaussian()
        x, observed = torch.randn(3, 1, 2, 4), torch.ones(1, 2, 4, dtype=torch.bool)
        observed[..., :2] = False
        terms = assert_split(model.spvae, x, ["z"], observed).latents["z"]
        assert not terms.dimension_kl[:, :2].any() and (terms.dimension_kl[:, 2:] > 0).all()
        nothing = bound_terms(model.spvae.model, model.spvae.guide, x, torch.zeros_like(observed)).latents["z"]
        assert not nothing.entropy.any() and not nothing.cross_entropy.any() and not nothing.dimension_kl.any()


class TestTwoLayers:
    @pytest.mark.parametrize("order", ["top-down", "bottom-up"])
    def test_several_leaves(self, order):
        spvae = layered(order)
        names = ["z2", "z1"] if order == "top-down" else ["z1", "z2"]
        terms = assert_split(spvae, torch.randn(5, *spvae.event_shape), names)
        assert terms.latents["z2"].dimension_kl.shape == (5, spvae.num_leaves, 3)
        assert terms.latents["z1"].dimension_kl is None, "its prior is normal, but not standard normal"

    def test_the_order_of_draws(self):
        """Bottom-up, what z2 contributes by dimension is an average over draws of z1."""
        spvae = layered("bottom-up", regions=whole((1, 2)), units=1)
        x = torch.randn(4, *spvae.event_shape)
        pyro.set_rng_seed(1)
        found = bound_terms(spvae.model, spvae.guide, x, num_particles=50).latents["z2"].dimension_kl
        guide, _ = traces(spvae, x, 50)
        q = guide["z2"]["fn"]
        wanted = (0.5 * (q.scale.square() + q.loc.square() - 1) - q.scale.log()).mean(0)
        torch.testing.assert_close(found, wanted)

    def test_a_learned_prior(self):
        spvae = layered(prior=VampPrior(4))
        terms = assert_split(spvae, torch.randn(5, *spvae.event_shape), ["z2", "z1"])
        assert terms.latents["z2"].dimension_kl is None


class Shifted(LeafGuide):
    """A guide that does not know its entropy, and states a variable that the model has not."""

    def build(self, leaves, pixels, latents):
        self.weight = nn.Parameter(torch.randn(leaves, pixels, *self.shape_of(latents, "z")))

    def forward(self, x):
        loc = torch.einsum("...lp,lpd->...ld", x, self.weight)
        base = dist.Normal(torch.zeros_like(loc), 0.5)
        pyro.sample("z", dist.TransformedDistribution(base, dist.transforms.AffineTransform(loc, 1.0)).to_event(1))


def test_entropies_that_are_not_known_are_sampled():
    spvae = small_spvae(whole((1, 2)), units=1, leaf=VAE(Normal(), latent_dim=2, hidden_dims=(3,)), guide=Shifted())
    x = torch.randn(3, *spvae.event_shape)
    terms = bound_terms(spvae.model, spvae.guide, x, num_particles=20_000)
    found = terms.latents["z"]
    torch.testing.assert_close(found.entropy, torch.full((3,), 1 + LOG_2_PI + 2 * math.log(0.5)), atol=0.04, rtol=0)
    torch.testing.assert_close(found.kl, terms.latent_kl)
    assert found.dimension_kl is None


def test_leaves_of_several_kinds():
    parts = [VAE(Normal(), latent_dim=2, hidden_dims=(3,)), FactorizedLeaf(Normal())]
    spvae = small_spvae(leaf=MixedLeaf(parts), guide=MixedGuide([NormalGuide(hidden_dims=(3,)), LeafGuide()]))
    assert_split(spvae, torch.randn(5, *spvae.event_shape), ["z"])


def test_nothing_latent():
    spvae = SPVAE(whole((1, 2)), units=1, leaf=FactorizedLeaf(Normal()))
    assert bound_terms(spvae.model, spvae.guide, torch.randn(3, 1, 1, 2)).latents == {}

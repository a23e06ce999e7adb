# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Pyro's ELBOs of a circuit of one leaf are the bounds of CircuitELBO."""

from __future__ import annotations

import functools

import pyro
import pytest
import torch
from pyro.distributions.testing.fakes import NonreparameterizedNormal
from pyro.infer import RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from torch import nn

from pyro_spvae import collapse_tree
from pyro_spvae.circuits import poon_domingos, whole
from pyro_spvae.guides import LeafGuide
from pyro_spvae.infer import CircuitELBO, SingleLeafELBO, anneal
from pyro_spvae.likelihoods import Bernoulli, DiscretizedLogistic
from pyro_spvae.models import VAE
from tests.helpers import assert_same_gradients, gradients, small_spvae
from tests.models.own_parts import Mixture

K, ROWS = 4, 5
OPTIONS = {"vectorize_particles": True, "max_plate_nesting": 2}


def plain_vae(**options):
    return small_spvae(whole((2, 2)), units=1, **options)


def compare(spvae, elbo, ours, *args, beta=1.0, atol=1e-10):
    """The two losses under one seed, and their gradients."""
    model, guide = anneal(spvae.model, beta), anneal(spvae.guide, beta)
    results = []
    for loss in (SingleLeafELBO(model, guide, elbo), ours(model, guide)):
        assert {id(p) for p in loss.parameters()} == {id(p) for p in spvae.parameters()}
        torch.manual_seed(3)
        value = loss(*args)
        assert value.dim() == 0
        results.append((value.detach(), gradients(spvae, value)))
    (value, grads), (expected, expected_grads) = results
    torch.testing.assert_close(value, expected, rtol=0, atol=atol)
    assert_same_gradients(grads, expected_grads)


@pytest.fixture
def x():
    return torch.randn(ROWS, 1, 2, 2)


PAIRS = {
    "trace": (Trace_ELBO, {"alpha": 1.0}),
    "mean field": (TraceMeanField_ELBO, {"alpha": 1.0, "kl": "analytic"}),
    **{f"renyi {alpha}": (functools.partial(RenyiELBO, alpha), {"alpha": alpha}) for alpha in (0, 0.5, -2.0)},
}


@pytest.mark.parametrize(("beta", "validate"), [(1.0, True), (1.0, False), (0.3, True), (0.0, False), (2.0, True)])
@pytest.mark.parametrize("particles", [1, K])
@pytest.mark.parametrize("pair", PAIRS)
def test_equals_ours(x, pair, particles, beta, validate):
    theirs, options = PAIRS[pair]
    observed = torch.rand(ROWS, 1, 2, 2) < 0.6
    observed[0] = False  # which sees nothing, and has a bound of 0
    with pyro.validation_enabled(validate):
        for args in ((x,), (x, observed)):
            ours = CircuitELBO(particles, **options)
            compare(plain_vae(), theirs(num_particles=particles, **OPTIONS), ours, *args, beta=beta)


@pytest.mark.parametrize("elbo", [Trace_ELBO(K), RenyiELBO(0, K)], ids=["trace", "renyi"])
def test_particles_one_after_the_other(x, elbo):
    alpha = 1.0 if isinstance(elbo, Trace_ELBO) else 0.0
    compare(plain_vae(), elbo, CircuitELBO(K, alpha=alpha, vectorize_particles=False), x)


@pytest.mark.parametrize(
    "leaf", [lambda: VAE(Bernoulli(), 2, (3,)), lambda: VAE(DiscretizedLogistic(2), 2, (3,), prior=Mixture(3, 0.5))]
)
def test_other_leaves(leaf):
    x = (torch.rand(ROWS, 1, 2, 2) < 0.5).double()
    compare(plain_vae(leaf=leaf()), Trace_ELBO(K, **OPTIONS), CircuitELBO(K, alpha=1.0), x)
    # of a mixture no divergence is known: it is sampled
    if leaf().prior.options():
        compare(plain_vae(leaf=leaf()), TraceMeanField_ELBO(K, **OPTIONS), CircuitELBO(K, alpha=1.0), x)


def test_the_score_function_of_trace_elbo(x):
    """Its gradient has the expectation of ours, for a guide without rsample."""
    spvae = plain_vae(guide=Scored(), latent_dim=2)
    rows, found = x[:1].expand(400, 1, 2, 2), {}
    for name, loss in (
        ("pyro", SingleLeafELBO(spvae.model, spvae.guide, Trace_ELBO(2, **OPTIONS))),
        ("ours", CircuitELBO(2, alpha=1.0)(spvae.model, spvae.guide)),
    ):
        grads = [gradients(spvae, loss(rows) / len(rows))["leaf_guide.loc"].flatten() for _ in range(60)]
        found[name] = torch.stack(grads)
    means, error = [g.mean(0) for g in found.values()], sum(g.var(0) / len(g) for g in found.values()).sqrt()
    assert (means[0] - means[1]).abs().max() < 4.5 * error.max() and means[1].abs().max() > 10 * error.max()


@pytest.mark.parametrize("vectorised", [True, False])
def test_the_loss_of_renyi_elbo_is_the_one_that_svi_minimises(x, vectorised):
    """RenyiELBO has no differentiable loss; ours has its value and gradients."""
    spvae = plain_vae()
    elbo = RenyiELBO(0.5, K, vectorize_particles=vectorised, max_plate_nesting=2)
    assert not hasattr(elbo, "differentiable_loss")
    torch.manual_seed(3)
    stock = elbo.loss_and_grads(collapse_tree(spvae.model), spvae.guide, x)
    stock_gradients = {name: parameter.grad for name, parameter in spvae.named_parameters()}
    torch.manual_seed(3)
    value = SingleLeafELBO(spvae.model, spvae.guide, elbo)(x)
    assert value.item() == pytest.approx(stock, abs=1e-10)
    assert_same_gradients(gradients(spvae, value), stock_gradients)


@pytest.mark.parametrize("elbo", [Trace_ELBO(**OPTIONS), TraceMeanField_ELBO(**OPTIONS), RenyiELBO(**OPTIONS)])
class TestRefusals:
    def test_several_leaves(self, x, elbo):
        for spvae in (small_spvae(poon_domingos((2, 2), 1)), small_spvae(whole((2, 2)), units=3)):
            leaves = spvae.num_leaves
            assert leaves > 1
            with pytest.raises(ValueError, match=f"^{type(elbo).__name__} cannot train a circuit of {leaves} leaves, "):
                SingleLeafELBO(spvae.model, spvae.guide, elbo)(x)

    def test_a_guide_without_rsample(self, x, elbo):
        if type(elbo) is Trace_ELBO:  # it has a gradient by the score function
            pytest.skip("taken")
        spvae = plain_vae(leaf=VAE(Bernoulli(), 2, (3,)), guide=Scored())
        loss = SingleLeafELBO(spvae.model, spvae.guide, elbo)
        message = f"^{type(elbo).__name__} cannot train a guide whose site 'z' has no rsample; Circ"
        for act in (loss, loss.check_guide):
            with pytest.raises(ValueError, match=message):
                act((x > 0).double())


class Scored(LeafGuide):
    """A guide whose gradient needs the score function."""

    def build(self, leaves, pixels, latents):
        self.loc = nn.Parameter(torch.zeros(leaves, *self.shape_of(latents, "z")))

    def forward(self, x):
        pyro.sample("z", NonreparameterizedNormal(self.loc, 1.0).expand((*x.shape[:-1], 2)).to_event(1))

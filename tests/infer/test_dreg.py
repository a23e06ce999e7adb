# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Doubly reparameterised gradients against the plain ones: the same expectation, less variance near the optimum."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_spvae import CircuitELBO, poon_domingos
from pyro_spvae.blocks import Latent
from pyro_spvae.guides import LeafGuide
from pyro_spvae.models import LeafModel
from tests.helpers import assert_same_gradients, gradients, small_spvae


class TwoLayerModel(LeafModel):
    """z2 -> z1 -> x, to see that latent variables which depend on each other are treated right."""

    latents = {"z2": Latent(1), "z1": Latent(1)}

    def build(self, leaves, pixels):
        self.a = torch.nn.Parameter(torch.randn(leaves, 1))
        self.b = torch.nn.Parameter(torch.randn(leaves, pixels))

    def forward(self, x=None, mask=None):
        z2 = pyro.sample("z2", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        z1 = pyro.sample("z1", dist.Normal(self.a * z2, 0.7).to_event(1))
        return pyro.sample("x", dist.Normal(self.b * torch.tanh(z1), 0.5).to_event(1), obs=x)


class TwoLayerGuide(LeafGuide):
    def build(self, leaves, pixels):
        self.c = torch.nn.Parameter(torch.randn(leaves, pixels))
        self.d = torch.nn.Parameter(torch.randn(leaves, 1))

    def encode(self, x):
        return (self.c * x).sum(-1, keepdim=True)

    def forward(self, encoding):
        z2 = pyro.sample("z2", dist.Normal(encoding, 0.8).to_event(1))
        pyro.sample("z1", dist.Normal(encoding + self.d * z2, 0.6).to_event(1))


def one_layer():
    return small_spvae(poon_domingos((1, 2), delta=1), latent_dim=1, hidden_dims=())


def two_layer():
    return small_spvae(poon_domingos((1, 2), delta=1), leaf=TwoLayerModel(), guide=TwoLayerGuide())


def estimates(spvae, elbo, x, scale=None, repeats=3000, batches=20):
    model, guide = spvae.model, spvae.guide
    if scale is not None:

        class Anneal(poutine.messenger.Messenger):
            def _pyro_sample(self, msg):
                if msg["name"] in ("z", "z1", "z2"):
                    msg["scale"] = msg["scale"] * scale

        model, guide = Anneal()(model), Anneal()(guide)
    x = x.expand(repeats, *spvae.event_shape)
    results = []
    for _ in range(batches):
        results.append(gradients(spvae, elbo.differentiable_loss(model, guide, x) / repeats))
    return {name: torch.stack([result[name] for result in results]) for name in results[0]}


@pytest.mark.parametrize("build", [one_layer, two_layer])
@pytest.mark.parametrize(
    ("options", "scale"),
    [
        ({"num_particles": 1}, None),
        ({"num_particles": 3}, None),
        ({"num_particles": 3, "reduce": "root"}, None),
        ({"num_particles": 3}, 0.4),
    ],
)
def test_same_expectation_as_the_plain_gradient(build, options, scale):
    spvae = build()
    x = torch.tensor([[[0.8, -0.5]]])
    plain = estimates(spvae, CircuitELBO(**options), x, scale)
    dreg = estimates(spvae, CircuitELBO(gradient="dreg", **options), x, scale)
    for name in plain:
        error = (plain[name].var(0) + dreg[name].var(0)).div(20).sqrt() + 1e-12
        difference = (plain[name].mean(0) - dreg[name].mean(0)).abs()
        assert (difference < 5 * error).all(), (name, difference / error)
    # precise enough that weights a instead of a^2 (the gradient without score terms) would be seen
    guide = [name for name in plain if name.startswith("leaf_guide")]
    signal = max(float((plain[name].mean(0).abs() / plain[name].std(0).div(math.sqrt(20))).max()) for name in guide)
    assert signal > 20


def test_model_gradient_is_the_plain_one():
    spvae = one_layer()
    x = torch.randn(4, 1, 1, 2)
    results = []
    for gradient in ("iwae", "dreg"):
        pyro.set_rng_seed(3)
        loss = CircuitELBO(3, gradient=gradient).differentiable_loss(spvae.model, spvae.guide, x)
        results.append({n: g for n, g in gradients(spvae, loss).items() if not n.startswith("leaf_guide")})
    assert_same_gradients(results[1], results[0])


def test_sequential_particles_give_the_same_weights():
    spvae = two_layer()
    x = torch.tensor([[[0.8, -0.5]]])
    vector = estimates(spvae, CircuitELBO(3, gradient="dreg"), x)
    loop = estimates(spvae, CircuitELBO(3, gradient="dreg", vectorize_particles=False), x)
    for name in vector:
        error = (vector[name].var(0) + loop[name].var(0)).div(20).sqrt() + 1e-12
        assert ((vector[name].mean(0) - loop[name].mean(0)).abs() < 5 * error).all(), name


def test_exact_guide_gets_no_noise():
    """Where q is the exact posterior of every leaf, log w does not depend on z: the path gradient of each draw is 0."""
    spvae = small_spvae(poon_domingos((1, 2), delta=1), latent_dim=1, hidden_dims=())
    with torch.no_grad():  # x does not depend on z and q is the prior
        for name, parameter in spvae.named_parameters():
            if name.startswith(("leaf.pixels.decoder", "leaf_guide.z.network")):
                parameter.zero_()
        spvae.leaf_guide.z.network.stacks[1].biases[0].fill_(math.log(math.expm1(1 - spvae.leaf_guide.z.min_scale)))
    x = torch.randn(5, 1, 1, 2)
    loss = CircuitELBO(4, gradient="dreg").differentiable_loss(spvae.model, spvae.guide, x)
    for name, grad in gradients(spvae, loss).items():
        if name.startswith("leaf_guide"):
            assert float(grad.abs().max()) < 1e-12, name
    plain = gradients(spvae, CircuitELBO(4).differentiable_loss(spvae.model, spvae.guide, x))
    assert float(plain["leaf_guide.z.network.stacks.0.biases.0"].abs().max()) > 1e-3


def test_without_gradients_the_loss_is_the_plain_one():
    spvae, x = small_spvae(), torch.randn(3, 1, 2, 2)
    losses = []
    for gradient in ("iwae", "dreg"):
        torch.manual_seed(1)
        with torch.no_grad():
            losses.append(float(CircuitELBO(3, gradient=gradient)(spvae.model, spvae.guide)(x)))
    assert losses[0] == losses[1]

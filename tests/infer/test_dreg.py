# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Doubly reparameterised gradients against the plain ones: the same expectation, less variance near the optimum."""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext

import pyro
import pytest
import torch
from pyro import poutine

from pyro_spvae import SPVAE, CircuitELBO, poon_domingos, whole
from pyro_spvae.blocks import unstated
from pyro_spvae.guides import DVAEppGuide, HierarchicalGuide
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import DLGMM, HVAE, SBVAE, DVAEpp
from tests.helpers import assert_same_gradients, gradients, small_spvae
from tests.infer.cases import annealed, two_layer


def one_layer():
    return small_spvae(poon_domingos((1, 2), delta=1), latent_dim=1, hidden_dims=())


def estimates(spvae, elbo, x, beta, repeats=3000, batches=20):
    """Gradients of many draws, ``[batch, ..]`` of each parameter."""
    x = x.expand(repeats, *spvae.event_shape)
    losses = (elbo.differentiable_loss(*annealed(spvae, beta), x) / repeats for _ in range(batches))
    results = [gradients(spvae, loss) for loss in losses]
    return {name: torch.stack([result[name] for result in results]) for name in results[0]}


@pytest.mark.parametrize(
    ("build", "options", "beta"),
    [
        (one_layer, {"num_particles": 3}, 1.0),
        (one_layer, {"num_particles": 3}, 0.0),
        (two_layer, {"num_particles": 1}, 1.0),
        (two_layer, {"num_particles": 3}, 1.0),
        (two_layer, {"num_particles": 3, "reduce": "root"}, 1.0),
        (two_layer, {"num_particles": 3, "vectorize_particles": False}, 1.0),
        (two_layer, {"num_particles": 3}, 0.4),
    ],
)
def test_same_expectation_as_the_plain_gradient(build, options, beta):
    spvae = build()
    x = torch.tensor([[[0.8, -0.5]]])
    plain = estimates(spvae, CircuitELBO(**options), x, beta)
    dreg = estimates(spvae, CircuitELBO(gradient="dreg", **options), x, beta)
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


def test_exact_guide_gets_no_noise():
    """Where q is the exact posterior of every leaf, log w does not depend on z: the path gradient of each draw is 0."""
    spvae = one_layer()
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


@pytest.mark.parametrize("of_batch", [{"keep": False}, {"keep": True}], ids=["anew", "kept"])
@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize(
    "leaf", [HVAE(Bernoulli(), 2, 2), SBVAE(Bernoulli(), 3), DLGMM(Bernoulli(), 2, 3, summed=True)]
)
def test_whoever_prepares_the_batch(leaf, stated, of_batch):
    """Encodings that are kept do not reach the guide's second run, nor do handlers hide whose parameters are frozen."""
    guide = {"guide": HierarchicalGuide()} if isinstance(leaf, HVAE) else {}  # the others ask for theirs
    spvae = small_spvae(whole((3,)), 2, leaf=copy.deepcopy(leaf), **guide)
    x = (torch.rand(5, 3) < 0.5).double()
    masked = poutine.mask(spvae.guide, mask=torch.tensor(True))
    found = []
    for own, batch in ((spvae.guide, x), (masked, spvae.prepare(x, **of_batch))):
        pyro.set_rng_seed(1)
        with nullcontext() if stated else unstated():
            loss = CircuitELBO(3, gradient="dreg").differentiable_loss(spvae.model, own, batch)
        found.append(gradients(spvae, loss))
    assert_same_gradients(found[1], found[0])


def test_batch_normalisation_learns_nothing_of_the_guides_second_run():
    found = []
    for gradient in ("iwae", "dreg"):
        torch.manual_seed(0)
        leaf = DVAEpp(Bernoulli(), latent_dim=4, groups=2, local_shape=(3, 2, 2), channels=4)
        guide = DVAEppGuide(levels=2, channels=4, hidden_dims=(8,))
        spvae = SPVAE(whole((8, 8)), units=1, leaf=leaf, guide=guide)
        x = (torch.rand(20, 1, 8, 8) < 0.5).double()
        spvae.train()
        spvae.start(x)
        CircuitELBO(2, gradient=gradient).differentiable_loss(spvae.model, spvae.guide, x).backward()
        found.append({name: value for name, value in spvae.named_buffers() if "running" in name})
    assert any(bool((value != 0).any()) for name, value in found[0].items() if "running_mean" in name)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])

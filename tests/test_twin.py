# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The program, the VampPrior in two formulations, and DVAE++ against the same maths in plain torch, under one seed."""

from __future__ import annotations

import pytest
import torch

from benchmarks.dvaepp import small_dvaepp
from benchmarks.dvaepp_twin import DVAEppTwin
from benchmarks.priors import paper_vae
from benchmarks.tree_twin import BinaryTreeTwin, LevelsTreeTwin
from benchmarks.twin import Twin
from benchmarks.vamp_twin import VampTwin, side_by_side
from pyro_spvae import Circuit, CircuitELBO, chow_liu, poon_domingos
from pyro_spvae.likelihoods import Bernoulli, Categorical, Normal
from pyro_spvae.models import SPN, SPVAE
from pyro_spvae.nn.leaf_conv import LeafBatchNorm
from pyro_spvae.testing.block_tests import moved_from_start


def test_program():
    spvae = SPVAE(poon_domingos((8, 8), delta=2), units=2, latent_dim=3, hidden_dims=(5, 4), likelihood=Normal())
    twin = Twin(spvae, num_particles=5)
    x = torch.rand(7, 1, 8, 8)
    losses = []
    for module in (CircuitELBO(5)(spvae.model, spvae.guide), twin):
        spvae.circuit.zero_grad()
        torch.manual_seed(1)
        loss = module(x)
        loss.backward()
        losses.append((loss.item(), [p.grad.clone() for p in spvae.circuit.parameters()]))
    assert abs(losses[0][0] - losses[1][0]) < 1e-9
    torch.testing.assert_close(losses[0][1], losses[1][1])
    stacks = [*spvae.leaf_guide.z.network.stacks, *spvae.leaf.pixels.decoder.stacks]
    for stack, copies in zip(stacks, twin.networks, strict=True):
        ours = [p for pair in zip(stack.weights, stack.biases, strict=True) for p in pair]
        for parameter, copy in zip(ours, copies, strict=True):
            torch.testing.assert_close(parameter.grad, copy.grad)
            assert float(copy.grad.abs().max()) > 0


@pytest.mark.parametrize("dense", [False, True])
def test_vamp_prior(dense):
    spvae = paper_vae(components=6, hidden=7, latent_dim=3, side=5)
    twin = VampTwin(spvae, dense)
    x = torch.rand(4, 1, 5, 5).round()
    losses = []
    for module in (CircuitELBO(1)(spvae.model, spvae.guide), twin):
        torch.manual_seed(1)
        loss = module(x)
        loss.backward()
        losses.append(loss.item())
    assert abs(losses[0] - losses[1]) < 1e-10
    pseudo_inputs = twin.pseudo.weight.grad.t() if dense else twin.pseudo.grad
    torch.testing.assert_close(spvae.leaf.prior.pseudo_inputs.grad[0], pseudo_inputs)
    assert float(pseudo_inputs.abs().max()) > 0
    for network, copy in ((spvae.leaf_guide.z.network, twin.encoder), (spvae.leaf.pixels.decoder, twin.decoder)):
        (stack,) = network.stacks
        for layer, places in zip(copy[::2], side_by_side(stack), strict=True):
            weight, bias = (torch.cat([ps[i].grad[0] for i in places], -1) for ps in (stack.weights, stack.biases))
            torch.testing.assert_close(weight.t(), layer.weight.grad)
            torch.testing.assert_close(bias[0], layer.bias.grad)


def test_dvaepp():
    spvae = small_dvaepp(6, 2, (3, 4, 3), (2, 3, 4), 5, (14, 9))
    moved_from_start(spvae)
    twin = DVAEppTwin(spvae)
    x = torch.rand(7, 1, 14, 9).round()
    losses = []
    for module in (CircuitELBO(1, alpha=1.0, kl="analytic")(spvae.model, spvae.guide), twin):
        torch.manual_seed(1)
        loss = module(x)
        loss.backward()
        losses.append(loss.item())
    assert abs(losses[0] - losses[1]) < 1e-9
    copied = {id(parameter) for parameters, _, _ in twin.copies.parameters for parameter in parameters}
    assert copied == {id(p) for module in (spvae.leaf, spvae.leaf_guide) for p in module.parameters()}
    for ours, theirs in twin.copies.gradients():
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)
    assert {norm for norm, _ in twin.copies.norms} == {m for m in spvae.modules() if isinstance(m, LeafBatchNorm)}
    for norm, copy in twin.copies.norms:
        torch.testing.assert_close(norm.running_mean[0], copy.running_mean)
        torch.testing.assert_close(norm.running_var[0], copy.running_var)


@pytest.mark.parametrize(
    ("likelihood", "levels", "kind"), [(Bernoulli(), 2, BinaryTreeTwin), (Categorical(9), 9, LevelsTreeTwin)]
)
def test_hidden_tree(likelihood, levels, kind):
    x = torch.randint(levels, (40, 1, 3, 4)).double()
    spn = SPN(Circuit(chow_liu(x), 5, weights="cp"), likelihood=likelihood)
    twin = kind(spn)
    ours, theirs = spn.log_prob(x), twin(x)
    torch.testing.assert_close(theirs, ours)
    gradients = [
        torch.autograd.grad(found.square().mean(), parameters)
        for found, parameters in (
            (ours, [spn.leaf.pixels.outputs[0], *spn.circuit.parameters()]),
            (theirs, [twin.leaf, *twin.weights, twin.root]),
        )
    ]
    for own, other in zip(*gradients, strict=True):
        assert float(own.abs().max()) > 0
        torch.testing.assert_close(other.reshape(own.shape), own)

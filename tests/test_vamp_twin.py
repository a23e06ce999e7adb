# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The VampPrior against the same maths in plain torch, in two formulations, under one seed."""

from __future__ import annotations

import pytest
import torch

from benchmarks.priors import paper_vae
from benchmarks.vamp_twin import VampTwin, side_by_side
from pyro_spvae import CircuitELBO


@pytest.mark.parametrize("dense", [False, True])
def test_same_loss_and_gradients(dense):
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

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The program against the same maths in plain torch, under one seed."""

from __future__ import annotations

import torch

from benchmarks.twin import Twin
from pyro_spvae import CircuitELBO, poon_domingos
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import SPVAE


def test_same_loss_and_gradients():
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

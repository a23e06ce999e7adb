# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Small models with a VampPrior, and what several tests ask of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pyro_spvae import poon_domingos
from pyro_spvae.priors import VampPrior
from tests.helpers import small_spvae

GRID = poon_domingos((2, 2), delta=1)


def vamp(components=3, regions=GRID, units=2, **options):
    """A small model whose pseudo-inputs are where the hardtanh has a derivative."""
    names = ("likelihood", "latent_dim", "hidden_dims", "channels")
    model = {name: options.pop(name) for name in names if name in options}
    spvae = small_spvae(regions, units, prior=VampPrior(components, **options), **model)
    if isinstance(spvae.leaf.prior.pseudo_inputs, nn.Parameter):
        with torch.no_grad():
            spvae.leaf.prior.pseudo_inputs.uniform_(0.1, 0.9)
    return spvae


def data(spvae, rows=5):
    return torch.rand(rows, *spvae.event_shape)


def count(network):
    """A list that grows with every call of a network, by the number of its rows."""
    calls: list[int] = []
    network.register_forward_hook(lambda module, args, result: calls.append(len(args[0])))
    return calls


def check_slope(parameters, gradients, value):
    """The derivative in a random direction of some parameters, by name, against a finite difference."""
    direction = {name: torch.randn_like(parameter) for name, parameter in parameters.items()}
    found = []
    for step in (1e-6, -2e-6, 1e-6):
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.add_(step * direction[name])
        found.append(value().item())
    slope = sum(float((gradients[name] * direction[name]).sum()) for name in parameters)
    assert abs(slope) > 1e-3
    assert (found[0] - found[1]) / 2e-6 == pytest.approx(slope, rel=1e-5)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A VAE with a VampPrior in plain torch, in the lean form and in the one that is usually published."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_spvae.models import SPVAE

_LOG_TWO_PI = math.log(2 * math.pi)


class VampTwin(nn.Module):
    """
    The single-sample bound of an :class:`~pyro_spvae.models.SPVAE` of one leaf with gated networks, Bernoulli pixels
    and a VampPrior, from the same parameters and noise.

    :param SPVAE spvae: what is copied.
    :param bool dense: the usual form: pseudo-inputs are the outputs of a layer without bias for one-hot inputs, and
        the prior's density is summed over a tensor of all differences, ``[data, component, latent]``. Otherwise
        pseudo-inputs are a matrix, and densities of components two matrix products.
    """

    def __init__(self, spvae: SPVAE, dense: bool = False) -> None:
        super().__init__()
        self.dense = dense
        prior: Any = spvae.leaf.prior
        pseudo_inputs = prior.pseudo_inputs.detach()[0]  # [K, pixel]
        if dense:
            self.pseudo: Any = nn.Linear(len(pseudo_inputs), pseudo_inputs.size(1), bias=False).to(pseudo_inputs)
            self.pseudo.weight.data.copy_(pseudo_inputs.t())
            self.register_buffer("one_hot", torch.eye(len(pseudo_inputs)).to(pseudo_inputs))
        else:
            self.pseudo = nn.Parameter(pseudo_inputs.clone())
        self.encoder = _copied(spvae.leaf_guide.z.network)
        self.decoder = _copied(spvae.leaf.pixels.decoder)

    def forward(self, x: Tensor) -> Tensor:
        """Negative bound, summed over the data ``[data, 1, height, width]``."""
        x = x.flatten(1)
        mean, variance = self.encode(x)
        z = mean + variance.sqrt() * torch.randn_like(mean)
        return -(self.log_likelihood(x, z) + self.log_prior(z) - _normal(z, mean, variance).sum(-1)).sum()

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance."""
        mean, raw = self.encoder(x).chunk(2, -1)
        return mean, F.hardtanh(raw, -6.0, 2.0).exp()

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """``[.., data]``."""
        logits = self.decoder(z)
        return -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)

    def components(self) -> tuple[Tensor, Tensor]:
        """Means and variances at the pseudo-inputs, ``[component, latent]``."""
        raw = self.pseudo(self.one_hot) if self.dense else self.pseudo
        return self.encode(F.hardtanh(raw, 0.0, 1.0))

    def log_prior(self, z: Tensor, components: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """``[data]`` of ``[data, latent]``."""
        mean, variance = self.components() if components is None else components
        if self.dense:
            log_prob = _normal(z.unsqueeze(1), mean.unsqueeze(0), variance.unsqueeze(0)).sum(-1)
        else:
            precision = variance.reciprocal()
            constant = (mean.square() * precision + variance.log() + _LOG_TWO_PI).sum(-1)
            log_prob = z @ (mean * precision).t() - 0.5 * (z.square() @ precision.t() + constant)
        return log_prob.logsumexp(-1) - math.log(len(mean))


def _normal(z: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return -0.5 * ((z - mean).square() / variance + variance.log() + _LOG_TWO_PI)


def side_by_side(stack: Any) -> list[range]:
    """Which parameters of a gated stack a plain network has as one: values and gates of each layer, and all outputs."""
    hidden = len(stack.weights) - stack.heads
    return [range(i, i + 2) for i in range(0, hidden, 2)] + [range(hidden, len(stack.weights))]


def _copied(network: Any) -> nn.Sequential:
    """A gated network of one leaf with a shared trunk, as torch modules."""
    (stack,) = network.stacks
    layers: list[nn.Module] = []
    for places in side_by_side(stack):
        weight, bias = (torch.cat([each[i] for i in places], -1) for each in (stack.weights, stack.biases))
        layer = nn.Linear(weight.size(1), weight.size(2)).to(weight)
        layer.weight.data.copy_(weight[0].t())
        layer.bias.data.copy_(bias[0, 0])
        layers += [layer, nn.GLU()]
    return nn.Sequential(*layers[:-1])

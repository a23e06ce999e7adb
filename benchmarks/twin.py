# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The sum-product VAE of the paper in plain torch, without Pyro: the speed that ours is measured against."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_spvae.models import SPVAE

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class Twin(nn.Module):
    """
    The same maths as an :class:`~pyro_spvae.models.SPVAE` with ``NormalGuide`` and a softplus-scale ``Normal``
    likelihood: leaf-first batched matrix products, densities written out on unexpanded parameters, one pass through
    the circuit.

    :param SPVAE spvae: whose parameters are copied.
    """

    def __init__(self, spvae: SPVAE, num_particles: int) -> None:
        super().__init__()
        self.num_particles = num_particles
        self.circuit = spvae.circuit
        self.index = spvae.view.index
        self.leaves = spvae.circuit.leaves
        self.guide_floor = spvae.leaf_guide.z.min_scale
        self.floor = spvae.leaf.pixels.likelihood.min_scale
        stacks = (*spvae.leaf_guide.z.network.stacks, *spvae.leaf.pixels.decoder.stacks)
        self.networks = nn.ModuleList(
            nn.ParameterList(p.detach().clone() for pair in zip(s.weights, s.biases, strict=True) for p in pair)
            for s in stacks
        )

    def forward(self, x: Tensor) -> Tensor:
        """The negative bound in nats, summed over the batch."""
        log_w = self.log_weights(x, self.num_particles)
        leaf = log_w.logsumexp(1) - math.log(self.num_particles)
        return -self.circuit(leaf.T).sum()

    def log_weights(self, x: Tensor, num_particles: int) -> Tensor:
        """Importance log-weights of every leaf ``[leaf, particle, data]``."""
        rows = len(x)
        cells, pixels = self.index.shape
        patches = x.reshape(rows, -1)[:, self.index.reshape(-1)].reshape(rows, cells, pixels)
        patches = patches.transpose(0, 1).repeat_interleave(self.leaves, 0)  # [L, B, P]
        q_loc, q_raw = _mlp(self.networks[0], patches), _mlp(self.networks[1], patches)
        q_scale = F.softplus(q_raw) + self.guide_floor
        noise = torch.randn(len(patches), num_particles, rows, q_loc.size(-1), dtype=x.dtype, device=x.device)
        z = q_loc.unsqueeze(1) + q_scale.unsqueeze(1) * noise  # [L, K, B, d]
        flat = z.reshape(len(patches), -1, z.size(-1))
        loc, raw = _mlp(self.networks[2], flat), _mlp(self.networks[3], flat)
        shape = (len(patches), num_particles, rows, pixels)
        loc, scale = loc.reshape(shape), F.softplus(raw.reshape(shape)) + self.floor
        log_x = -0.5 * ((patches.unsqueeze(1) - loc) / scale).square().sum(-1) - scale.log().sum(-1)
        log_x = log_x - pixels * _HALF_LOG_TWO_PI
        log_p = -0.5 * z.square().sum(-1)
        quadratic = ((z - q_loc.unsqueeze(1)) / q_scale.unsqueeze(1)).square().sum(-1)
        log_q = -0.5 * quadratic - q_scale.log().sum(-1).unsqueeze(1)
        return log_x + log_p - log_q  # [L, K, B]


def _mlp(parameters: nn.Module, h: Tensor) -> Tensor:
    tensors = list(parameters.parameters())
    for i in range(0, len(tensors), 2):
        h = torch.baddbmm(tensors[i + 1], h, tensors[i])
        if i < len(tensors) - 2:
            h = F.softplus(h)
    return h

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""DVAE++ of one leaf in plain torch, of torch's own layers: the speed that ours is measured against."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.copies import Copies
from pyro_spvae.models import SPVAE


class DVAEppTwin(nn.Module):
    """
    The bound of one draw of an :class:`~pyro_spvae.models.SPVAE` of one :class:`~pyro_spvae.models.DVAEpp` leaf with
    divergences in closed form, from the same parameters and noise: global bits in two groups, which are the sides of a
    restricted Boltzmann machine, smoothed by overlapping exponentials; normal groups; an
    :class:`~pyro_spvae.nn.SEResNet` decoder and Bernoulli pixels; batch normalisation and ELU everywhere.

    Nothing is the package's: chains are plain Gibbs sampling, and log Z lists the states of one side.

    :param SPVAE spvae: what is copied.
    :ivar Copies copies: what is a copy of what.
    """

    states: Tensor  # of all chains [chain, D]

    def __init__(self, spvae: SPVAE) -> None:
        super().__init__()
        self.copies = copies = Copies()
        leaf: Any = spvae.leaf
        guide: Any = spvae.leaf_guide
        self.level, self.beta = guide.level, float(leaf.smoothing.beta)
        self.floor = leaf.local["h1"].law.min_scale
        self.bias, self.weight = copies.own(leaf.prior.bias), copies.own(leaf.prior.weight)
        self.register_buffer("states", leaf.prior.states[0, 0].to(self.bias))
        self.sweeps = leaf.prior.sweeps
        self.stem = copies.conv(guide.pyramid.first)
        self.pyramid = nn.ModuleList(_Stack(copies, stack) for stack in guide.pyramid.stacks)
        self.last = _PreActivation(copies, guide.last)
        (first,), (further,) = guide.z.network.stacks, guide.z.further
        self.logits1 = nn.Sequential(*_hidden(copies, first), copies.dense(first, 1, 0))
        self.of_x, self.of_z1 = (nn.Sequential(*_hidden(copies, branch.stack)) for branch in further.branches)
        self.logits2 = copies.dense(further.trunk.stacks[0], 0, 0)
        self.of_grid = copies.conv(guide.of_grid)
        self.guide_upscale, self.upscale = _Upscale(copies, guide.upscale), _Upscale(copies, leaf.upscale)
        self.guide_groups, self.groups = (
            nn.ModuleList(_Group(copies, group) for group in groups.values()) for groups in (guide.local, leaf.local)
        )
        decoder = leaf.pixels.decoder.network
        self.decoder = nn.Sequential(
            _Upscale(copies, decoder.upscale), _PreActivation(copies, decoder.last), copies.conv(decoder.heads.conv)
        )

    @torch.no_grad()
    def advance(self) -> None:
        """Moves the chains."""
        left = self.weight.size(0)
        z_left = self.states[:, :left]
        z_right = self.states[:, left:]
        for _ in range(self.sweeps):
            z_right = torch.bernoulli(torch.sigmoid(torch.addmm(self.bias[left:], z_left, self.weight)))
            z_left = torch.bernoulli(torch.sigmoid(torch.addmm(self.bias[:left], z_right, self.weight.T)))
        self.states.copy_(torch.cat([z_left, z_right], -1))

    def forward(self, x: Tensor) -> Tensor:
        """Negative bound, summed over the data ``[data, 1, height, width]``."""
        h, maps = self.stem(x), []
        for stack in self.pyramid:
            h = stack(h)
            maps.append(h)
        top = self.last(h).flatten(1)
        logits1 = self.logits1(top)
        zeta1 = self.draw(logits1)
        logits2 = self.logits2(torch.cat([self.of_x(top), self.of_z1(2 * zeta1 - 1)], -1))
        seen = 2 * torch.cat([zeta1, self.draw(logits2)], -1) - 1
        kl = self.divergence_of_bits(logits1, logits2, zeta1)
        posterior, prior = self.of_grid(maps[self.level]) + self.guide_upscale(seen), self.upscale(seen)
        pairs: Any = zip(self.guide_groups, self.groups, strict=True)
        for q_group, p_group in pairs:
            posterior, prior = q_group.residual(posterior), p_group.residual(prior)
            (q_loc, q_scale), (p_loc, p_scale) = q_group(posterior, self.floor), p_group(prior, self.floor)
            value = q_loc + q_scale * torch.randn_like(q_loc, memory_format=torch.contiguous_format)
            kl = kl + divergence_of_normals(q_loc, q_scale, p_loc, p_scale)
            if q_group.inserted is not None:
                posterior = posterior + q_group.inserted(value)
            prior = prior + p_group.inserted(value)
        return kl.sum() + F.binary_cross_entropy_with_logits(self.decoder(prior), x, reduction="sum")

    def draw(self, logits: Tensor) -> Tensor:
        """Smoothed bits, quantiles of their law (Vahdat et al. 2018, eq. (3), with the larger of two roots)."""
        edge = 8 * torch.finfo(logits.dtype).eps
        rho = torch.empty_like(logits).uniform_(edge, 1 - edge)
        end = torch.exp(torch.full((), -self.beta, dtype=logits.dtype))
        q, p = torch.sigmoid(logits), torch.sigmoid(-logits)
        b = rho - p + end * (q - rho)
        root = torch.sqrt(b * b + 4 * end * p * q)
        return -torch.log(torch.where(b > 0, 2 * end * q / (root + b.abs()), (root + b.abs()) / (2 * p))) / self.beta

    def divergence_of_bits(self, logits1: Tensor, logits2: Tensor, zeta1: Tensor) -> Tensor:
        """Of the joint law of two groups from the machine, ``[data]`` (Vahdat et al. 2018, eq. (6))."""
        left = self.weight.size(0)
        mu1, mu2 = torch.sigmoid(logits1), torch.sigmoid(logits2)
        nu1 = torch.sigmoid(logits1 + self.beta * (2 * zeta1 - 1))
        energy = -(mu1 @ self.bias[:left] + mu2 @ self.bias[left:] + ((nu1 @ self.weight) * mu2).sum(-1))
        entropy = (F.softplus(logits1) - logits1 * mu1).sum(-1) + (F.softplus(logits2) - logits2 * mu2).sum(-1)
        return energy - entropy + self.log_z()

    def log_z(self) -> Tensor:
        """Log Z in nats, by listing the states of the left side."""
        left = self.weight.size(0)
        numbers = torch.arange(2**left, device=self.weight.device).unsqueeze(-1)
        states = ((numbers >> torch.arange(left, device=self.weight.device)) & 1).to(self.weight)
        fields = torch.addmm(self.bias[left:], states, self.weight)
        return torch.logsumexp(states @ self.bias[:left] + F.softplus(fields).sum(-1), 0)


def divergence_of_normals(q_loc: Tensor, q_scale: Tensor, p_loc: Tensor, p_scale: Tensor) -> Tensor:
    """KL in nats, ``[data]``, of maps ``[data, channel, height, width]``."""
    ratio = (q_scale / p_scale).square()
    return 0.5 * (ratio + ((q_loc - p_loc) / p_scale).square() - 1 - ratio.log()).sum((1, 2, 3))


class _PreActivation(nn.Module):
    def __init__(self, copies: Copies, ours: Any) -> None:
        super().__init__()
        self.norm = copies.norm(ours.norm)

    def forward(self, h: Tensor) -> Tensor:
        return F.elu(self.norm(h), inplace=True)


class _Block(nn.Module):
    def __init__(self, copies: Copies, ours: Any) -> None:
        super().__init__()
        self.up = ours.resample == "up"
        self.first, self.second = _PreActivation(copies, ours.first), _PreActivation(copies, ours.second)
        self.conv1, self.conv2 = copies.conv(ours.widen), copies.conv(ours.refine)
        self.squeeze, self.expand = (copies.dense(ours.excite.gates, place, place) for place in (0, 1))
        self.skip = nn.Identity() if ours.skip is None else copies.conv(ours.skip)

    def forward(self, h: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        skip, h = self.skip(h), self.first(h)
        if self.up:
            skip, h = F.interpolate(skip, size), F.interpolate(h, size)
        h = self.conv2(self.second(self.conv1(h)))
        gates = torch.sigmoid(self.expand(F.relu(self.squeeze(h.mean((2, 3))))))
        return skip + h * gates[:, :, None, None]


class _Stack(nn.Module):
    def __init__(self, copies: Copies, ours: Any) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(copies, block) for block in ours.blocks)

    def forward(self, h: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        for block in self.blocks:
            h, size = block(h, size), None
        return h


class _Upscale(nn.Module):
    def __init__(self, copies: Copies, ours: Any) -> None:
        super().__init__()
        if ours.map_shape is None:
            start = nn.Unflatten(-1, ours.shapes[0])
            self.first: nn.Module = nn.Sequential(copies.dense(ours.first, 0, 0), start)
        else:
            self.first = copies.conv(ours.first)
        self.stacks = nn.ModuleList(_Stack(copies, stack) for stack in ours.stacks)
        self.goals = ours.goals

    def forward(self, h: Tensor) -> Tensor:
        h = self.first(h)
        for stack, goal in zip(self.stacks, self.goals, strict=True):
            h = stack(h, goal)
        return h


class _Group(nn.Module):
    """A group of local variables: the map refined, mean and standard deviation read, a value inserted."""

    def __init__(self, copies: Copies, ours: Any) -> None:
        super().__init__()
        self.residual = _Stack(copies, ours.residual)
        self.read = nn.Sequential(
            _PreActivation(copies, ours.law.network.first), copies.conv(ours.law.network.heads.conv)
        )
        self.inserted = None if ours.inserted is None else copies.conv(ours.inserted)

    def forward(self, state: Tensor, floor: float) -> tuple[Tensor, Tensor]:
        loc, raw = self.read(state).chunk(2, 1)
        return loc, F.softplus(raw) + floor


def _hidden(copies: Copies, stack: Any) -> list[nn.Module]:
    """A normalised layer of units."""
    return [copies.dense(stack, 0), copies.norm(stack.norms[0], positions=False), nn.ELU(inplace=True)]

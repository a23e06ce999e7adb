# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A small model of two latent layers, and its algebra."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Normal as TorchNormal

from pyro_spvae import poon_domingos
from pyro_spvae.guides import HierarchicalGuide
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import HVAE, SPVAE

LATENT, TOP = 2, 3
ORDERS = ("top-down", "bottom-up")
GRID = poon_domingos((2, 2), delta=1)


def hvae(regions=GRID, units=2, order="top-down", prior=None, likelihood=None, noise=0.4, **options):
    """A small model away from the near-zero outputs of new networks."""
    leaf = HVAE(likelihood or Bernoulli(), LATENT, TOP, (4, 3), prior=prior, **options)
    spvae = SPVAE(regions, units=units, leaf=leaf, guide=HierarchicalGuide((4,), order=order))
    with torch.no_grad():
        for parameter in spvae.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return spvae


def bits(spvae, rows=5):
    return (torch.rand(rows, *spvae.event_shape) < 0.5).double()


def scale_of(raw):
    return 1e-3 + nn.functional.softplus(raw)


def noise(shape, size):
    """In the order of the package: leaf by leaf."""
    return torch.randn(shape[-1], *shape[:-1], size).movedim(0, -2)


def by_hand(spvae, x, particles, order, skip=True):
    """Log-weights ``[particle, data, leaf]`` by torch alone; noise in the order that variables are drawn in."""
    leaf, guide, patches = spvae.leaf, spvae.leaf_guide, spvae.view(x)
    shape = (particles, len(x), spvae.num_leaves) if particles > 1 else (len(x), spvae.num_leaves)
    first = TorchNormal(*(f(out) for f, out in zip((lambda m: m, scale_of), guide.first.network(patches), strict=True)))
    drawn = first.loc + first.scale * noise(shape, first.loc.size(-1))
    loc, raw = guide.second.network(patches, drawn) if order == "top-down" else guide.second.network(drawn)
    second = TorchNormal(loc, scale_of(raw))
    other = loc + scale_of(raw) * noise(shape, loc.size(-1))
    log_q = first.log_prob(drawn).sum(-1) + second.log_prob(other).sum(-1)
    z2, z1 = (drawn, other) if order == "top-down" else (other, drawn)
    between, raw = leaf.z1.network(z2)
    (logits,) = leaf.pixels.decoder(z1, z2) if skip else leaf.pixels.decoder(z1)
    log_p = (
        TorchNormal(0.0, 1.0).log_prob(z2).sum(-1)
        + TorchNormal(between, scale_of(raw)).log_prob(z1).sum(-1)
        + TorchBernoulli(logits=logits).log_prob(patches).sum(-1)
    )
    return (log_p - log_q).reshape(particles, len(x), spvae.num_leaves)

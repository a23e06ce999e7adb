# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Discrete VAEs with few bits, and what is computed of them by listing all bits."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from pyro_spvae import poon_domingos, whole
from pyro_spvae.distributions import groups
from pyro_spvae.guides import DiscreteGuide
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import SPVAE, DiscreteVAE
from pyro_spvae.priors import BitChain, BoltzmannMachine, IndependentBits
from pyro_spvae.testing.block_tests import moved_from_start

PRIORS = {
    "independent": IndependentBits,
    "chain": lambda: BitChain(2, (3,)),
    "machine": lambda: BoltzmannMachine(chains=50, sweeps=3),
    "general machine": lambda: BoltzmannMachine(restricted=False, chains=50, sweeps=3),
}
REGIONS = {"circuit": lambda: (poon_domingos((1, 4), 2), 2), "leaf": lambda: (whole((1, 4)), 1)}


def discrete_vae(
    prior: Any, smoothing: Any = None, regions: str = "circuit", size: int = 4, groups: int | None = None, scale=1.0
) -> SPVAE:
    """Two regions of two leaves each, or a single leaf, over four pixels in a row; in evaluation mode."""
    torch.manual_seed(3)
    graph, units = REGIONS[regions]()
    leaf = DiscreteVAE(Bernoulli(), size, prior, smoothing, (4,))
    spvae = SPVAE(graph, units=units, leaf=leaf, guide=DiscreteGuide(groups, (4,)))
    spvae.start((torch.rand(40, 1, 1, 4) < 0.4).double())
    moved_from_start(spvae)
    with torch.no_grad():
        for parameter in spvae.leaf.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    spvae.prepare_evaluation()
    return spvae.eval()


def every(size: int, leaves: int) -> Tensor:
    """All bits, ``[value, 1, leaf, size]``."""
    bits = torch.tensor(list(itertools.product((0.0, 1.0), repeat=size)))
    return bits[:, None, None].expand(-1, 1, leaves, -1)


def images() -> Tensor:
    """All data, ``[16, 1, 1, 4]``."""
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64).reshape(16, 1, 1, 4)


def bits_of(spvae: SPVAE) -> Tensor:
    """All bits of each leaf."""
    return every(spvae.latents["z"].event_shape[0], spvae.num_leaves)


def log_prior(spvae: SPVAE, z: Tensor) -> Tensor:
    """log p(z) of bits ``[.., leaf, D]``, normalised by adding up."""
    prior, size = spvae.leaf.prior, z.size(-1)
    if not isinstance(prior, BoltzmannMachine):
        law = prior()
        terms = [(own * logits - torch.nn.functional.softplus(logits)).sum(-1) for logits, own in groups(law, z)]
        return torch.stack(torch.broadcast_tensors(*terms)).sum(0)
    listed = every(size, prior.bias.size(0))

    def energy(z: Tensor) -> Tensor:
        total = -(z * prior.bias).sum(-1)
        left = prior.weight.size(1)
        for i, j in itertools.combinations(range(size), 2):
            coupled = not prior.restricted or i < left <= j
            if coupled:
                total = total - z[..., i] * z[..., j] * prior.weight[:, i, j if not prior.restricted else j - left]
        return total

    return -energy(z) - (-energy(listed)).logsumexp(0)


def log_pixels(spvae: SPVAE, z: Tensor, x: Tensor) -> Tensor:
    """log p(x | z) of bits, or numbers between, ``[.., data, leaf, D]``."""
    pixels, patches = spvae.leaf.pixels, spvae.view(x)
    logits = pixels.decoder(2 * z - 1)[0]
    if pixels.data is not None:
        logits = logits + pixels.data.output_0
    return (patches * logits - torch.nn.functional.softplus(logits)).sum(-1)


def log_joint(spvae: SPVAE, x: Tensor) -> Tensor:
    """log p(x, z) of all bits, ``[value, data, leaf]``."""
    z = bits_of(spvae)
    return log_prior(spvae, z) + log_pixels(spvae, z, x)


def evidence(spvae: SPVAE, x: Tensor) -> Tensor:
    """log p(x) in nats, ``[data]``, differentiable."""
    return spvae.circuit(log_joint(spvae, x).logsumexp(0))

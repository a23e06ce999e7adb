# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A circuit of leaves with a few latent bits each, and its bound's gradient by enumeration of all that can be drawn."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_spvae.blocks import Latent
from pyro_spvae.circuits import poon_domingos
from pyro_spvae.conditionals import Pixels
from pyro_spvae.distributions import FactorialBernoulli
from pyro_spvae.guides import LeafGuide
from pyro_spvae.infer.estimators.means import renyi_mean
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import SPVAE, LeafModel
from pyro_spvae.nn import MLP


class BitsLeaf(LeafModel):
    """Independent bits with learned logits, and a nonlinear decoder."""

    latents = {"z": Latent(2, constraints.boolean)}

    def __init__(self):
        super().__init__()
        self.pixels = Pixels(Bernoulli(), MLP((3,), "tanh", output_gain=2.0))

    def build(self, leaves, pixels):
        self.logits = nn.Parameter(torch.randn(leaves, 2))
        self.pixels.bind(leaves=leaves, pixels=pixels, inputs=2)

    def forward(self, x=None, mask=None):
        z = pyro.sample("z", FactorialBernoulli(self.logits))
        return pyro.sample("x", self.pixels(z, mask=mask), obs=x)


class BitsGuide(LeafGuide):
    def build(self, leaves, pixels):
        self.weight = nn.Parameter(torch.randn(leaves, pixels, 2))
        self.bias = nn.Parameter(torch.randn(leaves, 2))

    def encode(self, x):
        return torch.einsum("...lp,lpd->...ld", x, self.weight) + self.bias

    def forward(self, logits):
        pyro.sample("z", FactorialBernoulli(logits))


def bits_spvae() -> SPVAE:
    """Two leaf regions with two leaves each, or one."""
    torch.manual_seed(3)
    return SPVAE(poon_domingos((1, 2), delta=1), units=2, leaf=BitsLeaf(), guide=BitsGuide())


X = torch.tensor([1.0, 0.0], dtype=torch.float64).reshape(1, 1, 1, 2)


def expected_bound(spvae: SPVAE, elbo, beta: float = 1.0) -> Tensor:
    """The bound's expectation over all draws of one datum, differentiable."""
    batch = spvae.prepare(X)
    bits = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    values = bits.reshape(4, 1, 1, 2).expand(4, 1, spvae.num_leaves, 2)
    q = FactorialBernoulli(spvae.leaf_guide.encode(batch.features))
    p = FactorialBernoulli(spvae.leaf.logits)
    log_q = q.log_prob(values)  # [value, 1, leaf]
    log_x = spvae.leaf.pixels(values).log_prob(batch.patches)
    if elbo.kl == "analytic":
        kl = (log_q.exp() * (log_q - p.log_prob(values))).sum(0)
        log_w = log_x - beta * kl
    else:
        log_w = log_x + beta * (p.log_prob(values) - log_q)
    particles, leaves = elbo.num_particles, spvae.num_leaves
    index = torch.cartesian_prod(*[torch.arange(4)] * (particles * leaves)).reshape(-1, particles, leaves)
    every = torch.arange(leaves)
    chance = log_q[index, 0, every].sum((1, 2)).exp()
    weight = log_w[index, 0, every].movedim(1, 0)  # [particle, draw, leaf]
    if elbo.reduce == "root":
        bound = renyi_mean(spvae.circuit(weight), elbo.alpha)
    else:
        bound = spvae.circuit(renyi_mean(weight, elbo.alpha))
    return (chance * bound).sum()

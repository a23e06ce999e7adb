# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Leaves as users write them, with latent variables of any kind, and their evidence where it is known exactly."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.distributions import constraints

from pyro_spvae.blocks import Latent
from pyro_spvae.distributions import LeafBernoulli
from pyro_spvae.guides import LeafGuide
from pyro_spvae.models import LeafModel
from pyro_spvae.priors import BoltzmannMachine


def pixels(x, mask, law):
    return pyro.sample("x", (law if mask is None else law.mask(mask)).to_event(1), obs=x)


class Bare(LeafModel):
    """Nothing is latent."""

    def build(self, leaves, pixels):
        self.logits = nn.Parameter(torch.randn(leaves, pixels))

    def forward(self, x=None, mask=None):
        return pixels(x, mask, dist.Bernoulli(logits=self.logits))

    def evidence(self, x):
        return torch.distributions.Bernoulli(logits=self.logits).log_prob(x).sum(-1)


class Coin(LeafModel):
    """A Beta variable, the probability of every pixel; declared in the class."""

    latents = {"p": Latent((), constraints.unit_interval)}

    def build(self, leaves, pixels):
        self.counts = nn.Parameter(1 + torch.rand(2, leaves))

    def forward(self, x=None, mask=None):
        p = pyro.sample("p", dist.Beta(*self.counts))
        return pixels(x, mask, dist.Bernoulli(p.unsqueeze(-1).expand(*p.shape, self.sizes["pixels"])))

    def evidence(self, x):
        a, b = self.counts
        ones, zeros = x.sum(-1), (1 - x).sum(-1)
        beta = lambda a, b: a.lgamma() + b.lgamma() - (a + b).lgamma()  # noqa: E731
        return beta(a + ones, b + zeros) - beta(a, b)


class CoinGuide(LeafGuide):
    """Close to the posterior, and wider."""

    def build(self, leaves, pixels, latents):
        self.shape_of(latents, "p")
        self.counts = nn.Parameter(torch.ones(2, leaves))

    def forward(self, x):
        ones, zeros = x.sum(-1), (1 - x).sum(-1)
        pyro.sample("p", dist.Beta(self.counts[0] + 0.9 * ones, self.counts[1] + 0.9 * zeros))


class Kinds(LeafModel):
    """
    Categorical variables, each of which adds to the log-odds of every pixel.

    :param kinds: how many each has.
    :param shape: event shape.
    """

    def __init__(self, kinds=3, shape=()):
        super().__init__()
        self.kinds, self.shape = kinds, tuple(shape)
        self.latents = {"c": Latent(self.shape, constraints.integer_interval(0, kinds - 1))}

    def build(self, leaves, pixels):
        self.weights = nn.Parameter(torch.randn(leaves, *self.shape, self.kinds))
        self.logits = nn.Parameter(torch.randn(leaves, math.prod(self.shape), self.kinds, pixels))

    def law(self, c):
        chosen = nn.functional.one_hot(c.long(), self.kinds).to(self.logits.dtype)
        chosen = chosen.reshape(*c.shape[: c.dim() - len(self.shape)], -1, self.kinds)
        return dist.Bernoulli(logits=torch.einsum("...lvk,lvkp->...lp", chosen, self.logits))

    def forward(self, x=None, mask=None):
        c = pyro.sample("c", dist.Categorical(logits=self.weights).to_event(len(self.shape)))
        return pixels(x, mask, self.law(c))

    def evidence(self, x):
        size = math.prod(self.shape)
        every = torch.cartesian_prod(*size * [torch.arange(self.kinds)]).reshape(-1, 1, 1, *self.shape)
        every = every.expand(-1, *x.shape[:-1], *self.shape)
        prior = dist.Categorical(logits=self.weights).to_event(len(self.shape))
        return (prior.log_prob(every) + self.law(every).log_prob(x).sum(-1)).logsumexp(0)


class KindsGuide(LeafGuide):
    def __init__(self, enumerate=None):
        super().__init__()
        self.infer = {} if enumerate is None else {"enumerate": enumerate}
        self.enumerate = enumerate

    def build(self, leaves, pixels, latents):
        self.shape = self.shape_of(latents, "c")
        self.kinds = latents["c"].support.upper_bound + 1
        self.weight = nn.Parameter(0.5 * torch.randn(leaves, pixels, math.prod(self.shape) * self.kinds))

    def forward(self, x):
        logits = torch.einsum("...lp,lpk->...lk", x, self.weight)
        logits = logits.reshape(*x.shape[:-1], *self.shape, self.kinds)
        pyro.sample("c", dist.Categorical(logits=logits).to_event(len(self.shape)), infer=self.infer)


class Linear(LeafModel):
    """Real variables of given event shapes, and normal pixels about a linear function of all of them."""

    def __init__(self, shapes):
        super().__init__()
        self.latents = {site: Latent(tuple(shape)) for site, shape in shapes.items()}

    def build(self, leaves, pixels):
        size = sum(math.prod(latent.event_shape) for latent in self.latents.values())
        self.loadings = nn.Parameter(0.2 * torch.randn(leaves, size, pixels))

    def forward(self, x=None, mask=None):
        values = []
        for site, latent in self.latents.items():
            law = dist.Normal(self.loadings.new_zeros(latent.event_shape), 1.0).to_event(len(latent.event_shape))
            values.append(pyro.sample(site, law).flatten(-len(latent.event_shape)))
        return pixels(x, mask, dist.Normal(torch.einsum("...ld,ldp->...lp", torch.cat(values, -1), self.loadings), 1.0))

    def evidence(self, x):
        covariance = self.loadings.mT @ self.loadings + torch.eye(x.size(-1))
        return torch.distributions.MultivariateNormal(torch.zeros(x.size(-1)), covariance).log_prob(x)


class LinearGuide(LeafGuide):
    def build(self, leaves, pixels, latents):
        self.shapes = {site: latent.event_shape for site, latent in latents.items()}
        self.weight = nn.Parameter(0.03 * torch.randn(leaves, pixels, sum(map(math.prod, self.shapes.values()))))

    def encode(self, x):
        return torch.einsum("...lp,lpd->...ld", x, self.weight)

    def forward(self, encoding):
        parts = encoding.split([math.prod(shape) for shape in self.shapes.values()], -1)
        for (site, shape), part in zip(self.shapes.items(), parts, strict=True):
            pyro.sample(site, dist.Normal(part.unflatten(-1, shape), 1.0).to_event(len(shape)))


class Stating(LeafGuide):
    """States given distributions."""

    def __init__(self, **laws):
        super().__init__()
        self.laws = laws

    def forward(self, x):
        for site, law in self.laws.items():
            pyro.sample(site, law.expand(x.shape[:-1]))


PAIRS = {
    "nothing latent": lambda: (Bare(), LeafGuide()),
    "beta": lambda: (Coin(), CoinGuide()),
    "categorical": lambda: (Kinds(), KindsGuide()),
    "categorical, enumerated": lambda: (Kinds(), KindsGuide("parallel")),
    "two kinds": lambda: (Kinds(2), KindsGuide()),
    "vector of categoricals": lambda: (Kinds(3, (2,)), KindsGuide()),
    "two vectors": lambda: (Linear({"a": (2,), "b": (3,)}), LinearGuide()),
    "matrix": lambda: (Linear({"z": (2, 3)}), LinearGuide()),
}


class Bits(LeafModel):
    """Bits of a Boltzmann machine, and pixels of logits that are linear in them."""

    def __init__(self, latent_dim=4, prior=None):
        super().__init__()
        self.latents = {"z": Latent(latent_dim, constraints.boolean)}
        self.prior = BoltzmannMachine(chains=10, sweeps=2) if prior is None else prior

    def build(self, leaves, pixels):
        (size,) = self.latents["z"].event_shape
        self.prior.bind(leaves=leaves, event_shape=(size,))
        self.weight = nn.Parameter(0.3 * torch.randn(leaves, size, pixels))

    def forward(self, x=None, mask=None):
        z = pyro.sample("z", self.prior())
        logits = torch.einsum("...ld,ldp->...lp", z, self.weight)
        return pyro.sample("x", LeafBernoulli(logits, mask), obs=x)


class BitsGuide(LeafGuide):
    def build(self, leaves, pixels, latents):
        (size,) = self.shape_of(latents, "z")
        self.weight = nn.Parameter(torch.randn(leaves, pixels, size))

    def forward(self, x):
        pyro.sample("z", LeafBernoulli(torch.einsum("blp,lpd->bld", x, self.weight)))

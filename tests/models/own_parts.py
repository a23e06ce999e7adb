# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Parts as users write them, at the top level of a module, so that they can be named and saved."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.distributions import constraints

from pyro_spvae.blocks import Block, Latent
from pyro_spvae.distributions import FactorialBernoulli
from pyro_spvae.guides import LeafGuide
from pyro_spvae.likelihoods import Likelihood
from pyro_spvae.models import SPVAE, LeafModel
from pyro_spvae.nn import Network
from pyro_spvae.priors import Prior


class Mixture(Prior):
    """A mixture of normals with a spread of its own; a base prior to see that parts may hold parts."""

    def __init__(self, components, spread=1.0, base=None, names=("a", "b")):
        super().__init__()
        self.components = components
        self.spread = spread
        self.base = base
        self.names = names

    def build(self, leaves, event_shape):
        self.loc = nn.Parameter(torch.randn(leaves, self.components, *event_shape))
        if self.base is not None:
            self.base.bind(leaves=leaves, event_shape=event_shape)

    def forward(self):
        kinds = dist.Categorical(logits=torch.zeros_like(self.loc[..., 0]))
        return dist.MixtureSameFamily(kinds, dist.Normal(self.loc, self.spread).to_event(1))


class Sum(Prior):
    """A normal about the sum of the means of other priors, given as a list and as a dict."""

    def __init__(self, first=(), others=None):
        super().__init__()
        self.terms = nn.ModuleList([*first, *(others or {}).values()])

    def build(self, leaves, event_shape):
        for term in self.terms:
            term.bind(leaves=leaves, event_shape=event_shape)

    def forward(self):
        return dist.Normal(sum(term().mean for term in self.terms), 1.0).to_event(1)


class Smooth(Prior):
    """Latent bits, smoothed in training."""

    support = constraints.boolean

    def __init__(self, smoothing):
        super().__init__()
        self.smoothing = smoothing

    def build(self, leaves, event_shape):
        self.logits = nn.Parameter(torch.randn(leaves, *event_shape))

    def forward(self):
        return self.smoothing(FactorialBernoulli(self.logits))


class Shifted(Block):
    """A block that is neither prior nor likelihood."""

    def __init__(self, by, block):
        super().__init__()
        self.by, self.block = by, block

    def forward(self, *inputs):
        law = self.block(*inputs)
        return dist.TransformedDistribution(law, [dist.transforms.AffineTransform(self.by, 1.0, event_dim=1)])


class Laplace(Likelihood):
    accepts = "finite real numbers"

    def __init__(self, scale=0.1):
        super().__init__()
        self.scale = scale

    def forward(self, outputs, mask=None):
        laplace = dist.Laplace(outputs[0], self.scale)
        return (laplace if mask is None else laplace.mask(mask)).to_event(1)


class Affine(Network):
    def __init__(self, gain=0.1):
        super().__init__()
        self.gain = gain

    def build(self, leaves, inputs, outputs):
        self.weights = nn.ParameterList(self.gain * torch.randn(leaves, inputs, size) for size in outputs)

    def forward(self, x):
        return tuple(torch.einsum("...li,lio->...lo", x, weight) for weight in self.weights)


class LinearGuide(LeafGuide):
    """No constructor of its own."""

    def build(self, leaves, pixels, latents):
        (size,) = self.shape_of(latents, "z")
        self.weight = nn.Parameter(0.1 * torch.randn(leaves, pixels, size))
        self.log_scale = nn.Parameter(torch.zeros(leaves, size))

    def forward(self, x):
        loc = torch.einsum("blp,lpd->bld", x, self.weight)
        pyro.sample("z", dist.Normal(loc, self.log_scale.exp()).to_event(1))


class TwoLayer(LeafModel):
    """z2 -> z1 -> x."""

    def __init__(self, latent_dim=1, noise=0.5):
        super().__init__()
        self.noise = noise
        self.latents = {"z2": Latent(latent_dim), "z1": Latent(latent_dim)}

    def build(self, leaves, pixels):
        (size,) = self.latents["z1"].event_shape
        self.a = nn.Parameter(torch.randn(leaves, size))
        self.b = nn.Parameter(torch.randn(leaves, size, pixels))

    def forward(self, x=None, mask=None):
        z2 = pyro.sample("z2", dist.Normal(torch.zeros_like(self.a), 1.0).to_event(1))
        z1 = pyro.sample("z1", dist.Normal(self.a * z2, 0.7).to_event(1))
        loc = torch.einsum("...ld,ldp->...lp", z1, self.b)
        pixels = dist.Normal(loc, self.noise)
        return pyro.sample("x", (pixels if mask is None else pixels.mask(mask)).to_event(1), obs=x)


class TwoLayerGuide(LeafGuide):
    def build(self, leaves, pixels, latents):
        (size,), _ = self.shape_of(latents, "z2", "z1")
        self.c = nn.Parameter(torch.randn(leaves, pixels, size))
        self.d = nn.Parameter(torch.randn(leaves, size))

    def encode(self, x):
        return torch.einsum("...lp,lpd->...ld", x, self.c)

    def forward(self, encoding):
        z2 = pyro.sample("z2", dist.Normal(encoding, 0.8).to_event(1))
        pyro.sample("z1", dist.Normal(encoding + self.d * z2, 0.6).to_event(1))


class OwnRoot(SPVAE):
    """A class of models with methods of its own."""


class Failing(Prior):
    def __init__(self, size=1):
        super().__init__()
        self.size = len(size)


class Outer:
    class Inner(Prior):
        pass


NOT_A_CLASS = Mixture(2)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Programs and traces that tests of several objectives use."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.nn import PyroModule, pyro_method

from pyro_spvae import InducedTree, collapse_tree, poon_domingos, whole
from pyro_spvae.blocks import Latent
from pyro_spvae.guides import LeafGuide
from pyro_spvae.infer import anneal, sample_tree
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import LeafModel
from tests.helpers import particles, small_spvae


def traces(spvae, x, num_particles, *arguments):
    """The sites of guide and model by Pyro's own handlers, as an objective draws them after the same seed."""
    pyro.set_rng_seed(1)
    guide = poutine.trace(particles(spvae.guide, num_particles)).get_trace(x, *arguments)
    model = collapse_tree(poutine.replay(particles(spvae.model, num_particles), trace=guide))
    model = poutine.trace(model).get_trace(x, *arguments)
    guide.compute_log_prob()
    model.compute_log_prob()
    return guide.nodes, model.nodes


def annealed(program, beta):
    """Model and guide."""
    return anneal(program.model, beta), anneal(program.guide, beta, guide=True)


class TwoLayerModel(LeafModel):
    """z2 -> z1 -> x, to see that latent variables which depend on each other are treated right."""

    latents = {"z2": Latent(1), "z1": Latent(1)}

    def build(self, leaves, pixels):
        self.a = torch.nn.Parameter(torch.randn(leaves, 1))
        self.b = torch.nn.Parameter(torch.randn(leaves, pixels))

    def forward(self, x=None, mask=None):
        z2 = pyro.sample("z2", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        z1 = pyro.sample("z1", dist.Normal(self.a * z2, 0.7).to_event(1))
        return pyro.sample("x", dist.Normal(self.b * torch.tanh(z1), 0.5).to_event(1), obs=x)


class TwoLayerGuide(LeafGuide):
    def build(self, leaves, pixels):
        self.c = torch.nn.Parameter(torch.randn(leaves, pixels))
        self.d = torch.nn.Parameter(torch.randn(leaves, 1))

    def encode(self, x):
        return (self.c * x).sum(-1, keepdim=True)

    def forward(self, encoding):
        z2 = pyro.sample("z2", dist.Normal(encoding, 0.8).to_event(1))
        pyro.sample("z1", dist.Normal(encoding + self.d * z2, 0.6).to_event(1))


def two_layer():
    return small_spvae(poon_domingos((1, 2), delta=1), leaf=TwoLayerModel(), guide=TwoLayerGuide())


class TwoBits(PyroModule):
    """A mixture of two leaves with one binary latent variable each: small enough to enumerate every draw."""

    def __init__(self):
        super().__init__()
        self.spvae = small_spvae(whole((2,)), units=2, likelihood=Bernoulli())
        self.prior = torch.nn.Parameter(torch.tensor([0.3, -0.4]))
        self.proposal = torch.nn.Parameter(torch.randn(2, 2))
        self.decoder = torch.nn.Parameter(torch.randn(2, 2, 2))

    @pyro_method
    def model(self, x):
        with pyro.plate("data", len(x), dim=-2):
            sample_tree("tree", InducedTree(self.spvae.circuit))
            with pyro.plate("leaf", 2, dim=-1):
                z = pyro.sample("z", dist.Bernoulli(logits=self.prior))
                logits = torch.where(z.unsqueeze(-1) > 0, self.decoder[0], self.decoder[1])
                pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x.unsqueeze(-2).expand(-1, 2, 2))

    @pyro_method
    def guide(self, x):
        with pyro.plate("data", len(x), dim=-2), pyro.plate("leaf", 2, dim=-1):
            pyro.sample("z", dist.Bernoulli(logits=x @ self.proposal))

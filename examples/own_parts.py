# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A factor analyser as leaf, a normalising flow as prior, a Student-t likelihood: ``python examples/own_parts.py``."""

import argparse

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as T
import torch
from torch import nn

from pyro_spvae import SPVAE, Latent, LeafModel, Likelihood, Prior, poon_domingos
from pyro_spvae.blocks import positive_scale
from pyro_spvae.data import load_data
from pyro_spvae.distributions import LeafNormal


class FactorAnalyser(LeafModel):
    latents = {"z": Latent(4)}

    def build(self, leaves, pixels):
        self.loadings = nn.Parameter(0.3 * torch.randn(leaves, *self.latents["z"].event_shape, pixels))
        self.mean, self.log_scale = (nn.Parameter(torch.zeros(leaves, pixels)) for _ in range(2))

    def forward(self, x=None, mask=None):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(self.loadings[..., 0]), 1.0).to_event(1))
        loc = self.mean + torch.einsum("...ld,ldp->...lp", z, self.loadings)
        return pyro.sample("x", LeafNormal(loc, self.log_scale.exp(), mask=mask), obs=x)


class FlowPrior(Prior):
    def build(self, leaves, event_shape):
        (d,) = event_shape
        self.flow = nn.ModuleList([T.affine_coupling(d, [16]), T.householder(d), T.affine_coupling(d, [16])])

    def forward(self):
        zeros = next(self.parameters()).new_zeros(self.sizes["event_shape"])
        return dist.TransformedDistribution(dist.Normal(zeros, 1.0).to_event(1), list(self.flow))


class StudentT(Likelihood):
    accepts = "finite real numbers"
    heads = property(lambda self: (self.sizes["pixels"],) * 2)  # sizes of the decoder's outputs

    def forward(self, outputs, mask=None):
        law = dist.StudentT(4.0, outputs[0], positive_scale(outputs[1], "softplus", 1e-2))
        return (law if mask is None else law.mask(mask)).to_event(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=15)
    args = parser.parse_args()
    data = load_data("digits", seed=0).preprocessed("dequantize", 0)
    for own in ({}, {"leaf": FactorAnalyser()}, {"prior": FlowPrior()}, {"likelihood": StudentT()}):
        torch.manual_seed(0)
        spvae = SPVAE(poon_domingos((8, 8), delta=4), units=2, **own)
        spvae.fit(data.train, data.validation, epochs=args.epochs, lr=2e-2, seed=0)
        print(f"{spvae.log_likelihood(data.test[:], num_samples=100).mean():8.2f} nats", *own or ["the usual parts"])

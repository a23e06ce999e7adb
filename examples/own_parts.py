# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
Three parts of one's own, each swapped in one line: a factor analyser as the leaf, a normalising flow as the prior, a
Student-t likelihood. Run ``python examples/own_parts.py``; ``tests/examples`` runs the inherited checks on them.
"""

from __future__ import annotations

import os

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
    def __init__(self, latent_dim=4):
        super().__init__()
        self.latents = {"z": Latent(latent_dim)}

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

    def __init__(self, df=4.0):
        super().__init__()
        self.df = df

    @property
    def heads(self):
        return (self.sizes["pixels"],) * 2  # sizes of the decoder's outputs

    def forward(self, outputs, mask=None):
        law = dist.StudentT(self.df, outputs[0], positive_scale(outputs[1], "softplus", 1e-2))
        return (law if mask is None else law.mask(mask)).to_event(1)


def main(epochs: int = 30) -> dict[str, float]:
    """Trains the default and each part of one's own in its place; log-likelihoods in nats, higher is better."""
    data = load_data("digits", seed=0).preprocessed("dequantize", 0)
    found = {}
    for name, options in {
        "the usual parts": {},
        "leaf=FactorAnalyser()": {"leaf": FactorAnalyser()},
        "prior=FlowPrior()": {"prior": FlowPrior()},
        "likelihood=StudentT()": {"likelihood": StudentT()},
    }.items():
        torch.manual_seed(0)
        spvae = SPVAE(poon_domingos((8, 8), delta=4), units=2, **options)
        spvae.fit(data.train, data.validation, epochs=epochs, lr=3e-3, seed=0)
        found[name] = float(spvae.log_likelihood(data.test[:], num_samples=100).mean())
        print(f"{name:24}{found[name]:8.2f} nats")
    return found


if __name__ == "__main__":
    main(1 if "CI" in os.environ else 30)

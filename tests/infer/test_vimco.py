# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The gradient of guides without reparameterisation, against enumeration of all draws."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, pyro_method

from pyro_spvae import CircuitELBO, InducedTree, whole
from pyro_spvae.infer import sample_tree
from pyro_spvae.likelihoods import Bernoulli
from tests.helpers import gradients, small_spvae


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


@pytest.mark.parametrize(("alpha", "reduce"), [(0.0, "leaf"), (0.5, "leaf"), (1.0, "leaf"), (0.0, "root")])
def test_vimco_gradient_is_unbiased(alpha, reduce):
    """Mean gradient over many draws against the gradient of the bound's expectation, all 2^4 draws enumerated."""
    program = TwoBits()
    x = torch.tensor([[1.0, 0.0]])
    draws = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4).reshape(-1, 2, 1, 2)  # [16, K, B, L]
    prior, proposal = dist.Bernoulli(logits=program.prior), dist.Bernoulli(logits=x @ program.proposal)
    logits = torch.where(draws.unsqueeze(-1) > 0, program.decoder[0], program.decoder[1])
    log_weight = prior.log_prob(draws) + dist.Bernoulli(logits=logits).log_prob(x).sum(-1) - proposal.log_prob(draws)
    chance = proposal.log_prob(draws).sum((1, 2, 3)).exp()
    mean = (lambda w: w.mean(1)) if alpha == 1 else (lambda w: ((1 - alpha) * w).exp().mean(1).log() / (1 - alpha))
    if reduce == "leaf":
        bound = program.spvae.circuit(mean(log_weight)).squeeze(-1)
    else:
        bound = mean(program.spvae.circuit(log_weight)).squeeze(-1)
    expected = gradients(program, -(chance * bound).sum())

    elbo = CircuitELBO(2, alpha=alpha, reduce=reduce)
    repeats, batches = 4000, 25
    estimates = []
    for _ in range(batches):
        loss = elbo.differentiable_loss(program.model, program.guide, x.expand(repeats, -1)) / repeats
        estimates.append(gradients(program, loss))
    for name, value in expected.items():
        sample = torch.stack([estimate[name] for estimate in estimates])
        error = sample.std(0) / math.sqrt(batches) + 1e-12
        assert ((sample.mean(0) - value).abs() < 5 * error).all(), name
    # the standard errors are small enough to see a missing score term
    noise = torch.stack([estimate["proposal"] for estimate in estimates]).std(0) / math.sqrt(batches)
    assert float(noise.max()) < 0.1 * float(expected["proposal"].abs().max())


def test_vimco_needs_two_particles():
    program = TwoBits()
    with pytest.raises(ValueError, match="num_particles of at least 2"):
        CircuitELBO(1).differentiable_loss(program.model, program.guide, torch.ones(1, 2))
    # a bound without gradient needs no baseline
    assert math.isfinite(CircuitELBO(1).loss(program.model, program.guide, torch.ones(1, 2)))
    with pytest.raises(ValueError, match="'z' has not; use gradient='iwae'"):
        CircuitELBO(2, gradient="dreg").differentiable_loss(program.model, program.guide, torch.ones(1, 2))

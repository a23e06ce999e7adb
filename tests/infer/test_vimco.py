# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The gradient of guides without reparameterisation, against enumeration of all draws."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch

from pyro_spvae import CircuitELBO
from tests.helpers import gradients, small_spvae
from tests.infer.cases import TwoBits, annealed
from tests.infer.test_single_leaf import Scored

CASES = [
    (0.0, "leaf", 1.0),
    (0.5, "leaf", 1.0),
    (1.0, "leaf", 1.0),
    (0.0, "root", 1.0),
    (0.0, "leaf", 0.0),
    (0.0, "leaf", 0.4),
    (1.0, "leaf", 0.4),
]


@pytest.mark.parametrize(("alpha", "reduce", "beta"), CASES)
def test_vimco_gradient_is_unbiased(alpha, reduce, beta):
    """
    Mean gradient over many draws against the gradient of the bound's expectation, all 2^4 draws enumerated; beta scales
    log q in the weight, never the score.
    """
    program = TwoBits()
    x = torch.tensor([[1.0, 0.0]])
    draws = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4).reshape(-1, 2, 1, 2)  # [16, K, B, L]
    prior, proposal = dist.Bernoulli(logits=program.prior), dist.Bernoulli(logits=x @ program.proposal)
    logits = torch.where(draws.unsqueeze(-1) > 0, program.decoder[0], program.decoder[1])
    log_weight = dist.Bernoulli(logits=logits).log_prob(x).sum(-1)
    log_weight = log_weight + beta * (prior.log_prob(draws) - proposal.log_prob(draws))
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
        loss = elbo.differentiable_loss(*annealed(program, beta), x.expand(repeats, -1)) / repeats
        estimates.append(gradients(program, loss))
    for name, value in expected.items():
        sample = torch.stack([estimate[name] for estimate in estimates])
        error = sample.std(0) / math.sqrt(batches) + 1e-12
        assert ((sample.mean(0) - value).abs() < 5 * error).all(), name
    # the standard errors are small enough to see a missing score term
    noise = torch.stack([estimate["proposal"] for estimate in estimates]).std(0) / math.sqrt(batches)
    assert float(noise.max()) < 0.1 * float(expected["proposal"].abs().max())


@pytest.mark.parametrize("reduce", ["leaf", "root"])
def test_what_a_leaf_draws_that_sees_nothing_has_no_gradient(reduce):
    """Not even one of mean zero: its score does not count."""
    spvae = small_spvae(guide=Scored(), latent_dim=2)
    observed = torch.tensor([[False, True], [True, True]])
    loss = CircuitELBO(3, reduce=reduce).differentiable_loss(
        spvae.model, spvae.guide, torch.randn(5, 1, 2, 2), observed
    )
    gradient = gradients(spvae, loss)["leaf_guide.loc"]  # of two leaves at each pixel
    assert (gradient[:2] == 0).all() and (gradient[2:].abs() > 1e-6).all()

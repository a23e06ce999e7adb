# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Discrete VAEs in training mode: bounds and gradients of two smoothed bits against quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pyro_spvae import CircuitELBO
from pyro_spvae.distributions import OverlappingExponentials, OverlappingLogistics, PowerFunctions, SpikeAndExponential
from pyro_spvae.priors import BitChain, BoltzmannMachine, IndependentBits
from tests.helpers import gradients
from tests.models.bits_oracle import discrete_vae, evidence, images, log_pixels, log_prior

BETA = 3.0
X = images()[5:6]
PRIORS = {
    "independent": (IndependentBits, (1, 2)),
    "chain": (lambda: BitChain(2, (3,)), (1, 2)),
    "machine": (lambda: BoltzmannMachine(chains=5, sweeps=1, gradient="exact"), (1, 2)),
}
CASES = [(prior, groups) for prior, (_, every) in PRIORS.items() for groups in every]


def nodes(cls):
    """
    Values of a smoothed bit with weights, such that sums over them are integrals, and the densities given 0 and 1 at
    them: ``[4, node]``.
    """
    u, weight = map(torch.from_numpy, np.polynomial.legendre.leggauss(40))
    zeta, weight = (u + 1) / 2, weight / 2
    of_one = BETA * (BETA * zeta).exp() / math.expm1(BETA)
    if cls is SpikeAndExponential:
        zeros, first = torch.zeros(40, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        return torch.stack([torch.cat(pair) for pair in (
            (0 * first, zeta), (first, weight), (first, zeros), (0 * first, of_one),
        )])  # fmt: skip
    return torch.stack([zeta, weight, of_one.flip(0), of_one])


class Quadrature:
    """
    Expectations over two smoothed bits of a single leaf given one datum.

    All have axes ``[first bit, second bit, first node, second node]``.
    """

    def __init__(self, spvae, cls):
        zeta, weight, *densities = nodes(cls)
        r = torch.stack(densities)  # [bit, node]
        number = len(zeta)
        grid = torch.stack(torch.meshgrid(zeta, zeta, indexing="ij"), -1).reshape(-1, 1, 1, 2)  # [point, 1, 1, 2]
        h = spvae.view(X) - spvae.leaf_guide.mean.mean
        bits = spvae.leaf_guide.z
        first, second = bits.network(h)[0].expand(len(grid), 1, 1, -1), None
        if bits.groups == 2:
            second = bits.further[0](h, 2 * grid[..., :1] - 1)[0]
        q = torch.cat([first, second], -1) if second is not None else first
        self.log_q = self.of_bits(q, number)
        self.log_p = self.of_prior(spvae, grid, number)
        self.r = r[:, None, :, None] * r[None, :, None, :]  # [2, 2, node, node]
        self.weight = weight[:, None] * weight
        self.log_x = log_pixels(spvae, grid, X).reshape(number, number)

    def of_bits(self, logits, number):
        """log-masses of both bits from their logits ``[point, 1, 1, 2]``."""
        each = torch.stack([-torch.nn.functional.softplus(logits), -torch.nn.functional.softplus(-logits)])
        each = each.reshape(2, number, number, 2)
        return each[:, None, ..., 0] + each[None, :, ..., 1]

    def of_prior(self, spvae, grid, number):
        prior = spvae.leaf.prior
        if isinstance(prior, BitChain):
            second = prior.networks[0](2 * grid[:, 0, :, :1] - 1)[0]
            return self.of_bits(torch.cat([prior.logits.expand_as(second), second], -1).unsqueeze(1), number)
        bits = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64).reshape(4, 1, 1, 2)
        return log_prior(spvae, bits).reshape(2, 2, 1, 1).expand(2, 2, number, number)

    def mean(self, value):
        """Under q(z, zeta)."""
        return (self.log_q.exp() * self.r * self.weight * value).sum()

    def joint(self):
        """Eq. (4), or (6)."""
        return self.mean(self.log_x + self.log_p - self.log_q)

    def densities(self):
        """log q and log p of the smoothed bits, up to a common factor."""
        return ((log.exp() * self.r).sum((0, 1)).log() for log in (self.log_q, self.log_p))

    def marginal(self):
        """Eq. (5)."""
        q, p = self.densities()
        return self.mean(self.log_x + p - q)

    def evidence(self):
        """That of the smoothed model."""
        _, p = self.densities()
        return ((p + self.log_x).exp() * self.weight).sum().log()


def model(prior, groups, cls=OverlappingExponentials):
    """The second bit depends much on the first, in guide and prior."""
    spvae = discrete_vae(PRIORS[prior][0](), cls(BETA), "leaf", 2, groups, scale=0.6)
    with torch.no_grad():
        for parameter in spvae.leaf_guide.z.further.parameters():
            parameter.mul_(3.0)
        if prior == "chain":
            for parameter in spvae.leaf.prior.networks.parameters():
                parameter.mul_(2.0)
        if prior == "machine":
            spvae.leaf.prior.weight.fill_(3.0)
    spvae.prepare_evaluation()
    return spvae.train()


def assert_unbiased(spvae, elbo, exact, batches=16, rows=1500):
    """Value and gradient of the loss of one datum, in the mean over draws."""
    wanted = gradients(spvae, -exact) | {"loss": -exact.detach()}
    found = []
    for _ in range(batches):
        loss = elbo.differentiable_loss(spvae.model, spvae.guide, X.expand(rows, 1, 1, 4)) / rows
        found.append(gradients(spvae, loss) | {"loss": loss.detach()})
    for name, value in wanted.items():
        each = torch.stack([one[name] for one in found])
        error = each.std(0) / math.sqrt(batches)
        assert bool(((each.mean(0) - value).abs() < 6 * error + 1e-9).all()), name
        assert float(error.max()) < 0.2 * float(value.abs().max()) + 0.01, f"{name} is not seen for noise"


@pytest.mark.parametrize("cls", [OverlappingExponentials, SpikeAndExponential])
@pytest.mark.parametrize(("prior", "groups"), CASES)
def test_the_bound_of_the_joint_law(prior, groups, cls):
    """Its value and the gradient of every parameter, also through posteriors of the bits given their smoothed forms."""
    spvae = model(prior, groups, cls)
    assert_unbiased(spvae, CircuitELBO(1, alpha=1.0, kl="analytic"), Quadrature(spvae, cls).joint())


@pytest.mark.parametrize(("prior", "groups"), CASES)
def test_the_bound_of_the_marginals(prior, groups):
    spvae = model(prior, groups)
    assert_unbiased(spvae, CircuitELBO(1, alpha=1.0), Quadrature(spvae, OverlappingExponentials).marginal())


@pytest.mark.parametrize(("prior", "groups"), CASES)
def test_bounds_are_in_order(prior, groups):
    """The joint one below that of the marginals, and this below the evidence of the smoothed model, which it meets."""
    spvae = model(prior, groups)
    exact = Quadrature(spvae, OverlappingExponentials)
    joint, marginal, whole = (value.item() for value in (exact.joint(), exact.marginal(), exact.evidence()))
    assert joint + 1e-3 < marginal and marginal + 1e-3 < whole
    found = CircuitELBO(40_000).bound(spvae.model, spvae.guide, X)
    assert float(found) == pytest.approx(whole, abs=0.03)


@pytest.mark.parametrize("cls", [OverlappingExponentials, OverlappingLogistics, PowerFunctions, SpikeAndExponential])
def test_the_limit_of_large_inverse_temperatures_is_the_model_of_bits(cls):
    """What training optimises then is what evaluation computes."""
    spvae = discrete_vae(BoltzmannMachine(chains=5, sweeps=1), cls(400.0), "leaf", 2, 2, scale=0.6)
    bounds, elbo = [], CircuitELBO(20_000, alpha=1.0, kl="analytic")
    for training in (True, False):
        bounds.append(float(elbo.bound(spvae.train(training).model, spvae.guide, X)))
    assert bounds[0] == pytest.approx(bounds[1], abs=0.05)
    if cls is not SpikeAndExponential:
        smooth = CircuitELBO(20_000).bound(spvae.train().model, spvae.guide, X)
        assert float(smooth) == pytest.approx(float(evidence(spvae, X).detach()), abs=0.1)


def test_the_inverse_temperature_is_annealed():
    spvae = discrete_vae(IndependentBits(), OverlappingExponentials((2.0, 6.0)), "leaf", 2)
    found = []
    for progress in (0.0, 0.25, 1.0):
        spvae.advance(progress)
        found.append(float(spvae.leaf.smoothing.beta))
        torch.manual_seed(0)
        spvae.train()
        drawn = CircuitELBO(2000, alpha=1.0).bound(spvae.model, spvae.guide, X)
        spvae.eval()
        assert bool(drawn.isfinite())
    assert found == [2.0, 3.0, 6.0]

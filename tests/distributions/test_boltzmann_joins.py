# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Every distribution of latent bits against Boltzmann machines, by listing bits, and smoothed machines."""

from __future__ import annotations

import pytest
import torch

from pyro_spvae.distributions import (
    BinaryHierarchy,
    FactorialBernoulli,
    SmoothedBernoulli,
    SmoothedHierarchy,
    divergence,
)
from pyro_spvae.distributions.boltzmann import SmoothedBoltzmann
from pyro_spvae.distributions.hierarchy import groups
from pyro_spvae.distributions.smoothing import (
    OverlappingExponentials,
    OverlappingLogistics,
    PowerFunctions,
    SpikeAndExponential,
    smoothed,
)
from tests.distributions.boltzmann_cases import KINDS, every, law, machine

SMOOTHINGS = [OverlappingExponentials, OverlappingLogistics, PowerFunctions, SpikeAndExponential]


def logits_of():
    first, weight = torch.randn(2, 2), torch.randn(2, 2, 2)
    return lambda group, before: torch.einsum("...li,lio->...lo", 2 * before - 1, weight) if group else first


@pytest.mark.parametrize("restricted", KINDS.values(), ids=KINDS)
def test_bits_by_listing_them(restricted):
    p, z = law(machine(restricted, 2, 2)), every(4).unsqueeze(1).expand(-1, 2, -1)
    for q in (FactorialBernoulli(torch.randn(2, 4)), BinaryHierarchy((2, 2), logits_of())):
        log_q = q.log_prob(z)
        torch.testing.assert_close(
            (log_q.exp() * divergence(q, p, z)).sum(0), (log_q.exp() * (log_q - p.log_prob(z))).sum(0)
        )


@pytest.mark.parametrize("restricted", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_smoothed_bits(smoothing, restricted):
    """In expectation E[log q(z | zeta_<) - log p(z)] of the bits that were drawn along with zeta."""
    smoothing = smoothing(4.0)
    p = smoothed(law(machine(restricted, 2, 2)), smoothing)
    assert isinstance(p, SmoothedBoltzmann) and p.smoothing is smoothing
    for q in (SmoothedBernoulli(torch.randn(2, 4), smoothing), SmoothedHierarchy((2, 2), logits_of(), smoothing)):
        q = q.expand((20_000, 2))
        zeta = q.rsample()
        found = divergence(q, p, zeta)
        assert found.shape == (20_000, 2)
        bits, log_q = [], torch.zeros(20_000, 2)
        for logits, value in groups(q, zeta):
            z = torch.bernoulli(smoothing.posterior(logits, value).expand(value.shape))
            bits.append(z)
            log_q += FactorialBernoulli(logits).log_prob(z)
        gap = found - (log_q - p.bits.log_prob(torch.cat(bits, -1)))
        assert (gap.mean(0).abs() < 4.5 * gap.std(0) / len(gap) ** 0.5).all()


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_smoothed_machines_are_normalised(smoothing):
    """By importance sampling from smoothed coins, which have mass wherever the machine has."""
    smoothing = smoothing(2.0)
    p = smoothed(law(machine(left=2, right=2)), smoothing)
    q = SmoothedBernoulli(torch.zeros(2, 4), smoothing).expand((40_000, 2))
    zeta = q.sample()
    weight = (p.log_prob(zeta) - q.log_prob(zeta)).exp()
    assert ((weight.mean(0) - 1).abs() < 4.5 * weight.std(0) / len(weight) ** 0.5).all()

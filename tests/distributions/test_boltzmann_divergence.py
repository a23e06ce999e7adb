# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Divergences of posteriors of bits from Boltzmann machines, and smoothed machines, by listing all states."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.distributions import constraints

from pyro_spvae.distributions import FactorialBernoulli, LeafBernoulli, divergence
from pyro_spvae.distributions.boltzmann import SmoothedBoltzmann, cross_entropy, register_boltzmann
from pyro_spvae.distributions.boltzmann.divergence import divergence_of_groups
from pyro_spvae.distributions.smoothing.draws import uniform
from tests.distributions.boltzmann_cases import KINDS, every, law, machine, masses

SIZES = [(4,), (2, 2), (1, 3), (3, 1), (1, 2, 1), (1, 1, 1, 1)]


class Ramp:
    """r(zeta|0) = 2 - 2 zeta and r(zeta|1) = 2 zeta on [0, 1]."""

    support = constraints.unit_interval

    def log_density(self, zeta):
        return (2 - 2 * zeta).log(), (2 * zeta).log()

    def conditional(self, z, rho):
        return torch.where(z > 0, rho.sqrt(), 1 - (1 - rho).sqrt())

    def posterior(self, logits, zeta):
        off, on = self.log_density(zeta)
        return (logits + on - off).sigmoid()


class Chain:
    """A posterior of bits in groups, each given those in front, smoothed or not; two leaves."""

    batch_shape = (2,)

    def __init__(self, sizes, smoothing=None):
        size = sum(sizes)
        self.sizes, self.smoothing = sizes, smoothing
        self.bias, self.weight = torch.randn(2, size), torch.randn(2, size, size)

    def groups(self, value):
        start, found = 0, []
        for size in self.sizes:
            stop = start + size
            before = 2 * value[..., :start] - 1
            logits = self.bias[:, start:stop] + torch.einsum(
                "...li,lio->...lo", before, self.weight[:, :start, start:stop]
            )
            found.append((logits.expand(*value.shape[:-1], size), value[..., start:stop]))
            start = stop
        return found

    def sample(self, number):
        value = torch.empty(number, 2, 0)
        for place, size in enumerate(self.sizes):
            padded = torch.cat([value, torch.zeros(number, 2, sum(self.sizes) - value.size(-1))], -1)
            logits, _ = self.groups(padded)[place]
            z = torch.bernoulli(logits.sigmoid())
            drawn = z if self.smoothing is None else self.smoothing.conditional(z, torch.rand_like(z))
            value = torch.cat([value, drawn], -1)
            assert drawn.size(-1) == size
        return value


register_boltzmann(Chain, lambda q, value: q.groups(value))


@pytest.mark.parametrize("restricted", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("sizes", SIZES)
def test_the_divergence_of_bits_by_listing_them(sizes, restricted):
    """In expectation over the posterior it is KL(q || p), whatever the groups."""
    q, p = Chain(sizes), law(machine(restricted, 2, 2))
    z = every(4).unsqueeze(1).expand(-1, 2, -1)
    log_q = sum(
        -torch.nn.functional.binary_cross_entropy_with_logits(logits, v, reduction="none").sum(-1)
        for logits, v in q.groups(z)
    )
    expected = (log_q.exp() * (log_q - p.log_prob(z))).sum(0)
    torch.testing.assert_close(log_q.exp().sum(0), torch.ones(2))
    found = divergence(q, p, z)
    torch.testing.assert_close((log_q.exp() * found).sum(0), expected)
    if len(sizes) == 1:
        torch.testing.assert_close(found, expected.expand(16, 2))  # nothing is left to chance


def unsimplified(made, mus, nus):
    """Eq. (6) as it is printed: what later groups' draws say in the place of their expectation."""
    nu = torch.cat(nus, -1)
    total = -(made.bias * nu).sum(-1)
    start, spans = 0, []
    for group in mus:
        spans.append(range(start, start + group.size(-1)))
        start += group.size(-1)
    j = made.tempered(torch.ones(1))
    unit = torch.eye(made.size).unsqueeze(1)
    for one, other in itertools.combinations(range(made.size), 2):
        coupling = j.energy(unit[one]) + j.energy(unit[other]) - j.energy(unit[one] + unit[other])
        same = any(one in span and other in span for span in spans)
        mu = torch.cat(mus, -1)
        total = total - coupling * (mu[..., one] * mu[..., other] if same else nu[..., one] * nu[..., other])
    return total


@pytest.mark.parametrize("restricted", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("sizes", [(2, 2), (1, 2, 1), (3, 1)])
def test_simplified_and_unsimplified_forms_have_the_same_mean(sizes, restricted):
    """For smoothed bits; mu in nu's place would be another number."""
    q, made = Chain(sizes, Ramp()), machine(restricted, 2, 2)
    groups = q.groups(q.sample(20_000))
    mus = [logits.sigmoid() for logits, _ in groups]
    nus = [q.smoothing.posterior(logits, value) for logits, value in groups]
    simple, printed, wrong = cross_entropy(made, mus, nus), unsimplified(made, mus, nus), cross_entropy(made, mus, mus)
    gap = simple - printed
    error = gap.std(0) / len(gap) ** 0.5
    assert (gap.mean(0).abs() < 4.5 * error).all() and (error < 0.03).all()
    other = (wrong - simple).mean(0)
    assert (other.abs() > 10 * (wrong - simple).std(0) / len(gap) ** 0.5).any()


@pytest.mark.parametrize("restricted", KINDS.values(), ids=KINDS)
def test_the_divergence_of_smoothed_bits(restricted):
    """The joint bound: in expectation E[log q(z | zeta_<) - log p(z)] of bits drawn along with zeta."""
    q = Chain((2, 2), Ramp())
    p = SmoothedBoltzmann(law(machine(restricted, 2, 2)), q.smoothing)
    zeta = q.sample(40_000)
    found = divergence(q, p, zeta)
    assert torch.equal(found, divergence(q, p.bits, zeta))
    total = torch.zeros_like(found)
    bits = []
    for logits, value in q.groups(zeta):  # bits that these values were drawn from
        z = torch.bernoulli(q.smoothing.posterior(logits, value))
        bits.append(z)
        total -= torch.nn.functional.binary_cross_entropy_with_logits(logits, z, reduction="none").sum(-1)
    gap = found - (total - p.bits.log_prob(torch.cat(bits, -1)))
    assert (gap.mean(0).abs() < 4.5 * gap.std(0) / len(gap) ** 0.5).all()
    assert (found.std(0) < gap.std(0)).all()


def test_of_independent_bits_it_is_exact_and_differentiable():
    made = machine(leaves=2)
    logits, bias, weight = (v.requires_grad_() for v in (torch.randn(3, 2, 6), made.bias, made.weight))
    q, p = FactorialBernoulli(logits).expand((5, 3, 2)), law(made)
    z = every(6).reshape(64, 1, 1, 6)
    log_q, log_p = (one.log_prob(z.expand(64, 3, 2, 6)) for one in (FactorialBernoulli(logits), p))
    expected = (log_q.exp() * (log_q - log_p)).sum(0)
    found = divergence(q, p, q.sample())
    torch.testing.assert_close(found, expected.expand(5, 3, 2))
    parameters = (logits, bias, weight)
    grads = (torch.autograd.grad(value.sum(), parameters, retain_graph=True) for value in (found[0], expected))
    for own, other in zip(*grads, strict=True):
        torch.testing.assert_close(own, other)


def test_half_precision_and_autocast_do_not_matter():
    made, logits = machine(left=4, right=4), torch.randn(5, 2, 8)
    exact = divergence_of_groups([(logits, logits)], law(made))
    half = law(made.precise(torch.bfloat16))
    with torch.autocast("cpu", torch.bfloat16):
        found = divergence_of_groups([(logits.float(), logits)], law(made.precise(torch.float32)))
        assert divergence_of_groups([(logits.bfloat16(), logits)], half).dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-5)


def test_bits_that_do_not_count_and_groups_that_do_not_add_up():
    q = LeafBernoulli(torch.zeros(2, 6), torch.tensor([True] * 5 + [False]))
    assert divergence(q, law(machine()), torch.zeros(2, 6)) is None
    with pytest.raises(
        ValueError, match=r"^groups of \[2, 3\] bits are given to a Boltzmann machine of 6; they must add"
    ):
        cross_entropy(machine(), [torch.zeros(2, 2), torch.zeros(2, 3)], [torch.zeros(2, 2), torch.zeros(2, 3)])


class TestSmoothed:
    @pytest.mark.parametrize(("restricted", "left", "right"), [(True, 2, 3), (True, 3, 1), (False, 2, 2)])
    def test_density_by_listing_all_bits(self, restricted, left, right, monkeypatch):
        made = machine(restricted, left, right)
        size = left + right
        p = SmoothedBoltzmann(law(made), Ramp())
        zeta = torch.rand(2, 5, 2, size)
        off, on = p.smoothing.log_density(zeta)
        z = every(size).reshape(-1, 1, 1, 1, size)
        log_r = torch.where(z > 0, on, off).sum(-1)
        expected = (law(made).log_prob(z.expand(-1, 1, 1, 2, size)) + log_r).logsumexp(0)
        torch.testing.assert_close(p.log_prob(zeta), expected)
        torch.testing.assert_close(p.expand((5, 2)).log_prob(zeta), expected)
        monkeypatch.setattr("pyro_spvae.distributions.boltzmann.enumeration._AT_ONCE", 300)
        torch.testing.assert_close(p.log_prob(zeta), expected)

    def test_density_of_what_one_bit_alone_can_have_drawn(self):
        """Ends of the interval, where one of both densities is 0."""
        made = machine(left=2, right=3)
        z = (torch.rand(7, 2, 5) < 0.5).double()
        found = SmoothedBoltzmann(law(made), Ramp()).log_prob(z)
        torch.testing.assert_close(found, law(made).log_prob(z) + 5 * torch.tensor(2.0).log())

    def test_samples(self):
        made = machine(left=2, right=2)
        p = SmoothedBoltzmann(law(made), Ramp()).expand((20_000, 2))
        zeta = p.sample()
        assert zeta.shape == (20_000, 2, 4) and p.support.check(zeta).all()
        mean = masses(made).T @ every(4)
        expected = mean * 2 / 3 + (1 - mean) / 3
        assert ((zeta.mean(0) - expected).abs() < 4.5 * zeta.std(0) / len(zeta) ** 0.5).all()
        torch.manual_seed(1)
        drawn = p.sample()
        torch.manual_seed(1)
        z = p.bits.expand((20_000, 2)).sample()
        assert torch.equal(drawn, p.smoothing.conditional(z, uniform(z.shape, z)))

    def test_is_a_smoothed_form_of_bits(self):
        made = machine()
        made.bias.requires_grad_()
        p = SmoothedBoltzmann(law(made), Ramp())
        assert p.limit_support is constraints.boolean and not p.support.is_discrete
        value = torch.rand(3, 2, 6)
        assert p.log_prob(value).requires_grad and not p.detach().log_prob(value).requires_grad
        assert torch.equal(p.detach().log_prob(value), p.log_prob(value))

    def test_a_density_that_it_has_not(self):
        p = SmoothedBoltzmann(law(machine(left=13, right=14), log_z=torch.zeros(2)), Ramp())
        message = r"whose smaller side has 13 units was asked for, .* at most 12; kl=\"analytic\" needs no density$"
        with pytest.raises(ValueError, match=message):
            p.log_prob(torch.rand(2, 27))

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Latent bits in groups and divergences of all distributions of bits, by enumeration and by hand."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pyro_spvae.distributions import (
    BinaryHierarchy,
    FactorialBernoulli,
    OverlappingExponentials,
    OverlappingLogistics,
    SmoothedBernoulli,
    SmoothedHierarchy,
    bernoulli_divergence,
    divergence,
    groups,
)
from pyro_spvae.distributions.smoothing import SpikeAndExponential

SIZES = (2, 1, 2)
BITS = torch.tensor(list(itertools.product([0.0, 1.0], repeat=5)), dtype=torch.float64)  # [32, 5]


class Networks(nn.Module):
    """Logits of every group that depend on all bits before it; counts its calls by group."""

    def __init__(self, *batch: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(*batch, SIZES[0]))
        self.layers = nn.ModuleList([nn.Linear(2, 1), nn.Linear(3, 2)])
        self.calls = [0, 0, 0]

    def forward(self, group, before):
        self.calls[group] += 1
        if group == 0:
            assert before is None
            return self.first
        return 3 * self.layers[group - 1](before)


def chain(net, value):
    """The logits of all bits, by hand."""
    second, third = (3 * layer(value[..., :end]) for layer, end in zip(net.layers, (2, 3), strict=True))
    first = net.first.expand(*second.shape[:-1], 2)
    return torch.cat((first, second, third.expand(*second.shape[:-1], 2)), -1)


class TestBinaryHierarchy:
    def test_log_prob_by_hand(self):
        net = Networks(2)
        q = BinaryHierarchy(SIZES, net)
        value = BITS.unsqueeze(1)  # [32, 1, 5]
        wanted = torch.distributions.Bernoulli(logits=chain(net, value.expand(-1, 2, -1))).log_prob(value).sum(-1)
        assert_close(q.log_prob(value), wanted)
        for dtype in (torch.bool, torch.int64, torch.uint8):
            assert_close(q.log_prob(value.to(dtype)), wanted)
        assert_close(wanted.exp().sum(0), torch.ones(2))
        assert q.batch_shape == (2,) and q.event_shape == (5,) and q.support.check(value).all()

    def test_draws_have_the_probabilities(self):
        q, count = BinaryHierarchy(SIZES, Networks(1)), 20_000
        drawn = q.sample((count,)).squeeze(1)
        assert not drawn.requires_grad
        found = (drawn.unsqueeze(1) == BITS).all(-1).double().mean(0)
        probs = q.log_prob(BITS.unsqueeze(1)).exp().squeeze(1).detach()
        assert ((found - probs).abs() < 5 * (probs * (1 - probs) / count).sqrt() + 1e-12).all()

    def test_score_is_complete(self):
        """Of the draw just made, whose logits are kept: the same gradient as of a copy."""
        net = Networks(2)
        q = BinaryHierarchy(SIZES, net)
        value = q.sample((3,))
        kept = torch.autograd.grad(q.log_prob(value).sum(), list(net.parameters()))
        anew = torch.autograd.grad(BinaryHierarchy(SIZES, net).log_prob(value.clone()).sum(), list(net.parameters()))
        assert_close(kept, anew)
        assert all(float(gradient.abs().sum()) > 0 for gradient in kept)


class TestSmoothedHierarchy:
    def test_log_prob_by_hand(self):
        net, r = Networks(3, 2), OverlappingExponentials(3.0)
        q = SmoothedHierarchy(SIZES, net, r)
        for value in (q.rsample((4,)), torch.rand(4, 3, 2, 5)):
            wanted = SmoothedBernoulli(chain(net, value), r).log_prob(value)
            assert_close(q.log_prob(value), wanted)
        value = value.requires_grad_()  # which also later groups depend on
        wanted = torch.autograd.grad(SmoothedBernoulli(chain(net, value), r).log_prob(value).sum(), value)
        assert_close(torch.autograd.grad(SmoothedHierarchy(SIZES, net, r).log_prob(value).sum(), value), wanted)
        assert q.support.base_constraint is r.support and q.support.check(value).all()

    @pytest.mark.parametrize("cls", [OverlappingExponentials, OverlappingLogistics])
    def test_draws_have_the_density(self, cls):
        """The levels of their own conditional distribution functions are uniform and independent."""
        net, r, count = Networks(1), cls(4.0), 20_000
        value = SmoothedHierarchy(SIZES, net, r).sample((count,)).squeeze(1)
        assert not value.requires_grad
        probs = chain(net, value).sigmoid()
        of_zero, of_one = r.cdf(value)
        level = ((1 - probs) * of_zero + probs * of_one).detach()
        distance = (level.sort(0).values - torch.arange(count).unsqueeze(-1) / count).abs().amax(0)
        assert (distance < 2.23 / count**0.5).all()
        assert ((torch.corrcoef(level.T) - torch.eye(5)).abs() < 5 / count**0.5).all()

    def test_gradients_are_those_of_groups_by_hand(self):
        net, r = Networks(3, 2), OverlappingExponentials(3.0)
        weight = torch.randn(7, 3, 2, 5)
        torch.manual_seed(1)
        q = SmoothedHierarchy(SIZES, net, r)
        value = q.rsample((7,))
        found = torch.autograd.grad(((weight * value).sum(-1) + q.log_prob(value)).sum(), list(net.parameters()))
        torch.manual_seed(1)
        parts, log_prob = [], 0.0
        for group in range(3):
            logits = net(group, torch.cat(parts, -1) if group else None)
            law = SmoothedBernoulli(logits, r)
            parts.append(law.rsample(() if group else (7,)))
            log_prob = log_prob + law.log_prob(parts[-1])
        assert torch.equal(torch.cat(parts, -1), value)
        wanted = torch.autograd.grad(((weight * torch.cat(parts, -1)).sum(-1) + log_prob).sum(), list(net.parameters()))
        assert_close(found, wanted)

    def test_looks_at_no_value(self):
        with torch.device("meta"):
            net = Networks(3, 2)
            q = SmoothedHierarchy(SIZES, net, OverlappingExponentials(3.0), validate_args=False).expand((4, 3, 2))
            value = q.rsample()
            p = FactorialBernoulli(torch.zeros(5), validate_args=False)
            (q.log_prob(value).sum() + divergence(q, p, value).sum()).backward()
        assert value.shape == (4, 3, 2, 5) and all(parameter.grad.is_meta for parameter in net.parameters())


def both(net, r=None):
    return BinaryHierarchy(SIZES, net), SmoothedHierarchy(SIZES, net, r or OverlappingExponentials(3.0))


def test_networks_run_once_a_step():
    for kind in range(2):
        net, prior = Networks(3, 2), Networks(2)
        q, p = both(net)[kind].expand((5, 3, 2)), both(prior)[kind]
        net.calls, prior.calls = [0, 0, 0], [0, 0, 0]
        value = q.rsample() if q.has_rsample else q.sample()
        assert q.log_prob(value).shape == (5, 3, 2) and p.log_prob(value).shape == (5, 3, 2)
        assert divergence(q, p, value).shape == (5, 3, 2) and q.expand((1, 5, 3, 2)).log_prob(value).shape[0] == 1
        assert net.calls == prior.calls == [0, 1, 1]  # the first group's when the distribution was made
        q.log_prob(value.clone())
        assert net.calls == [0, 2, 2]


def test_what_was_drawn_without_gradients_has_them_later():
    for q in both(net := Networks(2)):
        with torch.no_grad():
            value = q.sample()
            q.log_prob(value)
        gradients = torch.autograd.grad(q.log_prob(value).sum(), list(net.parameters()))
        assert all(float(gradient.abs().sum()) > 0 for gradient in gradients)


def test_parameters_cannot_be_told_from_values():
    """So that objectives which hold parameters constant run the guide anew."""
    assert not any(hasattr(q, "detach") for q in both(Networks(2)))
    assert hasattr(FactorialBernoulli(torch.zeros(2)), "detach")


def test_one_group_has_a_mean():
    logits, r = torch.randn(3, 2, 4), OverlappingExponentials(3.0)
    binary = BinaryHierarchy([4], lambda group, before: logits)
    smooth = SmoothedHierarchy([4], lambda group, before: logits, r)
    assert_close(binary.expand((5, 3, 2)).mean, logits.sigmoid().expand(5, 3, 2, 4))
    assert_close(smooth.expand((5, 3, 2)).mean, SmoothedBernoulli(logits, r).mean.expand(5, 3, 2, 4))


def test_several_groups_have_means_given_draws():
    """Whose expectation is the mean, by enumeration of the bits; smoothed, of a group given smoothed bits."""
    net, r = Networks(1), OverlappingExponentials(3.0)
    binary, smooth = both(net, r)
    value = BITS.unsqueeze(1)
    chance, means = binary.log_prob(value).exp().unsqueeze(-1), binary.conditional_mean(value)
    assert_close(means, chain(net, value).sigmoid())
    assert_close((chance * means).sum(0), (chance * value).sum(0))
    zeta = torch.rand(7, 1, 5)
    assert_close(smooth.conditional_mean(zeta), SmoothedBernoulli(chain(net, zeta), r).mean)
    assert smooth.expand((3, 1)).conditional_mean(zeta[:1]).shape == (3, 1, 5)


def test_smoothing_a_hierarchy():
    net = Networks(3, 2)
    binary = BinaryHierarchy(SIZES, net).expand((4, 3, 2))
    r = SpikeAndExponential(5.0)
    smooth = r(binary)
    assert type(smooth) is SmoothedHierarchy and smooth.smoothing is r and smooth.sizes == SIZES
    assert smooth.batch_shape == (4, 3, 2) and net.calls == [1, 0, 0] and r.eval()(binary) is binary
    assert smooth.rsample().shape == (4, 3, 2, 5)


def test_groups():
    net, value = Networks(2), torch.rand(4, 2, 5)
    for law in both(net):
        logits, parts = zip(*groups(law, value), strict=True)
        assert torch.equal(torch.cat(parts, -1), value) and [part.shape[-1] for part in parts] == list(SIZES)
        assert_close(torch.cat([part.expand(4, 2, -1) for part in logits], -1), chain(net, value))
    logits = torch.randn(2, 5)
    for law in (FactorialBernoulli(logits), SmoothedBernoulli(logits, OverlappingExponentials())):
        [(own, part)] = groups(law, value)
        assert own is logits and part is value


GROUPINGS = ((5,), (2, 3), (3, 2), (2, 1, 2), (1, 1, 1, 1, 1))


def of_groups(sizes):
    """Bits of two leaves in groups, whose logits depend much on all bits before."""
    weights, first = 2 * torch.randn(5, 5), torch.randn(2, sizes[0])
    ends = list(itertools.accumulate(sizes))

    def logits_of(group, before):
        return first if group == 0 else before @ weights[: ends[group - 1], ends[group - 1] : ends[group]]

    return BinaryHierarchy(sizes, logits_of)


class TestDivergence:
    def test_of_single_bits(self):
        q, p = torch.randn(50), torch.randn(50)
        wanted = torch.distributions.kl_divergence(*(torch.distributions.Bernoulli(logits=x) for x in (q, p)))
        assert_close(bernoulli_divergence(q, p), wanted)
        assert torch.autograd.gradcheck(bernoulli_divergence, (q.requires_grad_(), p.requires_grad_()))
        zero = torch.zeros(1).requires_grad_()
        assert torch.autograd.gradcheck(bernoulli_divergence, (zero, torch.ones(1)))

    def test_small_ones_are_precise_in_single_precision(self):
        q = torch.tensor([-20.0, 20.0, -15.0, 15.0, 3.0])
        p = q + torch.tensor([0.5, -0.5, 0.5, -0.5, 1.0])
        assert_close(bernoulli_divergence(q.float(), p.float()).double(), bernoulli_divergence(q, p), rtol=1e-5, atol=0)

    def test_of_all_pairs_is_the_expectation_over_the_bits(self):
        """Of groups by enumeration: the terms given the earlier bits have the divergence as their mean."""
        net, prior = Networks(1), Networks(1)
        q, p = BinaryHierarchy(SIZES, net), BinaryHierarchy(SIZES, prior)
        value = BITS.unsqueeze(1)
        weight = q.log_prob(value).exp()
        for law in (p, FactorialBernoulli(torch.randn(1, 5))):
            wanted = (weight * (q.log_prob(value) - law.log_prob(value))).sum(0)
            assert_close((weight * divergence(q, law, value)).sum(0), wanted)

    @pytest.mark.parametrize("of_q", GROUPINGS)
    @pytest.mark.parametrize("of_p", GROUPINGS)
    def test_groups_may_be_others(self, of_q, of_p):
        """Finer, coarser or across: by enumeration, where p depends on bits that q draws in the same group, too."""
        q, p = of_groups(of_q), of_groups(of_p)
        value = BITS.unsqueeze(1)
        weight = q.log_prob(value).exp()
        assert_close(weight.sum(0), torch.ones(2))
        wanted = (weight * (q.log_prob(value) - p.log_prob(value))).sum(0)
        assert_close((weight * divergence(q, p, value)).sum(0), wanted)
        assert float(wanted.min()) > 0.1

    def test_smoothing_changes_no_divergence(self):
        net, prior, r = Networks(3, 2), Networks(2), OverlappingExponentials(4.0)
        value, logits = torch.rand(4, 3, 2, 5), torch.randn(2, 5)
        factorial = (FactorialBernoulli(logits), SmoothedBernoulli(logits, r))
        wanted = bernoulli_divergence(chain(net, value), chain(prior, value)).sum(-1)
        for q, p in itertools.product(both(net, r), both(prior, r)):
            assert_close(divergence(q, p, value), wanted)
        wanted = bernoulli_divergence(chain(net, value), logits).sum(-1)
        for q, p in itertools.product(both(net, r), factorial):
            assert_close(divergence(q, p, value), wanted)
        for q, p in itertools.product(factorial, (FactorialBernoulli(logits + 1), SmoothedBernoulli(logits + 1, r))):
            found = divergence(q.expand((3, 2)), p.expand((4, 1, 2)), value)
            assert_close(found, bernoulli_divergence(logits, logits + 1).sum(-1).expand(4, 3, 2))

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Distributions of latent bits in one group, as bits and smoothed, and what all four classes refuse."""

from __future__ import annotations

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.testing import assert_close

from pyro_spvae.distributions import (
    BinaryHierarchy,
    FactorialBernoulli,
    LeafBernoulli,
    OverlappingExponentials,
    OverlappingLogistics,
    PowerFunctions,
    SmoothedBernoulli,
    SmoothedHierarchy,
    Smoothing,
    bits_divergence,
    groups,
    smoothed,
)
from tests.distributions.leaf_cases import SIZE, LeafDistributionTests

SMOOTHINGS = (OverlappingExponentials, OverlappingLogistics, PowerFunctions)


class TestFactorialBernoulli(LeafDistributionTests):
    bad_values = (float("nan"), -0.5, 2.0)

    def parameters(self, *batch):
        return {"logits": torch.randn(*batch, SIZE)}

    def build(self, parameters, mask=None):
        return FactorialBernoulli(**parameters)

    def reference(self, parameters):
        return dist.Bernoulli(**parameters)

    def test_is_linear_in_each_bit(self):
        """The log-mass of numbers from 0 to 1 lies on the line between those of the bits."""
        d = self.build(self.parameters(3))
        value = torch.rand(3, SIZE)
        bits = torch.tensor(list(itertools.product([0.0, 1.0], repeat=SIZE))).unsqueeze(1)  # [16, 1, pixel]
        weight = torch.where(bits > 0, value, 1 - value).prod(-1)
        assert_close(d.log_prob(value), (weight * d.log_prob(bits)).sum(0))
        assert_close(d.log_prob(bits).exp().sum(0), torch.ones(3))

    def test_extreme_logits(self):
        logits = torch.tensor([[-100.0], [-30.0], [-22.0], [0.0], [22.0], [30.0], [100.0]])
        for dtype, atol in ((torch.float32, 1e-5), (torch.float64, 1e-13)):
            own = logits.to(dtype).requires_grad_()
            for value in (0.0, 1.0):
                log_prob = FactorialBernoulli(own).log_prob(torch.full((1,), value, dtype=dtype))
                wanted = torch.nn.functional.logsigmoid((2 * value - 1) * own.detach().squeeze(-1))
                assert_close(log_prob, wanted, rtol=0, atol=atol)
                (grad,) = torch.autograd.grad(log_prob.sum(), own)
                assert_close(grad, value - own.detach().sigmoid(), rtol=1e-6, atol=1e-12)


@pytest.fixture(params=SMOOTHINGS)
def smoothing(request):
    return request.param(1.7)


class TestSmoothedBernoulli:
    def test_log_prob_is_that_of_the_mixtures(self, smoothing):
        q = SmoothedBernoulli(torch.randn(3, 2, SIZE), smoothing)
        zeta = q.rsample((5,))
        of_zero, of_one = (density.exp() for density in smoothing.log_density(zeta))
        probs = q.logits.sigmoid()
        assert_close(q.log_prob(zeta), ((1 - probs) * of_zero + probs * of_one).log().sum(-1))
        assert q.log_prob(zeta).shape == (5, 3, 2) and q.batch_shape == (3, 2) and q.event_shape == (SIZE,)
        assert q.support.event_dim == 1 and not q.support.is_discrete and q.support.check(zeta).all()

    def test_expand_records_the_shape(self, smoothing):
        logits = torch.randn(1, 2, SIZE)
        q = SmoothedBernoulli(logits, smoothing).expand((5, 3, 2))
        zeta = q.rsample((4,))
        assert q.logits is logits and q.batch_shape == (5, 3, 2) and zeta.shape == (4, 5, 3, 2, SIZE)
        assert_close(q.log_prob(zeta), SmoothedBernoulli(logits.expand(3, 2, SIZE), smoothing).log_prob(zeta))
        assert q.mean.shape == (5, 3, 2, SIZE) and len(zeta.flatten(0, 1)[..., 0].unique()) == zeta[..., 0].numel()

    def test_gradients(self, smoothing):
        """Of log-densities in logits and values, by differences."""
        zeta = SmoothedBernoulli(torch.zeros(2, SIZE), smoothing).sample()

        def log_prob(logits, zeta):
            return SmoothedBernoulli(logits, smoothing, validate_args=False).log_prob(zeta)

        assert torch.autograd.gradcheck(log_prob, (torch.randn(2, SIZE).requires_grad_(), zeta.requires_grad_()))

    def test_detach_cuts_the_logits_only(self, smoothing):
        logits = torch.randn(2, SIZE).requires_grad_()
        q = SmoothedBernoulli(logits, smoothing)
        zeta = q.rsample().detach().requires_grad_()
        by_value = torch.autograd.grad(q.log_prob(zeta).sum(), zeta)
        assert_close(torch.autograd.grad(q.detach().log_prob(zeta).sum(), zeta), by_value)
        assert not q.detach().log_prob(zeta.detach()).requires_grad

    @pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
    def test_is_computed_in_single_precision(self, smoothing, half):
        logits = torch.randn(3, SIZE).to(half).requires_grad_()
        low, single = SmoothedBernoulli(logits, smoothing), SmoothedBernoulli(logits.detach().float(), smoothing)
        torch.manual_seed(1)
        zeta = low.rsample((50,))
        torch.manual_seed(1)
        assert zeta.dtype == half and torch.equal(zeta, single.rsample((50,)).to(half))
        log_prob = low.log_prob(zeta)
        assert log_prob.dtype == torch.float32 and torch.equal(log_prob, single.log_prob(zeta.float()))
        assert log_prob.isfinite().all()
        assert torch.autograd.grad(log_prob.sum(), logits)[0].isfinite().all()

    def test_in_plates(self, smoothing):
        logits = torch.randn(3, 2, SIZE)

        def model():
            with pyro.plate("particles", 5, dim=-3), pyro.plate("data", 3, dim=-2), pyro.plate("leaf", 2, dim=-1):
                return pyro.sample("z", SmoothedBernoulli(logits, smoothing))

        trace = pyro.poutine.trace(model).get_trace()
        trace.compute_log_prob()
        site = trace.nodes["z"]
        assert site["value"].shape == (5, 3, 2, SIZE)
        assert_close(site["log_prob"], SmoothedBernoulli(logits, smoothing).log_prob(site["value"]))


def pair(group, before):
    return torch.zeros(2, 3) if group == 0 else torch.zeros(*before.shape[:-1], 2)


R = OverlappingExponentials()
NUMBER = "a positive number, or a pair of them that rises, is needed"
SIZES = "the numbers of bits of all groups are needed, such as [100, 100]"
AS_MANY = "the same number is needed"
REFUSED = [
    *((lambda beta=beta: OverlappingExponentials(beta), f"beta is {beta!r}; {NUMBER}")
      for beta in (0, -1.0, float("nan"), "8", True, None, (8.0, 5.0), (5.0, 5.0), (0.0, 5.0), (1.0,), (1.0, 2.0, 3.0),
      )),
    (lambda: PowerFunctions(0.5), "beta is 0.5; a number of at least 1, or a pair of them that rises, is needed"),
    (lambda: PowerFunctions((0.5, 2.0)), "beta is (0.5, 2.0); a number of at least 1, or"),
    (lambda: R(LeafBernoulli(torch.zeros(2))), "a LeafBernoulli has no smoothed form; one of FactorialBernoulli, Bin"),
    (lambda: smoothed(SmoothedBernoulli(torch.zeros(2), R), R), "a SmoothedBernoulli has no smoothed form; one of"),
    (lambda: SmoothedBernoulli(torch.zeros(2), "logistic"), "smoothing is a str; an instance of Smoothing is needed"),
    (lambda: SmoothedHierarchy((3, 2), pair, Smoothing), "smoothing is the class Smoothing; an instance of Smoothing"),
    (lambda: SmoothedBernoulli([0.0], R), "logits of SmoothedBernoulli must be a floating-point tensor, but a list"),
    (lambda: SmoothedBernoulli(torch.zeros(()), R), "logits of SmoothedBernoulli must have at least 1 dimension(s)"),
    (lambda: FactorialBernoulli(torch.ones(2).long()), "logits of FactorialBernoulli must be a floating-point tensor"),
    (lambda: FactorialBernoulli(torch.zeros(2)).log_prob(torch.tensor([0.0, 1.5])), "value of FactorialBernoulli."),
    (lambda: BinaryHierarchy((3, 2), pair).log_prob(torch.full((2, 5), -0.5)), "value of BinaryHierarchy.log_prob"),
    *((lambda sizes=sizes: BinaryHierarchy(sizes, pair), f"sizes is {sizes!r}; {SIZES}")
      for sizes in ((), (3, 0), 3, (3.0,), None)),
    (lambda: BinaryHierarchy((2, 2), pair), "logits_of(0, ..) of BinaryHierarchy has the shape [2, 3]; 2 logits, the"),
    (lambda: BinaryHierarchy((3, 4), pair).sample(), "logits_of(1, ..) of BinaryHierarchy has the shape [2, 2]; 4"),
    (lambda: BinaryHierarchy((3,), lambda *_: 3), "logits_of(0, ..) of BinaryHierarchy must be a floating-"),
    (lambda: BinaryHierarchy((3, 2), pair).mean, "a BinaryHierarchy of several groups has no mean in closed form"),
    (lambda: SmoothedHierarchy((3, 2), pair, R).mean, "a SmoothedHierarchy of several groups has no mean"),
    (lambda: groups(dist.Normal(0.0, 1.0), torch.zeros(2)), "a Normal is no distribution of latent bits; a Factorial"),
    (lambda: bits_divergence(FactorialBernoulli(torch.zeros(2, 4)), BinaryHierarchy((3, 2), pair), torch.zeros(2, 5)),
     f"q, a FactorialBernoulli, has 4 bits and p, a BinaryHierarchy, has 5; {AS_MANY}"),
    (lambda: bits_divergence(BinaryHierarchy((3, 2), pair), FactorialBernoulli(torch.zeros(4)), torch.zeros(2, 5)),
     f"q, a BinaryHierarchy, has 5 bits and p, a FactorialBernoulli, has 4; {AS_MANY}"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_refusals(call, message):
    with pytest.raises((ValueError, TypeError, NotImplementedError)) as error:
        call()
    assert str(error.value).startswith(message) and "\n" not in str(error.value)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Tests of the leaf distributions one by one."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from torch.testing import assert_close

from pyro_spvae.distributions.bernoulli import LeafBernoulli
from pyro_spvae.distributions.binomial import LeafBinomial, log_binomial_coefficient
from pyro_spvae.distributions.categorical import LeafCategorical
from pyro_spvae.distributions.normal import LeafNormal, LeafStandardNormal
from tests.distributions.leaf_cases import (
    BATCH,
    SIZE,
    LeafDistributionTests,
    MaskedLeafDistributionTests,
)

EXTREME = torch.tensor([-100.0, -30.0, -1.0, 0.0, 1.0, 30.0, 100.0])


class NormalCases(LeafDistributionTests):
    def test_rsample_equals_stock_under_the_same_seed(self):
        parameters = self.learnable(*BATCH)
        samples = []
        for d in [self.build(parameters), self.stock(parameters)]:
            torch.manual_seed(1)
            samples.append(d.expand((5, *BATCH)).rsample((2,)))
        assert_close(samples[0], samples[1])
        assert samples[0].requires_grad == bool(parameters)

    def test_gradient_in_the_value(self):
        parameters = self.parameters(*BATCH)
        x = self.values(5, *BATCH, SIZE).requires_grad_()
        ours = torch.autograd.grad(self.build(parameters).log_prob(x).sum(), x)
        assert_close(ours, torch.autograd.grad(self.stock(parameters).log_prob(x).sum(), x))


class TestLeafNormal(NormalCases, MaskedLeafDistributionTests):
    def parameters(self, *batch):
        return {"loc": torch.randn(*batch, SIZE), "scale": 0.3 + torch.rand(*batch, SIZE)}

    def build(self, parameters, mask=None):
        return LeafNormal(**parameters, mask=mask)

    def reference(self, parameters):
        return dist.Normal(**parameters)

    def test_own_draw_keeps_both_partial_derivatives(self):
        # log q(z) of z = loc + scale * noise: in z alone, in the parameters alone, and in total.
        parameters = self.learnable(*BATCH)
        loc, scale = parameters.values()
        q = self.build(parameters).expand((5, *BATCH))
        z = q.rsample()
        noise = ((z - loc) / scale).detach()
        in_z = torch.autograd.grad(q.log_prob(z).sum(), z, retain_graph=True)[0]
        assert_close(in_z, -noise / scale.detach())
        in_loc, in_scale = torch.autograd.grad(q.log_prob(z.detach()).sum(), (loc, scale))
        assert_close(in_loc, (noise / scale.detach()).sum(0))
        assert_close(in_scale, ((noise.square() - 1) / scale.detach()).sum(0))
        in_total = torch.autograd.grad(q.log_prob(z).sum(), (loc, scale), retain_graph=True)
        assert_close(in_total, (torch.zeros_like(loc), -5 / scale.detach()))
        path = torch.autograd.grad(q.detach().log_prob(z).sum(), (loc, scale))
        assert_close(path, (-(noise / scale.detach()).sum(0), -(noise.square() / scale.detach()).sum(0)))

    @pytest.mark.parametrize("scale_shape", [(), (1,), (SIZE,), (2, 1), (2, SIZE), (3, 1, SIZE), (7, 1, 1, 1)])
    def test_scale_may_be_smaller_than_loc(self, scale_shape):
        loc, scale = torch.randn(*BATCH, SIZE), (0.3 + torch.rand(scale_shape)).requires_grad_()
        x = self.values(*BATCH, SIZE)
        ours, theirs = LeafNormal(loc, scale), dist.Normal(loc, scale).to_event(1)
        assert ours.batch_shape == theirs.batch_shape
        assert_close(ours.log_prob(x), theirs.log_prob(x))
        assert_close(
            torch.autograd.grad(ours.log_prob(x).sum(), scale), torch.autograd.grad(theirs.log_prob(x).sum(), scale)
        )


class TestLeafStandardNormal(NormalCases):
    def parameters(self, *batch):
        self.batch = batch  # there are no parameters to carry it
        return {}

    def build(self, parameters, mask=None):
        assert mask is None
        return LeafStandardNormal(SIZE, self.batch)

    def reference(self, parameters):
        return dist.Normal(0.0, 1.0).expand([*self.batch, SIZE])

    def values(self, *shape):
        return torch.randn(shape)

    def test_dtype(self):
        d = LeafStandardNormal(SIZE, (2,), dtype=torch.float32, device="cpu")
        for x in [d.sample(), d.mean, d.variance, d.entropy(), d.expand((3, 2)).rsample()]:
            assert x.dtype == torch.float32
        assert LeafStandardNormal(SIZE).sample().dtype == torch.get_default_dtype()


class TestLeafBernoulli(MaskedLeafDistributionTests):
    bad_values = (0.5, -1.0, 2.0, float("nan"))

    def parameters(self, *batch):
        return {"logits": 2 * torch.randn(*batch, SIZE)}

    def build(self, parameters, mask=None):
        return LeafBernoulli(**parameters, mask=mask)

    def reference(self, parameters):
        return dist.Bernoulli(**parameters)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_extreme_logits(self, dtype):
        logits = EXTREME.to(dtype).requires_grad_()
        for value, sign in [(0.0, -1), (1.0, 1)]:
            log_prob = LeafBernoulli(logits.unsqueeze(-1)).log_prob(torch.full((1,), value, dtype=dtype))
            exact = [-math.log1p(math.exp(-sign * x)) if sign * x > -50 else sign * x for x in EXTREME.tolist()]
            assert_close(log_prob, torch.tensor(exact, dtype=dtype), rtol=1e-6, atol=1e-37)
            gradient = torch.autograd.grad(log_prob.sum(), logits)[0]
            exact_gradient = [sign / (1 + math.exp(sign * x)) for x in EXTREME.tolist()]
            assert_close(gradient, torch.tensor(exact_gradient, dtype=dtype), rtol=1e-6, atol=1e-7)


class TestLeafBinomial(MaskedLeafDistributionTests):
    has_entropy = False
    bad_values = (0.5, -1.0, 4.0, float("nan"))

    def parameters(self, *batch):
        return {"logits": torch.randn(*batch, SIZE)}

    def build(self, parameters, mask=None):
        return LeafBinomial(3, **parameters, mask=mask)

    def reference(self, parameters):
        return dist.Binomial(3, **parameters)

    @pytest.mark.parametrize("dtype, rtol", [(torch.float32, 1e-5), (torch.float64, 1e-11)])
    def test_grey_levels_at_extreme_logits(self, dtype, rtol):
        value = torch.arange(256.0, dtype=dtype).repeat(len(EXTREME), 1)  # [logit, pixel]
        logits = EXTREME.to(dtype).unsqueeze(-1).expand(value.shape).clone().requires_grad_()
        log_prob = LeafBinomial(255, logits.unsqueeze(-1)).log_prob(value.unsqueeze(-1))
        exact = [
            [
                math.log(math.comb(255, k)) - k * math.log1p(math.exp(-x)) - (255 - k) * math.log1p(math.exp(x))
                for k in range(256)
            ]
            for x in EXTREME.tolist()
        ]
        assert_close(log_prob, torch.tensor(exact, dtype=dtype), rtol=rtol, atol=100 * torch.finfo(dtype).eps)
        assert_close(log_prob.exp().sum(-1), torch.ones(len(EXTREME), dtype=dtype), rtol=rtol, atol=rtol)
        gradient = torch.autograd.grad(log_prob.sum(), logits)[0]
        assert_close(gradient, value - 255 * logits.detach().sigmoid(), rtol=rtol, atol=255 * rtol / 10)
        samples = LeafBinomial(255, logits.detach()).sample()
        assert ((samples >= 0) & (samples <= 255) & (samples % 1 == 0)).all()
        assert (samples[0] == 0).all() and (samples[-1] == 255).all()

    @pytest.mark.parametrize("size", [1, 300])
    def test_coefficient(self, size):
        # One value needs no table, many pixels use one.
        value = torch.randint(0, 256, (size,)).float()
        exact = torch.tensor([math.log(math.comb(255, int(k))) for k in value], dtype=torch.float32)
        assert_close(log_binomial_coefficient(255, value), exact, rtol=1e-7, atol=1e-7)

    def test_out_of_range_values_never_pass(self):
        d = LeafBinomial(3, torch.zeros(SIZE), validate_args=False)
        for bad in [-1.0, 4.0]:
            with pytest.raises(IndexError):
                d.log_prob(torch.full((8, SIZE), bad))
            assert LeafBinomial(300, torch.zeros(1), validate_args=False).log_prob(torch.tensor([-1.0])) == -math.inf


class TestSharedLogits:
    """Of Bernoulli pixels whose logits many values share, the log-probabilities of 0 and 1 are computed once."""

    @pytest.mark.parametrize("shape", [(7, 3, SIZE), (2, 7, 3, SIZE)])
    def test_equal_those_of_logits_for_each_value(self, shape):
        logits = torch.randn(3, SIZE).mul_(20).requires_grad_()
        x = torch.bernoulli(torch.full(shape, 0.5))
        weight = torch.randn(shape[:-1])
        mask = torch.rand(shape) < 0.7
        found, gradients = [], []
        for given in (logits, logits.expand(shape)):
            log_prob = LeafBernoulli(given, mask).log_prob(x)
            found.append(log_prob)
            (gradient,) = torch.autograd.grad((weight * log_prob).sum(), logits, create_graph=True)
            (second,) = torch.autograd.grad(gradient.square().sum(), logits)
            gradients.append((gradient, second))
        assert_close(found[0], found[1], rtol=1e-14, atol=0)
        assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-12)

    def test_certain_pixels(self):
        logits = torch.tensor([math.inf, -math.inf, 800.0])
        x = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        assert_close(LeafBernoulli(logits).log_prob(x), torch.tensor([0.0, -800.0, -math.inf]))


class TestLeafCategorical(MaskedLeafDistributionTests):
    bad_values = (0.5, -1.0, 3.0, float("nan"))
    pixel_dim = -2

    def parameters(self, *batch):
        return {"logits": torch.randn(*batch, SIZE, 3)}

    def build(self, parameters, mask=None):
        return LeafCategorical(**parameters, mask=mask)

    def reference(self, parameters):
        return dist.Categorical(**parameters)

    def test_moments_equal_torch(self):
        # Torch leaves the moments of a Categorical undefined; here they are those of the level's number.
        logits = self.parameters(*BATCH)["logits"]
        probs, level = logits.softmax(-1), torch.tensor([0.0, 1.0, 2.0])
        assert_close(LeafCategorical(logits).mean, (probs * level).sum(-1))
        second = (probs * level.square()).sum(-1)
        assert_close(LeafCategorical(logits).variance, second - (probs * level).sum(-1).square())

    def test_impossible_levels(self):
        logits = torch.tensor([[0.0, -math.inf, 1.0]]).requires_grad_()
        d = LeafCategorical(logits)
        assert d.log_prob(torch.tensor([1.0])) == -math.inf
        assert (d.sample((1000,)) != 1).all()
        padded = LeafCategorical(torch.cat([logits, torch.full((1, 3), -math.inf)]), torch.tensor([True, False]))
        assert_close(padded.log_prob(torch.tensor([0.0, 1.0])), d.log_prob(torch.tensor([0.0])))
        p = 1 / (1 + math.e)
        assert_close(d.entropy(), torch.tensor(-p * math.log(p) - (1 - p) * math.log(1 - p)))
        gradient = torch.autograd.grad(d.log_prob(torch.tensor([2.0])), logits)[0]
        assert_close(gradient, torch.tensor([[-p, 0.0, p]]))

    @pytest.mark.parametrize("levels", [1, 2, 15, 16, 40])
    def test_number_of_levels(self, levels):
        # Few and many levels are normalised along different layouts.
        logits = torch.randn(*BATCH, SIZE, levels).requires_grad_()
        x = torch.randint(levels, (5, *BATCH, SIZE))
        ours, theirs = LeafCategorical(logits).log_prob(x), dist.Categorical(logits=logits).log_prob(x).sum(-1)
        assert_close(ours, theirs)
        weight = torch.randn(ours.shape)
        gradient = torch.autograd.grad((weight * ours).sum(), logits)
        assert_close(gradient, torch.autograd.grad((weight * theirs).sum(), logits))
        assert LeafCategorical(logits).num_levels == levels

    def test_many_values_are_looked_up_in_one_table(self):
        """No tensor of a value's size times levels, in neither direction; other levels are not looked up elsewhere."""
        logits = torch.randn(4, 1, 50).requires_grad_()
        x = torch.randint(50, (300, 4, 1))
        with torch.profiler.profile(profile_memory=True) as profile:
            LeafCategorical(logits, validate_args=False).log_prob(x).sum().backward()
        largest = max(event.self_cpu_memory_usage for event in profile.events())
        assert largest <= 8 * 2 * 1200  # bytes of two numbers a value
        for wrong in (50, -1):
            with pytest.raises(RuntimeError, match="out of bounds"):
                LeafCategorical(logits, validate_args=False).log_prob(torch.full((3, 4, 1), float(wrong)))

    @pytest.mark.parametrize("levels", [1, 3, 8, 21])
    def test_draws_of_some_events(self, levels):
        """Levels of what is selected as often as they are likely, others nowhere; as where all events are drawn."""
        logits = torch.randn(3, SIZE, levels)
        logits[:, 1, : levels // 2] = -math.inf
        d = LeafCategorical(logits).expand((20_000, 3))
        selected = torch.rand(20_000, 3) < torch.tensor([0.9, 0.5, 0.0])
        drawn = d.sample_selected(selected)
        assert drawn.shape == (20_000, 3, SIZE) and not drawn[~selected].any()
        for values, counted in ((drawn, selected), (d.sample(), torch.ones_like(selected))):
            one_hot = torch.nn.functional.one_hot(values.long(), levels).double()
            number = counted.sum(0).view(3, 1, 1)
            share = (one_hot * counted[..., None, None]).sum(0) / number.clamp(min=1)
            error = (logits.softmax(-1) * (1 - logits.softmax(-1)) / number.clamp(min=1)).sqrt()
            assert ((share - logits.softmax(-1)).abs() <= 4.5 * error + 1e-12)[number.flatten() > 0].all()

    def test_draws_need_probabilities(self):
        d = LeafCategorical(torch.tensor([[0.0, math.nan], [0.0, 0.0]]), validate_args=False)
        for draw in (d.sample, lambda: d.sample_selected(torch.tensor(True))):
            with pytest.raises(ValueError, match="logits of LeafCategorical must be finite or -inf"):
                draw()


REFUSED = [
    (ValueError, "scale", lambda: LeafNormal(torch.zeros(SIZE), torch.zeros(SIZE))),
    (ValueError, "scale", lambda: LeafNormal(torch.zeros(SIZE), -torch.ones(SIZE))),
    (ValueError, "scale of LeafNormal must broadcast", lambda: LeafNormal(torch.zeros(2, 4), torch.ones(3, 4))),
    (ValueError, "loc of LeafNormal must have at least 1", lambda: LeafNormal(torch.tensor(0.0), torch.ones(4))),
    (ValueError, "event_size", lambda: LeafStandardNormal(0)),
    *((ValueError, "total_count", lambda n=n: LeafBinomial(n, torch.zeros(SIZE))) for n in (0, -2)),
    *((TypeError, "total_count", lambda n=n: LeafBinomial(n, torch.zeros(SIZE))) for n in (2.0, True)),
    (ValueError, "logits of LeafCategorical must have at least 2", lambda: LeafCategorical(torch.zeros(3))),
]


@pytest.mark.parametrize(("error", "message", "make"), REFUSED)
def test_refusals(error, message, make):
    with pytest.raises(error, match=message):
        make()

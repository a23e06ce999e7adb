# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Mixtures of diagonal normals: the matrix form is the density, and copies share nothing wrong."""

from __future__ import annotations

import copy
import math

import pyro
import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torch.testing import assert_close

from pyro_spvae.distributions import LeafNormalMixture

K, L, D = 4, 2, 3


def parameters(components=K, batch=(L,), size=D, weights=True):
    loc = torch.randn(components, *batch, size)
    scale = 0.2 + torch.rand(components, *batch, size)
    log_weight = torch.randn(components, *batch).log_softmax(0) if weights else None
    return loc, scale, log_weight


def reference(loc, scale, log_weight=None):
    """Torch's mixture, with its tensor of all differences."""
    if log_weight is None:
        log_weight = torch.zeros(loc.shape[:-1], dtype=loc.dtype)
    return MixtureSameFamily(
        Categorical(logits=log_weight.movedim(0, -1)), Independent(Normal(loc.movedim(0, -2), scale.movedim(0, -2)), 1)
    )


class TestDensity:
    @pytest.mark.parametrize("weights", [False, True])
    @pytest.mark.parametrize("batch", [(), (L,), (3, L), (3, 1, L)])
    def test_equals_torchs_mixture_with_gradients(self, batch, weights):
        given = [p.requires_grad_() for p in parameters(batch=batch, weights=weights) if p is not None]
        d, stock = LeafNormalMixture(*given), reference(*given)
        assert d.batch_shape == batch and d.event_shape == (D,) and d.num_components == K
        z = torch.randn(5, *batch, D, requires_grad=True)
        ours, theirs = d.log_prob(z), stock.log_prob(z)
        assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        upstream = torch.randn_like(ours)
        grads = [torch.autograd.grad((value * upstream).sum(), [z, *given]) for value in (ours, theirs)]
        if weights:  # torch normalises the weights it is given, so that its gradient is that of their softmax
            by_logits = grads[0][-1] - given[2].exp() * grads[0][-1].sum(0)
            grads[0] = (*grads[0][:-1], by_logits)
        assert_close(*grads, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("value_batch", [(), (L,), (1,), (5, L), (5, 1), (2, 5, L)])
    def test_values_of_any_batch_shape(self, value_batch):
        given = parameters()
        z = torch.randn(*value_batch, D)
        assert_close(LeafNormalMixture(*given).log_prob(z), reference(*given).log_prob(z))

    def test_second_derivatives(self):
        given = [p.requires_grad_() for p in parameters(2, (), 2)]
        z = torch.randn(2, 2, requires_grad=True)
        assert torch.autograd.gradgradcheck(lambda z, *p: LeafNormalMixture(*p).log_prob(z), (z, *given))

    def test_one_component_is_a_normal(self):
        loc, scale, _ = parameters(1)
        z = torch.randn(5, L, D)
        for log_weight in (None, torch.zeros(1, L)):
            d = LeafNormalMixture(loc, scale, log_weight)
            assert_close(d.log_prob(z), Normal(loc[0], scale[0]).log_prob(z).sum(-1))
            assert_close(d.mean, loc[0])
            assert_close(d.variance, scale[0].square())

    def test_a_component_of_weight_zero_does_not_count(self):
        loc, scale, _ = parameters(3)
        log_weight = torch.tensor([0.25, 0.75, 0.0]).log().unsqueeze(-1).expand(3, L).contiguous().requires_grad_()
        d = LeafNormalMixture(loc, scale, log_weight)
        z = torch.randn(5, L, D, requires_grad=True)
        expected = reference(loc[:2], scale[:2], log_weight[:2].detach()).log_prob(z)
        assert_close(d.log_prob(z), expected)
        assert (d.sample((3000,)) - loc[2]).abs().sum(-1).min() > 0
        assert (torch.autograd.grad(d.log_prob(z).sum(), z)[0]).isfinite().all()


class TestComponents:
    def test_log_densities_of_components(self):
        loc, scale, log_weight = parameters()
        z = torch.randn(5, L, D)
        expected = [log_weight[k] + Normal(loc[k], scale[k]).log_prob(z).sum(-1) for k in range(K)]
        d = LeafNormalMixture(loc, scale, log_weight)
        assert_close(d.component_log_prob(z), torch.stack(expected, -1))
        assert_close(d.log_prob(z), torch.stack(expected, -1).logsumexp(-1))

    @pytest.mark.parametrize("weights", [False, True])
    def test_posterior_is_bayes_rule(self, weights):
        loc, scale, log_weight = parameters(weights=weights)
        z = torch.randn(5, L, D)
        prior = torch.full((K, L), 1 / K) if log_weight is None else log_weight.exp()
        joint = torch.stack([prior[k] * Normal(loc[k], scale[k]).log_prob(z).sum(-1).exp() for k in range(K)], -1)
        posterior = LeafNormalMixture(loc, scale, log_weight).component_posterior(z)
        assert posterior.shape == (5, L, K)
        assert_close(posterior, joint / joint.sum(-1, keepdim=True))

    def test_posterior_is_right_where_densities_underflow(self):
        loc = torch.tensor([0.0, 1.0]).reshape(2, 1, 1)
        d = LeafNormalMixture(loc, torch.full((2, 1, 1), 0.01))
        posterior = d.component_posterior(torch.tensor([[0.5], [0.501]]).unsqueeze(1))[:, 0]
        assert_close(posterior[0], torch.tensor([0.5, 0.5]))
        assert_close(posterior[1, 1] / posterior[1, 0], torch.tensor(math.exp(10)), rtol=1e-8, atol=0)

    def test_components_are_drawn_by_their_weights(self):
        """Far apart, a draw tells which component it is from."""
        loc = 100 * torch.arange(K).double().reshape(K, 1, 1).expand(K, L, D).contiguous()
        weight = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.7, 0.0, 0.05, 0.25]]).t()
        scale = 0.5 + torch.rand(K, L, D)
        n = 20_000
        z = LeafNormalMixture(loc, scale, weight.log()).sample((n,))
        component = (z / 100).round()
        assert (component == component[..., :1]).all(), "one component for all values of an event"
        component = component[..., 0].long()
        for leaf in range(L):
            frequency = torch.bincount(component[:, leaf], minlength=K) / n
            error = (weight[:, leaf] * (1 - weight[:, leaf]) / n).sqrt()
            assert ((frequency - weight[:, leaf]).abs() <= 4.5 * error).all()
            for k in range(K):
                drawn = z[component[:, leaf] == k, leaf]
                if len(drawn):
                    spread = scale[k, leaf]
                    assert ((drawn.mean(0) - loc[k, leaf]).abs() < 4.5 * spread / len(drawn) ** 0.5).all()
                    assert_close(drawn.std(0), spread, rtol=4.5 / (2 * len(drawn)) ** 0.5, atol=0)
        # leaves draw components of their own
        both = (component[:, 0] == 3) & (component[:, 1] == 0)
        assert both.double().mean().item() == pytest.approx(0.4 * 0.7, abs=4.5 * (0.28 * 0.72 / n) ** 0.5)

    def test_equal_weights_draw_components_equally(self):
        loc = 100 * torch.arange(5).double().reshape(5, 1, 1)
        z = LeafNormalMixture(loc, torch.ones(5, 1, 1)).expand((10_000, 1)).sample()
        frequency = torch.bincount((z / 100).round().long().flatten(), minlength=5) / 10_000
        assert ((frequency - 0.2).abs() < 4.5 * (0.16 / 10_000) ** 0.5).all()


class TestMoments:
    @pytest.mark.parametrize("weights", [False, True])
    def test_are_those_of_samples_and_torchs(self, weights):
        given = parameters(weights=weights)
        d = LeafNormalMixture(*given)
        assert_close(d.mean, reference(*given).mean)
        assert_close(d.variance, reference(*given).variance)
        n = 40_000
        z = d.sample((n,))
        assert ((z.mean(0) - d.mean).abs() < 4.5 * (d.variance / n).sqrt()).all()
        square = (z - d.mean).square()
        assert ((square.mean(0) - d.variance).abs() < 4.5 * square.std(0) / n**0.5).all()

    def test_of_an_expanded_one(self):
        d = LeafNormalMixture(*parameters())
        wide = d.expand((5, L))
        assert_close(wide.mean, d.mean.expand(5, L, D))
        assert_close(wide.variance, d.variance.expand(5, L, D))

    def test_variance_far_from_zero_keeps_its_digits(self):
        loc, scale, log_weight = parameters()
        far, near = LeafNormalMixture(loc + 1e6, scale, log_weight), LeafNormalMixture(loc, scale, log_weight)
        assert_close(far.variance, near.variance, rtol=1e-8, atol=1e-8)


class TestExpand:
    def test_records_the_shape_and_shares_parameters(self):
        given = parameters(batch=(1, L))
        d = LeafNormalMixture(*given)
        e = d.expand((5, 3, L))
        assert e.batch_shape == (5, 3, L) and d.batch_shape == (1, L) and e.loc is d.loc
        stock = reference(*given)
        for shape in ((D,), (L, D), (3, L, D), (5, 1, L, D), (5, 3, L, D), (7, 5, 3, L, D)):
            z = torch.randn(shape)
            assert e.log_prob(z).shape == torch.broadcast_shapes(shape[:-1], (5, 3, L))
            assert_close(e.log_prob(z), stock.expand((5, 3, L)).log_prob(z))
        assert e.expand((4, 5, 3, L)).batch_shape == (4, 5, 3, L)

    @pytest.mark.parametrize("batch", [(1,), (1, L), (3, 1)])
    def test_over_dimensions_of_size_one_gives_independent_draws(self, batch):
        given = parameters(batch=batch)
        e = LeafNormalMixture(*given).expand((400, 3, L))
        z = e.sample()
        assert z.shape == (400, 3, L, D)
        assert len(z.reshape(-1, D).unique(dim=0)) == 400 * 3 * L
        assert_close(e.log_prob(z), reference(*given).log_prob(z))
        error = (e.variance / 400).sqrt()
        assert ((z - e.mean).mean(0).abs() < 4.5 * error.mean(0)).all()

    def test_plates_see_one_event_per_leaf(self):
        given = parameters()
        d = LeafNormalMixture(*given)
        with pyro.poutine.trace() as tracer, pyro.plate("data", 5, dim=-2), pyro.plate("leaf", L, dim=-1):
            z = pyro.sample("z", d)
        tracer.trace.compute_log_prob()
        assert z.shape == (5, L, D)
        assert_close(tracer.trace.nodes["z"]["log_prob"], reference(*given).log_prob(z))


class TestGraph:
    """What is kept of the components must not outlive a graph, nor hide one."""

    def learnable(self):
        return [p.requires_grad_() for p in parameters()]

    def test_a_gradient_after_a_look_without_one(self):
        given = self.learnable()
        d = LeafNormalMixture(*given)
        z = torch.randn(5, L, D)
        with torch.no_grad():
            expected = d.log_prob(z)
            assert not d.component_posterior(z).requires_grad
        value = d.log_prob(z)
        assert torch.equal(value, expected)
        grads = torch.autograd.grad(value.sum(), given)
        fresh = torch.autograd.grad(LeafNormalMixture(*given).log_prob(z).sum(), given)
        assert_close(grads, fresh, rtol=0, atol=0)
        assert all(grad.abs().sum() > 0 for grad in grads)

    def test_a_gradient_after_a_look_in_inference_mode(self):
        loc, scale, log_weight = parameters()
        d = LeafNormalMixture(loc, scale, log_weight)
        z = torch.randn(5, L, D, requires_grad=True)
        with torch.inference_mode():
            d.log_prob(z)
        expected = torch.autograd.grad(reference(loc, scale, log_weight).log_prob(z).sum(), z)
        assert_close(torch.autograd.grad(d.log_prob(z).sum(), z), expected)

    def test_backward_twice(self):
        given = self.learnable()
        d = LeafNormalMixture(*given)
        for expand in (d, d.expand((5, L)), d):
            expand.log_prob(torch.randn(5, L, D)).sum().backward()
        assert all(p.grad.abs().sum() > 0 for p in given)

    def test_only_one_parameter_is_learned(self):
        for place in range(3):
            given = list(parameters())
            given[place].requires_grad_()
            d = LeafNormalMixture(*given)
            with torch.no_grad():
                d.log_prob(torch.zeros(L, D))
            (grad,) = torch.autograd.grad(d.log_prob(torch.zeros(L, D)).sum(), given[place])
            assert grad.abs().sum() > 0

    def test_detach_cuts_the_parameters_only(self):
        given = self.learnable()
        d = LeafNormalMixture(*given)
        z = torch.randn(5, L, D, requires_grad=True)
        expected = d.log_prob(z)
        cut = d.detach()
        assert_close(cut.log_prob(z), expected, rtol=0, atol=0)
        (grad,) = torch.autograd.grad(cut.log_prob(z).sum(), z)
        assert_close(grad, torch.autograd.grad(expected.sum(), z)[0])
        for parameter in given:
            with pytest.raises(RuntimeError, match="not have been used"):
                torch.autograd.grad(cut.log_prob(z).sum(), parameter)
        assert d.log_prob(z).requires_grad and d.loc.requires_grad and not cut.log_weight.requires_grad
        assert LeafNormalMixture(*parameters(weights=False)).detach().log_weight is None

    def test_matrices_are_kept_for_copies_of_a_larger_batch_without_gradient(self, monkeypatch):
        made = []
        original = LeafNormalMixture._flat
        monkeypatch.setattr(LeafNormalMixture, "_flat", lambda self, batch: made.append(batch) or original(self, batch))
        d = LeafNormalMixture(*self.learnable())
        with torch.no_grad():
            for num in (1, 5, 7):
                d.expand((num, L)).log_prob(torch.randn(num, L, D))
        assert made == [(L,)]

    def test_a_copy_is_a_copy(self):
        loc, scale, log_weight = parameters()
        d = LeafNormalMixture(loc, scale, log_weight)
        z = torch.randn(5, L, D)
        expected = d.log_prob(z)
        assert torch.equal(copy.deepcopy(d).log_prob(z), expected)


@pytest.mark.parametrize(
    ("error", "message", "act"),
    [
        (
            ValueError,
            r"^scale of .* the shape of loc, \(4, 2, 3\), but its",
            lambda m, s, w: LeafNormalMixture(m, s[:1]),
        ),
        (ValueError, r"^log_weight of .* the shape \(4, 2\), but its", lambda m, s, w: LeafNormalMixture(m, s, w[:2])),
        (ValueError, r"^log_weight of .* the shape \(4, 2\)", lambda m, s, w: LeafNormalMixture(m, s, w.unsqueeze(-1))),
        (ValueError, r"^loc of .* at least 2 dimension\(s\), but", lambda m, s, w: LeafNormalMixture(m[0, 0], s[0, 0])),
        (TypeError, "^loc of LeafNormalMixture must be a float", lambda m, s, w: LeafNormalMixture(m.long(), s)),
        (TypeError, "^scale of LeafNormalMixture must be a float", lambda m, s, w: LeafNormalMixture(m, 1.0)),
        (ValueError, "scale", lambda m, s, w: LeafNormalMixture(m, -s)),
        (ValueError, "loc", lambda m, s, w: LeafNormalMixture(m * torch.nan, s)),
        (ValueError, "support", lambda *given: LeafNormalMixture(*given).log_prob(torch.full((L, D), torch.nan))),
        (ValueError, "event", lambda *given: LeafNormalMixture(*given).log_prob(torch.zeros(L, 1))),
        (ValueError, "event", lambda *given: LeafNormalMixture(*given).log_prob(torch.zeros(L, D + 1))),
        (ValueError, "batch_shape", lambda *given: LeafNormalMixture(*given).expand((3,))),
        (ValueError, "batch_shape", lambda *given: LeafNormalMixture(*given).expand((L, 3))),
        (ValueError, "batch_shape", lambda *given: LeafNormalMixture(*given).expand(())),
    ],
)
def test_refusals(error, message, act):
    with pytest.raises(error, match=message):
        act(*parameters())

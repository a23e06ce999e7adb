# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Mixtures of diagonal normals: the matrix form is the density, and copies share nothing wrong."""

from __future__ import annotations

import copy
import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import Normal
from torch.testing import assert_close

from pyro_spvae.distributions import LeafNormalMixture
from tests.distributions.leaf_cases import SIZE, LeafDistributionTests

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
    normals = dist.Normal(loc.movedim(0, -2), scale.movedim(0, -2)).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(logits=log_weight.movedim(0, -1)), normals)


class TestLeafNormalMixture(LeafDistributionTests):
    has_entropy = False
    """What is asked of every leaf distribution, but independence of the values of an event."""

    def parameters(self, *batch):
        self.batch = batch
        return dict(zip(("loc", "scale"), parameters(batch=batch, size=SIZE, weights=False), strict=False))

    def log_weight(self, parameters):
        return None

    def build(self, parameters, mask=None):
        return LeafNormalMixture(**parameters, log_weight=self.log_weight(parameters))

    def stock(self, parameters):
        return reference(**parameters, log_weight=self.log_weight(parameters))

    def values(self, *shape):
        return torch.randn(shape)

    test_no_value_is_more_probable_than_the_mode = test_pixels_are_independent = None


class TestOfGivenWeights(TestLeafNormalMixture):
    def log_weight(self, parameters):
        dtype = torch.promote_types(getattr(parameters["loc"], "dtype", torch.float32), torch.float32)
        weight = (torch.arange(K) + 1.0).log_softmax(0).to(dtype)
        return weight.reshape(K, *[1] * len(self.batch)).expand(K, *self.batch)


class TestDensity:
    @pytest.mark.parametrize("batch", [(), (L,), (3, L), (3, 1, L)])
    def test_equals_torchs_mixture_with_gradients(self, batch):
        given = [p.requires_grad_() for p in parameters(batch=batch)]
        d = LeafNormalMixture(*given)
        assert d.batch_shape == batch and d.event_shape == (D,) and d.num_components == K
        z = torch.randn(5, *batch, D, requires_grad=True)
        ours, theirs = d.log_prob(z), reference(*given).log_prob(z)
        assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        upstream = torch.randn_like(ours)
        ours, theirs = (torch.autograd.grad((value * upstream).sum(), [z, *given]) for value in (ours, theirs))
        # torch normalises the weights it is given, so that its gradient is that of their softmax
        ours = (*ours[:-1], ours[-1] - given[2].exp() * ours[-1].sum(0))
        assert_close(ours, theirs, rtol=1e-9, atol=1e-9)

    def test_second_derivatives(self):
        given = [p.requires_grad_() for p in parameters(2, (), 2)]
        z = torch.randn(2, 2, requires_grad=True)
        assert torch.autograd.gradgradcheck(lambda z, *p: LeafNormalMixture(*p).log_prob(z), (z, *given))

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


def test_variance_far_from_zero_keeps_its_digits():
    loc, scale, log_weight = parameters()
    far, near = LeafNormalMixture(loc + 1e6, scale, log_weight), LeafNormalMixture(loc, scale, log_weight)
    assert_close(far.variance, near.variance, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("batch", [(1,), (1, L), (3, 1)])
def test_expanding_dimensions_of_size_one_gives_independent_draws(batch):
    given = parameters(batch=batch)
    e = LeafNormalMixture(*given).expand((400, 3, L))
    z = e.sample()
    assert len(z.reshape(-1, D).unique(dim=0)) == 400 * 3 * L
    assert_close(e.log_prob(z), reference(*given).log_prob(z))
    error = (e.variance / 400).sqrt()
    assert ((z - e.mean).mean(0).abs() < 4.5 * error.mean(0)).all()


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

    def test_detach_cuts_the_weights_too(self):
        z = torch.randn(5, L, D)
        assert not LeafNormalMixture(*parameters()[:2], self.learnable()[2]).detach().log_prob(z).requires_grad
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


REFUSED = [
    (r"^scale of .* the shape of loc, \(4, 2, 3\), but its", lambda m, s, w: LeafNormalMixture(m, s[:1])),
    (r"^log_weight of .* the shape \(4, 2\), but its", lambda m, s, w: LeafNormalMixture(m, s, w[:2])),
    (r"^log_weight of .* the shape \(4, 2\)", lambda m, s, w: LeafNormalMixture(m, s, w.unsqueeze(-1))),
    (r"^loc of .* at least 2 dimension\(s\), but", lambda m, s, w: LeafNormalMixture(m[0, 0], s[0, 0])),
    ("scale", lambda m, s, w: LeafNormalMixture(m, -s)),
    ("batch_shape", lambda *given: LeafNormalMixture(*given).expand(())),
]


@pytest.mark.parametrize(("message", "act"), REFUSED)
def test_shapes_and_signs_that_are_refused(message, act):
    with pytest.raises(ValueError, match=message):
        act(*parameters())

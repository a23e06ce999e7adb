# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Gaussian mixtures given data: density, moments, and gradients of draws against quadrature."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from pyro_spvae.distributions import LeafGaussianMixture
from pyro_spvae.distributions.gaussian_mixture import _implicit


def parameters(*batch, components=3, size=2):
    torch.manual_seed(0)
    loc = torch.randn(*batch, components, size).requires_grad_()
    raw = (0.3 * torch.randn(*batch, components, size)).requires_grad_()
    logits = torch.randn(*batch, components).requires_grad_()
    return loc, raw, logits


def law(loc, raw, logits):
    return LeafGaussianMixture(loc, raw.exp(), logits.log_softmax(-1), validate_args=True)


@pytest.mark.parametrize("batch", [(), (4,), (5, 2)])
def test_density_and_moments_are_torchs(batch):
    loc, raw, logits = parameters(*batch)
    p = law(loc, raw, logits)
    twin = MixtureSameFamily(Categorical(logits=logits), Independent(Normal(loc, raw.exp()), 1))
    z = p.sample((6,))
    assert z.shape == (6, *batch, 2) and p.batch_shape == torch.Size(batch) and p.event_shape == (2,)
    torch.testing.assert_close(p.log_prob(z), twin.log_prob(z))
    torch.testing.assert_close((p.mean, p.variance), (twin.mean, twin.variance))
    joint = logits.log_softmax(-1) + Independent(Normal(loc, raw.exp()), 1).log_prob(z.unsqueeze(-2))
    torch.testing.assert_close(p.log_responsibilities(z), joint - p.log_prob(z).unsqueeze(-1))


def test_draws_have_the_moments_and_shares_of_components():
    loc, raw, logits = parameters()
    p = law(loc, raw, logits)
    z = p.rsample((100_000,)).detach()
    torch.testing.assert_close(z.mean(0), p.mean.detach(), rtol=0, atol=0.02)
    torch.testing.assert_close(z.var(0), p.variance.detach(), rtol=0.02, atol=0.02)
    torch.testing.assert_close(p.log_responsibilities(z).exp().mean(0), logits.softmax(-1).detach(), rtol=0, atol=0.01)


def test_gradients_of_draws_are_those_of_expectations():
    """Of a function that both dimensions matter to, in means, deviations and weights; by a fine grid."""
    own = parameters()

    def function(z):
        return (z.sin() * z[..., :1].cos()).sum(-1) + z.prod(-1)

    torch.manual_seed(1)
    found = torch.autograd.grad(function(law(*own).rsample((300_000,))).mean(), own)
    line = torch.linspace(-9, 9, 901)
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1)
    mean = (law(*own).log_prob(grid).exp() * function(grid)).sum() * float(line[1] - line[0]) ** 2
    for gradient, exact in zip(found, torch.autograd.grad(mean, own), strict=True):
        torch.testing.assert_close(gradient, exact, rtol=0.02, atol=0.012)


@pytest.mark.parametrize("size", [1, 25])
def test_one_component_is_a_normal(size):
    """Then draws are mean plus deviation times noise, so that gradients are 1 and the noise, exactly."""
    loc, raw = torch.randn(7, 1, size).requires_grad_(), (0.2 * torch.randn(7, 1, size)).requires_grad_()
    p = LeafGaussianMixture(loc, raw.exp(), torch.zeros(7, 1))
    z = p.rsample()
    torch.testing.assert_close(p.log_prob(z), Normal(loc, raw.exp()).log_prob(z.unsqueeze(-2)).sum((-1, -2)))
    weights = torch.randn(7, size)
    of_loc, of_raw = torch.autograd.grad((weights * z).sum(), [loc, raw])
    torch.testing.assert_close(of_loc.squeeze(1), weights)
    torch.testing.assert_close(of_raw.squeeze(1), weights * (z - loc.squeeze(1)).detach())


def test_equal_components_and_far_ones_have_finite_gradients_in_single_precision():
    for spread in (0.0, 30.0):
        loc = (spread * torch.randn(50, 4, 25)).float().requires_grad_()
        logits = torch.randn(50, 4).float().requires_grad_()
        p = LeafGaussianMixture(loc, torch.full_like(loc, 0.5), logits.log_softmax(-1))
        z = p.rsample((3,))
        grads = torch.autograd.grad(z.square().sum() + p.log_prob(z).sum(), [loc, logits])
        assert all(bool(grad.isfinite().all()) for grad in grads)


def test_expands_and_detaches():
    p = law(*parameters(5, 2))
    wide = p.expand((3, 5, 2))
    assert wide.rsample().shape == (3, 5, 2, 2) and wide.loc is p.loc
    assert not wide.detach().rsample().requires_grad and wide.rsample().requires_grad
    with pytest.raises(ValueError, match=r"^loc, scale and log_weight have the shapes \[3, 2\], \[3, 2\] and \[2\]"):
        LeafGaussianMixture(torch.zeros(3, 2), torch.ones(3, 2), torch.zeros(2))


SHAPES = [((), ()), ((5, 2), ()), ((5, 2), (3,))]


@pytest.mark.parametrize(("batch", "draws"), SHAPES)
def test_a_draw_has_the_density_of_its_value(batch, draws):
    """What it keeps changes neither the density nor its derivatives in the value and all parameters."""
    own = parameters(*batch)
    p = law(*own)
    z = p.rsample(draws)
    assert p._draw.of(z) is not None
    copy = z.detach().requires_grad_()
    twin = MixtureSameFamily(Categorical(logits=own[2]), Independent(Normal(own[0], own[1].exp()), 1)).log_prob(copy)
    weight = torch.randn_like(twin)
    found = torch.autograd.grad((weight * p.log_prob(z)).sum(), [z, *own], retain_graph=True)
    (by_copy,) = torch.autograd.grad((weight * twin).sum(), copy, retain_graph=True)
    torch.testing.assert_close(p.log_prob(z), twin)
    torch.testing.assert_close(found[0], by_copy)
    partial = torch.autograd.grad((weight * p.log_prob(copy)).sum(), own, retain_graph=True)
    torch.testing.assert_close(partial, torch.autograd.grad((weight * twin).sum(), own))
    through = torch.autograd.grad((by_copy * z).sum(), own)  # the rest of what a draw's density depends on
    torch.testing.assert_close(found[1:], tuple(a + b for a, b in zip(partial, through, strict=True)))


@pytest.mark.parametrize(("batch", "draws"), SHAPES)
def test_gradients_of_draws_are_those_of_the_linear_system(batch, draws):
    """Written by hand they equal those of the same in operations that autograd follows."""
    own = parameters(*batch, components=4, size=6)
    p = law(*own)
    z = p.rsample(draws)
    twin = _implicit(z.detach(), p.loc, p.scale, p.log_weight)
    torch.testing.assert_close(twin, z)
    weight = torch.randn_like(z)
    found, expected = (torch.autograd.grad((weight * value).sum(), own, retain_graph=True) for value in (z, twin))
    torch.testing.assert_close(found, expected)


def test_distribution_functions_of_a_draw_do_not_move():
    """Whatever its parameters do, its conditional distribution functions, here made of torch's, stay what they are."""
    loc, raw, logits = parameters(size=3)
    p = law(loc, raw, logits)
    z = p.rsample()
    normal = Normal(loc, raw.exp())
    before = normal.log_prob(z).cumsum(-1) - normal.log_prob(z)
    weight = (logits.unsqueeze(-1) + before).softmax(0)
    for function in (weight * normal.cdf(z)).sum(0):
        for gradient in torch.autograd.grad(function, [loc, raw, logits], retain_graph=True):
            torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


def test_copies_of_a_drawn_distribution():
    """An expanded one keeps the draw; of a detached one the density has the gradient in the value alone."""
    own = parameters(5, 2)
    p = law(*own)
    z = p.rsample()
    torch.testing.assert_close(p.expand((3, 5, 2)).log_prob(z), p.log_prob(z.clone()).expand(3, 5, 2))
    copy = z.detach().requires_grad_()
    (expected,) = torch.autograd.grad(p.log_prob(copy).sum(), copy)
    found = torch.autograd.grad(p.detach().log_prob(z).sum(), [z, *own], retain_graph=True)
    torch.testing.assert_close(found[0], expected)
    through = torch.autograd.grad((expected * z).sum(), own)
    torch.testing.assert_close(found[1:], through)
    p.rsample()
    torch.testing.assert_close(p.log_prob(z), law(*own).log_prob(copy))  # of an earlier draw


def test_second_derivatives_are_right_or_refused():
    own = [value.detach().requires_grad_() for value in parameters(2)]
    z = torch.randn(2, 2).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda z, *p: law(*p).log_prob(z), (z, *own))
    (grad,) = torch.autograd.grad(law(*own).rsample().square().sum(), own[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_a_value_too_far_for_a_density_has_finite_gradients():
    own = [value.float().detach().requires_grad_() for value in parameters()]
    z = torch.full((2,), 1e25, dtype=torch.float32, requires_grad=True)
    log_prob = LeafGaussianMixture(own[0], own[1].exp(), own[2].log_softmax(-1)).log_prob(z)
    assert float(log_prob.detach()) == -torch.inf
    assert all(bool(grad.isfinite().all()) for grad in torch.autograd.grad(log_prob, [z, *own]))


def test_variance_far_from_zero():
    """In single precision: squares of means do not cancel."""
    law = LeafGaussianMixture(
        torch.full((3, 2), 1000.0, dtype=torch.float32),
        torch.full((3, 2), 0.01, dtype=torch.float32),
        torch.full((3,), 1 / 3, dtype=torch.float32).log(),
    )
    torch.testing.assert_close(law.variance, torch.full((2,), 1e-4, dtype=torch.float32), rtol=1e-4, atol=0)


def test_larger_batches_are_those_that_it_grows_to():
    mixture = law(*parameters(4, 2))
    assert mixture.expand((7, 4, 2)).log_prob(torch.zeros(mixture.event_shape)).shape == (7, 4, 2)
    with pytest.raises(ValueError, match=r"^batch_shape \(1,\) was given to expand a LeafGaussianMixture of batch"):
        mixture.expand((1,))

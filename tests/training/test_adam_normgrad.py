# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Optimisers of gradients divided by their norms, against the same by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pyro_spvae import poon_domingos
from pyro_spvae.circuits import whole
from pyro_spvae.guides import LeafGuide, MixedGuide, NormalGuide
from pyro_spvae.infer import CircuitELBO
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import VAE, FactorizedLeaf, MixedLeaf
from pyro_spvae.part import Part
from pyro_spvae.training.adam_normgrad import adam_normgrad, leaf_axes, normalise_gradients
from tests.helpers import small_spvae
from tests.nn.cases import NETWORKS, bound, call, inputs, redrawn

SHAPES = ((3, 4, 5), (3, 1, 5), (3,), (2, 6))  # the first three of three leaves
LR = 0.05
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


class Stacked(Part):
    """Parameters of which some have a leaf axis."""

    def build(self, leaves):
        self.parts = nn.ParameterList(torch.randn(shape) for shape in SHAPES)


def by_hand(parameters, gradients, axes=None):
    """Adam's recursion, tensor by tensor, as the VampPrior paper's code has it."""
    first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    values = [p.detach().clone() for p in parameters]
    for step, gradient in enumerate(gradients, start=1):
        for place, g in enumerate(gradient):
            axis = None if axes is None else axes[place]
            parts = [g] if axis is None else g.unbind(axis)
            parts = [part / (part.square().sum().sqrt() + 1e-7) for part in parts]
            g = parts[0] if axis is None else torch.stack(parts, axis)
            first[place] = 0.9 * first[place] + 0.1 * g
            second[place] = 0.999 * second[place] + 0.001 * g * g
            mean, square = first[place] / (1 - 0.9**step), second[place] / (1 - 0.999**step)
            values[place] = values[place] - LR * mean / (square.sqrt() + 1e-8)
    return values


def random_gradients(parameters, steps=6):
    return [[torch.randn_like(p) for p in parameters] for _ in range(steps)]


def run(optimiser, parameters, gradients):
    for gradient in gradients:
        for parameter, g in zip(parameters, gradient, strict=True):
            parameter.grad = None if g is None else g.clone()
        optimiser.step()


def values(module):
    return [parameter.detach().clone() for parameter in module.parameters()]


@pytest.fixture
def module():
    """No part, so that each parameter has one norm."""
    return nn.ParameterList(torch.randn(shape) for shape in SHAPES)


@pytest.mark.parametrize("options", [{}, {"fused": False, "foreach": True}, {"fused": False, "foreach": False}])
def test_is_adam_on_normalised_tensors(module, options):
    gradients = random_gradients(module)
    expected = by_hand(list(module)[1:], [g[1:] for g in gradients])
    unseen = module[0].detach().clone()
    run(adam_normgrad(module, LR, **options), module, [[None, *g[1:]] for g in gradients])
    assert_close(values(module), [unseen, *expected], **CLOSE)


def test_leaves_have_norms_of_their_own():
    module = Stacked().bind(leaves=3)
    gradients = random_gradients(module.parts)
    for gradient in gradients:
        for g in gradient[:3]:
            g[0] *= 1e-3  # which one norm for all would keep small
    expected, other = by_hand(module.parts, gradients, [0, 0, 0, None]), by_hand(module.parts, gradients)
    run(adam_normgrad(module, LR), module.parts, gradients)
    assert_close(values(module), expected, **CLOSE)
    assert all((value - wrong).abs().max() > 1e-3 for value, wrong in zip(expected[:3], other, strict=False))


@pytest.mark.parametrize("name", NETWORKS)
def test_each_head_and_gate_of_each_leaf_has_a_norm_of_its_own(name):
    """However much more one output matters than the other."""
    network = redrawn(bound(name))
    for scale, output in zip((1.0, 1e4), call(network, *inputs(name, 5)), strict=True):
        (scale * output.square().sum()).backward(retain_graph=True)
    before = [parameter.grad.clone() for parameter in network.parameters()]
    adam_normgrad(network, LR).step()
    for parameter, gradient in zip(network.parameters(), before, strict=True):
        for of_leaf, raw in zip(parameter.grad, gradient, strict=True):
            assert_close(of_leaf, raw / (raw.square().sum().sqrt() + 1e-7), **CLOSE)
            if float(raw.norm()) > 1e-2:  # what normalisation takes away again has a gradient of rounding errors alone
                assert float(of_leaf.norm()) == pytest.approx(1, abs=1e-4)


def test_a_gradient_of_zero_moves_nothing(module):
    before = values(module)
    run(adam_normgrad(module, LR), module, [[torch.zeros_like(p) for p in module]])
    assert all(torch.equal(*pair) for pair in zip(values(module), before, strict=True))


@pytest.mark.parametrize("by_name", [True, False])
def test_a_closure_is_called_before_gradients_are_normalised(module, by_name):
    def closure():
        module.zero_grad()
        loss = sum((3 * p).square().sum() for p in module)
        loss.backward()
        return loss

    expected = by_hand(module, [[18 * p.detach() for p in module]])
    optimiser = adam_normgrad(module, LR)
    loss = optimiser.step(closure=closure) if by_name else optimiser.step(closure)
    assert loss.requires_grad
    assert_close(values(module), expected, **CLOSE)


def test_any_optimiser_may_have_it_for_a_while(module):
    optimiser = torch.optim.SGD(module.parameters(), lr=LR)
    handle = normalise_gradients(optimiser, module)
    (gradients,) = random_gradients(module, steps=1)
    expected = [p.detach() - LR * g / (g.norm() + 1e-7) for p, g in zip(module, gradients, strict=True)]
    run(optimiser, module, [gradients])
    assert_close(values(module), expected, **CLOSE)
    handle.remove()
    run(optimiser, module, [gradients])
    assert_close(values(module), [p - LR * g for p, g in zip(expected, gradients, strict=True)], **CLOSE)


class TestLeafAxes:
    def named(self, module):
        axes = leaf_axes(module)
        return {name: axes.get(parameter) for name, parameter in module.named_parameters()}

    def test_parameters_of_leaves_are_stacked_and_those_of_the_circuit_are_not(self):
        for name, axis in self.named(small_spvae()).items():  # 8 leaves
            assert axis == (None if name.startswith("circuit") else 0), name

    def test_parts_of_mixed_leaves_have_numbers_of_their_own(self):
        leaf = MixedLeaf([VAE(Normal(), 2, (3,)), FactorizedLeaf(Normal())])
        spvae = small_spvae(leaf=leaf, guide=MixedGuide([NormalGuide((3,)), LeafGuide()]))
        assert {axis for name, axis in self.named(spvae).items() if not name.startswith("circuit")} == {0}

    def test_modules_may_say_where_leaves_are(self):
        class Own(Part):
            leaf_axis = 1

            def build(self, leaves):
                self.weight = nn.Parameter(torch.randn(leaves, leaves, 5))
                self.shared = nn.Parameter(torch.randn(7, 2))

        own = Own().bind(leaves=3)
        assert self.named(own) == {"weight": 1, "shared": None}
        gradients = random_gradients([own.weight, own.shared])
        expected = by_hand([own.weight, own.shared], gradients, [1, None])
        run(adam_normgrad(own, LR), [own.weight, own.shared], gradients)
        assert_close(values(own), expected, **CLOSE)

    @pytest.mark.parametrize(("regions", "units"), [(whole((2, 2)), 1), (poon_domingos((2, 2), delta=1), 2)])
    def test_a_model_is_trained_as_if_its_leaves_were_alone(self, regions, units):
        """Of one leaf, a plain VAE, it is the paper's code: what stacking says does not matter."""
        spvae = small_spvae(regions, units=units)
        loss = CircuitELBO(2)(spvae.model, spvae.guide)
        names, parameters = zip(*spvae.named_parameters(), strict=True)
        x = torch.randn(7, 1, 2, 2)
        gradients = [list(torch.autograd.grad(loss(x), parameters)) for _ in range(3)]
        axes = [None if units == 1 or name.startswith("circuit") else 0 for name in names]
        expected = by_hand(parameters, gradients, axes)
        run(adam_normgrad(spvae, LR), parameters, gradients)
        assert_close(values(spvae), expected, rtol=1e-10, atol=1e-12)

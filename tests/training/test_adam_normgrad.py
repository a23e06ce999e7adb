# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Adam on gradients divided by their norms, against the same by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pyro_spvae import poon_domingos
from pyro_spvae.circuits import whole
from pyro_spvae.guides import MixedGuide, NoLatents, NormalGuide
from pyro_spvae.infer import CircuitELBO
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import VAE, FactorizedLeaf, MixedLeaf
from pyro_spvae.nn import MLP, Conv, Part
from pyro_spvae.training.adam_normgrad import AdamNormGrad, norm_groups
from tests.helpers import small_spvae

SHAPES = ((3, 4, 5), (3, 1, 5), (3,), (2, 6))  # the first three of three leaves
LR = 0.05


def by_hand(parameters, gradients, axis=None, blocks=None):
    """Adam's recursion, tensor by tensor, as the VampPrior paper's code has it."""
    first = [torch.zeros_like(p) for p in parameters]
    second = [torch.zeros_like(p) for p in parameters]
    values = [p.detach().clone() for p in parameters]
    for step, gradient in enumerate(gradients, start=1):
        for place, g in enumerate(gradient):
            if g is None:
                continue
            parts = [g] if axis is None else list(g.unbind(axis))
            if blocks is not None and blocks[place] is not None:
                along, sizes = blocks[place]
                parts = [piece for part in parts for piece in part.split(sizes, along - (axis is not None))]
                normed = [piece / (piece.square().sum().sqrt() + 1e-7) for piece in parts]
                count = len(sizes)
                normed = [
                    torch.cat(normed[i : i + count], along - (axis is not None)) for i in range(0, len(parts), count)
                ]
            else:
                normed = [piece / (piece.square().sum().sqrt() + 1e-7) for piece in parts]
            g = normed[0] if axis is None else torch.stack(normed, axis)
            first[place] = 0.9 * first[place] + 0.1 * g
            second[place] = 0.999 * second[place] + 0.001 * g * g
            mean, square = first[place] / (1 - 0.9**step), second[place] / (1 - 0.999**step)
            values[place] = values[place] - LR * mean / (square.sqrt() + 1e-8)
    return values


def random_gradients(parameters, steps=6, scale=1.0):
    return [[scale * torch.randn_like(p) for p in parameters] for _ in range(steps)]


def run(optimiser, parameters, gradients):
    for gradient in gradients:
        for parameter, g in zip(parameters, gradient, strict=True):
            parameter.grad = None if g is None else g.clone()
        optimiser.step()


@pytest.fixture
def parameters():
    return [nn.Parameter(torch.randn(shape)) for shape in SHAPES]


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"foreach": True}, {"foreach": False}])
def test_is_adam_on_normalised_tensors(parameters, options):
    gradients = random_gradients(parameters)
    gradients[2][1] = None  # a parameter that a step does not see
    expected = by_hand(parameters[:1] + parameters[2:], [[g[0], *g[2:]] for g in gradients])
    run(AdamNormGrad(parameters, lr=LR, **options), parameters, gradients)
    assert_close([parameters[0], *parameters[2:]], [nn.Parameter(value) for value in expected], rtol=1e-12, atol=1e-12)


def test_leaves_have_norms_of_their_own(parameters):
    stacked = parameters[:3]
    gradients = random_gradients(stacked)
    for gradient in gradients:
        for g in gradient:
            g[0] *= 1e-3  # which one norm for all would keep small
    expected = by_hand(stacked, gradients, axis=0)
    other = by_hand(stacked, gradients)
    run(AdamNormGrad([{"params": stacked, "leaf_axis": 0}], lr=LR), stacked, gradients)
    for parameter, value, wrong in zip(stacked, expected, other, strict=True):
        assert_close(parameter.detach(), value, rtol=1e-12, atol=1e-12)
        assert (value - wrong).abs().max() > 1e-3


def test_a_stack_of_leaves_is_each_leaf_alone(parameters):
    stacked = parameters[0]
    alone = [nn.Parameter(leaf.detach().clone()) for leaf in stacked]
    gradients = random_gradients([stacked])
    run(AdamNormGrad([{"params": [stacked], "leaf_axis": 0}], lr=LR), [stacked], gradients)
    run(AdamNormGrad(alone, lr=LR), alone, [list(g[0]) for g in gradients])
    assert_close(stacked.detach(), torch.stack([leaf.detach() for leaf in alone]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("axis", [None, 0])
def test_blocks_have_norms_of_their_own(parameters, axis):
    chosen, blocks = [parameters[0], parameters[1]], [(2, (2, 3)), None]
    gradients = random_gradients(chosen)
    expected = by_hand(chosen, gradients, axis, blocks)
    run(AdamNormGrad([{"params": chosen, "leaf_axis": axis, "blocks": blocks}], lr=LR), chosen, gradients)
    assert_close([p.detach() for p in chosen], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("blocks", [[(2, (2, 2)), None], [None], [(1, (5,)), None]])
def test_blocks_that_do_not_fit_are_refused(parameters, blocks):
    with pytest.raises(ValueError, match="^blocks is .*; for each of them None, or an axis and sizes"):
        AdamNormGrad([{"params": parameters[:2], "blocks": blocks}])


def test_steps_do_not_depend_on_the_scale_of_the_loss(parameters):
    others = [nn.Parameter(p.detach().clone()) for p in parameters]
    gradients = random_gradients(parameters)
    run(AdamNormGrad(parameters, lr=LR), parameters, gradients)
    run(AdamNormGrad(others, lr=LR), others, [[1e5 * g for g in gradient] for gradient in gradients])
    assert_close(parameters, others, rtol=1e-5, atol=1e-5)  # 1e-7 is not scaled


def test_a_gradient_of_zero_moves_nothing(parameters):
    before = [p.detach().clone() for p in parameters]
    run(AdamNormGrad(parameters, lr=LR), parameters, [[torch.zeros_like(p) for p in parameters]])
    assert_close([p.detach() for p in parameters], before, rtol=0, atol=0)


def test_a_closure_is_called_before_gradients_are_normalised(parameters):
    def closure():
        for p in parameters:
            p.grad = None
        loss = sum((3 * p).square().sum() for p in parameters)
        loss.backward()
        return loss

    gradients = [[18 * p.detach() for p in parameters]]
    expected = by_hand(parameters, gradients)
    loss = AdamNormGrad(parameters, lr=LR).step(closure)
    assert loss.requires_grad
    assert_close([p.detach() for p in parameters], expected, rtol=1e-12, atol=1e-12)


def test_goes_on_from_its_state_bit_for_bit(parameters):
    gradients = random_gradients(parameters, steps=8)

    def optimiser(chosen):
        groups = [
            {"params": chosen[:2], "leaf_axis": 0, "blocks": [(2, (2, 3)), None]},
            {"params": chosen[2:], "leaf_axis": None},
        ]
        return AdamNormGrad(groups, lr=LR, fused=True)

    others = [nn.Parameter(p.detach().clone()) for p in parameters]
    run(optimiser(parameters), parameters, gradients)
    first = optimiser(others)
    run(first, others, gradients[:3])
    state = copy.deepcopy(first.state_dict())
    second = optimiser(others)
    second.load_state_dict(state)
    run(second, others, gradients[3:])
    for one, two in zip(parameters, others, strict=True):
        assert torch.equal(one, two)


class TestGroups:
    def groups_of(self, module):
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        return {
            names[id(parameter)]: (group["leaf_axis"], blocks)
            for group in norm_groups(module)
            for parameter, blocks in zip(group["params"], group["blocks"], strict=True)
        }

    def test_parameters_of_leaves_are_stacked_and_those_of_the_circuit_are_not(self):
        spvae = small_spvae()  # 8 leaves
        found = self.groups_of(spvae)
        assert found.keys() == {name for name, _ in spvae.named_parameters()}
        for name, (axis, _) in found.items():
            assert axis == (None if name.startswith("circuit") else 0), name

    def test_parts_of_mixed_leaves_have_numbers_of_their_own(self):
        leaf = MixedLeaf([VAE(Normal(), 2, (3,)), FactorizedLeaf(Normal())])
        spvae = small_spvae(leaf=leaf, guide=MixedGuide([NormalGuide((3,)), NoLatents()]))
        found = {axis for name, (axis, _) in self.groups_of(spvae).items() if not name.startswith("circuit")}
        assert found == {0}

    def test_modules_may_say_where_leaves_and_blocks_are(self):
        class Own(Part, nn.Module):
            leaf_axis = 1

            def build(self, leaves):
                self.weight = nn.Parameter(torch.randn(leaves, leaves, 5))
                self.shared = nn.Parameter(torch.randn(7, 2))

            def tensor_blocks(self):
                return {"weight": (2, (2, 3))}

        found = self.groups_of(Own().bind(leaves=3))
        assert found == {"weight": (1, (2, (2, 3))), "shared": (None, None)}

    def test_one_leaf_is_the_papers_code(self):
        """A plain VAE: what stacking says does not matter."""
        spvae = small_spvae(whole((2, 2)), units=1)
        x = torch.randn(7, 1, 2, 2)
        loss = CircuitELBO(2)(spvae.model, spvae.guide)
        parameters = list(spvae.parameters())
        gradients = [list(torch.autograd.grad(loss(x), parameters)) for _ in range(3)]
        expected = by_hand(parameters, gradients)
        run(AdamNormGrad(norm_groups(spvae), lr=LR, fused=True), parameters, gradients)
        assert_close([p.detach() for p in parameters], expected, rtol=1e-10, atol=1e-12)

    def test_leaves_of_a_model_are_trained_as_if_alone(self):
        spvae = small_spvae(poon_domingos((2, 2), delta=1))
        parameters = dict(spvae.named_parameters())
        chosen = [p for name, p in parameters.items() if not name.startswith("circuit")]
        gradients = random_gradients(chosen)
        expected = by_hand(chosen, gradients, axis=0)
        run(AdamNormGrad(norm_groups(spvae), lr=LR), chosen, gradients)
        assert_close([p.detach() for p in chosen], expected, rtol=1e-10, atol=1e-12)


def test_values_gates_and_heads_have_norms_of_their_own():
    network = MLP((3,), "gated", "shared").bind(leaves=2, inputs=4, outputs=(2, 1))
    optimiser = AdamNormGrad(norm_groups(network), lr=1e-3)
    for output in network(torch.randn(5, 2, 4)):
        output.square().sum().backward(retain_graph=True)
    optimiser.step()
    (stack,) = network.stacks
    for i, sizes in enumerate([(3, 3), (2, 1)]):
        for parameter in (stack.weights[i], stack.biases[i]):
            for leaf in range(2):
                for block in parameter.grad[leaf].split(sizes, -1):
                    assert abs(float(block.norm()) - 1) < 1e-4


def test_outputs_of_convolutions_have_norms_of_their_own():
    network = Conv((4, 3), stride=1, dense=5).bind(leaves=2, inputs=3, outputs=(4, 8), output_shape=(1, 2, 2))
    optimiser = AdamNormGrad(norm_groups(network), lr=1e-3)
    for scale, output in zip((1.0, 100.0), network(torch.randn(5, 2, 3)), strict=True):
        (scale * output.square().sum()).backward(retain_graph=True)
    optimiser.step()
    for name, axis in (("kernels", 1), ("biases", 0)):
        parameter = getattr(network.layers, name)[-1]
        for leaf in range(2):
            for block in parameter.grad[leaf].split((1, 2), axis):
                assert abs(float(block.norm()) - 1) < 1e-4

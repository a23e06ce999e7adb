# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Stacked networks equal one ordinary network per leaf."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pyro_spvae.nn import StackedMLP
from pyro_spvae.nn.mlp import ACTIVATIONS

LEAVES, INPUTS = 3, 4


def twin(stack, leaf, activation):
    """The network of one leaf, of torch's own layers with the same parameters."""
    layers = []
    for weight, bias in zip(stack.weights, stack.biases, strict=True):
        linear = nn.Linear(*weight.shape[1:])
        linear.weight = nn.Parameter(weight[leaf].T.detach().clone())
        linear.bias = nn.Parameter(bias[leaf, 0].detach().clone())
        layers += [linear, activation]
    return nn.Sequential(*layers[:-1])


class Activation(nn.Module):
    def __init__(self, name):
        super().__init__()
        self.function = getattr(F, name) if hasattr(F, name) else getattr(torch, name)

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize("hidden", [(), (5,), (5, 6)])
@pytest.mark.parametrize("networks", ["separate", "shared"])
@pytest.mark.parametrize("lead", [(), (7,), (2, 7)])
def test_equals_one_torch_network_per_leaf(hidden, networks, lead):
    mlp = StackedMLP(LEAVES, INPUTS, hidden, (2, 3), networks=networks, output_gain=1.0)
    with torch.no_grad():
        for parameter in mlp.parameters():
            parameter.normal_()  # biases too
    x = torch.randn(*lead, LEAVES, INPUTS, requires_grad=True)
    twins = [[twin(stack, leaf, Activation("softplus")) for leaf in range(LEAVES)] for stack in mlp.stacks]
    reference = x.detach().clone().requires_grad_()
    outputs = [torch.stack([nets[leaf](reference[..., leaf, :]) for leaf in range(LEAVES)], dim=-2) for nets in twins]
    expected = outputs if networks == "separate" else list(outputs[0].split([2, 3], -1))
    actual = mlp(x)
    assert [tuple(out.shape) for out in actual] == [(*lead, LEAVES, 2), (*lead, LEAVES, 3)]
    torch.testing.assert_close(list(actual), expected)

    weights = [torch.randn_like(out) for out in expected]
    sum((out * w).sum() for out, w in zip(actual, weights, strict=True)).backward()
    sum((out * w).sum() for out, w in zip(expected, weights, strict=True)).backward()
    torch.testing.assert_close(x.grad, reference.grad)
    for stack, nets in zip(mlp.stacks, twins, strict=True):
        for depth, (weight, bias) in enumerate(zip(stack.weights, stack.biases, strict=True)):
            linears = [nets[leaf][2 * depth] for leaf in range(LEAVES)]
            torch.testing.assert_close(weight.grad, torch.stack([linear.weight.grad.T for linear in linears]))
            torch.testing.assert_close(bias.grad.squeeze(1), torch.stack([linear.bias.grad for linear in linears]))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_torchs(name):
    mlp = StackedMLP(1, INPUTS, (5,), (2,), activation=name)
    x = torch.randn(6, 1, INPUTS)
    torch.testing.assert_close(mlp(x)[0].squeeze(1), twin(mlp.stacks[0], 0, Activation(name))(x.squeeze(1)))


def test_leaves_do_not_see_each_other():
    mlp = StackedMLP(LEAVES, INPUTS, (5,), (2,))
    x = torch.randn(6, LEAVES, INPUTS)
    changed = x.clone()
    changed[:, 1] += 1
    difference = (mlp(x)[0] != mlp(changed)[0]).all(-1).all(0)
    assert difference.tolist() == [False, True, False]


def test_separate_outputs_share_nothing_and_shared_ones_a_trunk():
    def size(networks):
        return sum(p.numel() for p in StackedMLP(LEAVES, 4, (5, 6), (2, 3), networks=networks).parameters())

    trunk = 4 * 5 + 5 + 5 * 6 + 6
    heads = 6 * (2 + 3) + 2 + 3
    assert size("separate") == LEAVES * (2 * trunk + heads)
    assert size("shared") == LEAVES * (trunk + heads)


def test_initial_parameters():
    inputs, hidden, gain = 50, 200, 0.1
    stack = StackedMLP(8, inputs, (hidden,), (100,), output_gain=gain).stacks[0]
    for weight, fan_in, factor in ((stack.weights[0], inputs, 1.0), (stack.weights[1], hidden, gain)):
        expected = factor * math.sqrt(2 / fan_in)
        assert weight.std().item() == pytest.approx(expected, rel=0.02)
        assert weight.abs().max() <= 2.01 * expected * math.sqrt(1.3)
    assert not any(bias.any() for bias in stack.biases)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_dims": (3, 0)}, r"hidden_dims is \(3, 0\); positive integers are needed"),
        ({"hidden_dims": (True,)}, r"hidden_dims is \(True,\); positive integers are needed"),
        ({"activation": "step"}, "activation is 'step'; known are softplus, relu, leaky_relu, elu, silu, tanh"),
        ({"networks": "one"}, "networks is 'one'; known are separate, shared"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        StackedMLP(**({"leaves": 1, "inputs": 2, "hidden_dims": (3,), "outputs": (1,)} | options))

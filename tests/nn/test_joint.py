# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Networks of several inputs equal their formula, leaf by leaf."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pyro_spvae.nn import MLP, Joint, Network
from tests.nn.cases import assert_same, by_hand, redrawn

LEAVES = 3


def bound(inputs=(4, 2), outputs=(2, 3), leaves=LEAVES, **options):
    return redrawn(Joint(**{"hidden_dims": (5, 6)} | options).bind(leaves=leaves, inputs=inputs, outputs=outputs))


@pytest.mark.parametrize("activation", ["softplus", "tanh", "gated"])
@pytest.mark.parametrize("hidden", [(5,), (5, 6), (5, 6, 4)])
@pytest.mark.parametrize("sizes", [(4,), (4, 2), (4, 2, 3)])
def test_equals_the_formula(activation, hidden, sizes):
    joint = bound(sizes, hidden_dims=hidden, activation=activation)
    inputs = [torch.randn(7, LEAVES, size, requires_grad=True) for size in sizes]
    firsts = [by_hand(branch.stack, x, activation)[0] for branch, x in zip(joint.branches, inputs, strict=True)]
    expected = by_hand(joint.trunk.stacks[0], torch.cat(firsts, -1), activation)
    assert_same(joint(*inputs), expected, [*inputs, *joint.parameters()])


@pytest.mark.parametrize("activation", ["softplus", "gated"])
def test_of_one_input_it_is_an_mlp(activation):
    joint = bound((4,), activation=activation)
    mlp = MLP((5, 6), activation, "shared").bind(leaves=LEAVES, inputs=4, outputs=(2, 3))
    assert sum(p.numel() for p in joint.parameters()) == sum(p.numel() for p in mlp.parameters())
    (stack,), (trunk,) = mlp.stacks, joint.trunk.stacks
    with torch.no_grad():
        for name in ("weights", "biases"):
            sources = [*getattr(joint.branches[0].stack, name), *getattr(trunk, name)]
            for target, source in zip(getattr(stack, name), sources, strict=True):
                target.copy_(source)
    x = torch.randn(2, 7, LEAVES, 4)
    torch.testing.assert_close(joint(x), mlp(x))
    plain = Joint((5, 6), activation).bind(leaves=LEAVES, inputs=4, outputs=(2, 3))  # a size in the place of a tuple
    plain.load_state_dict(joint.state_dict())
    torch.testing.assert_close(plain(x), mlp(x))


@pytest.mark.parametrize("sizes", [(4,), (4, 2), (4, 2, 3)])
def test_without_hidden_layers_it_is_a_sum_of_linear_maps(sizes):
    joint = bound(sizes, hidden_dims=())
    inputs = [torch.randn(7, LEAVES, size, requires_grad=True) for size in sizes]
    parts = [by_hand(branch.stacks[0], x) for branch, x in zip(joint.branches, inputs, strict=True)]
    assert_same(joint(*inputs), [sum(outputs) for outputs in zip(*parts, strict=True)], [*inputs, *joint.parameters()])


@pytest.mark.parametrize("init", ["truncated", "he", "glorot"])
def test_linear_maps_have_the_gain_of_outputs(init):
    joint = Joint((), init=init, output_gain=0.25).bind(leaves=8, inputs=(50, 40), outputs=(60,))
    for branch, before in zip(joint.branches, (50, 40), strict=True):
        (weight,) = branch.stacks[0].weights
        variance = 2 / (before + 60 if init == "glorot" else before)
        assert weight.std().item() == pytest.approx(0.25 * variance**0.5, rel=0.03)


@pytest.mark.parametrize("training", [True, False])
def test_every_hidden_layer_is_normalised(training):
    """By statistics of the rows that it sees: those of the first input alone for its own layer."""
    joint = bound(activation="tanh", normalise=True).train(training)
    norms = [*joint.branches[0].stack.norms, *joint.branches[1].stack.norms, *joint.trunk.stacks[0].norms]
    assert [tuple(norm.weight.shape) for norm in norms] == [(LEAVES, 5), (LEAVES, 5), (LEAVES, 6)]

    def layer(stack, norm, h):
        h = torch.einsum("...li,lio->...lo", h, stack.weights[0])
        mean, variance = norm.running_mean, norm.running_var
        if training:
            rows = tuple(range(h.dim() - 2))
            mean, variance = h.mean(rows), h.var(rows, correction=0)
        return ((h - mean) / (variance + 1e-5).sqrt() * norm.weight + norm.bias).tanh()

    x, z = torch.randn(7, LEAVES, 4), torch.randn(20, 7, LEAVES, 2)
    first, second = (layer(joint.branches[i].stack, norms[i], each) for i, each in enumerate((x, z)))
    trunk = joint.trunk.stacks[0]
    h = layer(trunk, norms[2], torch.cat([first.expand(20, -1, -1, -1), second], -1))
    expected = [
        torch.einsum("...li,lio->...lo", h, w) + b[:, 0] for w, b in zip(trunk.weights[1:], trunk.biases, strict=True)
    ]
    torch.testing.assert_close(list(joint(x, z)), expected)


@pytest.mark.parametrize("shapes", [((7,), (3, 7)), ((3, 7), (7,)), ((1, 7), (3, 1)), ((), (3, 7)), ((7,), (7,))])
def test_batch_dimensions_broadcast(shapes):
    joint = bound()
    x, z = (torch.randn(*shape, LEAVES, size, requires_grad=True) for shape, size in zip(shapes, (4, 2), strict=True))
    lead = torch.broadcast_shapes(*shapes)
    wide = [value.expand(*lead, *value.shape[-2:]) for value in (x, z)]
    assert_same(joint(x, z), joint(*wide), (x, z))


def test_what_is_known_of_the_first_input_is_computed_once_for_all_particles():
    """The first layer sees as many rows as its input has, not as many as there are particles."""
    joint = bound()
    rows = []
    joint.branches[0].register_forward_hook(lambda module, args, result: rows.append(result[0].shape))
    joint(torch.randn(7, LEAVES, 4), torch.randn(20, 7, LEAVES, 2))
    assert rows == [(7, LEAVES, 5)]


class Affine(Network):
    """A first layer of one's own, as wide as it is asked to be or as ``width`` says."""

    def __init__(self, width=None):
        super().__init__()
        self.width = width

    def build(self, leaves, inputs, outputs, input_shape=None):
        self.shape = input_shape
        self.weight = nn.Parameter(torch.randn(leaves, inputs, self.width or outputs[0]))

    def forward(self, x):
        return (torch.einsum("...li,lio->...lo", x, self.weight),)


@pytest.mark.parametrize(("own", "width"), [(None, 5), (7, 7)])
def test_first_layer_of_ones_own(own, width):
    first = Affine(own)
    joint = Joint((5, 6), first=first).bind(leaves=LEAVES, inputs=(4, 2), outputs=(3,), input_shape=(1, 2, 2))
    assert first.shape == (1, 2, 2) and first.sizes["outputs"] == (5,)
    assert joint.trunk.sizes["inputs"] == 2 * width and joint.branches[1].hidden == width
    x, z = torch.randn(6, LEAVES, 4), torch.randn(6, LEAVES, 2)
    assert torch.equal(joint.embed(x), first(x)[0])
    other = joint.branches[1](z)[0]
    torch.testing.assert_close(joint(x, z), joint.trunk(torch.cat([first(x)[0], other], -1)))
    assert joint.options()["first"] is first and joint.first is first
    once = [*first.parameters(), *joint.branches[1].parameters(), *joint.trunk.parameters()]
    assert {id(p) for p in joint.parameters()} == {id(p) for p in once} and len(list(joint.parameters())) == len(once)


@pytest.mark.parametrize("init", ["truncated", "he", "glorot"])
def test_gain_of_the_outputs_leaves_first_layers_alone(init):
    joint = Joint((200, 100), init=init, output_gain=0.25).bind(leaves=8, inputs=(50, 40), outputs=(60,))
    stacks = [joint.branches[0].stack, joint.branches[1].stack, joint.trunk.stacks[0]]
    weights = [weight for stack in stacks for weight in stack.weights]
    fans = [(50, 200, 1.0), (40, 200, 1.0), (400, 100, 1.0), (100, 60, 0.25)]
    for weight, (before, after, gain) in zip(weights, fans, strict=True):
        variance = 2 / (before + after if init == "glorot" else before)
        assert weight.shape[1:] == (before, after)
        assert weight.std().item() == pytest.approx(gain * variance**0.5, rel=0.03)

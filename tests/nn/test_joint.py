# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Networks of several inputs equal their formula, leaf by leaf."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pyro_spvae.nn import MLP, Conv, Joint, Network

LEAVES = 3
FUNCTIONS = {"softplus": F.softplus, "tanh": torch.tanh}


def bound(inputs=(4, 2), outputs=(2, 3), leaves=LEAVES, **options):
    joint = Joint(**{"hidden_dims": (5, 6)} | options).bind(leaves=leaves, inputs=inputs, outputs=outputs)
    with torch.no_grad():
        for parameter in joint.parameters():
            parameter.normal_()
    return joint


def layer(weight, bias, h, activation):
    h = h @ weight + bias.squeeze(0)
    if activation == "gated":
        values, gates = h.chunk(2, -1)
        return values * gates.sigmoid()
    return FUNCTIONS[activation](h)


def by_hand(joint, inputs, activation):
    """The formula for one leaf after the other."""
    (trunk,) = joint.trunk.stacks
    results = []
    for leaf in range(LEAVES):
        firsts = [
            layer(branch.stack.weights[0][leaf], branch.stack.biases[0][leaf], x[..., leaf, :], activation)
            for branch, x in zip(joint.branches, inputs, strict=True)
        ]
        h = torch.cat(torch.broadcast_tensors(*firsts) if len(firsts) > 1 else firsts, -1)
        for weight, bias in zip(trunk.weights[:-1], trunk.biases[:-1], strict=True):
            h = layer(weight[leaf], bias[leaf], h, activation)
        results.append(h @ trunk.weights[-1][leaf] + trunk.biases[-1][leaf].squeeze(0))
    return torch.stack(results, -2)


@pytest.mark.parametrize("activation", ["softplus", "tanh", "gated"])
@pytest.mark.parametrize("hidden", [(5,), (5, 6), (5, 6, 4)])
@pytest.mark.parametrize("sizes", [(4,), (4, 2), (4, 2, 3)])
def test_equals_the_formula(activation, hidden, sizes):
    joint = bound(sizes, hidden_dims=hidden, activation=activation)
    inputs = [torch.randn(7, LEAVES, size) for size in sizes]
    outputs = joint(*inputs)
    assert [out.shape for out in outputs] == [(7, LEAVES, 2), (7, LEAVES, 3)]
    torch.testing.assert_close(torch.cat(outputs, -1), by_hand(joint, inputs, activation))


def test_embedding_first_and_joining_is_the_whole():
    joint = bound((4, 2, 3))
    inputs = [torch.randn(7, LEAVES, size) for size in (4, 2, 3)]
    embedded = joint.embed(inputs[0])
    assert embedded.shape == (7, LEAVES, 5)
    for out, expected in zip(joint.join(embedded, *inputs[1:]), joint(*inputs), strict=True):
        assert torch.equal(out, expected)


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


def test_leaves_do_not_see_each_other():
    joint = bound()
    x, z = torch.randn(6, LEAVES, 4), torch.randn(6, LEAVES, 2)
    expected = joint(x, z)[0]
    for place in (0, 1):
        changed = [x.clone(), z.clone()]
        changed[place][:, 1] += 1
        difference = (joint(*changed)[0] != expected).all(-1).all(0)
        assert difference.tolist() == [False, True, False]


def test_every_output_sees_every_input():
    joint = bound((4, 2, 3))
    inputs = [torch.randn(2, LEAVES, size, requires_grad=True) for size in (4, 2, 3)]
    for out in joint(*inputs):
        for x in inputs:
            grad = torch.autograd.grad(out.sum(), x, retain_graph=True)[0]
            assert (grad != 0).all()


@pytest.mark.parametrize("shapes", [((7,), (3, 7)), ((3, 7), (7,)), ((1, 7), (3, 1)), ((), (3, 7)), ((7,), (7,))])
def test_batch_dimensions_broadcast(shapes):
    joint = bound()
    x, z = (torch.randn(*shape, LEAVES, size, requires_grad=True) for shape, size in zip(shapes, (4, 2), strict=True))
    lead = torch.broadcast_shapes(*shapes)
    wide = [value.expand(*lead, *value.shape[-2:]) for value in (x, z)]
    outs, expected = joint(x, z), joint(*wide)
    torch.testing.assert_close(outs, expected)
    grads = [torch.autograd.grad(sum(out.square().sum() for out in result), (x, z)) for result in (outs, expected)]
    torch.testing.assert_close(*grads)


def test_what_is_known_of_the_first_input_is_computed_once_for_all_particles():
    """The first layer sees as many rows as its input has, not as many as there are particles."""
    joint = bound()
    rows = []
    joint.branches[0].register_forward_hook(lambda module, args, result: rows.append(result[0].shape))
    joint(torch.randn(7, LEAVES, 4), torch.randn(20, 7, LEAVES, 2))
    assert rows == [(7, LEAVES, 5)]


def test_gradients():
    joint = bound(leaves=1)
    parameters = list(joint.parameters())
    inputs = [torch.randn(2, 1, size, requires_grad=True) for size in (4, 2)]
    assert torch.autograd.gradcheck(lambda *values: joint(*values[:2]), (*inputs, *parameters))


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
    assert joint.trunk.sizes["inputs"] == 2 * width and joint.branches[1].width == width
    x, z = torch.randn(6, LEAVES, 4), torch.randn(6, LEAVES, 2)
    assert torch.equal(joint.embed(x), first(x)[0])
    other = joint.branches[1](z)[0]
    torch.testing.assert_close(joint(x, z), joint.trunk(torch.cat([first(x)[0], other], -1)))
    assert joint.options()["first"] is first and joint.first is first


def test_parameters_are_counted_once():
    first = Conv(filters=(2,), dense=3)
    joint = Joint((5, 6), first=first).bind(leaves=2, inputs=(16, 2), outputs=(3,), input_shape=(1, 4, 4))
    assert joint(torch.randn(4, 2, 16), torch.randn(4, 2, 2))[0].shape == (4, 2, 3)
    once = sum(p.numel() for p in (*first.parameters(), *joint.branches[1].parameters(), *joint.trunk.parameters()))
    assert sum(p.numel() for p in joint.parameters()) == once


def test_options_make_the_same_network():
    joint = Joint((5, 6), "gated", 0.7, "he")
    options = joint.options()
    assert options == {"hidden_dims": (5, 6), "activation": "gated", "output_gain": 0.7, "init": "he", "first": None}
    assert Joint(**options).options() == options


@pytest.mark.parametrize("init", ["truncated", "he", "glorot"])
def test_start_of_first_layers_and_gain_of_the_outputs(init):
    """First layers are hidden ones, which the gain of the outputs leaves alone."""
    joint = Joint((200, 100), init=init, output_gain=0.25).bind(leaves=8, inputs=(50, 40), outputs=(60,))
    (trunk,) = joint.trunk.stacks
    for weight, fans, gain in (
        (joint.branches[0].stack.weights[0], (50, 200), 1.0),
        (joint.branches[1].stack.weights[0], (40, 200), 1.0),
        (trunk.weights[0], (400, 100), 1.0),
        (trunk.weights[1], (100, 60), 0.25),
    ):
        variance = 2 / sum(fans) if init == "glorot" else 2 / fans[0]
        assert weight.std().item() == pytest.approx(gain * variance**0.5, rel=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_dims": ()}, "hidden_dims is empty; at least one size is needed, that of the first layer"),
        ({"hidden_dims": (3, 0)}, r"hidden_dims is .*; positive integers are needed"),
        ({"hidden_dims": (0, 3)}, r"hidden_dims is \(0, 3\); positive integers are needed"),
        ({"hidden_dims": 3}, "hidden_dims is 3; a sequence of positive integers is needed"),
        ({"hidden_dims": "33"}, "hidden_dims is '33'; a sequence of positive integers is needed"),
        ({"activation": "step"}, "activation is 'step'; known are softplus, relu, leaky_relu, elu, silu, tanh, gated"),
        ({"init": "zero"}, "init is 'zero'; known are truncated, he, glorot"),
        ({"output_gain": -1.0}, "output_gain is -1.0; a positive number is needed"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Joint(**options)


def test_refuses_other_numbers_of_inputs_and_what_is_no_network():
    with pytest.raises(ValueError, match="argument"):
        bound()(torch.randn(1, LEAVES, 4))
    with pytest.raises(TypeError, match="^first is a Linear; an instance of Network is needed$"):
        Joint(first=nn.Linear(2, 2))

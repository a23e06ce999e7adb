# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Readouts of maps equal torch's normalisation, activation and convolution at each position, leaf by leaf."""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F

from pyro_spvae.nn.readout import Readout
from pyro_spvae.testing import BlockTests
from tests.nn.cases import assert_same
from tests.nn.residual_twins import assert_moved, last_by_hand, scattered

MAP, GOAL = (3, 2, 4), (5, 2, 4)
OF_MAP = {"inputs": 24, "outputs": (40, 80), "map_shape": MAP, "output_shape": GOAL}


class TestReadout(BlockTests):
    sizes = {"leaves": 3, **OF_MAP}

    def make(self):
        return Readout("batch", "silu", 0.5)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("norm", "activation"), [("batch", "elu"), ("none", "silu")])
def test_equals_torch_leaf_by_leaf(norm, activation, training):
    network = scattered(Readout(norm, activation).bind(leaves=2, **OF_MAP)).train(training)
    x, moved, every = torch.randn(6, 2, 24, requires_grad=True), {}, []
    for leaf, each in enumerate(x.unbind(1)):
        maps = last_by_hand(network.first, leaf, each.unflatten(-1, MAP), moved)
        conv, heads = network.heads.conv, []
        for kernel, bias in zip(conv.kernels, conv.biases, strict=True):
            head = F.conv2d(maps, kernel[leaf], bias[leaf])
            heads.append(head.unflatten(1, (GOAL[0], -1)).movedim(2, -1).flatten(1))
        every.append(heads)
    found = network(x)
    assert [head.shape for head in found] == [(6, 2, 40), (6, 2, 80)]
    assert_same(found, [torch.stack(heads, 1) for heads in zip(*every, strict=True)], [x, *network.parameters()])
    assert_moved(network, moved)
    network.eval()
    together = [head.unflatten(0, (2, 3)) for head in network(x)]
    torch.testing.assert_close(list(network(x.unflatten(0, (2, 3)))), together)


def test_a_position_is_read_alone():
    network = scattered(Readout("none").bind(leaves=1, **OF_MAP))
    x = torch.randn(1, 1, 24)
    changed = x.clone().unflatten(-1, MAP)
    changed[..., 1, 2] += 1.0
    moved = [
        (a != b).unflatten(-1, (5, 2, 4, -1)) for a, b in zip(network(x), network(changed.flatten(-3)), strict=True)
    ]
    for head in moved:
        assert bool(head[..., 1, 2, :].all()) and int(head.sum()) == 5 * head.size(-1)


@pytest.mark.parametrize("gain", [0.1, 2.0])
def test_initial_outputs(gain):
    torch.manual_seed(0)
    network = Readout(output_gain=gain).bind(
        leaves=4, inputs=32 * 4, outputs=(8,), map_shape=(32, 2, 2), output_shape=(2, 2, 2)
    )
    (kernel,) = network.heads.conv.kernels
    assert 0.9 * gain / math.sqrt(32) < float(kernel.detach().abs().max()) <= gain / math.sqrt(32)


def bind(**sizes):
    return lambda: Readout().bind(leaves=1, **OF_MAP | sizes)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Readout("layer"), "norm is 'layer'; known are "),
        (lambda: Readout(activation="step"), "activation is 'step'"),
        (lambda: Readout(output_gain=0), "output_gain is 0; a positive number is needed"),
        (
            bind(output_shape=(5, 4, 2)),
            "a Readout reads maps at their own positions; map_shape is (3, 2, 4) and output_shape (5, 4, 2), of which ",
        ),
        (bind(map_shape=None), "a Readout reads maps at their own positions; map_shape is None and output_shape (5, 2"),
        (bind(output_shape=None), "a Readout reads maps at their own positions; map_shape is (3, 2, 4) and output_s"),
        (bind(inputs=23), "inputs is 23; the values of the map_shape (3, 2, 4) are needed"),
        (
            bind(outputs=(39,)),
            "an output of the network 'readout' has the size 39; a multiple of the patch's 40 pixels is",
        ),
    ],
)
def test_refused(act, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        act()

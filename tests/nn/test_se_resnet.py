# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""SE-ResNets equal torch's blocks between dense layers and heads, in both directions, and train in every leaf."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from pyro_spvae import CircuitELBO, poon_domingos
from pyro_spvae.conditionals import Pixels
from pyro_spvae.guides import NormalGuide
from pyro_spvae.likelihoods import Bernoulli, DiscretizedLogistic
from pyro_spvae.models import SPVAE, VAE
from pyro_spvae.nn import SEResNet
from tests.helpers import collected_gradients
from tests.nn.cases import assert_same, by_hand
from tests.nn.residual_twins import assert_moved, last_by_hand, pyramid_by_hand, scattered, upscale_by_hand

# shape of a patch, leaves, options, sides of the scales from the smallest to the patch's own
CASES = {
    "one leaf": ((1, 7, 6), 1, {"channels": 3}, [(2, 2), (4, 3), (7, 6)]),
    "leaves": ((2, 5, 4), 3, {"channels": (4, 3), "blocks": 2, "activation": "silu"}, [(2, 1), (3, 2), (5, 4)]),
    "no norm": ((1, 4, 4), 2, {"channels": 2, "levels": 1, "norm": "none"}, [(2, 2), (4, 4)]),
    "checkpoints": ((1, 4, 4), 2, {"channels": 2, "levels": 1, "checkpoint": True, "ratio": 1}, [(2, 2), (4, 4)]),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.mark.parametrize("training", [True, False])
class TestEqualsTorchsBlocksPerLeaf:
    def test_encoder(self, case, training):
        shape, leaves, options, _ = case
        size, moved = math.prod(shape), {}
        network = SEResNet(**options, dense=5).bind(leaves=leaves, inputs=size, outputs=(2, 3), input_shape=shape)
        layers = scattered(network).train(training).network
        x = torch.randn(4, leaves, size, requires_grad=True)
        tops = []
        for leaf, each in enumerate(x.unbind(1)):
            top = pyramid_by_hand(layers.pyramid, leaf, each, moved)[-1]
            tops.append(last_by_hand(layers.last, leaf, top, moved).flatten(1))
        expected = by_hand(layers.dense, torch.stack(tops, 1), network.activation)
        assert layers.dense.weights[0].shape == (leaves, tops[0].size(1), 5)
        assert_same(network(x), expected, [x, *network.parameters()])
        assert_moved(network, moved)

    @pytest.mark.parametrize("from_map", [False, True])
    def test_decoder(self, case, training, from_map):
        shape, leaves, options, sides = case
        size, moved = math.prod(shape), {}
        map_shape = (3, *sides[0]) if from_map else None
        inputs = math.prod(map_shape) if from_map else 4
        network = SEResNet(**options).bind(
            leaves=leaves, inputs=inputs, outputs=(2 * size, size), output_shape=shape, map_shape=map_shape
        )
        layers = scattered(network).train(training).network
        assert layers.upscale.map_shape == map_shape
        z = torch.randn(4, leaves, inputs, requires_grad=True)
        every = []
        for leaf, each in enumerate(z.unbind(1)):
            maps = upscale_by_hand(layers.upscale, leaf, each, sides, moved)
            maps = last_by_hand(layers.last, leaf, maps, moved)
            conv, heads = layers.heads.conv, []
            for kernel, bias in zip(conv.kernels, conv.biases, strict=True):
                head = F.conv2d(maps, kernel[leaf], bias[leaf])
                # channel c * values + v of a head is value v of channel c
                heads.append(head.unflatten(1, (shape[0], -1)).movedim(2, -1).flatten(1))
            every.append(heads)
        expected = [torch.stack(heads, 1) for heads in zip(*every, strict=True)]
        assert_same(network(z), expected, [z, *network.parameters()])
        assert_moved(network, moved)


def test_directions_mirror_each_other():
    options = {"channels": (3, 5, 7), "levels": 3}
    encoder = SEResNet(**options).bind(leaves=1, inputs=784, outputs=(2,), input_shape=(1, 28, 28)).network
    decoder = SEResNet(**options).bind(leaves=1, inputs=2, outputs=(784,), output_shape=(1, 28, 28)).network
    assert encoder.pyramid.shapes == ((3, 14, 14), (5, 7, 7), (7, 4, 4))
    assert decoder.upscale.shapes == (*encoder.pyramid.shapes[::-1], (3, 28, 28))


@pytest.mark.parametrize("gain", [0.1, 1.0])
def test_initial_outputs(gain):
    shapes = {"input_shape": (1, 8, 8)}, {"output_shape": (1, 8, 8)}
    for shape in shapes:
        network = SEResNet(32, output_gain=gain).bind(leaves=4, inputs=64, outputs=(64,), **shape).network
        if "input_shape" in shape:
            head, size = network.dense.weights[-1], 64  # units of the dense layer
            assert head.std().item() == pytest.approx(gain * math.sqrt(2 / size), rel=0.05)
        else:
            (head,), (bias,) = network.heads.conv.kernels, network.heads.conv.biases
            assert 0.9 * gain / math.sqrt(32) < head.abs().max() <= gain / math.sqrt(32)
            assert bias.abs().max() <= gain / math.sqrt(32)


def test_pixels_of_a_map():
    """A decoder that is told of a map begins at its sides."""
    pixels = Pixels(DiscretizedLogistic(4), SEResNet(2))
    pixels.bind(leaves=2, pixels=49, inputs=3 * 4 * 4, patch=(1, 7, 7), map_shape=(3, 4, 4))
    assert [shape[1:] for shape in pixels.decoder.network.upscale.shapes] == [(4, 4), (7, 7)]
    assert pixels(torch.randn(5, 2, 48)).sample().shape == (5, 2, 49)


@pytest.mark.parametrize("checkpoint", [True, False])
def test_every_leaf_trains(checkpoint):
    options = {"channels": 2, "levels": 1, "checkpoint": checkpoint}
    torch.manual_seed(0)
    spvae = SPVAE(
        poon_domingos((4, 4), 2),
        leaf=VAE(Bernoulli(), 2, decoder=SEResNet(**options)),
        guide=NormalGuide(encoder=SEResNet(**options)),
    )
    x = torch.bernoulli(torch.full((6, 1, 4, 4), 0.5))
    loss = CircuitELBO(2).loss_and_grads(spvae.model, spvae.guide, x)
    assert math.isfinite(loss)
    assert all(bool(gradient.any()) for gradient in collected_gradients(spvae).values())
    spvae.eval()
    assert torch.isfinite(spvae.log_likelihood(x, num_samples=3)).all()

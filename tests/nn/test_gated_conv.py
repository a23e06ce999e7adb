# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Gated convolutions with a leaf axis equal one network of torch per leaf and have the paper's sizes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from pyro_spvae.nn import GatedConv
from pyro_spvae.nn.leaf_conv import LeafConv, block_diagonal
from tests.nn.cases import assert_same, by_hand

# shape of a patch, leaves, layers of an encoder
CASES = {
    "strides": ((1, 7, 6), 3, ((4, 3, 1, 1), (5, 3, 2, 1))),
    "kernels without padding": ((3, 8, 7), 2, ((4, 5, 1, 0), (3, 2, 3, 0))),
    "one leaf": ((2, 5, 5), 1, ((3, 7, 1, 3),)),
    "leaves that share groups": ((1, 4, 4), 6, ((2, 3, 1, 1), (8, 3, 2, 1))),
    "wide": ((1, 3, 3), 2, ((17, 3, 1, 1), (20, 3, 1, 1))),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def convolved(layer, place, leaf, h):
    return F.conv2d(h, layer.kernels[place][leaf], layer.biases[place][leaf], layer.stride, layer.padding)


def gated_layers(layers, h, shape):
    """Images of one leaf after the other, ``[N, leaf, pixel]`` to a list of ``[N, channel, H, W]``."""
    images = []
    for leaf in range(h.size(1)):
        image = h[:, leaf].reshape(-1, *shape)
        for layer in layers:
            image = convolved(layer, 0, leaf, image) * torch.sigmoid(convolved(layer, 1, leaf, image))
        images.append(image)
    return images


class TestEqualsOneTorchNetworkPerLeaf:
    def test_encoder(self, case):
        shape, leaves, layers = case
        network = GatedConv(layers).bind(leaves=leaves, inputs=math.prod(shape), outputs=(2, 3), input_shape=shape)
        x = torch.randn(4, leaves, math.prod(shape), requires_grad=True)
        images = gated_layers(network.network.convolutions, x, shape)
        expected = by_hand(network.network.head, torch.stack([image.flatten(1) for image in images], 1))
        assert_same(network(x), expected, [x, *network.parameters()])

    @pytest.mark.parametrize("inputs", [(4,), (4, 2)])
    def test_decoder(self, case, inputs):
        shape, leaves, _ = case
        size, channels = math.prod(shape), shape[0]
        network = GatedConv(((5, 3, 1, 1), (3, 5, 1, 2)), hidden=6).bind(
            leaves=leaves, inputs=inputs, outputs=(2 * size, size), output_shape=shape
        )
        layers = network.network
        latents = [torch.randn(4, leaves, of, requires_grad=True) for of in inputs]
        seen = latents
        if len(inputs) > 1:
            seen = [by_hand(branch, z, "gated")[0] for branch, z in zip(layers.branches, latents, strict=True)]
        (h,) = by_hand(layers.dense, torch.cat(seen, -1), "gated")
        images = gated_layers(layers.convolutions, h, shape)
        expected = []
        for place in range(2):
            heads = [convolved(layers.heads.conv, place, leaf, image) for leaf, image in enumerate(images)]
            # channel c * values + v of a head is value v of channel c
            parts = [head.unflatten(1, (channels, -1)).movedim(2, -1).flatten(1) for head in heads]
            expected.append(torch.stack(parts, 1))
        assert_same(network(*latents), expected, [*latents, *network.parameters()])


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_block_diagonal_kernels_equal_one_convolution_per_leaf(groups):
    kernel, x = torch.randn(6, 2, 3, 3, 3), torch.randn(4, 6, 3, 5, 5)
    expected = torch.cat([F.conv2d(x[:, leaf], kernel[leaf]) for leaf in range(6)], 1)
    actual = F.conv2d(x.flatten(1, 2), block_diagonal(kernel, groups), groups=groups)
    torch.testing.assert_close(actual, expected)


def test_groups_fill_sixteen_channels_where_the_leaves_can_be_divided():
    assert [LeafConv(leaves, 4, [3, 5], 3).block for leaves in (1, 3, 8, 7, 10)] == [1, 3, 4, 1, 2]
    assert LeafConv(8, 64, [64], 3).block == 1


class TestSizesOfThePaper:
    """Numbers of parameters of the VampPrior paper's code for 28 x 28 pixels and 40 latent variables."""

    @pytest.mark.parametrize(("layers", "convolutions"), [("large", 205_004), ("small", 136_908)])
    def test_encoders(self, layers, convolutions):
        network = GatedConv(layers).bind(leaves=1, inputs=784, outputs=(40, 40), input_shape=(1, 28, 28))
        assert network.width == 294
        assert sum(p.numel() for p in network.parameters()) == convolutions + 2 * (294 * 40 + 40)
        without = GatedConv(layers, heads=False).bind(leaves=1, inputs=784, outputs=(40, 40), input_shape=(1, 28, 28))
        assert sum(p.numel() for p in without.parameters()) == convolutions
        assert [output.shape for output in without(torch.rand(2, 1, 784))] == [(2, 1, 294)]

    def test_decoder(self):
        network = GatedConv().bind(leaves=1, inputs=(40, 40), outputs=(784,), output_shape=(1, 28, 28))
        dense = 2 * 2 * (40 * 300 + 300) + 2 * (600 * 784 + 784)
        convolutions = 2 * (9 * 64 + 64) + 3 * 2 * (64 * 64 * 9 + 64) + 65
        assert sum(p.numel() for p in network.parameters()) == dense + convolutions

    def test_frey_faces(self):
        network = GatedConv().bind(leaves=1, inputs=560, outputs=(40, 40), input_shape=(1, 28, 20))
        assert network.width == 210


def test_initial_parameters():
    network = GatedConv(((20, 3, 1, 1),)).bind(leaves=40, inputs=32, outputs=(9, 12), input_shape=(2, 4, 4)).network
    bound = 1 / math.sqrt(2 * 9)
    (layer,) = network.convolutions
    assert [kernel.shape for kernel in layer.kernels] == [(40, 20, 2, 3, 3)] * 2
    for parameter in layer.parameters():
        assert 0.98 * bound < parameter.abs().max() <= bound
        assert parameter.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert [weight.shape for weight in network.head.weights] == [(40, 320, 9), (40, 320, 12)]
    for weight, bias in zip(network.head.weights, network.head.biases, strict=True):
        assert weight.std().item() == pytest.approx(math.sqrt(2 / 320), rel=0.02)
        assert bias.abs().max() <= 1 / math.sqrt(320)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Gated convolutions with a leaf axis equal one network of torch per leaf and have the paper's sizes."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn

from pyro_spvae import poon_domingos, random_binary_tree
from pyro_spvae.guides import NormalGuide
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import SPVAE, VAE
from pyro_spvae.nn import GatedConv
from pyro_spvae.nn.leaf_conv import LeafConv, block_diagonal
from pyro_spvae.registry import build, describe, make

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


def copy_into(module, weight, bias):
    """Puts copies of weights, dense ones ``[in, out]``, into a module of torch."""
    own = weight.T if isinstance(module, nn.Linear) else weight
    module.weight = nn.Parameter(own.detach().clone())
    module.bias = nn.Parameter(bias.detach().clone().flatten())
    return module


def linear(stack, leaf):
    weight, bias = stack.weights[0][leaf], stack.biases[0][leaf]
    return copy_into(nn.Linear(*weight.shape), weight, bias)


def convolution(layer, leaf):
    weight, bias = layer.kernel[leaf], layer.bias[leaf]
    after, before, kernel, _ = weight.shape
    return copy_into(nn.Conv2d(before, after, kernel, layer.stride, layer.padding), weight, bias)


def gate(h):
    value, gate = h.chunk(2, 1)
    return value * torch.sigmoid(gate)


def encoder_twin(network, leaf, shape, x):
    h = x.reshape(-1, *shape)
    for layer in network.network.convolutions:
        h = gate(convolution(layer, leaf)(h))
    return linear(network.network.head, leaf)(h.flatten(1))


def decoder_twin(network, leaf, shape, *latents):
    layers = network.network
    if len(latents) > 1:
        parts = [gate(linear(branch, leaf)(z)) for branch, z in zip(layers.branches, latents, strict=True)]
    else:
        parts = list(latents)
    h = gate(linear(layers.dense, leaf)(torch.cat(parts, -1))).reshape(-1, *shape)
    for layer in layers.convolutions:
        h = gate(convolution(layer, leaf)(h))
    return convolution(layers.heads.conv, leaf)(h)


@pytest.mark.parametrize("lead", [(4,), (2, 3), ()])
class TestEqualsOneTorchNetworkPerLeaf:
    def test_encoder(self, case, lead):
        shape, leaves, layers = case
        size = math.prod(shape)
        network = GatedConv(layers).bind(leaves=leaves, inputs=size, outputs=(2, 3), input_shape=shape)
        x = torch.randn(*lead, leaves, size)
        rows = x.reshape(-1, leaves, size)
        expected = torch.stack([encoder_twin(network, leaf, shape, rows[:, leaf]) for leaf in range(leaves)], 1)
        for output, other in zip(network(x), expected.reshape(*lead, leaves, 5).split([2, 3], -1), strict=True):
            torch.testing.assert_close(output, other)

    @pytest.mark.parametrize("inputs", [4, (4, 2)])
    def test_decoder(self, case, lead, inputs):
        shape, leaves, _ = case
        size, channels = math.prod(shape), shape[0]
        network = GatedConv(((5, 3, 1, 1), (3, 5, 1, 2)), hidden=6).bind(
            leaves=leaves, inputs=inputs, outputs=(2 * size, size), output_shape=shape
        )
        latents = [torch.randn(*lead, leaves, of) for of in ((4, 2) if isinstance(inputs, tuple) else (4,))]
        each = []
        for leaf in range(leaves):
            rows = [z[..., leaf, :].reshape(-1, z.size(-1)) for z in latents]
            first, second = decoder_twin(network, leaf, shape, *rows).split([2 * channels, channels], 1)
            # channel c * 2 + v of the first head is value v of channel c
            first = first.reshape(-1, channels, 2, *shape[1:]).permute(0, 1, 3, 4, 2)
            each.append((first.reshape(*lead, -1), second.reshape(*lead, -1)))
        expected = [torch.stack(parts, -2) for parts in zip(*each, strict=True)]
        torch.testing.assert_close(list(network(*latents)), expected)


def test_gradients_of_one_leaf_are_its_own(case):
    shape, leaves, layers = case
    network = GatedConv(layers).bind(leaves=leaves, inputs=math.prod(shape), outputs=(2,), input_shape=shape)
    (output,) = network(torch.randn(3, leaves, math.prod(shape)))
    for gradient in torch.autograd.grad(output[:, -1].square().sum(), list(network.parameters())):
        assert gradient[-1].any()
        assert not gradient[:-1].any()


def test_latent_vectors_of_a_decoder_broadcast():
    network = GatedConv(((3, 3, 1, 1),), hidden=4).bind(leaves=2, inputs=(3, 2), outputs=(4,), output_shape=(1, 2, 2))
    first, second = torch.randn(5, 1, 2, 3), torch.randn(4, 2, 2)
    torch.testing.assert_close(network(first, second), network(first.expand(5, 4, 2, 3), second.expand(5, 4, 2, 2)))


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_block_diagonal_kernels_equal_one_convolution_per_leaf(groups):
    kernel, x = torch.randn(6, 2, 3, 3, 3), torch.randn(4, 6, 3, 5, 5)
    expected = torch.cat([nn.functional.conv2d(x[:, leaf], kernel[leaf]) for leaf in range(6)], 1)
    actual = nn.functional.conv2d(x.flatten(1, 2), block_diagonal(kernel, groups), groups=groups)
    torch.testing.assert_close(actual, expected)


def test_groups_fill_sixteen_channels_where_the_leaves_can_be_divided():
    assert [LeafConv(leaves, 4, 8, 3).block for leaves in (1, 3, 8, 7, 10)] == [1, 3, 4, 1, 2]
    assert LeafConv(8, 64, 64, 3).block == 1


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
    network = GatedConv(((20, 3, 1, 1),)).bind(leaves=40, inputs=32, outputs=(9, 9), input_shape=(2, 4, 4))
    bound = 1 / math.sqrt(2 * 9)
    layer = network.network.convolutions[0]
    for parameter in (layer.kernel, layer.bias):
        assert 0.98 * bound < parameter.abs().max() <= bound
        assert parameter.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    head = network.network.head
    assert head.weights[0].std().item() == pytest.approx(math.sqrt(2 / (20 * 16)), rel=0.02)
    assert head.biases[0].abs().max() <= 1 / math.sqrt(20 * 16)


def test_blocks_are_values_gates_and_heads():
    network = GatedConv(((5, 3, 1, 1),)).bind(leaves=2, inputs=4, outputs=(2, 3), input_shape=(1, 2, 2)).network
    for module, sizes in ((network.convolutions[0], (5, 5)), (network, (2, 3))):
        named = dict(module.named_parameters())
        for name, (axis, blocks) in module.tensor_blocks().items():
            assert blocks == sizes and named[name].size(axis) == sum(sizes)
    without = GatedConv(((5, 3, 1, 1),), heads=False).bind(leaves=2, inputs=4, outputs=(2,), input_shape=(1, 2, 2))
    assert without.network.tensor_blocks() == {}


def test_by_name_and_description():
    network = make("network", "gated-conv(layers=small, hidden=20)", hidden_dims=(3,))
    assert (network.layers, network.hidden, network.heads) == ("small", 20, True)
    again = build("network", describe(GatedConv(((3, 3, 1, 1),), heads=False)))
    assert again.layers == ((3, 3, 1, 1),) and not again.heads


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"layers": "huge"}, "layers is 'huge'; known are large, small, or a sequence of layers"),
            *(
                (
                    {"layers": layers},
                    f"layers {what}; layers (channels, kernel, stride, padding), such as ((32, 3, 1, 1), "
                    "(6, 3, 2, 1)), are needed",
                )
                for layers, what in (
                    ((), "is ()"),
                    (3, "is 3"),
                    (((3, 3, 1),), "has the entry (3, 3, 1)"),
                    ((3, 3, 1, 1), "has the entry 3"),
                    (((3, 3, 0, 1),), "has the entry (3, 3, 0, 1)"),
                    (((3, 3, 1, -1),), "has the entry (3, 3, 1, -1)"),
                )
            ),
            ({"hidden": 0}, "hidden is 0; a positive integer is needed"),
            ({"heads": 1}, "heads is 1; True or False is needed"),
        ],
    )
    def test_options(self, options, message):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            GatedConv(**options)

    @pytest.mark.parametrize(
        ("layers", "sizes", "message"),
        [
            ("large", {}, "the network 'gated-conv' needs leaf regions that are equal rectangles"),
            ("large", {"input_shape": (1, 2, 3)}, "inputs is 4; the pixels of the shape (1, 2, 3) are needed"),
            (
                ((3, 3, 1, 0),),
                {"input_shape": (1, 2, 2)},
                "layers of the network 'gated-conv' leave nothing of patches of 2 x 2 pixels; give smaller kernels and "
                "strides",
            ),
            (
                ((3, 3, 2, 1),),
                {"output_shape": (1, 2, 2)},
                "layers of the network 'gated-conv' has the entry (3, 3, 2, 1); in a decoder the stride is 1 and the "
                "padding half of the kernel less one, so that sides stay",
            ),
            (
                "large",
                {"output_shape": (1, 2, 3)},
                "an output of the network 'gated-conv' has the size 8; a multiple of the patch's 6 pixels is needed",
            ),
            (
                "large",
                {"input_shape": (1, 2, 2), "output_shape": (1, 2, 2)},
                "input_shape and output_shape are both given; the network 'gated-conv' takes one of them",
            ),
        ],
    )
    def test_sizes(self, layers, sizes, message):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            GatedConv(layers).bind(leaves=2, inputs=4, outputs=(12, 8), **sizes)

    @pytest.mark.parametrize("regions", [poon_domingos((6, 5), 3), random_binary_tree((4, 4), 2, 2, seed=1)])
    def test_unequal_patches(self, regions):
        message = "^the network 'gated-conv' needs leaf regions that are equal rectangles$"
        with pytest.raises(ValueError, match=message):
            SPVAE(regions, leaf=VAE(Bernoulli(), decoder=GatedConv()))
        with pytest.raises(ValueError, match=message):
            SPVAE(regions, leaf=VAE(Bernoulli()), guide=NormalGuide(encoder=GatedConv()))

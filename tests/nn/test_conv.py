# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Stacked convolutional networks equal one network per leaf, know how patches lie, and have the paper's sizes."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from pyro_spvae import CircuitELBO, poon_domingos, whole
from pyro_spvae.guides import NormalGuide
from pyro_spvae.likelihoods import Categorical, Normal
from pyro_spvae.models import SPVAE, VAE
from pyro_spvae.nn import Conv
from pyro_spvae.registry import make
from pyro_spvae.training.build import build_model
from pyro_spvae.training.resolve import resolve
from tests.helpers import gradients
from tests.nn.cases import assert_same, by_hand, redrawn
from tests.training.cases import TINY, images

CODE = 3
# shape of a patch, leaves, options: odd and even sides, blocks of several leaves of which the last is not full
CASES = {
    "stride 1": ((1, 7, 7), 5, {"filters": (4, 8), "stride": 1}),
    "stride 2, odd": ((3, 5, 6), 3, {"filters": (16, 7), "stride": 2}),
    "stride 2, even": ((1, 8, 4), 2, {"filters": (2, 3), "stride": 2}),
    "stride 3": ((2, 7, 11), 2, {"filters": (5,), "stride": 3}),
    "three convolutions": ((1, 9, 5), 3, {"filters": (2, 4, 3), "stride": 2, "activation": "tanh"}),
    "one leaf": ((1, 6, 6), 1, {"filters": (3, 2), "stride": 2}),
    "wide filters": ((1, 3, 4), 3, {"filters": (16, 17), "stride": 1}),
    "one pixel": ((3, 1, 1), 2, {"filters": (3, 2), "stride": 2}),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def encoder(shape, leaves, outputs=(2, 3), dense=6, **options):
    network = Conv(dense=dense, **options)
    return network.bind(leaves=leaves, inputs=math.prod(shape), outputs=outputs, input_shape=shape)


def decoder(shape, leaves, values=(1, 2), **options):
    outputs = tuple(math.prod(shape) * value for value in values)
    return Conv(**options).bind(leaves=leaves, inputs=CODE, outputs=outputs, output_shape=shape)


class TestEqualsOneTorchNetworkPerLeaf:
    """Layers of torch with the kernels of one leaf after the other."""

    def test_encoder(self, case):
        shape, leaves, options = case
        network = redrawn(encoder(shape, leaves, **options))
        activation = options.get("activation", "softplus")
        x = torch.randn(4, leaves, math.prod(shape), requires_grad=True)
        seen = []
        for leaf in range(leaves):
            h = x[:, leaf].reshape(-1, *shape)
            for kernel, bias in zip(network.layers.kernels, network.layers.biases, strict=True):
                h = F.conv2d(h, kernel[leaf], bias[leaf], network.stride, padding=1)
                h = F.softplus(h) if activation == "softplus" else h.tanh()
            seen.append(h.flatten(1))
        expected = by_hand(network.layers.trunk, torch.stack(seen, 1), activation)
        assert_same(network(x), expected, [x, *network.parameters()])

    def test_decoder(self, case):
        shape, leaves, options = case
        values = (2, 1, 3)
        network = redrawn(decoder(shape, leaves, values, **options))
        kernels, biases = network.layers.kernels, network.layers.biases
        activation = options.get("activation", "softplus")
        sides = [shape[1:]]
        for _ in network.filters:
            sides.insert(0, tuple(-(-side // network.stride) for side in sides[0]))
        z = torch.randn(4, leaves, CODE, requires_grad=True)
        (flat,) = by_hand(network.layers.dense, z, activation)

        def transposed(place, depth, leaf, h):
            kernel = kernels[place][leaf]
            layer = nn.ConvTranspose2d(*kernel.shape[:2], 3, network.stride, padding=1)
            given = {"weight": kernel, "bias": biases[place][leaf]}
            return functional_call(layer, given, (h,), {"output_size": sides[depth + 1]})

        last, each = len(kernels) - len(values), []
        for leaf in range(leaves):
            h = flat[:, leaf].reshape(-1, network.filters[-1], *sides[0])
            for depth in range(last):
                h = transposed(depth, depth, leaf, h)
                h = F.softplus(h) if activation == "softplus" else h.tanh()
            heads = [transposed(last + place, last, leaf, h) for place in range(len(values))]
            # channel c * values + v of a head is value v of the pixels of channel c
            each.append([head.unflatten(1, (shape[0], -1)).movedim(2, -1).flatten(1) for head in heads])
        expected = [torch.stack(parts, 1) for parts in zip(*each, strict=True)]
        assert_same(network(z), expected, [z, *network.parameters()])


def test_blocks_do_not_change_anything(case):
    shape, leaves, options = case
    for network, size in (
        (encoder(shape, leaves, **options), math.prod(shape)),
        (decoder(shape, leaves, **options), CODE),
    ):
        x = torch.randn(3, leaves, size)
        expected = redrawn(network)(x)
        for block in range(1, leaves + 1):
            network.layers.block = block
            torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize(
    ("filters", "stride", "leaves", "block"),
    [((4, 8), 1, 32, 4), ((32, 64), 2, 1, 1), ((32, 64), 2, 32, 1), ((8, 3), 1, 32, 6), ((4,), 2, 5, 5)],
)
def test_blocks_fill_sixteen_channels_times_the_stride(filters, stride, leaves, block):
    assert encoder((1, 3, 3), leaves, filters=filters, stride=stride).layers.block == block


def test_initial_parameters():
    """Each head by its own size; those of the outputs scaled by the gain."""
    gain = 0.1
    encoding = encoder((2, 4, 4), 30, (20, 20), 40, output_gain=gain).layers
    decoding = decoder((2, 4, 4), 30, (1, 3)).layers
    fans = [(2, 32, 1.0), (32, 64, 1.0), (64, 32, 1.0), (32, 2, gain), (32, 6, gain)]
    for kernel, (before, after, factor) in zip([*encoding.kernels, *decoding.kernels], fans, strict=True):
        bound = factor * math.sqrt(6 / (9 * (before + after)))
        assert 0.99 * bound < kernel.abs().max() <= bound
        assert kernel.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    dense = [(decoding.dense.weights[0], CODE, 1.0), (encoding.trunk.weights[0], 64, 1.0)]
    for weight, before, factor in [*dense, *((weight, 40, gain) for weight in encoding.trunk.weights[1:])]:
        assert weight.std().item() == pytest.approx(factor * math.sqrt(2 / before), rel=0.03)
    for layers in (encoding, decoding):
        assert not any(bias.any() for name, bias in layers.named_parameters() if "biases" in name)


def conv_spvae(regions, likelihood, latent_dim=2, channels=1, units=2, **options):
    return SPVAE(
        regions,
        units,
        leaf=VAE(likelihood, latent_dim, decoder=Conv(**options)),
        guide=NormalGuide(encoder=Conv(**options)),
        channels=channels,
    )


class TestInAModel:
    def test_paper_sizes(self):
        def count(*args, **options):
            return sum(p.numel() for p in conv_spvae(*args, **options).parameters())

        assert count(whole((28, 28)), Normal(), 200, units=1) == 894_962
        regions = poon_domingos((28, 28), 7)
        assert count(regions, Normal(), 25, filters=(4, 8), stride=1) == 1_259_048

    def test_patches_are_images(self):
        spvae = conv_spvae(poon_domingos((2, 6), 3), Normal(), channels=3, filters=(3,), stride=1)
        conv = spvae.leaf_guide.z.network
        assert conv.layers.channels == (3, 3) and conv.layers.sides == [[2, 3], [2, 3]]
        x = torch.rand(5, 3, 2, 6)
        image = conv.layers.images(spvae.view(x).movedim(-2, 0)[:2], 3, (2, 3))  # both leaves of the first region
        torch.testing.assert_close(image, x[..., :3].repeat(1, 2, 1, 1))

    @pytest.mark.parametrize("make", [Normal, lambda: Categorical(3)])
    def test_of_colours(self, make):
        spvae = conv_spvae(poon_domingos((6, 6), 3), make(), channels=3, filters=(2, 3), stride=1, dense=5)
        x = torch.randint(0, 2, (6, 3, 6, 6)).double()
        loss = CircuitELBO(2)(spvae.model, spvae.guide)(x)
        assert all(grad.abs().sum() > 0 for grad in gradients(spvae, loss).values())
        assert spvae.log_likelihood(x, num_samples=8).isfinite().all()
        assert spvae.sample(3).shape == (3, 3, 6, 6)

    def test_from_a_configuration(self):
        made = make("network", "conv(filters=(4,8), stride=1)", hidden_dims=(3,), activation="relu", networks="shared")
        assert (made.filters, made.stride, made.dense, made.activation) == ((4, 8), 1, 64, "relu")
        data = images(levels=None)
        config = dataclasses.replace(TINY, network="conv(filters=(4,8), stride=1, dense=5)", activation="relu")
        spvae = build_model(resolve(config, data), data)
        decoder, encoder = spvae.leaf.pixels.decoder, spvae.leaf_guide.z.network
        assert decoder.options() == encoder.options() == made.options() | {"dense": 5}
        assert decoder.sizes["output_shape"] == encoder.sizes["input_shape"] == spvae.view.patch

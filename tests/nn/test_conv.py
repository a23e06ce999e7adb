# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Stacked convolutional networks equal one network per leaf, know how patches lie, and have the paper's sizes."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pyro_spvae import CircuitELBO, poon_domingos, random_binary_tree, whole
from pyro_spvae.guides import NormalGuide
from pyro_spvae.likelihoods import Bernoulli, Categorical, Normal
from pyro_spvae.models import SPVAE, VAE
from pyro_spvae.nn import Conv, Network
from pyro_spvae.registry import make
from pyro_spvae.training.build import build_model, resolve
from tests.helpers import gradients
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


def redrawn(network):
    """Biases too, and heads as large as the rest."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_().mul_(0.5)
    return network


class Twin:
    """The layers of one leaf as torch's own, holding copies of its parameters; ``pairs`` says what each one copies."""

    def __init__(self, network, leaf):
        self.activation = getattr(F, network.activation) if hasattr(F, network.activation) else torch.tanh
        self.leaf = leaf
        self.pairs = []

    def copied(self, module, weight, bias, turned=False):
        own = weight[self.leaf].T if turned else weight[self.leaf]
        module.weight = nn.Parameter(own.detach().clone())
        module.bias = nn.Parameter(bias[self.leaf].detach().clone().flatten())
        self.pairs += [(weight, lambda: module.weight.grad.T if turned else module.weight.grad)]
        self.pairs += [(bias, lambda: module.bias.grad.reshape(bias.shape[1:]))]
        return module

    def linears(self, stack):
        layers = zip(stack.weights, stack.biases, strict=True)
        return [self.copied(nn.Linear(*w.shape[1:]), w, b, turned=True) for w, b in layers]


class EncoderTwin(Twin):
    def __init__(self, network, leaf, shape):
        super().__init__(network, leaf)
        self.shape = shape
        channels = (shape[0], *network.filters)
        layers = network.layers
        self.convolutions = [
            self.copied(nn.Conv2d(before, after, 3, network.stride, padding=1), kernel, bias)
            for before, after, kernel, bias in zip(
                channels, network.filters, layers.kernels, layers.biases, strict=False
            )
        ]
        self.dense, self.head = self.linears(layers.trunk)

    def __call__(self, x):
        h = x.reshape(-1, *self.shape)
        for convolution in self.convolutions:
            h = self.activation(convolution(h))
        return self.head(self.activation(self.dense(h.flatten(1))))


class DecoderTwin(Twin):
    def __init__(self, network, leaf, shape):
        super().__init__(network, leaf)
        layers = network.layers
        (self.dense,) = self.linears(layers.dense)
        self.sides = [shape[1:]]
        for _ in network.filters:
            self.sides.insert(0, tuple(-(-side // network.stride) for side in self.sides[0]))
        self.filters = network.filters
        self.convolutions = [
            self.copied(nn.ConvTranspose2d(*kernel.shape[1:3], 3, network.stride, padding=1), kernel, bias)
            for kernel, bias in zip(layers.kernels, layers.biases, strict=True)
        ]

    def __call__(self, z):
        h = self.activation(self.dense(z)).reshape(-1, self.filters[-1], *self.sides[0])
        for depth, convolution in enumerate(self.convolutions):
            h = convolution(h, output_size=self.sides[depth + 1])
            if depth + 1 < len(self.convolutions):
                h = self.activation(h)
        return h


def assert_same(x, network, twins, outputs, expected):
    """Values, and gradients to the input and to every parameter."""
    assert [out.shape for out in outputs] == [out.shape for out in expected]
    torch.testing.assert_close(list(outputs), list(expected))
    weights = [torch.randn_like(out) for out in expected]
    (gradient,) = torch.autograd.grad(
        sum((o * w).sum() for o, w in zip(expected, weights, strict=True)), x, retain_graph=True
    )
    sum((out * weight).sum() for out, weight in zip(expected, weights, strict=True)).backward()
    x.grad = None
    sum((out * weight).sum() for out, weight in zip(outputs, weights, strict=True)).backward()
    torch.testing.assert_close(x.grad, gradient)
    copied = zip(*(twin.pairs for twin in twins), strict=True)
    seen = set()
    for pairs in copied:
        parameter = pairs[0][0]
        seen.add(parameter)
        torch.testing.assert_close(parameter.grad, torch.stack([own() for _, own in pairs]))
    assert seen == set(network.parameters())


@pytest.mark.parametrize("lead", [(4,), (2, 3), ()])
class TestEqualsOneTorchNetworkPerLeaf:
    def test_encoder(self, case, lead):
        shape, leaves, options = case
        network = redrawn(encoder(shape, leaves, **options))
        twins = [EncoderTwin(network, leaf, shape) for leaf in range(leaves)]
        x = torch.randn(*lead, leaves, math.prod(shape), requires_grad=True)
        each = [twin(x[..., leaf, :]).reshape(*lead, 5) for leaf, twin in enumerate(twins)]
        assert_same(x, network, twins, network(x), torch.stack(each, -2).split([2, 3], -1))

    def test_decoder(self, case, lead):
        shape, leaves, options = case
        values = (2, 1, 3)
        network = redrawn(decoder(shape, leaves, values, **options))
        twins = [DecoderTwin(network, leaf, shape) for leaf in range(leaves)]
        z = torch.randn(*lead, leaves, CODE, requires_grad=True)
        channels = [shape[0] * value for value in values]
        expected = []
        images = [twin(z[..., leaf, :]).split(channels, 1) for leaf, twin in enumerate(twins)]
        for place, value in enumerate(values):
            # channel c * values + v of the head is value v of the pixels of channel c
            each = [image[place].reshape(-1, shape[0], value, *shape[1:]).permute(0, 1, 3, 4, 2) for image in images]
            expected.append(torch.stack([one.reshape(*lead, -1) for one in each], -2))
        assert_same(z, network, twins, network(z), expected)


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


def test_leaves_do_not_see_each_other():
    for network, size in (
        (encoder((1, 3, 3), 5, stride=1, filters=(4,)), 9),
        (decoder((1, 3, 3), 5, filters=(4,)), CODE),
    ):
        x = torch.randn(6, 5, size)
        changed = x.clone()
        changed[:, 1] += 1
        difference = (network(x)[0] != network(changed)[0]).any(-1).all(0)
        assert difference.tolist() == [False, True, False, False, False]


def test_no_data():
    for network, size in ((encoder((1, 3, 3), 2), 9), (decoder((1, 3, 3), 2), CODE)):
        assert all(out.shape[:2] == (0, 2) for out in network(torch.empty(0, 2, size)))


def test_initial_parameters():
    gain = 0.1
    for network in (encoder((2, 4, 4), 30, (20, 20), 40, output_gain=gain), decoder((2, 4, 4), 30, (1, 3))):
        layers = network.layers
        assert not any(bias.any() for name, bias in network.named_parameters() if "biases" in name)
        fans = [(2, 32), (32, 64)] if hasattr(layers, "trunk") else [(64, 32)]
        for kernel, (before, after) in zip(layers.kernels, fans, strict=False):
            bound = math.sqrt(6 / (9 * (before + after)))
            assert 0.99 * bound < kernel.abs().max() <= bound
            assert kernel.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    heads = layers.kernels[-1]  # two of 2 and of 6 channels, each drawn by its own size
    for head, channels in zip(heads.split([2, 6], 2), (2, 6), strict=True):
        assert head.std().item() == pytest.approx(gain * math.sqrt(2 / (9 * (32 + channels))), rel=0.02)
    flat = layers.dense.weights[0]
    assert flat.std().item() == pytest.approx(math.sqrt(2 / CODE), rel=0.02)
    trunk = encoder((2, 4, 4), 30, (20, 20), 40, output_gain=gain).layers.trunk.weights
    assert trunk[0].std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.02)
    assert trunk[1].std().item() == pytest.approx(gain * math.sqrt(2 / 40), rel=0.02)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"filters": 4}, "filters is 4; a sequence of positive integers is needed, such as (32, 64)"),
            ({"filters": ()}, "filters is (); a sequence of positive integers is needed, such as (32, 64)"),
            ({"filters": (4, 0)}, "filters is (4, 0); positive integers are needed"),
            ({"filters": (4, 2.0)}, "filters is (4, 2.0); positive integers are needed"),
            ({"stride": 4}, "stride is 4; 1, 2 or 3 is needed"),
            ({"stride": True}, "stride is True; 1, 2 or 3 is needed"),
            ({"stride": (1, 1)}, "stride is (1, 1); 1, 2 or 3 is needed"),
            ({"dense": 0}, "dense is 0; a positive integer is needed"),
            ({"activation": "gelu"}, "activation is 'gelu'; known are softplus, relu, leaky_relu, elu, silu, tanh"),
            ({"output_gain": 0}, "output_gain is 0; a positive number is needed"),
        ],
    )
    def test_options(self, options, message):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            Conv(**options)

    @pytest.mark.parametrize(
        ("sizes", "message"),
        [
            ({}, "the network 'conv' needs leaf regions that are equal rectangles"),
            ({"input_shape": None}, "the network 'conv' needs leaf regions that are equal rectangles"),
            ({"input_shape": (1, 2, 3)}, "inputs is 4; the pixels of the shape (1, 2, 3) are needed"),
            (
                {"output_shape": (1, 2, 3)},
                "an output of the network 'conv' has the size 8; a multiple of the patch's 6 pixels is needed",
            ),
            (
                {"input_shape": (1, 2, 2), "output_shape": (1, 2, 2)},
                "input_shape and output_shape are both given; the network 'conv' takes one of them",
            ),
            (
                {"input_shape": (2, 2)},
                "input_shape of Conv is (2, 2); channels, height and width as a tuple of positive integers, or None, "
                "are needed",
            ),
        ],
    )
    def test_sizes(self, sizes, message):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            Conv().bind(leaves=2, inputs=4, outputs=(12, 8), **sizes)

    @pytest.mark.parametrize(
        "regions", [poon_domingos((6, 5), 3), random_binary_tree((4, 4), 2, 2, seed=1), poon_domingos((8,), 4)]
    )
    def test_unequal_patches(self, regions):
        message = "^the network 'conv' needs leaf regions that are equal rectangles$"
        with pytest.raises(ValueError, match=message):
            SPVAE(regions, leaf=VAE(Bernoulli(), decoder=Conv()))
        with pytest.raises(ValueError, match=message):
            SPVAE(regions, leaf=VAE(Bernoulli()), guide=NormalGuide(encoder=Conv()))


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
        conv = spvae.leaf_guide.encoder
        assert conv.layers.channels == (3, 3) and conv.layers.sides == [[2, 3], [2, 3]]
        x = torch.rand(5, 3, 2, 6)
        image = conv.layers.images(spvae.view(x).movedim(-2, 0)[:2], 3, (2, 3))  # both leaves of the first region
        torch.testing.assert_close(image, x[..., :3].repeat(1, 2, 1, 1))

    @pytest.mark.parametrize("likelihood", [Bernoulli(), Normal(), Categorical(3)], ids=lambda one: type(one).__name__)
    @pytest.mark.parametrize("channels", [1, 3])
    def test_trains(self, likelihood, channels):
        torch.manual_seed(1)
        likelihood = type(likelihood)(**likelihood.options())
        spvae = conv_spvae(poon_domingos((6, 6), 3), likelihood, channels=channels, filters=(2, 3), stride=1, dense=5)
        x = torch.randint(0, 2, (16, channels, 1, 6)).expand(-1, -1, 6, -1).double()
        loss = CircuitELBO(2)(spvae.model, spvae.guide)
        assert all(grad.abs().sum() > 0 for grad in gradients(spvae, loss(x)).values())
        optimiser = torch.optim.Adam(spvae.parameters(), 0.02)
        values = []
        for _ in range(30):
            optimiser.zero_grad()
            value = loss(x)
            value.backward()
            optimiser.step()
            values.append(value.item())
        assert sum(values[-3:]) / 3 < 0.9 * values[0] if values[0] > 0 else values[-1] < values[0]
        density = spvae.log_likelihood(x[:4], num_samples=8)
        assert density.shape == (4,) and density.isfinite().all()
        assert spvae.sample(3).shape == (3, channels, 6, 6)

    def test_levels_are_decoded_pixel_by_pixel(self):
        """Head channels set by their biases: channel c, level v has the logit 10 c + v wherever it is."""
        shape, levels = (3, 2, 4), 5
        likelihood = Categorical(levels).bind(leaves=2, pixels=24)
        network = decoder(shape, 2, (levels,), filters=(2,), stride=1)
        logits = (10 * torch.arange(3).unsqueeze(1) + torch.arange(levels)).double()
        with torch.no_grad():
            network.layers.kernels[-1].zero_()
            network.layers.biases[-1].copy_(logits.flatten().expand(2, -1))
        (out,) = network(torch.randn(7, 2, CODE))
        expected = logits[:, None, None].expand(7, 2, *shape, levels).flatten(2, 4)  # [.., leaf, pixel, level]
        torch.testing.assert_close(likelihood((out,)).logits, expected)

    def test_saved_and_loaded(self, tmp_path):
        spvae = conv_spvae(poon_domingos((4, 4), 2), Normal(), filters=[2, 3], stride=1, dense=5, activation="relu")
        spvae.save(tmp_path)
        again = SPVAE.load(tmp_path)
        for part in (again.leaf.decoder, again.leaf_guide.encoder):
            assert type(part) is Conv
            assert part.options() == {
                "filters": (2, 3),
                "stride": 1,
                "dense": 5,
                "activation": "relu",
                "output_gain": 0.1,
            }
        x = torch.rand(3, 1, 4, 4)
        torch.manual_seed(2)
        expected = spvae.log_likelihood(x, num_samples=4)
        torch.manual_seed(2)
        torch.testing.assert_close(again.log_likelihood(x, num_samples=4), expected)

    def test_from_a_configuration(self):
        made = make("network", "conv(filters=(4,8), stride=1)", hidden_dims=(3,), activation="relu", networks="shared")
        assert (made.filters, made.stride, made.dense, made.activation) == ((4, 8), 1, 64, "relu")
        data = images(levels=None)
        config = dataclasses.replace(TINY, network="conv(filters=(4,8), stride=1, dense=5)", activation="relu")
        spvae = build_model(resolve(config, data), data)
        decoder, encoder = spvae.leaf.decoder, spvae.leaf_guide.encoder
        assert decoder.options() == encoder.options() == made.options() | {"dense": 5}
        assert decoder.sizes["output_shape"] == encoder.sizes["input_shape"] == spvae.view.patch
        with pytest.raises(
            ValueError, match="^network conv has no option hidden_dims; its options are filters, stride,"
        ):
            make("network", "conv(hidden_dims=(3,))")


class Plain(Network):
    """A user's own network, which knows nothing of shapes."""

    def build(self, leaves, inputs, outputs):
        self.weights = nn.ParameterList(torch.randn(leaves, inputs, size) for size in outputs)

    def forward(self, x):
        return tuple(torch.einsum("...li,lio->...lo", x, weight) for weight in self.weights)


class Shaped(Plain):
    """One that does."""

    def build(self, leaves, inputs, outputs, input_shape=None, output_shape=None):
        super().build(leaves, inputs, outputs)
        self.shapes = input_shape, output_shape


class PlainGuide(NormalGuide):
    def build(self, leaves, pixels, latent_dim):
        super().build(leaves, pixels, latent_dim)


class TestOwnParts:
    def test_need_not_name_the_patch(self):
        leaf = VAE(Normal(), 2, decoder=Plain())
        spvae = SPVAE(poon_domingos((4, 4), 2), leaf=leaf, guide=PlainGuide(encoder=Plain()))
        assert spvae.leaf.decoder.sizes == {"leaves": 8, "inputs": 2, "outputs": (4, 4)}
        assert spvae.leaf_guide.sizes == {"leaves": 8, "pixels": 4, "latent_dim": 2}
        assert spvae.leaf.likelihood.sizes == {"leaves": 8, "pixels": 4}

    @pytest.mark.parametrize(("channels", "patch"), [(1, (1, 2, 4)), (3, (3, 2, 4)), (None, (1, 2, 4))])
    def test_get_it_where_they_do(self, channels, patch):
        leaf, guide = VAE(Normal(), 2, decoder=Shaped()), NormalGuide(encoder=Shaped())
        spvae = SPVAE(poon_domingos((2, 8), 4), leaf=leaf, guide=guide, channels=channels)
        assert spvae.leaf.decoder.shapes == (None, patch)
        assert spvae.leaf_guide.encoder.shapes == (patch, None)
        assert spvae.leaf.sizes == {"leaves": 4, "pixels": math.prod(patch), "patch": patch}

    def test_get_none_of_tables_and_unequal_regions(self):
        for regions in (poon_domingos((8,), 4), poon_domingos((5, 4), 2)):
            leaf, guide = VAE(Normal(), 2, decoder=Shaped()), NormalGuide(encoder=Shaped())
            spvae = SPVAE(regions, leaf=leaf, guide=guide)
            assert spvae.leaf.decoder.shapes == spvae.leaf_guide.encoder.shapes == (None, None)

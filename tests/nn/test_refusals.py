# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What networks refuse, in one sentence."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn

from pyro_spvae import poon_domingos, random_binary_tree
from pyro_spvae.guides import NormalGuide
from pyro_spvae.likelihoods import Bernoulli, Normal
from pyro_spvae.models import SPVAE, VAE
from pyro_spvae.nn import MLP, Conv, GatedConv, Joint, MultiScale, Network, PixelCNN, SEResNet
from pyro_spvae.nn.pyramid import FeaturePyramid
from pyro_spvae.nn.residual import PreActivation, ResidualBlock, ResidualStack, SqueezeExcitation
from pyro_spvae.nn.upscale import Upscale
from pyro_spvae.registry import make

ACTIVATIONS = "known are softplus, relu, leaky_relu, elu, silu, tanh"
POSITIVE = "a positive integer is needed"
LAYERS = "layers (channels, kernel, stride, padding), such as ((32, 3, 1, 1), (6, 3, 2, 1)), are needed"
RESIDUAL = (FeaturePyramid, Upscale, SEResNet)
OPTIONS = [
    ((MLP, Joint), "hidden_dims", ((3, 0), (0, 3), (True,)), "positive integers are needed"),
    ((MLP, Joint), "hidden_dims", (3, "33"), "a sequence of positive integers is needed, such as (32, 32)"),
    ((MLP, Joint), "activation", ("step", [""]), f"{ACTIVATIONS}, gated"),
    ((MLP, Joint), "init", ("xavier", "zero"), "known are truncated, he, glorot"),
    ((MLP, Joint, Conv), "output_gain", (0, -1.0, math.inf, "1"), "a positive number is needed"),
    ((MLP,), "networks", ("one",), "known are separate, shared"),
    ((MLP,), "skip", (1,), "True or False is needed"),
    ((MLP, Joint), "normalise", (1, "yes"), "True or False is needed"),
    ((Conv,), "filters", (4, ()), "a sequence of positive integers is needed, such as (32, 64)"),
    ((Conv,), "filters", ((4, 0), (4, 2.0)), "positive integers are needed"),
    ((Conv,), "stride", (4, True, (1, 1)), "1, 2 or 3 is needed"),
    ((Conv,), "dense", (0,), POSITIVE),
    ((Conv,), "activation", ("gelu",), ACTIVATIONS),
    ((GatedConv,), "layers", ("huge",), "known are large, small, or a sequence of layers"),
    ((GatedConv,), "layers", ((), 3), LAYERS),
    ((GatedConv,), "hidden", (0,), POSITIVE),
    ((GatedConv,), "heads", (1,), "True or False is needed"),
    ((PixelCNN,), "filters", (0,), POSITIVE),
    ((PixelCNN,), "layers", (1.0,), POSITIVE),
    ((PixelCNN,), "kernel", (4, 1), "an odd integer of at least 3 is needed"),
    ((PixelCNN,), "norm", ("layer",), "known are batch, none"),
    ((PixelCNN,), "latents", ("some",), "known are all, masked"),
    *(((MultiScale,), option, (0, -1, 2.0), POSITIVE) for option in ("smallest", "filters", "blocks")),
    ((MultiScale,), "padding", ("top-left", None, True), "known are none, bottom-right"),
    ((MultiScale,), "norm", ("layer",), "known are batch, none"),
    ((MultiScale,), "checkpoint", (1,), "True or False is needed"),
    (RESIDUAL, "channels", (0, 2.0, (), (4, 0), "44", True), "a positive integer or a sequence of them is needed"),
    *((RESIDUAL, option, (0, -1, 1.5), POSITIVE) for option in ("blocks", "ratio")),
    ([network for network in RESIDUAL if network.least_levels], "levels", (0, -1, 1.5), POSITIVE),
    (RESIDUAL, "norm", ("layer", None), "known are batch, none"),
    (RESIDUAL, "activation", ("gated",), ACTIVATIONS),
    (RESIDUAL, "checkpoint", (1,), "True or False is needed"),
    ((SEResNet,), "dense", (0,), POSITIVE),
    ((SEResNet,), "output_gain", (0, "1"), "a positive number is needed"),
]


@pytest.mark.parametrize(("networks", "option", "values", "needed"), OPTIONS)
def test_options(networks, option, values, needed):
    for network in networks:
        for value in values:
            with pytest.raises(ValueError, match=f"^{re.escape(f'{option} is {value!r}; {needed}')}"):
                network(**{option: value})


def bind(network, inputs=4, outputs=(12, 8), **sizes):
    return lambda: network().bind(leaves=2, inputs=inputs, outputs=outputs, **sizes)


def twice():
    network = MLP()
    SPVAE(poon_domingos((2, 2), 1), leaf=VAE(Normal(), decoder=network), guide=NormalGuide(encoder=network))


SQUARE, OBLONG = (1, 2, 2), (1, 2, 3)
NO_RECTANGLES = "the network '{}' needs leaf regions that are equal rectangles"
NOT_THE_PIXELS = f"inputs is 4; the pixels of the shape {OBLONG} are needed"
NO_MULTIPLE = "an output of the network '{}' has the size {}; a multiple of the patch's {} pixels is needed"
BOTH = "input_shape and output_shape are both given; the network '{}' takes one of them"
BINDINGS = [
    *(
        (bind(network), NO_RECTANGLES.format(name))
        for network, name in ((Conv, "conv"), (GatedConv, "gated-conv"), (SEResNet, "se-resnet"))
    ),
    (bind(FeaturePyramid), "a FeaturePyramid needs leaf regions that are equal rectangles"),
    (bind(Upscale), "an Upscale needs a map with sides to scale up to, or leaf regions that are equal rectangles"),
    (bind(Conv, input_shape=None), NO_RECTANGLES.format("conv")),
    *((bind(network, input_shape=OBLONG), NOT_THE_PIXELS) for network in (Conv, GatedConv, FeaturePyramid, SEResNet)),
    (bind(Conv, output_shape=OBLONG), NO_MULTIPLE.format("conv", 8, 6)),
    (bind(GatedConv, output_shape=OBLONG), NO_MULTIPLE.format("gated-conv", 8, 6)),
    (bind(SEResNet, output_shape=OBLONG), NO_MULTIPLE.format("se-resnet", 8, 6)),
    (bind(PixelCNN, outputs=(4, 5), output_shape=SQUARE), NO_MULTIPLE.format("pixelcnn", 5, 4)),
    (bind(MultiScale, outputs=(4, 5), output_shape=SQUARE), NO_MULTIPLE.format("multi-scale", 5, 4)),
    (
        bind(lambda: MultiScale(2), output_shape=OBLONG, outputs=(6,)),
        "smallest is 2, and patches of 2 x 3 pixels cannot be halved down to it; give another number, or "
        "padding='bottom-right', which takes them as 2 x 4",
    ),
    (
        bind(lambda: MultiScale(2), output_shape=SQUARE, map_shape=(1, 1, 4), outputs=(4,)),
        "map_shape is a map of 1 x 4; one of at most 2 x 2, the sides to scale up to, is needed",
    ),
    (bind(Conv, input_shape=SQUARE, output_shape=SQUARE), BOTH.format("conv")),
    (bind(GatedConv, input_shape=SQUARE, output_shape=SQUARE), BOTH.format("gated-conv")),
    (bind(SEResNet, input_shape=SQUARE, output_shape=SQUARE), BOTH.format("se-resnet")),
    *(
        (bind(network, **shape), "levels is 2; patches of 2 x 2 pixels can be halved at most 1 times")
        for network, shape in (
            (FeaturePyramid, {"input_shape": SQUARE}),
            (SEResNet, {"input_shape": SQUARE}),
            (SEResNet, {"output_shape": SQUARE}),
            (Upscale, {"output_shape": SQUARE}),
        )
    ),
    (
        bind(Upscale, output_shape=SQUARE, map_shape=(2, 1, 1)),
        "inputs is 4; the values of the map_shape (2, 1, 1) are needed",
    ),
    *(
        (
            bind(network, output_shape=SQUARE, map_shape=(1, 1, 4)),
            "map_shape is a map of 1 x 4; one of at most 2 x 2, the sides to scale up to, is needed",
        )
        for network in (Upscale, SEResNet)
    ),
    (bind(Conv, input_shape=(2, 2)), "input_shape of Conv is (2, 2); channels, height and width as a tuple"),
    (
        bind(lambda: GatedConv(((3, 3, 1, 0),)), input_shape=SQUARE),
        "layers of the network 'gated-conv' leave nothing of patches of 2 x 2 pixels; give smaller kernels and strides",
    ),
    (
        bind(lambda: GatedConv(((3, 3, 2, 1),)), output_shape=SQUARE),
        "layers of the network 'gated-conv' has the entry (3, 3, 2, 1); in a decoder the stride is 1 and the",
    ),
    (bind(MLP, inputs=(2, 3)), "a MLP takes one input, but there are 2 here; give a network of several inputs, such"),
    *(
        (lambda entries=entries: GatedConv(entries), f"layers has the entry {entries[0]}; {LAYERS}")
        for entries in (((3, 3, 1),), (3, 3, 1, 1), ((3, 3, 0, 1),), ((3, 3, 1, -1),))
    ),
    (twice, "this MLP is bound already"),
]


@pytest.mark.parametrize(("act", "message"), BINDINGS)
def test_bindings(act, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        act()


OTHERS = [
    (lambda: Joint((), activation="step"), ValueError, f"activation is 'step'; {ACTIVATIONS}"),
    (lambda: Joint((), init="zero"), ValueError, "init is 'zero'; known are truncated, he, glorot"),
    (lambda: Joint((), output_gain=0), ValueError, "output_gain is 0; a positive number is needed"),
    (lambda: Joint((), first=MLP()), ValueError, "hidden_dims is empty, but first is given; the size of the first"),
    *(
        (
            lambda kind=kind: kind((3,), "gated", normalise=True),
            ValueError,
            "normalise is True, but gated layers are not",
        )
        for kind in (MLP, Joint)
    ),
    (lambda: SqueezeExcitation(1, 4, 0), ValueError, f"ratio is 0; {POSITIVE}"),
    (lambda: ResidualBlock(1, 4, 4, ratio=-1), ValueError, f"ratio is -1; {POSITIVE}"),
    (lambda: ResidualBlock(1, 4, 4, "left"), ValueError, "resample is 'left'; known are same, down, up"),
    (lambda: PreActivation(1, 4, "layer"), ValueError, "norm is 'layer'; known are batch, none"),
    (lambda: PreActivation(1, 4, activation="gated"), ValueError, f"activation is 'gated'; {ACTIVATIONS}"),
    (lambda: ResidualStack(1, 4, 4, 0), ValueError, f"blocks is 0; {POSITIVE}"),
    (
        lambda: ResidualBlock(1, 4, 4, "down")(torch.zeros(1, 4, 4, 4), (3, 3)),
        ValueError,
        "size is (3, 3); of the resample 'down' the sides follow, so leave it out",
    ),
    (lambda: Joint(first=nn.Linear(2, 2)), TypeError, "first is a Linear; an instance of Network is needed"),
    (lambda: bind(Joint, (4, 2))()(torch.randn(1, 2, 4)), ValueError, "zip() argument 2 is shorter than argument 1"),
    (bind(Network), NotImplementedError, "Network must define build("),
    (lambda: Network()(torch.zeros(1, 1)), NotImplementedError, "Network must define forward("),
    (lambda: MLP().context(torch.zeros(1, 1)), NotImplementedError, "MLP is not autoregressive, and has no context"),
    *(
        (lambda of=of: of(torch.zeros(1, 1)), NotImplementedError, "MLP is not autoregressive, and has no steps")
        for of in (MLP().steps, MLP().rows_at_once)
    ),
    (lambda: VAE(Normal(), decoder=nn.ReLU()), TypeError, "decoder is a ReLU; an instance of Network is needed"),
    (lambda: NormalGuide(encoder=MLP), TypeError, "encoder is the class MLP; an instance of Network is needed"),
    (lambda: VAE(Normal), TypeError, "likelihood is the class Normal; an instance of Likelihood is needed"),
    (lambda: make("network", "conv(hidden_dims=(3,))"), ValueError, "network conv has no option hidden_dims; its opt"),
]


@pytest.mark.parametrize(("act", "error", "message"), OTHERS)
def test_others(act, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        act()


@pytest.mark.parametrize("options", [{"hidden_dims": (32, 32)}, {"activation": "softplus"}, {"networks": "shared"}])
def test_options_beside_a_network(options):
    given = f"is given, so leave out the options of the default network ({', '.join(options)})"
    with pytest.raises(ValueError, match=f"^decoder {re.escape(given)}"):
        VAE(Normal(), decoder=MLP(), **options)
    with pytest.raises(ValueError, match=f"^encoder {re.escape(given)}"):
        NormalGuide(encoder=MLP(), **options)


REGIONS = poon_domingos((6, 5), 3), random_binary_tree((4, 4), 2, 2, seed=1), poon_domingos((8,), 4)
NO_ENCODER = (
    "the network '{}' is a decoder and cannot encode patches; give it as decoder alone, and another network as encoder"
)


DECODERS = {PixelCNN: "pixelcnn", MultiScale: "multi-scale"}
NAMES = {Conv: "conv", GatedConv: "gated-conv", SEResNet: "se-resnet", **DECODERS}


@pytest.mark.parametrize("regions", REGIONS)
def test_leaves_that_are_no_equal_rectangles(regions):
    for network, name in NAMES.items():
        message = f"^{NO_RECTANGLES.format(name)}$"
        with pytest.raises(ValueError, match=message):
            SPVAE(regions, leaf=VAE(Bernoulli(), decoder=network()), guide=NormalGuide())
        message = f"^{NO_ENCODER.format(name)}$" if network in DECODERS else message
        with pytest.raises(ValueError, match=message):
            SPVAE(regions, leaf=VAE(Bernoulli()), guide=NormalGuide(encoder=network()))


@pytest.mark.parametrize("network", DECODERS)
def test_autoregressive_decoders_encode_no_rectangles_either(network):
    with pytest.raises(ValueError, match=f"^{NO_ENCODER.format(DECODERS[network])}$"):
        SPVAE(poon_domingos((6, 4), 2), leaf=VAE(Bernoulli()), guide=NormalGuide(encoder=network()))

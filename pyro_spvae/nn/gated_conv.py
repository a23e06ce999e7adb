# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Gated convolutional networks with a leaf axis, those of the VampPrior paper's code (Tomczak and Welling 2018)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_spvae import checks
from pyro_spvae.nn.leaf_conv import GatedLeafConv, PixelHeads, images
from pyro_spvae.nn.mlp import GATED, Stack, apply
from pyro_spvae.nn.network import Network

_Layer = tuple[int, int, int, int]  # channels, kernel, stride, padding

ENCODERS: dict[str, tuple[_Layer, ...]] = {
    "large": ((32, 7, 1, 3), (32, 3, 2, 1), (64, 5, 1, 2), (64, 3, 2, 1), (6, 3, 1, 1)),
    "small": ((32, 3, 1, 1), (32, 3, 2, 1), (64, 3, 1, 1), (64, 3, 2, 1), (6, 3, 1, 1)),
}
_DECODER: tuple[_Layer, ...] = ((64, 3, 1, 1),) * 4


class GatedConv(Network):
    r"""
    Independent gated convolutional networks between patches and vectors, in the direction in which they are bound.

    A layer is :math:`(h * W + b) \odot \mathrm{sigmoid}(h * V + c)`. An encoder (bound with the shape of its input):
    the layers, then a linear head for each output. A decoder (bound with the shape of its output): a gated dense layer
    from the input to an image, layers that keep its sides, and a 1 x 1 convolution for each output. Of several inputs,
    as a hierarchical model has, each has a gated dense layer to ``hidden`` units, and the one to the image sees all.

    Convolutions start as torch's own, dense layers as normals of variance ``2 / in``, both as in the paper's code.

    :param layers: channels, kernel, stride and padding of each layer; or ``"large"`` or ``"small"``, the encoders of
        the paper's upper and lower latent variables, for patches of about 28 x 28: a decoder then has four layers
        ``(64, 3, 1, 1)``.
    :param int hidden: units for each of several inputs of a decoder.
    :param bool heads: whether an encoder has heads; without them its one output is what they would see, as wide as
        :attr:`width`, and the ``outputs`` that it is bound with do not matter.
    :raises ValueError: for options out of range, and when bound for leaves that are no rectangles of one shape, or such
        as are smaller than the layers need.
    :ivar width: size of what the heads of an encoder see; ``None`` before it is bound, and of a decoder.

    Example::

        >>> from pyro_spvae.nn import GatedConv
        >>> encoder = GatedConv([(8, 3, 2, 1), (8, 3, 2, 1)])  # channels, kernel, stride, padding
        >>> encoder = encoder.bind(leaves=1, inputs=64, outputs=(2, 2), input_shape=(1, 8, 8))
        >>> encoder.width, [output.shape for output in encoder(torch.rand(5, 1, 64))]
        (32, [torch.Size([5, 1, 2]), torch.Size([5, 1, 2])])
    """

    several_inputs = True

    def __init__(self, layers: str | Sequence[Sequence[int]] = "large", hidden: int = 300, heads: bool = True) -> None:
        super().__init__()
        _check_layers(layers)
        self.layers = layers if isinstance(layers, str) else tuple(tuple(layer) for layer in layers)
        self.hidden = checks.positive_integer("hidden", hidden)
        self.heads = checks.boolean("heads", heads)

    def build(
        self,
        leaves: int,
        inputs: int | tuple[int, ...],
        outputs: tuple[int, ...],
        input_shape: tuple[int, ...] | None = None,
        output_shape: tuple[int, ...] | None = None,
    ) -> None:
        """
        Makes the parameters.

        :param inputs: size of the input; for a decoder of several inputs, a tuple of sizes.
        :param tuple input_shape: ``(channels, height, width)`` of the patches that an encoder sees.
        :param tuple output_shape: likewise, that a decoder makes.
        """
        if input_shape is not None and output_shape is not None:
            raise ValueError("input_shape and output_shape are both given; the network 'gated-conv' takes one of them")
        if input_shape is not None:
            if inputs != math.prod(input_shape):
                raise ValueError(f"inputs is {inputs}; the pixels of the shape {input_shape} are needed")
            layers = ENCODERS[self.layers] if isinstance(self.layers, str) else self.layers
            encoder = _Encoder(leaves, input_shape, outputs if self.heads else (), layers)
            self.width = encoder.width
            self.network: _Encoder | _Decoder = encoder
        elif output_shape is not None:
            layers = _DECODER if isinstance(self.layers, str) else self.layers
            sizes = (inputs,) if isinstance(inputs, int) else inputs
            self.network = _Decoder(leaves, sizes, outputs, output_shape, layers, self.hidden)
        else:
            raise ValueError("the network 'gated-conv' needs leaf regions that are equal rectangles")

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """
        :param Tensor inputs: ``[.., leaf, in]``; several of a decoder that was bound so, whose batch dimensions
            broadcast.
        :returns: one tensor ``[.., leaf, out]`` per output.
        """
        return self.network(*inputs)

    def extra_repr(self) -> str:
        return f"layers={self.layers}"


class _Encoder(nn.Module):
    def __init__(
        self, leaves: int, shape: tuple[int, ...], outputs: tuple[int, ...], layers: Sequence[Sequence[int]]
    ) -> None:
        super().__init__()
        self.shape = shape
        channels, sides = shape[0], list(shape[1:])
        self.convolutions = nn.Sequential()
        for after, kernel, stride, padding in layers:
            self.convolutions.append(GatedLeafConv(leaves, channels, after, kernel, stride, padding))
            channels = after
            sides = [(side + 2 * padding - kernel) // stride + 1 for side in sides]
            if min(sides) < 1:
                raise ValueError(
                    f"layers of the network 'gated-conv' leave nothing of patches of {shape[1]} x {shape[2]} pixels; "
                    "give smaller kernels and strides"
                )
        self.width = channels * math.prod(sides)
        self.head = Stack(leaves, (self.width,), GATED, outputs, init="he")

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h = self.convolutions(images(x, self.shape)).reshape(*x.shape[:-1], self.width)
        return apply([self.head], h)


class _Decoder(nn.Module):
    def __init__(
        self,
        leaves: int,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        shape: tuple[int, ...],
        layers: Sequence[Sequence[int]],
        hidden: int,
    ) -> None:
        super().__init__()
        self.shape = shape
        several = len(inputs) > 1
        self.branches = nn.ModuleList(gated_dense(leaves, size, hidden) for size in inputs if several)
        self.dense = gated_dense(leaves, hidden * len(inputs) if several else inputs[0], math.prod(shape))
        self.convolutions = nn.Sequential()
        channels = shape[0]
        for after, kernel, stride, padding in layers:
            if stride != 1 or 2 * padding != kernel - 1:
                raise ValueError(
                    f"layers of the network 'gated-conv' has the entry {(after, kernel, stride, padding)}; in a "
                    "decoder the stride is 1 and the padding half of the kernel less one, so that sides stay"
                )
            self.convolutions.append(GatedLeafConv(leaves, channels, after, kernel, stride, padding))
            channels = after
        self.heads = PixelHeads(leaves, channels, shape, outputs, "gated-conv")

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        h = inputs[0]
        if len(self.branches):
            parts = [apply([branch], x)[0] for branch, x in zip(self.branches, inputs, strict=True)]
            shape = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
            h = torch.cat([part.expand(*shape, -1) for part in parts], -1)
        (h,) = apply([self.dense], h)
        lead = h.shape[:-1]
        heads = self.heads(self.convolutions(images(h, self.shape)))
        return tuple(head.reshape(*lead, head.size(-1)) for head in heads)


def gated_dense(leaves: int, before: int, after: int) -> Stack:
    """One gated dense layer per leaf, started as in the VampPrior paper's code."""
    return Stack(leaves, (before, after), GATED, init="he")


def _check_layers(layers: Any) -> None:
    """
    :raises ValueError: in one sentence for layers that :class:`GatedConv` does not take.
    """
    if isinstance(layers, str):
        if layers not in ENCODERS:
            raise ValueError(f"layers is {layers!r}; known are {', '.join(ENCODERS)}, or a sequence of layers")
        return
    wanted = "(channels, kernel, stride, padding), such as ((32, 3, 1, 1), (6, 3, 2, 1)), are needed"
    if not isinstance(layers, Sequence) or not layers:
        raise ValueError(f"layers is {layers!r}; layers {wanted}")
    for layer in layers:
        fits = isinstance(layer, Sequence) and not isinstance(layer, str) and len(layer) == 4
        if fits:
            *sizes, padding = layer
            fits = all(map(checks.is_positive, sizes)) and (padding == 0 or checks.is_positive(padding))
        if not fits:
            raise ValueError(f"layers has the entry {layer!r}; layers {wanted}")

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Convolutional networks with a leaf axis: one network per leaf, several leaves to a convolution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_spvae import checks
from pyro_spvae.nn.leaf_conv import block_diagonal, by_pixel, head_channels
from pyro_spvae.nn.mlp import ACTIVATIONS, Stack, apply, check_activation, check_output_gain
from pyro_spvae.nn.network import Network

_KERNEL = 3
_CHANNELS = 16  # of a convolution (times the stride) below which the processor is not busy; measured

_Convolutions = list[tuple[Tensor, Tensor]]  # kernel and bias of each layer, of one block of leaves


class Conv(Network):
    """
    Independent convolutional networks between patches and vectors, in the direction in which they are bound.

    An encoder (bound with the shape of its input): a 3 x 3 convolution and the activation for each entry of
    ``filters``, a dense layer, and a linear head for each output. A decoder (bound with the shape of its output): a
    dense layer from the input to the shape after the last of those convolutions, transposed 3 x 3 convolutions back
    through ``filters``, and one for each output. Convolutions keep ``ceil(size / stride)``; all heads share one trunk.

    ``Conv((32, 64), stride=2, dense=64)`` is the Conv-VAE of the SPVAE paper, ``Conv((4, 8), stride=1, dense=64)`` the
    leaf of its Conv-SPVAE; there, ``output_gain`` is 1. Kernels start uniform (Glorot and Bengio 2010), dense layers as
    those of :class:`~pyro_spvae.nn.MLP`.

    Leaves of few filters are put side by side into one convolution whose kernel is block diagonal: more arithmetic,
    but at a processor's pace.

    :param Sequence[int] filters: channels after each convolution.
    :param int stride: of each convolution.
    :param int dense: units of the encoder's dense layer.
    :param str activation: as of :class:`~pyro_spvae.nn.MLP`.
    :param float output_gain: factor of the outputs' initial weights.
    :raises ValueError: for options out of range, and when bound for leaves that are no rectangles of one shape.

    Example::

        >>> from pyro_spvae.nn import Conv
        >>> decoder = Conv((4, 8)).bind(leaves=3, inputs=2, outputs=(64, 64), output_shape=(1, 8, 8))
        >>> [output.shape for output in decoder(torch.randn(5, 3, 2))]
        [torch.Size([5, 3, 64]), torch.Size([5, 3, 64])]
    """

    def __init__(
        self,
        filters: Sequence[int] = (32, 64),
        stride: int = 2,
        dense: int = 64,
        activation: str = "softplus",
        output_gain: float = 0.1,
    ) -> None:
        super().__init__()
        given: Any = filters
        if not isinstance(given, Sequence) or isinstance(given, str) or not given:
            raise ValueError(f"filters is {filters!r}; a sequence of positive integers is needed, such as (32, 64)")
        if not all(map(checks.is_positive, filters)):
            raise ValueError(f"filters is {tuple(filters)!r}; positive integers are needed")
        if not checks.is_positive(stride) or stride > _KERNEL:
            raise ValueError(f"stride is {stride!r}; 1, 2 or 3 is needed")
        check_activation(activation)
        check_output_gain(output_gain)
        self.filters = tuple(filters)
        self.stride = stride
        self.dense = checks.positive_integer("dense", dense)
        self.activation = activation
        self.output_gain = float(output_gain)

    def build(
        self,
        leaves: int,
        inputs: int,
        outputs: tuple[int, ...],
        input_shape: tuple[int, ...] | None = None,
        output_shape: tuple[int, ...] | None = None,
    ) -> None:
        """
        Makes the parameters.

        :param tuple input_shape: ``(channels, height, width)`` of the patches that an encoder sees.
        :param tuple output_shape: likewise, that a decoder makes.
        """
        options = (self.filters, self.stride, self.activation, self.output_gain)
        if input_shape is not None and output_shape is not None:
            raise ValueError("input_shape and output_shape are both given; the network 'conv' takes one of them")
        if input_shape is not None:
            if inputs != math.prod(input_shape):
                raise ValueError(f"inputs is {inputs}; the pixels of the shape {input_shape} are needed")
            self.layers: _Layers = _Encoder(leaves, input_shape, outputs, self.dense, *options)
        elif output_shape is not None:
            self.layers = _Decoder(leaves, inputs, outputs, output_shape, *options)
        else:
            raise ValueError("the network 'conv' needs leaf regions that are equal rectangles")

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """
        :param Tensor x: ``[.., leaf, in]``.
        :returns: one tensor ``[.., leaf, out]`` per output.
        """
        return apply([self.layers], x)

    def extra_repr(self) -> str:
        return f"filters={self.filters}, stride={self.stride}, dense={self.dense}, activation={self.activation}"


class _Layers(nn.Module):
    """
    What both directions share: kernels with a leaf axis, and convolutions of several leaves at a time.

    :ivar tuple channels: of the patch and after each convolution.
    :ivar list sides: height and width of the patch and after each convolution.
    :ivar int block: leaves to a convolution.
    :ivar ParameterList kernels: ``[leaf, out, in, 3, 3]`` of an encoder, ``[leaf, in, out, 3, 3]`` of a decoder, whose
        last ones are those of its outputs; ``biases``: ``[leaf, out]``.
    """

    heads = 0  # how many of the last kernels make the outputs
    axis = 1  # of a kernel along which its output's channels lie

    def __init__(
        self, leaves: int, shape: tuple[int, ...], filters: tuple[int, ...], stride: int, activation: str
    ) -> None:
        super().__init__()
        self.leaves, self.shape, self.stride = leaves, shape, stride
        self.activation: Callable[[Tensor], Tensor] = ACTIVATIONS[activation]
        self.channels = (shape[0], *filters)
        self.sides = [list(shape[1:])]
        for _ in filters:
            self.sides.append([math.ceil(side / stride) for side in self.sides[-1]])
        self.block = min(leaves, math.ceil(_CHANNELS * stride / min(filters)))
        self.kernels = nn.ParameterList()
        self.biases = nn.ParameterList()

    def add_kernel(self, before: int, after: int, gain: float = 1.0) -> None:
        """Makes the parameters of one more convolution."""
        bound = gain * math.sqrt(6 / (_KERNEL**2 * (before + after)))
        sizes = (after, before) if self.axis == 1 else (before, after)
        self.kernels.append(torch.empty(self.leaves, *sizes, _KERNEL, _KERNEL).uniform_(-bound, bound))
        self.biases.append(torch.zeros(self.leaves, after))

    def convolutions(self) -> _Convolutions:
        """Kernel and bias of each convolution, those of all outputs as one."""
        kernels, biases = list(self.kernels), list(self.biases)
        if self.heads > 1:
            kernels[-self.heads :] = [torch.cat(kernels[-self.heads :], self.axis)]
            biases[-self.heads :] = [torch.cat(biases[-self.heads :], 1)]
        return list(zip(kernels, biases, strict=True))

    def images(self, x: Tensor, channels: int, sides: Sequence[int]) -> Tensor:
        """Leaves ``[l, N, C * H * W]`` side by side as channels ``[N, l * C, H, W]``."""
        leaves, rows, _ = x.shape
        return x.movedim(0, 1).reshape(rows, leaves * channels, *sides)

    def vectors(self, h: Tensor, leaves: int) -> Tensor:
        """The reverse of :meth:`images`."""
        return h.reshape(h.size(0), leaves, h.size(1) // leaves * h.size(2) * h.size(3)).movedim(1, 0)

    def by_blocks(self, x: Tensor, convolve: Callable[[Tensor, _Convolutions], Tensor]) -> Tensor:
        """Convolves few leaves ``[l, N, ..]`` at a time."""
        # split, not slices: the gradient of a slice is as large as all of x, for each of the blocks
        layers = [
            zip(kernel.split(self.block), bias.split(self.block), strict=True) for kernel, bias in self.convolutions()
        ]
        blocks = zip(x.split(self.block), *layers, strict=True)
        return torch.cat([convolve(part, [_diagonal(*pair) for pair in pairs]) for part, *pairs in blocks])


class _Encoder(_Layers):
    """``[L, N, pixel]`` to one ``[L, N, out]`` per output."""

    def __init__(
        self,
        leaves: int,
        shape: tuple[int, ...],
        outputs: tuple[int, ...],
        dense: int,
        filters: tuple[int, ...],
        stride: int,
        activation: str,
        output_gain: float,
    ) -> None:
        super().__init__(leaves, shape, filters, stride, activation)
        for before, after in pairwise(self.channels):
            self.add_kernel(before, after)
        sizes = (filters[-1] * math.prod(self.sides[-1]), dense)
        self.trunk = Stack(leaves, sizes, activation, outputs, output_gain)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """One tensor per output."""
        outputs: tuple[Tensor, ...] = self.trunk(self.by_blocks(x, self._convolve))
        return outputs

    def _convolve(self, x: Tensor, convolutions: _Convolutions) -> Tensor:
        h = self.images(x, self.channels[0], self.sides[0])
        for kernel, bias in convolutions:
            h = self.activation(F.conv2d(h, kernel, bias, self.stride, padding=_KERNEL // 2))
        return self.vectors(h, x.size(0))


class _Decoder(_Layers):
    """``[L, N, in]`` to one ``[L, N, out]`` per output."""

    axis = 2

    def __init__(
        self,
        leaves: int,
        inputs: int,
        outputs: tuple[int, ...],
        shape: tuple[int, ...],
        filters: tuple[int, ...],
        stride: int,
        activation: str,
        output_gain: float,
    ) -> None:
        super().__init__(leaves, shape, filters, stride, activation)
        self.head_channels = head_channels("conv", shape, outputs)
        self.dense = Stack(leaves, (inputs, filters[-1] * math.prod(self.sides[-1])), activation)
        for before, after in pairwise(filters[::-1]):
            self.add_kernel(before, after)
        for channels in self.head_channels:
            self.add_kernel(filters[0], channels, output_gain)
        self.heads = len(self.head_channels)

    def forward(self, z: Tensor) -> tuple[Tensor, ...]:
        """One tensor per output."""
        (h,) = self.dense(z)
        images = self.by_blocks(h, self._convolve).unflatten(-1, (sum(self.head_channels), *self.shape[1:]))
        return tuple(by_pixel(head, self.shape[0]) for head in images.split(self.head_channels, 2))

    def _convolve(self, x: Tensor, convolutions: _Convolutions) -> Tensor:
        h = self.images(x, self.channels[-1], self.sides[-1])
        for layer, (kernel, bias) in enumerate(convolutions):
            if self.stride == 1:  # the same as convolution with the kernel turned over, which is faster
                h = F.conv2d(h, kernel.transpose(0, 1).flip(2, 3), bias, padding=_KERNEL // 2)
            else:
                small, large = self.sides[-1 - layer], self.sides[-2 - layer]
                more = [to - (of - 1) * self.stride - 1 for of, to in zip(small, large, strict=True)]
                h = F.conv_transpose2d(h, kernel, bias, self.stride, _KERNEL // 2, more)
            if layer + 1 < len(convolutions):
                h = self.activation(h)
        return self.vectors(h, x.size(0))


def _diagonal(kernel: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Kernel and bias of one convolution for several leaves, each seeing its own channels."""
    return block_diagonal(kernel), bias.reshape(-1)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A PixelCNN evaluated at one pixel after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_spvae.nn.leaf_conv import NORM_EPS, LeafBatchNorm, LeafConv, PixelHeads


class PixelSteps:
    """
    Outputs of masked convolutions at each pixel given those put before, computed with what layers were at earlier
    pixels: all steps together cost one evaluation of the network.

    Use: iterate; at each step ask for :meth:`outputs` and :meth:`put` the features of the pixel.

    :param convolutions: the first sees features, the others what the one before them made; each is followed by its
        norm and ReLU.
    :param norms: running statistics stand for those of a batch.
    :param Tensor of_maps: what the first layer sees besides features, ``[row, leaf, filter, height, width]``.
    :param PixelHeads heads: make the outputs of what the last layer made.
    """

    @torch.no_grad()
    def __init__(
        self, convolutions: Sequence[LeafConv], norms: Iterable[nn.Module], of_maps: Tensor, heads: PixelHeads
    ) -> None:
        rows, leaves, filters, self.height, self.width = of_maps.shape
        self.channels = heads.shape[0]
        self.before = convolutions[0].padding  # rows and columns that a kernel sees before the present one
        self.position = (0, 0)
        self.head_channels = heads.channels
        bias = heads.conv.bias
        assert bias is not None
        self.head = heads.conv.kernel.flatten(2).transpose(1, 2), bias.unsqueeze(1)  # [L, in, out], [L, 1, out]
        self.layers = []  # of each: weights of positions [L, positions * in, out], bias [L, 1, out]
        for place, (convolution, norm) in enumerate(zip(convolutions, norms, strict=True)):
            factor, shift = _affine(norm, leaves, filters, of_maps)  # [L, 1, out]
            if (bias := convolution.bias) is not None:
                shift = shift + bias.unsqueeze(1)
            self.layers.append((_taps(convolution, self.before, present=place > 0) * factor, shift))
            if place == 0:
                self.of_maps = of_maps.permute(3, 4, 1, 0, 2) * factor  # [H, W, L, N, out]
        sides = (self.before + 1, self.width + 2 * self.before)
        self.seen = [  # inputs of each layer in the present row and those before, [row, column, L, N, in]
            of_maps.new_zeros(*sides, leaves, rows, self.channels if place == 0 else filters)
            for place in range(len(self.layers))
        ]

    def __iter__(self) -> Iterator[Tensor]:
        """At each step, where the pixel's channels are in a patch, ``[channel]``."""
        pixels = self.height * self.width
        channels = torch.arange(self.channels, device=self.of_maps.device) * pixels
        for row in range(self.height):
            if row:
                for seen in self.seen:
                    seen[:-1] = seen[1:].clone()
            for column in range(self.width):
                self.position = row, column
                yield channels + (row * self.width + column)

    @torch.no_grad()
    def outputs(self) -> tuple[Tensor, ...]:
        """
        :returns: ``[row, leaf, channel * values]`` for each output; entry ``channel * values + v`` is value ``v``.
        """
        row, column = self.position
        h = self.of_maps[row, column]  # [L, N, F]
        for place, ((weight, shift), seen) in enumerate(zip(self.layers, self.seen, strict=True)):
            if place:
                seen[-1, column + self.before] = h
            above = seen[:-1, column : column + 2 * self.before + 1].flatten(0, 1)
            beside = seen[-1, column : column + self.before + (place > 0)]
            window = torch.cat([above, beside]).permute(1, 2, 0, 3).flatten(2)  # [L, N, positions * in]
            h = F.relu(torch.baddbmm(shift if place else shift + h, window, weight))
        weight, bias = self.head
        heads = torch.baddbmm(bias, h, weight).transpose(0, 1)
        # in the order of its axes in memory, which is that in which random numbers are drawn
        return heads.contiguous().split(self.head_channels, -1)

    def put(self, features: Tensor) -> None:
        """
        :param Tensor features: of the pixel, ``[row, leaf, channel]``.
        """
        self.seen[0][-1, self.position[1] + self.before] = features.transpose(0, 1)


def _taps(convolution: LeafConv, before: int, present: bool) -> Tensor:
    """Kernels at the positions that they see, in raster order, ``[leaf, positions * in, out]``."""
    weight = convolution.kernel.flatten(3)  # [L, out, in, positions]
    side = 2 * before + 1
    return weight[..., : side * before + before + present].permute(0, 3, 2, 1).flatten(1, 2)


def _affine(norm: nn.Module, leaves: int, filters: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Factor and shift ``[leaf, 1, out]`` of a normalisation with running statistics."""
    if not isinstance(norm, LeafBatchNorm):
        return like.new_ones(leaves, 1, filters), like.new_zeros(leaves, 1, filters)
    factor = norm.weight * torch.rsqrt(norm.running_var + NORM_EPS)
    return factor.unsqueeze(1), (norm.bias - norm.running_mean * factor).unsqueeze(1)

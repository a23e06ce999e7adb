# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A PixelCNN evaluated at one pixel after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_spvae.nn.leaf_conv import NORM_EPS, LeafBatchNorm, LeafConv, images

if TYPE_CHECKING:
    from pyro_spvae.nn.pixelcnn import PixelCNN


class PixelSteps:
    """
    Outputs at each pixel given those put before, computed with what layers were at earlier pixels: all steps together
    cost one evaluation of the network.

    Use: iterate; at each step ask for :meth:`outputs` and :meth:`put` the features of the pixel.

    :param PixelCNN network: bound. Running statistics stand for those of a batch.
    :param Tensor context: ``[row, leaf, n, height, width]``.
    """

    @torch.no_grad()
    def __init__(self, network: PixelCNN, context: Tensor) -> None:
        rows, leaves, maps, self.height, self.width = context.shape
        self.channels, filters = network.shape[0], network.filters
        self.before = network.kernel // 2  # rows and columns that a kernel sees before the present one
        self.position = (0, 0)
        self.head_channels = network.heads.channels
        head = network.heads.conv
        assert head.bias is not None
        self.head = head.weight.flatten(2).transpose(1, 2), head.bias.unsqueeze(1)  # [L, in, out], [L, 1, out]
        self.layers = []  # of each: weights of positions [L, positions * in, out], bias [L, 1, out]
        convolutions = cast("list[LeafConv]", [network.of_pixels, *network.convolutions])
        for place, (convolution, norm) in enumerate(zip(convolutions, network.norms, strict=True)):
            factor, shift = _affine(norm, leaves, filters, context)  # [L, 1, out]
            if convolution.bias is not None:
                shift = shift + convolution.bias.unsqueeze(1)
            self.layers.append((_taps(convolution, self.before, present=place > 0) * factor, shift))
            if place == 0:
                seen = network.of_maps(images(context.flatten(2), (maps, self.height, self.width)))
                # [H, W, L, N, out]
                self.of_maps = seen.unflatten(1, (leaves, filters)).permute(3, 4, 1, 0, 2) * factor
        sides = (self.before + 1, self.width + 2 * self.before)
        self.seen = [  # inputs of each layer in the present row and those before, [row, column, L, N, in]
            context.new_zeros(*sides, leaves, rows, self.channels if place == 0 else filters)
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
    weight = convolution.weight.flatten(3)  # [L, out, in, positions]
    side = 2 * before + 1
    return weight[..., : side * before + before + present].permute(0, 3, 2, 1).flatten(1, 2)


def _affine(norm: nn.Module, leaves: int, filters: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Factor and shift ``[leaf, 1, out]`` of a normalisation with running statistics."""
    if not isinstance(norm, LeafBatchNorm):
        return like.new_ones(leaves, 1, filters), like.new_zeros(leaves, 1, filters)
    factor = norm.weight * torch.rsqrt(norm.running_var + NORM_EPS)
    return factor.unsqueeze(1), (norm.bias - norm.running_mean * factor).unsqueeze(1)

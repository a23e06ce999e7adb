# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Upsampling residual networks with a leaf axis."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

from pyro_spvae.nn.leaf_conv import images
from pyro_spvae.nn.mlp import Stack, apply
from pyro_spvae.nn.pyramid import ResidualNetwork, Shape, halved, halvings


class Upscale(ResidualNetwork):
    r"""
    Independent upsampling networks: a map from a vector, or from a smaller map, by residual blocks.

    A linear map of the vector to the smallest scale's map, then for each scale from there ``blocks`` residual blocks of
    which the first goes up, to the sides of the next in the row ``side, ceil(side / 2), ..`` of the output; the network
    that scales up the latent variables of DVAE++ (Vahdat et al. 2018, section 6). From a map it starts by a 3 x 3
    convolution instead, and goes up from its sides, so ``levels`` does not matter; of a map of the output's own sides
    the blocks keep them. What comes out is a sum of residual blocks, as of
    :class:`~pyro_spvae.nn.pyramid.FeaturePyramid`.

    Options are those of :class:`~pyro_spvae.nn.pyramid.ResidualNetwork`; ``channels`` are those of the scales below the
    output, the finest first, since the output has the channels that it is bound with.

    :ivar tuple shapes: channels, height and width of where it starts and after each scale, the smallest first, once
        bound.
    :raises ValueError: for options out of range, and when bound for maps that are no rectangles, cannot be halved so
        often, or are smaller than the map it starts from.

    Example::

        >>> import torch
        >>> from pyro_spvae.nn.upscale import Upscale
        >>> upscale = Upscale(16, levels=2).bind(leaves=2, inputs=10, output_shape=(8, 7, 7))
        >>> upscale.shapes
        ((32, 2, 2), (16, 4, 4), (8, 7, 7))
        >>> upscale(torch.randn(5, 2, 10)).shape
        torch.Size([5, 2, 8, 7, 7])
    """

    least_levels = 0  # a map of one scale

    def build(
        self, leaves: int, inputs: int, output_shape: Shape | None = None, map_shape: Shape | None = None
    ) -> None:
        """
        Makes the parameters.

        :param tuple output_shape: channels, height and width of the map that is made.
        :param tuple map_shape: likewise of the input, if it is a map that lies flattened, or ``None``.
        """
        if output_shape is None:
            raise ValueError(
                "an Upscale needs a map with sides to scale up to, or leaf regions that are equal rectangles"
            )
        goal = output_shape[1:]
        every = halvings(goal, self.levels) if map_shape is None else _upwards(map_shape[1:], goal)
        channels = [output_shape[0], *(self.channels_at(scale) for scale in range(len(every) - 1))]
        self.shapes: tuple[Shape, ...] = tuple((of, *sides) for of, sides in zip(channels, every, strict=True))[::-1]
        start = self.shapes[0]
        self.map_shape = map_shape
        if map_shape is None:
            self.first: nn.Module = Stack(leaves, (inputs,), self.activation, (math.prod(start),))
        else:
            if inputs != math.prod(map_shape):
                raise ValueError(f"inputs is {inputs}; the values of the map_shape {map_shape} are needed")
            self.first = self.stem(leaves, map_shape[0], start[0])
        ways = [(before[0], after[0], "up") for before, after in pairwise(self.shapes)]
        if not ways:
            ways = [(start[0], start[0], "same")]
        self.stacks = nn.ModuleList(self.stack(leaves, *way) for way in ways)
        self.goals: list[tuple[int, int] | None] = [(height, width) for _, height, width in self.shapes[1:]] or [None]

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """
        :param Tensor x: ``[.., leaf, in]``.
        :returns: ``[.., leaf, channel, height, width]``.
        """
        if self.map_shape is None:
            h = images(apply([self.first], x)[0], self.shapes[0])
        else:
            h = self.first(images(x, self.map_shape))
        for stack, goal in zip(self.stacks, self.goals, strict=True):
            h = stack(h, goal)
        return h.reshape(*x.shape[:-1], *self.shapes[-1])


def _upwards(sides: Shape, goal: Shape) -> list[Shape]:
    """
    Sides from a goal down by halving to a map's own, which are last.

    :raises ValueError: if the map is larger.
    """
    if any(side > most for side, most in zip(sides, goal, strict=True)):
        given, most = (" x ".join(map(str, each)) for each in (sides, goal))
        raise ValueError(f"map_shape is a map of {given}; one of at most {most}, the sides to scale up to, is needed")
    every = [goal]
    while every[-1] != sides:
        below = halved(every[-1])
        smaller = any(after < side for after, side in zip(below, sides, strict=True))
        every.append(sides if smaller else below)
    return every

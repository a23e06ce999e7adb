# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Feature pyramids of patches with a leaf axis, and what residual networks of several scales share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from pyro_spvae import checks
from pyro_spvae.nn.leaf_conv import NORMS, LeafConv, images
from pyro_spvae.nn.mlp import check_activation
from pyro_spvae.nn.network import Network
from pyro_spvae.nn.residual import ResidualStack

Shape = tuple[int, ...]  # channels, height and width
_STEM = 3  # side of the convolution before the blocks


class ResidualNetwork(Network):
    """
    Residual networks of several scales, whose sides become ``ceil(side / 2)`` from one to the next.

    :param channels: of each leaf's map at each scale, the finest first, scales beyond the last one having its channels;
        of one integer, that of the finest, which every next scale doubles.
    :param int levels: how often sides halve.
    :param int blocks: residual blocks at each scale.
    :param str norm: as of :class:`~pyro_spvae.nn.residual.ResidualBlock`, like ``activation`` and ``ratio``.
    :param bool checkpoint: as of :class:`~pyro_spvae.nn.residual.ResidualStack`: less memory, and more time.
    :cvar int least_levels: smallest number of levels.
    :raises ValueError: for options out of range.
    """

    least_levels = 1

    def __init__(
        self,
        channels: int | Sequence[int] = 32,
        levels: int = 2,
        blocks: int = 1,
        norm: str = "batch",
        activation: str = "elu",
        ratio: int = 16,
        checkpoint: bool = False,
    ) -> None:
        super().__init__()
        several: Any = (channels,) if checks.is_integer(channels) else channels
        if not isinstance(several, Sequence) or not several or not all(map(checks.is_positive, several)):
            raise ValueError(
                f"channels is {channels!r}; a positive integer or a sequence of them is needed, such as (32, 64)"
            )
        check_activation(activation)
        self.channels = channels if isinstance(channels, int) else tuple(channels)
        if not checks.is_integer(levels) or levels < self.least_levels:
            wanted = "a positive integer" if self.least_levels == 1 else "an integer of at least 0"
            raise ValueError(f"levels is {levels!r}; {wanted} is needed")
        self.levels = int(levels)
        self.blocks = checks.positive_integer("blocks", blocks)
        self.norm = checks.one_of("norm", norm, NORMS)
        self.activation = activation
        self.ratio = checks.positive_integer("ratio", ratio)
        self.checkpoint = checks.boolean("checkpoint", checkpoint)

    @property
    def scales(self) -> dict[str, Any]:
        """The options that all residual networks have, for a network inside of another."""
        names = ("channels", "levels", "blocks", "norm", "activation", "ratio", "checkpoint")
        return {name: getattr(self, name) for name in names}

    def channels_at(self, scale: int) -> int:
        """Channels of a scale, 0 the finest."""
        if isinstance(self.channels, int):
            return self.channels * 2**scale
        return self.channels[min(scale, len(self.channels) - 1)]

    def stem(self, leaves: int, before: int, after: int) -> LeafConv:
        """The convolution before the blocks, whose normalisation would take a bias away."""
        return LeafConv(leaves, before, [after], _STEM, padding=_STEM // 2, bias=self.norm == "none")

    def stack(self, leaves: int, before: int, after: int, resample: str) -> ResidualStack:
        """The blocks of one scale."""
        options = self.blocks, resample, self.norm, self.activation, self.ratio, self.checkpoint
        return ResidualStack(leaves, before, after, *options)

    def extra_repr(self) -> str:
        return f"channels={self.channels}, levels={self.levels}, blocks={self.blocks}, norm={self.norm}"


class FeaturePyramid(ResidualNetwork):
    r"""
    Independent feature pyramids: maps of a patch at several scales, by residual blocks.

    A 3 x 3 convolution at the patch's own sides, then for each level ``blocks`` residual blocks of which the first goes
    down, :math:`f_1, .., f_L` with sides ``ceil(side / 2)`` of those before; the pre-processing of DVAE++'s encoder
    (Vahdat et al. 2018, section 6). Maps are sums of residual blocks: a network that reads them first normalises them
    and applies the activation, as residual blocks do.

    Options are those of :class:`ResidualNetwork`: ``channels``, ``levels``, ``blocks``, ``norm``, ``activation``,
    ``ratio``, ``checkpoint``; the first map has the finest scale's channels.

    :ivar tuple shapes: channels, height and width of each map, once bound.
    :raises ValueError: for options out of range, and when bound for leaves that are no rectangles of one shape, or such
        as cannot be halved so often.

    Example::

        >>> import torch
        >>> from pyro_spvae.nn.pyramid import FeaturePyramid
        >>> pyramid = FeaturePyramid(8, levels=3).bind(leaves=2, inputs=784, input_shape=(1, 28, 28))
        >>> pyramid.shapes
        ((8, 14, 14), (16, 7, 7), (32, 4, 4))
        >>> [list(features.shape) for features in pyramid(torch.rand(5, 2, 784))]
        [[5, 2, 8, 14, 14], [5, 2, 16, 7, 7], [5, 2, 32, 4, 4]]
    """

    def build(self, leaves: int, inputs: int, input_shape: Shape | None = None) -> None:
        """
        Makes the parameters.

        :param tuple input_shape: ``(channels, height, width)`` of the patches.
        """
        if input_shape is None:
            raise ValueError("a FeaturePyramid needs leaf regions that are equal rectangles")
        if inputs != math.prod(input_shape):
            raise ValueError(f"inputs is {inputs}; the pixels of the shape {input_shape} are needed")
        self.input_shape = input_shape
        channels = [self.channels_at(level) for level in range(self.levels)]
        every = halvings(input_shape[1:], self.levels)
        self.shapes: tuple[Shape, ...] = tuple((of, *sides) for of, sides in zip(channels, every[1:], strict=True))
        self.first = self.stem(leaves, input_shape[0], channels[0])
        self.stacks = nn.ModuleList(
            self.stack(leaves, before, after, "down") for before, after in pairwise(channels[:1] + channels)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """
        :param Tensor x: ``[.., leaf, pixel]``.
        :returns: one map ``[.., leaf, channel, height, width]`` per level, the finest first.
        """
        h = self.first(images(x, self.input_shape))
        maps = []
        for stack, shape in zip(self.stacks, self.shapes, strict=True):
            h = stack(h)
            maps.append(h.reshape(*x.shape[:-1], *shape))
        return tuple(maps)


def halved(sides: Shape) -> Shape:
    """Sides of the next scale, ``ceil(side / 2)``."""
    return tuple(math.ceil(side / 2) for side in sides)


def halvings(sides: Shape, levels: int) -> list[Shape]:
    """
    Sides of a patch and after each of several halvings.

    :raises ValueError: if a single pixel would have to be halved.
    """
    every = [sides]
    while len(every) <= levels:
        if max(every[-1]) == 1:
            raise ValueError(
                f"levels is {levels}; patches of {' x '.join(map(str, sides))} pixels can be halved at most "
                f"{len(every) - 1} times"
            )
        every.append(halved(every[-1]))
    return every


def level_of(shapes: Sequence[Shape], grid: Shape) -> int:
    """
    Which map of a pyramid lies on the grid of other maps.

    :param shapes: channels, height and width of the pyramid's maps.
    :param tuple grid: channels, height and width of the others.
    :raises ValueError: if none does.
    """
    for level, shape in enumerate(shapes):
        if shape[1:] == grid[1:]:
            return level
    known = ", ".join(" x ".join(map(str, shape[1:])) for shape in shapes)
    raise ValueError(
        f"local variables lie on a grid of {' x '.join(map(str, grid[1:]))}, but the maps of the guide's pyramid have "
        f"the sides {known}; give the leaf a local_shape of one of these"
    )

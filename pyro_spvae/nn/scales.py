# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The scales of a patch: grids of its pixels, each of twice the density of the one before (Reed et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

PADDINGS = ("none", "bottom-right")


class Grid(NamedTuple):
    """
    One scale of a patch: every so many-th row and column, from the first pixel on.

    :ivar tuple spacing: rows and columns from one pixel of the grid to the next.
    :ivar tuple sides: height and width of the grid.
    :ivar list known: in raster order, whether each pixel of the grid belongs to the one before, too.
    :ivar list new: places in the grid of those that do not; ``pixels``: their places in the patch.
    """

    spacing: tuple[int, int]
    sides: tuple[int, int]
    known: list[bool]
    new: list[int]
    pixels: list[int]


def scales(sides: Sequence[int], smallest: int, padding: str = "none") -> list[Grid]:
    """
    The grids of a patch, from the coarsest, whose sides are ``smallest``, to all pixels.

    The spacing halves from one grid to the next, that of a shorter side not before that of the longer one has come down
    to it. The grids of a patch that is padded are those of the larger one, cut off where it ends: of 28 pixels padded
    to 32 there are 4, 7, 14 and 28.

    :param Sequence[int] sides: height and width of the patch.
    :param int smallest: sides of the coarsest grid.
    :param str padding: ``"none"``: sides must be ``smallest`` times a power of 2; ``"bottom-right"``: they are brought
        up to the next such number.
    :raises ValueError: for sides that do not fit.
    """
    height, width = sides
    padded = [_padded(side, smallest) for side in sides]
    if padding == "none" and padded != [height, width]:
        raise ValueError(
            f"smallest is {smallest}, and patches of {height} x {width} pixels cannot be halved down to it; give "
            f"another number, or padding='bottom-right', which takes them as {padded[0]} x {padded[1]}"
        )
    widest = [side // smallest for side in padded]
    grids, before = [], None
    for halving in reversed(range(max(widest).bit_length())):
        down, across = (min(2**halving, own) for own in widest)
        places = [(row, column) for row in range(0, height, down) for column in range(0, width, across)]
        known = [before is not None and row % before[0] == 0 and column % before[1] == 0 for row, column in places]
        new = [place for place, seen in enumerate(known) if not seen]
        pixels = [places[place][0] * width + places[place][1] for place in new]
        grids.append(Grid((down, across), (-(-height // down), -(-width // across)), known, new, pixels))
        before = down, across
    return grids


def _padded(side: int, smallest: int) -> int:
    """The next larger of ``smallest`` times a power of 2."""
    while smallest < side:
        smallest *= 2
    return smallest

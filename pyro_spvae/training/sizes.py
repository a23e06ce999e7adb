# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
Sizes of leaves and sums where a configuration leaves them open.

Over the cells of images twice as many leaves, under twice as many sums whose weights are products of factors, and with
one hidden layer instead of two, did better at no more parameters: see benchmarks/README.md, "Sizes of sum-product
VAEs on images".
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from pyro_spvae.data import DataSet
from pyro_spvae.registry import parse
from pyro_spvae.training.config import TrainConfig

ON_GRID = ("poon-domingos", "quad-tree")  # structures whose leaf regions are cells
UNITS, UNITS_OF_CELLS = 4, 8  # sum nodes of an inner region, and by default leaves of a leaf region
HIDDEN = (32, 32)
_LEAST, _SHARED, _SMALL = 16, 320, 16


def has_cells(config: TrainConfig, data: DataSet, structure: str, kinds: Sequence[str]) -> bool:
    """
    Whether leaf regions are cells of images, and their leaves VAEs of perceptrons, for which there is a rule of sizes.

    :param str structure: of the regions.
    :param kinds: of leaves, with their brackets.
    """
    perceptrons = config.decoder is None and parse("network", config.network)[0] == "mlp"
    vaes = [parse("leaf", kind)[0] for kind in kinds] == ["vae"]
    return data.is_image and structure in ON_GRID and perceptrons and vaes


def hidden_of(cells: bool, data: DataSet, delta: int | tuple[int, ...] | None) -> tuple[int, ...]:
    r"""
    Hidden layers of the networks of a leaf: two of 32, but over cells of P pixels and channels one of
    :math:`16 + \lfloor 320 / P \rfloor`, and at most 36, with which 8 leaves have about as many parameters as 4 of two
    layers of 32: 36 of 4 x 4 pixels, 22 of 7 x 7.

    :param bool cells: what :func:`has_cells` says.
    :param delta: side of a cell, or several.
    """
    if not cells or delta is None:
        return HIDDEN
    channels, *sides = data.event_shape
    smallest = delta if isinstance(delta, int) else min(delta)
    pixels = channels * math.prod(min(smallest, side) for side in sides)
    return (_LEAST + _SHARED // max(pixels, _SMALL),)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Sizes of the models of the recipe ``best``: as wide as the SPVAE paper's numbers of parameters allow."""

from __future__ import annotations

from dataclasses import dataclass

from pyro_spvae.reproduce.published import TABLE_1, Pixels, SpvaeData, SpvaeModel

DELTA: dict[SpvaeData, int] = {"mnist": 7, "svhn": 8, "cifar10": 8}  # side of a cell
# parameters of the paper's models, Table 2; exact where its notebooks print them
_LIMITS: dict[tuple[SpvaeData, Pixels, SpvaeModel], int] = {
    key: 1000 * cell.parameters for key, cell in TABLE_1.items()
} | {
    ("mnist", "continuous", "spvae"): 413_352,
    ("mnist", "discrete", "spvae"): 310_024,
    ("mnist", "continuous", "vae"): 1_545_168,
    ("mnist", "discrete", "vae"): 1_158_584,
}


@dataclass(frozen=True)
class Shape:
    """Of the models of the recipe ``best``: ``cells`` leaf regions of ``pixels`` with ``units`` leaves each."""

    cells: int
    pixels: int
    units: int
    latent_dim: int

    @property
    def weights(self) -> int:
        """Sum weights of a 4 x 4 grid: 200 partitions, six of them of the root, which is one sum node."""
        return 0 if self.cells == 1 else 194 * self.units**3 + 6 * self.units**2


def best_shape(data: SpvaeData, pixels: Pixels, model: SpvaeModel) -> Shape:
    """Leaves of a model of the recipe ``best``."""
    side = 4 * DELTA[data]
    if model == "vae":
        return Shape(1, side**2, 1, 200)
    if pixels == "continuous":
        return Shape(16, (side // 4) ** 2, 4, 10)
    return Shape(16, (side // 4) ** 2, 2, 25)


def widest(data: SpvaeData, pixels: Pixels, model: SpvaeModel, few: bool = False) -> int:
    """
    The widest hidden layers with which a model of our form has at most the paper's number of parameters.

    :param bool few: with a network for each head, one hidden layer each, instead of a shared trunk and a skip.
    """
    shape = best_shape(data, pixels, model)
    heads = 2 if pixels == "continuous" else 1

    def network(inputs: int, outputs: int, width: int, heads: int) -> int:
        if few:
            return heads * (inputs + 1) * width + (width + 1) * outputs
        return (inputs + 1) * width + (width + 1) * width + (width + 1) * outputs + inputs * outputs

    def parameters(width: int) -> int:
        encoder = network(shape.pixels, 2 * shape.latent_dim, width, 2)
        decoder = network(shape.latent_dim, heads * shape.pixels, width, heads)
        return shape.cells * shape.units * (encoder + decoder) + shape.weights

    width = 1
    while parameters(width + 1) <= _LIMITS[data, pixels, model]:
        width += 1
    return width

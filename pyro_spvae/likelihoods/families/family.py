# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a family of columns is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_spvae.data.column import Column
from pyro_spvae.distributions.leaf import LeafDistribution

LEAST = 1e-3  # smallest spread, in units of the training rows'

_LOG_TWO = math.log(2.0)


@dataclass(frozen=True, eq=False)
class Unit:
    """
    What is known of the training rows at each place, see :class:`pyro_spvae.data.Column`.

    :ivar Tensor location: ``[.., place]``, and ``scale``.
    :ivar Tensor frequencies: ``[.., place, category]``; of a family without categories there are none.
    """

    location: Tensor
    scale: Tensor
    frequencies: Tensor

    @staticmethod
    def of(columns: Sequence[Column]) -> Unit:
        """That of columns of one family and number of categories, in double precision on the CPU."""
        even = [column.frequencies or [1 / len(column.categories) for _ in column.categories] for column in columns]
        rows = ([column.location for column in columns], [column.scale for column in columns], even)
        return Unit(*(torch.tensor(row, dtype=torch.float64, device="cpu") for row in rows))


class ColumnFamily:
    r"""
    The distribution of the values of a column, of outputs of a decoder that are about 0.

    At outputs of 0 it is the one that fits the column's own training rows, and an output of 1 is about one standard
    deviation of theirs; every parameter is finite for outputs of up to 20 in single precision.

    :cvar str takes: which values there are, for messages: "a count takes 0, 1, 2, ..".
    """

    takes: str

    def outputs(self, categories: int) -> int:
        """How many outputs a column of so many categories (0: none) needs."""
        raise NotImplementedError(f"{type(self).__name__} must define outputs")

    def width(self, categories: int) -> int:
        """How many features a value has."""
        return 1

    def law(self, outputs: tuple[Tensor, ...], unit: Unit, mask: Tensor | None = None) -> LeafDistribution:
        """
        :param tuple outputs: tensors ``[.., place]``, as many as :meth:`outputs` says.
        :param Unit unit: of each place, in the outputs' type.
        :param Tensor mask: ``bool``, broadcastable to ``[.., place]``: places that count.
        :returns: batch ``[..]``, event ``[place]``, values in the unit of the table.
        """
        raise NotImplementedError(f"{type(self).__name__} must define law")

    def features(self, x: Tensor, unit: Unit) -> Tensor:
        """What networks see of values ``[.., place]``: ``[.., place, width]``."""
        raise NotImplementedError(f"{type(self).__name__} must define features")

    def supports(self, x: Tensor, unit: Unit) -> Tensor:
        """Elementwise: is the value in the support?"""
        raise NotImplementedError(f"{type(self).__name__} must define supports")


def multiple(raw: Tensor, least: float = LEAST) -> Tensor:
    r"""
    A positive factor, 1 at an output of 0: :math:`a + (1 - a) \log_2(1 + 2^t)`, about :math:`t` far above and the
    smallest, :math:`a`, far below.
    """
    return F.softplus(raw, beta=_LOG_TWO) * (1 - least) + least


def positive_location(unit: Unit) -> Tensor:
    """The mean of values that are not negative; a hundredth of their deviation at least, so that it is above 0."""
    return torch.maximum(unit.location, 0.01 * unit.scale)


def mean_above_zero(raw: Tensor, unit: Unit) -> Tensor:
    """A mean of values that are not negative, which at outputs of 0 grows by a deviation for each 1 of the output."""
    location = positive_location(unit)
    return location * multiple(2 * raw * unit.scale / location, 1e-6)

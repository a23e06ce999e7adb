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
_LEAST_MEAN = 1e-6  # of values that are not negative, in units of the training rows'
_NEAREST = 1e-6  # to the smallest factor, where outputs are infinite


@dataclass(frozen=True, eq=False)
class Unit:
    """
    What is known of the training rows at each place, see :class:`pyro_spvae.data.Column`.

    :ivar Tensor location: ``[.., place]``, and ``scale``.
    :ivar Tensor frequencies: ``[.., place, category]``; of a family without categories there are none.
    :ivar float most: a number below which almost all values are.
    """

    location: Tensor
    scale: Tensor
    frequencies: Tensor
    most: float = math.inf

    @staticmethod
    def of(columns: Sequence[Column]) -> Unit:
        """That of columns of one family and number of categories, in double precision on the CPU."""
        even = [column.frequencies or [1 / len(column.categories) for _ in column.categories] for column in columns]
        rows = ([column.location for column in columns], [column.scale for column in columns], even)
        most = max((Unit.above(column.location, column.scale) for column in columns), default=math.inf)
        location, scale, frequencies = (torch.tensor(row, dtype=torch.float64, device="cpu") for row in rows)
        return Unit(location, scale, frequencies, most)

    @staticmethod
    def above(location: float, scale: float) -> float:
        """Ten deviations above the mean."""
        return location + 10 * scale


class ColumnFamily:
    r"""
    The distribution of the values of a column, of outputs of a decoder that are about 0.

    At outputs of 0 it is the one that fits the column's own training rows, and an output of 1 is about one standard
    deviation of theirs; every parameter is finite for outputs of up to 20 in single precision.

    :cvar str takes: which values there are, for messages: "a count takes 0, 1, 2, ..".

    Example::

        >>> from pyro_spvae.likelihoods.families import COLUMN_FAMILIES, Unit
        >>> unit = Unit(torch.tensor([10.0]), torch.tensor([2.0]), torch.zeros(1, 0))  # of one column
        >>> law = COLUMN_FAMILIES["normal"].law((torch.zeros(1), torch.zeros(1)), unit)
        >>> law.mean.round(decimals=3), law.variance.round(decimals=3)
        (tensor([10.]), tensor([4.]))
    """

    takes: str

    #: what is Normal of a value, if anything, so that it may be jointly Normal with other columns: "values" or
    #: "logarithms", standardised by the unit
    normal: str | None = None

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

    def count_statistics(self, categories: int) -> int:
        """How many statistics a value has."""
        return 2

    def statistics(self, x: Tensor, unit: Unit, outputs: tuple[Tensor, ...]) -> Tensor:
        """
        Sufficient statistics of values ``[.., place]``, whose means :meth:`outputs_of` takes, for EM; of a family that
        is a mixture, expectations of those of value and hidden variable given the value.

        :param tuple outputs: the present ones, under which is expected what is hidden, as in :meth:`law`.
        :returns: ``[.., place, statistic]``.
        """
        raise NotImplementedError(f"{type(self).__name__} must define statistics")

    def uniform_statistics(self, categories: int) -> Tensor | None:
        """Means of the statistics ``[statistic]`` where all values are equally likely; ``None`` if they cannot be."""
        return None

    def outputs_of(self, means: Tensor, unit: Unit) -> tuple[Tensor, ...]:
        """
        The most likely outputs given means of the statistics; of a family that is a mixture, more likely ones.

        :param Tensor means: ``[.., place, statistic]``, of which there may be more behind those of the family.
        :returns: finite tensors ``[.., place]``, as many as :meth:`outputs` says.
        """
        raise NotImplementedError(f"{type(self).__name__} must define outputs_of")

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


def raw_multiple(factor: Tensor, least: float = LEAST) -> Tensor:
    """The outputs of which :func:`multiple` makes such factors; from nearly the smallest on, and finite."""
    above = ((factor - least) / (1 - least)).clamp(min=_NEAREST) * _LOG_TWO
    return (above + torch.log(-torch.expm1(-above))) / _LOG_TWO


def normal_statistics(z: Tensor) -> Tensor:
    """Standardised values and their squares."""
    return torch.stack([z, z.square()], -1)


def normal_outputs_of(means: Tensor) -> tuple[Tensor, ...]:
    """Mean and deviation of standardised values as outputs."""
    first, second = means[..., 0], means[..., 1]
    return first, raw_multiple((second - first.square()).clamp(min=0).sqrt())


def positive_location(unit: Unit) -> Tensor:
    """The mean of values that are not negative; a hundredth of their deviation at least, so that it is above 0."""
    return torch.maximum(unit.location, 0.01 * unit.scale)


def mean_above_zero(raw: Tensor, unit: Unit) -> Tensor:
    """A mean of values that are not negative, which at outputs of 0 grows by a deviation for each 1 of the output."""
    location = positive_location(unit)
    return location * multiple(2 * raw * unit.scale / location, _LEAST_MEAN)


def raw_mean_above_zero(mean: Tensor, unit: Unit) -> Tensor:
    """The outputs of which :func:`mean_above_zero` makes such means."""
    location = positive_location(unit)
    return raw_multiple(mean / location, _LEAST_MEAN) * location / (2 * unit.scale)

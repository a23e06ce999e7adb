# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a column holds, found block by block: range, distinct values, skewness and what 32-bit floats lose of it."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MANY = 100  # distinct values, beyond which nobody asks which they are
_LOOKED_AT = 1000  # entries in which new values are searched together
_MEASURED = 100_000  # entries of a block whose moments are taken
_EPSILON = 2.0**-24  # largest relative error of 32-bit floats
_NOTED = 1e-4  # of the standard deviation


class Moments:
    """Mean, variance and skewness of values that come in blocks (Chan et al. 1979; Pebay 2008 for the third)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self._second = self._third = 0.0

    def look(self, x: NDArray[np.float64]) -> None:
        """Adds a block that holds finite values, at least one."""
        count, mean = len(x), float(x.mean())
        centred = x - mean
        squares = centred * centred
        second, third = float(squares.sum()), float(squares @ centred)
        both, delta, own = self.count + count, mean - self.mean, self.count
        self._third += third + delta**3 * own * count * (own - count) / both**2
        self._third += 3 * delta * (own * second - count * self._second) / both
        self._second += second + delta**2 * own * count / both
        self.mean += delta * count / both
        self.count = both

    @property
    def deviation(self) -> float:
        """The standard deviation."""
        return math.sqrt(self._second / self.count) if self.count else 0.0

    @property
    def skewness(self) -> float:
        """The third central moment in units of the cubed standard deviation; 0 of equal values."""
        return self._third / self.count / self.deviation**3 if self.deviation > 0 else 0.0


class ColumnSummary:
    """
    What is known of a column after some blocks of its entries.

    :ivar int entries: how many were looked at.
    :ivar int seen: how many of them are finite.
    :ivar int infinite: how many are infinite; nothing else is known of these.
    :ivar float low: the smallest value; infinite if there is none.
    :ivar float high: the largest value.
    :ivar bool whole: whether all values are whole numbers.
    :ivar Moments moments: of the values, of large blocks of some 100,000 of them, evenly spaced.
    :ivar Moments logarithms: likewise of the values' logarithms, as long as all are above 0.
    :ivar float loss: the largest error of a value as a 32-bit float; 0 where it cannot be a ten-thousandth of the
        standard deviation.
    """

    def __init__(self) -> None:
        self.entries = self.seen = self.infinite = 0
        self.low, self.high = math.inf, -math.inf
        self.whole = True
        self.moments, self.logarithms = Moments(), Moments()
        self.loss = 0.0
        self._distinct: NDArray[np.float64] | None = np.empty(0)

    @property
    def distinct(self) -> list[float] | None:
        """The distinct values in order; ``None`` if there are more than 100."""
        return None if self._distinct is None else self._distinct.tolist()

    def look(self, column: Tensor) -> ColumnSummary:
        """
        Adds a block of entries.

        :param Tensor column: ``[N]`` of any real type, NaN = missing.
        """
        return self.look_at(column.detach().to("cpu", torch.float64).contiguous().numpy())

    @classmethod
    def of_codes(cls, number: int, seen: int, entries: int) -> ColumnSummary:
        """
        Of a column that holds the numbers 0, 1, .. of categories, all of which occur; without moments.

        :param int number: how many categories there are, at most 100.
        """
        summary = cls()
        summary.entries, summary.seen, summary.low, summary.high = entries, seen, 0.0, float(number - 1)
        summary._distinct = np.arange(float(number))
        return summary

    def look_at(self, x: NDArray[np.float64], whole: bool = False) -> ColumnSummary:
        """
        As :meth:`look`, of an array.

        :param bool whole: whether it is known that all values are whole numbers.
        """
        self.entries += len(x)
        with np.errstate(over="ignore", invalid="ignore"):
            finite = bool(np.isfinite(x.sum()))
        if not finite:
            self.infinite += int(np.isinf(x).sum())
            x = x[np.isfinite(x)]
        if not len(x):
            return self
        self.seen += len(x)
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        if self.whole and not whole:  # the first values decide of most columns
            self.whole = all(bool((part == np.floor(part)).all()) for part in (x[:_LOOKED_AT], x))
        some = np.ascontiguousarray(x[:: max(1, len(x) // _MEASURED)])
        self.moments.look(some)
        if self.low > 0:
            self.logarithms.look(np.log(some))
        with np.errstate(over="ignore"):
            if max(-self.low, self.high) * _EPSILON > _NOTED * self.moments.deviation:
                self.loss = max(self.loss, float(np.abs(x - x.astype(np.float32)).max()))
        self._look_for_values(x)
        return self

    def _look_for_values(self, x: NDArray[np.float64]) -> None:
        if self._distinct is None:
            return
        if len(np.union1d(self._distinct, x[:_LOOKED_AT])) > MANY:
            self._distinct = None
        elif self.whole and self.high - self.low < _LOOKED_AT:
            counts = np.bincount((x - self.low).astype(np.intp))
            found = np.union1d(self._distinct, counts.nonzero()[0] + self.low)
            self._distinct = found if len(found) <= MANY else None
            return
        while len(x) and self._distinct is not None:
            for value in self._distinct.tolist():
                x = x[x != value]
            found = np.union1d(self._distinct, x[:_LOOKED_AT])
            self._distinct = found if len(found) <= MANY else None


def summaries(values: Tensor) -> list[ColumnSummary]:
    """Summaries of the columns of a table ``[N, D]``."""
    return [ColumnSummary().look(column) for column in values.unbind(1)]

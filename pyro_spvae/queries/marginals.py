# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Predictions of a column by its own marginal distribution, which a model has to be better than."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_spvae.data.column import Column
from pyro_spvae.data.learned import learned
from pyro_spvae.likelihoods.families import Unit
from pyro_spvae.likelihoods.places import family_of, outputs


class Marginal:
    """
    The values of a column in training rows, as a prediction of any row.

    :param Tensor values: those that are seen, ``[row]``.
    :param Column column: what they are.
    :ivar float mean: NaN where there are none, and so is all else.
    :ivar float scale: standard deviation.
    :ivar float mode: the most frequent value, the smallest of several.
    """

    def __init__(self, values: Tensor, column: Column) -> None:
        self.values = values.detach().cpu().double().sort().values
        self.column = column
        number = len(self.values)
        self.mean = float(self.values.mean())
        self.scale = float(self.values.std(correction=0)) if number else float("nan")
        distinct, counts = self.values.unique(return_counts=True)
        self.mode = float(distinct[counts.argmax()]) if number else float("nan")
        self._sums = torch.cat([self.values.new_zeros(1), self.values.cumsum(0)])

    def crps(self, value: Tensor) -> Tensor:
        """As :func:`pyro_spvae.queries.scores.fair_crps` of all values as draws, ``[..]``; NaN for less than 2."""
        number = len(self.values)
        if number < 2:
            return torch.full_like(value, torch.nan)
        below = torch.searchsorted(self.values, value.contiguous())
        less, total = self._sums[below], self._sums[-1]
        distance = (below * value - less) + (total - less - (number - below) * value)
        rank = torch.arange(1 - number, number, 2, dtype=torch.float64)
        return distance / number - (rank * self.values).sum() / (number * (number - 1))

    def log_prob(self, value: Tensor) -> Tensor:
        """
        Log-density, or of a discrete column log-probability, under the column's family fitted to the values: what
        ``Columns`` starts from. Nats, ``[..]``; NaN where there are none.
        """
        if not len(self.values):
            return torch.full_like(value, torch.nan)
        own = learned(self.column, self.values)
        zeros = tuple(torch.zeros(1, dtype=torch.float64) for _ in range(outputs(own)))
        law = family_of(own).law(zeros, Unit.of([own]))
        return law.by_pixel(value.unsqueeze(-1)).squeeze(-1)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Columns in the order of their values, equal values together: what ranks and bins are made of."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Ordered(NamedTuple):
    """
    The entries of each column in increasing order, missing ones last; all are ``[D, N]``, which sorts fastest.

    :ivar Tensor order: the row that each place of the order has its entry from, int64.
    :ivar Tensor first: of each place, the first place of an equal value, as ``float64``.
    :ivar Tensor end: of each place, the place after the last of an equal value.
    :ivar Tensor new: whether a place is the first of its value.
    """

    order: Tensor
    first: Tensor
    end: Tensor
    new: Tensor

    def to_rows(self, of_places: Tensor) -> Tensor:
        """What each place has, ``[D, N]``, for each row instead."""
        return torch.empty_like(of_places).scatter_(1, self.order, of_places)


def ordered(x: Tensor) -> Ordered:
    """Sorts each column of ``x``, ``[N, D]``, real; NaN = missing."""
    rows = len(x)
    values, order = x.T.contiguous().sort(dim=1)  # NaN last
    place = torch.arange(rows, dtype=torch.float64, device=x.device).expand(values.shape)
    new = torch.ones_like(values, dtype=torch.bool)
    new[:, 1:] = values[:, 1:] != values[:, :-1]
    first = torch.where(new, place, 0.0).cummax(1).values
    last = torch.ones_like(new)
    last[:, :-1] = new[:, 1:]
    end = torch.where(last, place, float(rows)).flip(1).cummin(1).values.flip(1) + 1
    return Ordered(order, first, end, new)

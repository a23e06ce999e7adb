# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Mutual information of each two variables of a data set, whatever the kinds of their values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ._ties import Ordered, ordered

_FEW = 16  # distinct whole numbers that are taken for categories where nothing is said
_CATEGORIES = 32  # of a column that are told apart, the most frequent ones; the others count as one
_BINS = 8  # at most
_EXPECTED = 5  # rows in a cell of two binned columns, at least (Cochran's rule)
_BLOCK = 2048  # one-hot columns counted together, which bounds memory
_ROWS = 4096  # counted at a time; counts of so many are exact in float32
_COLUMNS = 128  # sorted together


class Pairwise(NamedTuple):
    """
    What each two variables of a data set have in common.

    :ivar Tensor information: nats, ``float64 [D, D]``; the diagonal means nothing.
    :ivar Tensor rows: in which both are seen, ``int64 [D, D]``.
    :ivar Tensor constant: ``bool [D]``, whether a variable takes one value at most.
    """

    information: Tensor
    rows: Tensor
    constant: Tensor


class _Coded(NamedTuple):
    """Columns as numbers of categories or bins; what they have in common with all others is computed from these."""

    codes: Tensor  # int64 [D, N]; -1 = missing
    sizes: Tensor  # int64 [D], numbers of codes
    scores: Tensor  # float64 [D, N], normal scores; 0 = missing
    binned: Tensor  # bool [D], whether values of a column share codes


def mutual_information(x: Tensor, categorical: Sequence[bool] | None = None, bins: int | None = None) -> Pairwise:
    r"""
    Estimates of the mutual information of each two variables, in nats.

    Of ``n`` rows in which both are seen, ``n_ab`` in cell (a, b) of their contingency table,

    .. math:: \hat I_{ij} = \sum_{a, b} \frac{n_{ab}}{n} \log \frac{n_{ab}\, n}{n_a\, n_b} -
        \frac{(K_i - 1)(K_j - 1)}{2 n}

    with ``K`` the numbers of values that occur. The first term is what independent columns would have in excess by
    chance, to first order (Miller 1955, "Note on the bias of information estimates"): without it columns of many
    categories draw all others to themselves. Estimates of independent columns may so be below 0.

    Categorical and binary columns, and all of few values, count with their own values: the first term is then the exact
    one of the rows. Others are cut into bins, each of which takes its share of the rows that are left, equal values
    staying together. For a pair with a binned column a second estimate is made of the correlation ``r`` of normal
    scores, :math:`-\frac{1}{2} \log(1 - r^2) - \frac{1}{2 n}`, and the larger of the two is taken. In the limit of many
    rows both are lower bounds: bins by the inequality of data processing, and the correlation because of all joint
    densities with normal margins and this covariance the normal one has the least mutual information. The score of an
    entry is the mean of a standard normal variable between the two quantiles of its value, so that this is so with ties
    too. No increasing map of a column changes anything.

    :param Tensor x: ``[N, C, D]``, real; NaN = missing. Of variables with several channels ``C`` it is the largest of
        all pairs of channels, a lower bound again.
    :param categorical: of each variable, whether its values are names. Where nothing is said, those are that take at
        most 16 values, all whole numbers. Of more than 32 the rarest count as one.
    :param int bins: most bins of a column; by default 8, or as many as leave five rows a cell on average.
    """
    rows, channels, variables = x.shape
    flat = x.reshape(rows, channels * variables)
    if bins is None:
        bins = min(_BINS, max(2, math.isqrt(rows // _EXPECTED)))
    names = None if categorical is None else torch.tensor(categorical, device=x.device).repeat(channels)
    coded = _coded(flat, names, bins)
    found, counts = _of_tables(coded)
    normal = coded.scores @ coded.scores.T / counts.clamp(min=1)
    limit = 1 - 1 / counts.double().clamp(min=2).square()  # of few rows all may lie on a line
    normal = -torch.log1p(-normal.square().minimum(limit)) / 2 - 0.5 / counts.clamp(min=1)
    either = coded.binned.unsqueeze(1) | coded.binned
    found = torch.where(either, found.maximum(normal), found)
    constant = (coded.sizes < 2).reshape(channels, variables).all(0)
    found, counts = (of.reshape(channels, variables, channels, variables).amax((0, 2)) for of in (found, counts))
    return Pairwise(found, counts, constant)


def _coded(x: Tensor, categorical: Tensor | None, bins: int) -> _Coded:
    rows, columns = x.shape
    codes = torch.empty(columns, rows, dtype=torch.int64, device=x.device)
    scores = torch.empty(columns, rows, dtype=torch.float64, device=x.device)
    binned = torch.empty(columns, dtype=torch.bool, device=x.device)
    for start in range(0, columns, _COLUMNS):
        own = slice(start, start + _COLUMNS)
        part = x[:, own]
        seen = part.isnan().logical_not().T
        numbers = seen.sum(1, keepdim=True)  # [D, 1]
        order = ordered(part)
        distinct = (order.new & (order.first < numbers)).sum(1)
        if categorical is None:
            names = (distinct <= _FEW) & (_whole(part).T | ~seen).all(1)
        else:
            names = categorical[own]
        binned[own] = ~names & (distinct > bins)
        found = torch.where(binned[own].unsqueeze(1), _bins(order, numbers, bins), order.new.cumsum(1) - 1)
        codes[own] = order.to_rows(found).masked_fill(~seen, -1)
        scores[own] = order.to_rows(_normal_scores(order, numbers)) * seen
    sizes = codes.amax(1) + 1
    for column in (sizes > max(_CATEGORIES, bins)).nonzero().flatten().tolist():
        codes[column] = _most_frequent(codes[column])
        sizes[column] = _CATEGORIES
    return _Coded(codes, sizes, scores, binned)


def _whole(x: Tensor) -> Tensor:
    """Which entries are whole numbers."""
    return x == x.floor() if x.is_floating_point() else torch.ones_like(x, dtype=torch.bool)


def _bins(order: Ordered, numbers: Tensor, bins: int) -> Tensor:
    """The bin of each place: of the rows that are left each takes its share, and equal values stay together."""
    place = torch.arange(order.order.shape[1], device=numbers.device)
    found = torch.zeros_like(order.order)
    start = torch.zeros_like(numbers, dtype=torch.float64)
    for left in range(bins, 1, -1):
        target = start + (numbers - start) / left
        at = target.long().minimum(numbers - 1).clamp(min=0)
        first, end = order.first.gather(1, at), order.end.gather(1, at)
        start = torch.where((first > start) & (target - first < end - target), first, end)
        found += place >= start
    return found


def _normal_scores(order: Ordered, numbers: Tensor) -> Tensor:
    """The mean of a standard normal variable between the quantiles of the first and the last of each value."""
    below, above = (
        torch.exp(-torch.special.ndtri((ends / numbers.clamp(min=1)).clamp(max=1)).square() / 2)
        for ends in (order.first, order.end)
    )
    return (below - above) / math.sqrt(2 * math.pi) * numbers / (order.end - order.first)


def _most_frequent(codes: Tensor) -> Tensor:
    """The codes of a column in the order of their frequencies, all rare ones as one."""
    seen = codes >= 0
    order = codes[seen].bincount().argsort(descending=True, stable=True)
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    return torch.where(seen, place[codes.clamp(min=0)].clamp(max=_CATEGORIES - 1), codes)


def _of_tables(coded: _Coded) -> tuple[Tensor, Tensor]:
    """The estimates from contingency tables, and their numbers of rows."""
    columns = len(coded.sizes)
    found = coded.scores.new_zeros(columns, columns)
    counts = coded.codes.new_zeros(columns, columns)
    blocks = _blocks(coded.sizes.tolist())
    for place, left in enumerate(blocks):
        for right in blocks[place:]:
            tables = _tables(coded, left, right)
            found[left, right], counts[left, right] = _estimates(tables, coded.sizes[left], coded.sizes[right])
            found[right, left], counts[right, left] = found[left, right].T.clone(), counts[left, right].T.clone()
    return found, counts


def _blocks(sizes: list[int]) -> list[slice]:
    """Consecutive columns with at most so many codes together."""
    starts, total = [0], 0
    for column, size in enumerate(sizes):
        if total + size > _BLOCK and column > starts[-1]:
            starts.append(column)
            total = 0
        total += size
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], len(sizes)], strict=True)]


def _tables(coded: _Coded, left: slice, right: slice) -> Tensor:
    """Contingency tables of the columns of two blocks, ``[code, code]``."""
    tables = coded.scores.new_zeros(int(coded.sizes[left].sum()), int(coded.sizes[right].sum()))
    for start in range(0, coded.codes.shape[1], _ROWS):
        one, other = (_one_hot(coded.codes[of, start : start + _ROWS], coded.sizes[of]) for of in (left, right))
        tables += one @ other.T
    return tables


def _one_hot(codes: Tensor, sizes: Tensor) -> Tensor:
    """``float32 [code, N]``; zeros where missing."""
    code = torch.arange(int(sizes.sum()), device=codes.device) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return (codes.repeat_interleave(sizes, 0) == code.unsqueeze(1)).float()


def _estimates(tables: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """
    Of contingency tables the estimates and numbers of rows, both ``[D, D]``.

    :param Tensor tables: ``[code, code]``.
    :param Tensor left: numbers of codes of the columns of one block, ``[D]``; ``right`` of the other's.
    """
    of = [torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes) for sizes in (left, right)]

    def summed(values: Tensor, axis: int) -> Tensor:
        """Over the codes of each column."""
        shape = [*values.shape]
        shape[axis] = (len(left), len(right))[axis]
        return values.new_zeros(shape).index_add_(axis, of[axis], values)

    lefts, rights = summed(tables, 1), summed(tables, 0)  # [code, D], [D, code]: margins in the rows of a pair
    n = summed(lefts, 0)
    information = summed(summed(torch.xlogy(tables, tables), 1), 0) + torch.xlogy(n, n)
    information = information - summed(torch.xlogy(lefts, lefts), 0) - summed(torch.xlogy(rights, rights), 1)
    degrees = (summed((lefts > 0).double(), 0) - 1) * (summed((rights > 0).double(), 1) - 1)
    return (information - degrees / 2) / n.clamp(min=1), n.round().long()

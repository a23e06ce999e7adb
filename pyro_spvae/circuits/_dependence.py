# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""How much each two variables of a data set depend on each other, monotonely or not, whatever their types."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ._ties import ordered

_DEGREES = 3  # polynomials of a rank: monotone, U-shaped and S-shaped dependence
_FALSE = 0.05  # pairs of independent variables, of all pairs together, that may be taken for dependent by chance
_COLUMNS = 256  # ranked together, which bounds memory
_DEGENERATE = 1e-8  # part of its variance that a polynomial must keep to be new on the values that a column takes


def dependence(x: Tensor) -> Tensor:
    r"""
    A lower bound of the mean square contingency of each two variables, zero where it could be chance.

    Each column is replaced by its average ranks, and these by ``f_1, f_2, f_3``: Legendre polynomials made orthonormal
    on the column's own values, fewer on columns with less than four values. For orthonormal features Lancaster's
    expansion of the chi-squared divergence between a joint density and the product of its margins gives

    .. math:: \phi^2_{ij} = \mathrm{E}\,[p(x_i, x_j) / (p(x_i)\, p(x_j))] - 1 \ge \sum_{k,l=1}^{3} r_{ikjl}^2, \qquad
        r_{ikjl} = \tfrac{1}{n_{ij}} \sum_n f_k(x_{ni})\, f_l(x_{nj})

    with equality for columns of at most four values, so that this is Pearson's :math:`\chi^2 / n` of two binary
    columns. Of ``n_ij`` rows in which both are seen, independent columns have :math:`\mathrm{E}\,r^2 = 1 / n_{ij}`, so
    this is taken off, and a term counts only beyond a bound of Bernstein's inequality,

    .. math:: n_{ij}\, r^2 > 2\, (1 + M |r| / 3) \log \frac{(3 C D)^2}{0.05}

    at which 0.05 terms are expected of all pairs together if all are independent. ``M`` is the largest product of a
    value of the one feature and a value of the other: it keeps rare values that happen to meet in a row or two from
    counting as dependence.

    Features of ranks are those of the randomized dependence coefficient (Lopez-Paz, Hennig and Schoelkopf 2013, "The
    randomized dependence coefficient"), there random sine waves and here polynomials, which need no random numbers. For
    the expansion see Lancaster 1958, "The structure of bivariate distributions".

    :param Tensor x: ``[N, C, D]``, real; NaN = missing. A variable is a column of ``D`` with all its channels ``C``:
        the dependence of two variables is the sum over all pairs of their channels.
    :returns: ``float64 [D, D]``, symmetric, nonnegative, zero on the diagonal.
    """
    return contingency(x).fill_diagonal_(0)


def contingency(x: Tensor) -> Tensor:
    """
    :func:`dependence` with what each variable shows of itself on the diagonal: about its number of polynomials, which
    is one of binary columns.
    """
    rows, channels, variables = x.shape
    flat = x.reshape(rows, channels * variables)
    features, seen = _features(flat)  # [K, N, C * D], [N, C * D]
    if bool((seen == 1).all()):
        counts = seen.new_full((), float(rows))
    else:
        counts = (seen.T @ seen).clamp(min=1)  # [C * D, C * D]; no row in common: the correlation is 0 / 1
    level = math.log(max(2.0, (_DEGREES * channels * variables) ** 2 / _FALSE))  # 2 sides x half of all pairs
    heights = features.abs().amax(1)  # [K, C * D]
    total = features.new_zeros(channels * variables, channels * variables)
    for k in range(_DEGREES):
        for m in range(k, _DEGREES):
            r = features[k].T @ features[m] / counts
            reach = 1 + r.abs() * torch.outer(heights[k], heights[m]) / 3
            excess = (r.square() - 1 / counts).clamp(min=0) * (counts * r.square() > 2 * level * reach)
            total += excess if k == m else excess + excess.T
    summed = total.reshape(channels, variables, channels, variables).sum((0, 2))
    return (summed + summed.T) / 2


def _features(x: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal polynomials of ranks ``[K, N, D]``, 0 where missing or degenerate, and what is seen ``[N, D]``."""
    rows, columns = x.shape
    features = x.new_empty(_DEGREES, rows, columns, dtype=torch.float64)
    seen = x.new_empty(rows, columns, dtype=torch.float64)
    for start in range(0, columns, _COLUMNS):
        part = x[:, start : start + _COLUMNS]
        mask = part.isnan().logical_not().to(torch.float64)
        seen[:, start : start + _COLUMNS] = mask
        features[:, :, start : start + _COLUMNS] = _orthonormal(_ranks(part, mask), mask)
    return features, seen


def _ranks(x: Tensor, seen: Tensor) -> Tensor:
    """Average ranks of the seen entries of each column, scaled to ``[-1, 1]``; ``[N, D]``."""
    order = ordered(x)
    ranks = order.to_rows((order.first + order.end) / 2).T  # in 1/2 .. n - 1/2
    return 2 * ranks / seen.sum(0).clamp(min=1) - 1


def _orthonormal(u: Tensor, seen: Tensor) -> Tensor:
    """
    Polynomials of degree 1, 2, 3 with mean 0, variance 1 and no correlation over the seen rows of each column.

    One that is a combination of the lower ones on the values that the column takes, as all are on a constant column,
    is 0.
    """
    count = seen.sum(0).clamp(min=1)
    basis = [seen]  # mean square 1, as all that follow
    legendre = (u, (3 * u.square() - 1) / 2, (5 * u**3 - 3 * u) / 2)
    for polynomial in legendre:
        f = polynomial * seen
        before = f.square().sum(0)
        for _ in range(2):  # the second time takes away what rounding left
            for lower in basis:
                f = f - lower * ((lower * f).sum(0) / count)
        after = f.square().sum(0)
        scale = torch.where(after > _DEGENERATE * before, (count / after.clamp(min=1e-300)).sqrt(), 0.0)
        basis.append(f * scale)
    return torch.stack(basis[1:])

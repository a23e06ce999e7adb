# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
r"""Evaluation of a layer whose weights are products ("CP"), without a value for any pair of units.

With a weight :math:`m_p a_{pi} b_{pj}` for the pair of units i and j of the parts of partition p, a sum is

.. math:: S = \sum_p m_p \Big(\sum_i a_{pi} L_{pi}\Big) \Big(\sum_j b_{pj} R_{pj}\Big).

Both inner sums are taken for each sum node. With few units they are exact; with more they are matrix products of
exponentials, relative to the largest unit and with floored weights. The sum over partitions is always exact. Below, a
*mixture* is one of the inner sums, ``R`` regions, ``P`` partitions, ``O`` sums, ``K`` units of a part, ``N = R * P``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .layer import FactoredLayer
from .numerics import floored, largest


@dataclass(frozen=True)
class _Mixtures:
    """The mixtures of all left (or all right) parts of one block.

    :ivar Tensor index: rows of the units, ``[N * K]``.
    :ivar Tensor value: log-values of the mixtures, ``[N, O, B]``.
    :ivar Tensor terms: their terms, log-values ``[N, O, K, B]``; None unless exact.
    :ivar Tensor weight: weights ``[N, O, K]``,
    :ivar Tensor units: units ``[N, K, B]`` relative to the largest,
    :ivar Tensor sums: and mixtures ``[N, O, B]`` relative to the largest unit; None if exact.
    """

    index: Tensor
    value: Tensor
    terms: Tensor | None = None
    weight: Tensor | None = None
    units: Tensor | None = None
    sums: Tensor | None = None

    @staticmethod
    def make(rows: Tensor, index: Tensor, log_weight: Tensor, exact: bool) -> _Mixtures:
        log_weight = log_weight.flatten(0, 1)  # [N, O, K]
        units = rows.index_select(0, index).view(log_weight.shape[0], log_weight.shape[2], rows.shape[1])
        if exact:
            terms = log_weight.unsqueeze(-1) + units.unsqueeze(1)
            return _Mixtures(index, torch.logsumexp(terms, dim=2), terms=terms)
        top = largest(units, dim=1)
        units, weight = units.sub_(top).exp_(), floored(log_weight).exp()
        sums = torch.bmm(weight, units)
        return _Mixtures(index, sums.log().add_(top), weight=weight, units=units, sums=sums)

    def shares(self) -> Tensor:
        """What a unit has of each mixture, ``[N, O, K, B]``."""
        if self.terms is not None:
            return _softmax(self.terms, dim=2)
        assert self.weight is not None and self.units is not None and self.sums is not None
        return self.weight.unsqueeze(-1) * (self.units.unsqueeze(1) / _nonzero(self.sums).unsqueeze(2))

    def downward(self, flow: Tensor, above: Tensor, need_weights: bool) -> Tensor | None:
        """Divides what reaches the mixtures, ``[N, O, B]``, among their units, whose rows of ``flow`` grow.

        :return: the derivatives in the log-weights, ``[N, O, K]``, if wanted.
        """
        if self.terms is not None:
            shares = self.shares().mul_(above.unsqueeze(2))  # [N, O, K, B]
            flow.index_add_(0, self.index, shares.sum(dim=1).flatten(0, 1))
            return shares.sum(dim=-1) if need_weights else None
        assert self.weight is not None and self.units is not None and self.sums is not None
        ratio = above / _nonzero(self.sums)
        below = torch.bmm(self.weight.transpose(1, 2), ratio).mul_(self.units)  # [N, K, B]
        flow.index_add_(0, self.index, below.flatten(0, 1))
        return torch.bmm(ratio, self.units.transpose(1, 2)).mul_(self.weight) if need_weights else None


def upward(rows: Tensor, layer: FactoredLayer, factors: Sequence[Tensor], exact: bool | None = None) -> Tensor:
    """Log-values of the sums of a layer, ``[R, O, batch]``.

    :param Tensor rows: log-values of all nodes below, ``[row, batch]``.
    :param factors: what :meth:`FactoredLayer.log_factors` returned.
    :param bool exact: whether the mixtures are, as ``layer.exact`` says by default. Exactly, it is differentiable.
    """
    _, terms = _terms(rows, layer, factors, layer.exact if exact is None else exact)
    return torch.logsumexp(terms, dim=1)


def downward(
    flow: Tensor, above: Tensor, rows: Tensor, layer: FactoredLayer, factors: Sequence[Tensor], need_weights: bool
) -> list[Tensor | None]:
    """Divides what reaches the sums of a layer, ``[R, O, batch]``, among the rows of their units in ``flow``.

    :return: the derivatives in each of the factors, or None.
    """
    sides, terms = _terms(rows, layer, factors, layer.exact)
    shares = _partition_shares(terms, above)  # [R, P, O, B]
    grads: list[Tensor | None] = [shares.sum(dim=-1) if need_weights else None]
    for pair, own in zip(sides, shares.split([block.partitions for block in layer.blocks], dim=1), strict=True):
        for mixtures in pair:
            grad = mixtures.downward(flow, own.flatten(0, 1), need_weights)
            grads.append(None if grad is None else grad.unflatten(0, (layer.num_regions, -1)))
    return grads


def product_shares(above: Tensor, rows: Tensor, layer: FactoredLayer, factors: Sequence[Tensor]) -> Tensor:
    """What reaches each sum, ``[R, O, batch]``, divided among all pairs of units, ``[R, O, C, batch]``."""
    sides, terms = _terms(rows, layer, factors, layer.exact)
    shares = _partition_shares(terms, above)  # [R, P, O, B]
    blocks = []
    for pair, own in zip(sides, shares.split([block.partitions for block in layer.blocks], dim=1), strict=True):
        left, right = (mixtures.shares().unflatten(0, own.shape[:2]) for mixtures in pair)  # [R, P, O, K, B]
        products = left.unsqueeze(4) * right.unsqueeze(3) * own[:, :, :, None, None]  # [R, P, O, left, right, B]
        blocks.append(products.transpose(1, 2).flatten(2, 4))
    return torch.cat(blocks, dim=2)


def _terms(
    rows: Tensor, layer: FactoredLayer, factors: Sequence[Tensor], exact: bool
) -> tuple[list[list[_Mixtures]], Tensor]:
    """The mixtures of both parts for each block, and the log-values that a sum adds up, ``[R, P, O, B]``."""
    log_partition, *log_units = factors
    sides, values = [], []
    for place in range(len(layer.blocks)):
        weights = log_units[2 * place : 2 * place + 2]
        pairs = zip(layer.block_rows(place), weights, strict=True)
        left, right = pair = [_Mixtures.make(rows, index, weight, exact) for index, weight in pairs]
        sides.append(pair)
        values.append((left.value + right.value).unflatten(0, (layer.num_regions, -1)))
    return sides, torch.cat(values, dim=1) + log_partition.unsqueeze(-1)


def _partition_shares(terms: Tensor, above: Tensor) -> Tensor:
    """What reaches each sum, ``[R, O, B]``, divided among its partitions, ``[R, P, O, B]``."""
    # a sum of value -inf has no child to credit
    above = above.masked_fill(terms.amax(dim=1) == -math.inf, 0.0)
    return _softmax(terms, dim=1).mul_(above.unsqueeze(1))


def _softmax(terms: Tensor, dim: int) -> Tensor:
    # relative to a finite bound terms of -inf are equal, where -inf - -inf is NaN
    return torch.softmax(terms.clamp(min=torch.finfo(terms.dtype).min), dim=dim)


def _nonzero(sums: Tensor) -> Tensor:
    """To divide by; what reaches a mixture of value 0 is 0 and stays 0."""
    return sums.masked_fill(sums == 0, 1.0)

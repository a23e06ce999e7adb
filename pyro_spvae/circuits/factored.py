# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
r"""Sums whose weights are products ("CP"), without a value for any tuple of units.

A sum that gives the units :math:`i_1, i_2, ..` of the parts of partition p the weight :math:`m_p \prod_k a^k_{p i_k}`
has the value

.. math:: S = \sum_p m_p \prod_k \Big(\sum_i a^k_{pi} R^k_{pi}\Big).

A *mixture* is one of the inner sums, one for each edge and sum. With few units it is exact; with more, mixtures are
matrix products of exponentials, relative to the largest unit and with floored weights. The sum over partitions is
always exact. Below there are ``R`` regions, ``P`` partitions, ``E`` edges, ``O`` sums, ``K`` units of a part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .numerics import exp_, largest, log_sum_exp


@dataclass(frozen=True)
class Mixtures:
    """The mixtures of the edges from the regions of one level.

    :ivar Tensor value: log-values, ``[E, O, B]``.
    :ivar Tensor units: units ``[R, K, B]`` relative to the largest,
    :ivar Tensor sums: and mixtures ``[E, O, B]`` relative to the largest unit; None if exact.
    """

    value: Tensor
    units: Tensor | None = None
    sums: Tensor | None = None

    @staticmethod
    def exact(values: Tensor, child: Tensor | None, log_weight: Tensor) -> Mixtures:
        """Log-sum-exps.

        :param Tensor values: of the units, ``[R, K, B]``.
        :param Tensor child: the region of each edge; None if it is each in turn.
        :param Tensor log_weight: ``[E, O, K]``.
        """
        return Mixtures(log_sum_exp(_terms(values, child, log_weight), 2))

    @staticmethod
    def scaled(values: Tensor, child: Tensor | None, weight: Tensor) -> Mixtures:
        """Matrix products.

        :param Tensor values: of the units, ``[R, K, B]``.
        :param Tensor child: the region of each edge; None if it is each in turn.
        :param Tensor weight: floored weights, ``[E, O, K]``.
        """
        top = largest(values, dim=1)
        units = exp_(values - top)
        sums = torch.bmm(weight, chosen(units, child))
        return Mixtures(sums.log().add_(chosen(top, child)), units, sums)


def exact_downward(
    above: Tensor, values: Tensor, child: Tensor | None, log_weight: Tensor, weight_grad: Tensor | None
) -> Tensor:
    """Divides what reaches mixtures among their units.

    :param Tensor above: what reaches them, ``[E, O, B]``.
    :param Tensor weight_grad: where the derivatives in the log-weights are written, ``[E, O, K]``, if wanted.
    :return: what reaches the units of each edge, ``[E, K, B]``.
    """
    shares = softmax(_terms(values, child, log_weight), dim=2).mul_(above.unsqueeze(2))  # [E, O, K, B]
    if weight_grad is not None:
        torch.sum(shares, dim=-1, out=weight_grad)
    return shares.sum(dim=1)


def scaled_downward(
    above: Tensor, units: Tensor, sums: Tensor, child: Tensor | None, weight: Tensor, weight_grad: Tensor | None
) -> Tensor:
    """The same, from what :meth:`Mixtures.scaled` kept.

    :param Tensor weight_grad: where the derivatives in the weights are written, which are those in the log-weights but
        for a factor of the weight.
    """
    units = chosen(units, child)  # [E, K, B]
    # what reaches a mixture of value 0 is 0 and stays 0; others are not below the floor of weights
    ratio = above.div_(sums.clamp(min=torch.finfo(sums.dtype).tiny))
    if weight_grad is not None:
        torch.bmm(ratio, units.transpose(1, 2), out=weight_grad)
    return torch.bmm(weight.transpose(1, 2), ratio).mul_(units)


def best(values: Tensor, child: Tensor | None, log_weight: Tensor) -> Tensor:
    """The largest term of each mixture, ``[E, O, B]``."""
    values = chosen(values, child)
    sums = range(log_weight.shape[1])  # one at a time, to keep no [E, O, K, B]
    return torch.stack([(values + log_weight[:, one, :, None]).amax(dim=1) for one in sums], dim=1)


def partition_terms(products: Tensor, log_weight: Tensor) -> Tensor:
    """What a sum adds up, ``[R, P, O, B]``.

    :param Tensor products: ``[R * P, O, B]``.
    :param Tensor log_weight: ``[R, P, O]``.
    """
    return products.view(*log_weight.shape, -1) + log_weight.unsqueeze(-1)


def softmax(terms: Tensor, dim: int) -> Tensor:
    """Shares of terms that may be -inf."""
    # relative to a finite bound terms of -inf are equal, where -inf - -inf is NaN
    return torch.softmax(terms.clamp(min=torch.finfo(terms.dtype).min), dim=dim)


def chosen(values: Tensor, child: Tensor | None) -> Tensor:
    """The values of each edge's region."""
    return values if child is None else values.index_select(0, child)


def impossible(values: Tensor) -> Tensor:
    """Sums that have no child to credit."""
    return values == -math.inf


def _terms(values: Tensor, child: Tensor | None, log_weight: Tensor) -> Tensor:
    return log_weight.unsqueeze(-1) + chosen(values, child).unsqueeze(1)  # [E, O, K, B]

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Averages of importance weights, and what they are without one of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pyro_spvae.circuits.numerics import log_sum_exp


def renyi_mean(log_weight: Tensor, alpha: float = 0.0) -> Tensor:
    r"""
    The Renyi bound of K importance weights (Li and Turner 2016),

    .. math:: \frac{1}{1 - \alpha} \log \frac{1}{K} \sum_{k=1}^{K} w_k^{1 - \alpha}.

    ``alpha=0`` is the importance weighted bound (Burda et al. 2016), ``alpha=1`` the mean of :math:`\log w` (the
    evidence lower bound), ``alpha=-inf`` the largest (VR-max).

    :param Tensor log_weight: ``[particle, ..]`` in nats.
    :param float alpha: order; below 0 the result need not be a lower bound.
    :returns: ``[..]`` in nats.

    Example::

        >>> from pyro_spvae.infer import renyi_mean
        >>> log_weight = torch.tensor([1.0, 3.0]).log()
        >>> [renyi_mean(log_weight, alpha).exp().round(decimals=4) for alpha in (0.0, float("-inf"))]  # mean, largest
        [tensor(2.), tensor(3.)]
    """
    particles = log_weight.size(0)
    if particles == 1:
        return log_weight.squeeze(0)
    if alpha == 1.0:
        return log_weight.mean(0)
    if alpha == -math.inf:
        return log_weight.amax(0)
    if alpha == 0.0:
        return log_sum_exp(log_weight, 0) - math.log(particles)
    powers = (1 - alpha) * log_weight
    total = powers.logsumexp(0) if alpha > 1 else log_sum_exp(powers, 0)  # infinite for a weight of 0
    return (total - math.log(particles)) / (1 - alpha)


def with_each_replaced(log_weight: Tensor, others: Tensor, mean: Callable[[Tensor], Tensor]) -> Tensor:
    """
    The mean of K weights with each in turn replaced by another one.

    :param Tensor log_weight: ``[particle, ..]``.
    :param Tensor others: what stands in the place of each, ``[particle, ..]``.
    :param callable mean: reduces the first axis, such as :func:`renyi_mean`.
    :returns: ``[particle, ..]``: entry k does not depend on weight k.
    """
    particles = log_weight.size(0)
    if particles == 1:
        return mean(others.unsqueeze(0))
    eye = torch.eye(particles, dtype=torch.bool, device=log_weight.device)
    eye = eye.reshape(particles, particles, *[1] * (max(log_weight.dim(), others.dim()) - 1))
    return mean(torch.where(eye, others.unsqueeze(0), log_weight.unsqueeze(1)))  # reduces j of [j, k, ..]


def of_others(log_weight: Tensor) -> Tensor:
    """The geometric mean of all weights but one, for each of at least two; ``[particle, ..]``."""
    # no difference of sums, which would not get rid of a weight of 0
    sums = with_each_replaced(log_weight, torch.zeros_like(log_weight), lambda weights: weights.sum(0))
    return sums / (log_weight.size(0) - 1)


def leave_one_out(log_weight: Tensor, mean: Callable[[Tensor], Tensor]) -> Tensor:
    """
    The mean of K weights with each in turn replaced by the geometric mean of the others (VIMCO, Mnih and Rezende 2016).

    :param Tensor log_weight: ``[particle, ..]``, at least two particles.
    :param callable mean: reduces the first axis, such as :func:`renyi_mean`.
    :returns: ``[particle, ..]``: entry k does not depend on particle k.

    Example::

        >>> from pyro_spvae.infer import leave_one_out, renyi_mean
        >>> leave_one_out(torch.tensor([1.0, 2.0, 6.0]), lambda weights: renyi_mean(weights, alpha=1)).round(decimals=4)
        tensor([4.0000, 3.5000, 1.5000])
    """
    return with_each_replaced(log_weight, of_others(log_weight), mean)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Proper scores and calibration of draws from a predictive distribution; functions of tensors alone."""

from __future__ import annotations

import torch
from torch import Tensor


def fair_crps(draws: Tensor, value: Tensor) -> Tensor:
    r"""
    The continuous ranked probability score, from independent draws :math:`X_1, .., X_R` of the prediction,

    .. math:: \frac1R \sum_r |X_r - y| - \frac1{2 R (R - 1)} \sum_{r, s} |X_r - X_s|.

    Its expectation is the score of the distribution itself, :math:`\int (F(t) - [y \le t])^2 dt`, whatever the number
    of draws (Ferro 2014, "Fair scores for ensemble forecasts"). Of values 0 and 1 it is the Brier score.

    :param Tensor draws: ``[draw, ..]``, at least 2.
    :param Tensor value: what came true, ``[..]``.
    :returns: in the values' unit, ``[..]``; lower is better, and single ones may be below 0.
    """
    number = len(draws)
    rank = torch.arange(1 - number, number, 2, dtype=draws.dtype, device=draws.device)  # 2 i - R - 1
    apart = (rank.reshape(-1, *[1] * value.dim()) * draws.sort(0).values).sum(0)  # of all pairs i < j
    return (draws - value).abs().mean(0) - apart / (number * (number - 1))


def randomised_pit(draws: Tensor, value: Tensor, uniform: Tensor) -> Tensor:
    r"""
    The randomised probability integral transform, from draws of the prediction,

    .. math:: \frac{\#\{X_r < y\} + u\, (1 + \#\{X_r = y\})}{R + 1}.

    If :math:`y` is one more draw, it is uniform on (0, 1) exactly, for any number of draws, and for discrete values
    too, whose ties :math:`u` breaks.

    :param Tensor draws: ``[draw, ..]``.
    :param Tensor value: what came true, ``[..]``.
    :param Tensor uniform: :math:`u`, uniform on (0, 1), ``[..]``.
    :returns: ``[..]``.
    """
    below, equal = (draws < value).sum(0), (draws == value).sum(0)
    return (below + uniform * (1 + equal)) / (len(draws) + 1)


def inside(pit: Tensor, level: float) -> Tensor:
    """
    Whether the central interval of a level holds the value. Of a discrete value at an end of the interval this is so
    with the probability of that part of its mass that lies inside, which :func:`randomised_pit` draws.

    :param Tensor pit: ``[..]``.
    :param float level: between 0 and 1.
    """
    return (pit - 0.5).abs() <= level / 2

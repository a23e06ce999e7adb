# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Weights of a mixture by breaking a stick: in logarithms, back, and in the mean."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_spvae.distributions.kumaraswamy import inside


def log_stick_weights(v: Tensor) -> Tensor:
    r"""
    Logarithms of the weights that fractions of a stick of length 1 make (Sethuraman 1994),

    .. math:: \pi_k = v_k \prod_{j < k} (1 - v_j), \qquad \pi_K = \prod_{j < K} (1 - v_j),

    finite wherever the fractions are inside of (0, 1).

    :param Tensor v: what is broken off what is left, ``[.., K - 1]``.
    :returns: ``[.., K]``, whose exponentials sum to 1.
    """
    v = inside(v)
    left = torch.log1p(-v).cumsum(-1)  # log of what is left after each break
    start = torch.zeros_like(left[..., :1])
    return torch.cat([v.log(), start], -1) + torch.cat([start, left], -1)


def stick_weights(v: Tensor) -> Tensor:
    """The weights themselves, see :func:`log_stick_weights`; ``[.., K]`` on the simplex."""
    return log_stick_weights(v).exp()


def stick_fractions(log_weights: Tensor) -> Tensor:
    """
    The inverse of :func:`log_stick_weights`: what each weight is of what the weights before it have left.

    :param Tensor log_weights: ``[.., K]``.
    :returns: ``[.., K - 1]``.
    """
    rest = log_weights.flip(-1).logcumsumexp(-1).flip(-1)  # log of the sums from k on
    return (log_weights - rest)[..., :-1].exp()


def mean_stick_weights(mean: Tensor) -> Tensor:
    """
    The means of the weights of independent fractions, exactly: the weights of the fractions' means, as a weight is a
    product in which every fraction occurs once.

    :param Tensor mean: of the fractions, ``[.., K - 1]``.
    :returns: ``[.., K]`` on the simplex.
    """
    return stick_weights(mean)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
What likelihoods look at in training data, pixel by pixel, each as if one more row had come whose values are spread
evenly: then no frequency and no variance is 0, and pixels of which none is seen have those of that row.
"""

from __future__ import annotations

import torch
from torch import Tensor


def unit_moments(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """
    Means and variances of values, as if one more row had come, evenly over [0, 1].

    :param Tensor x: in [0, 1] where the weight is not 0, ``[row, leaf, pixel]``.
    :param Tensor weight: 1 or 0, same shape.
    :returns: both ``[leaf, pixel]``, the variances above 0.
    """
    count = weight.sum(0) + 1
    mean = ((x * weight).sum(0) + 0.5) / count
    # the row that has come is that far from the mean, and spread by 1/12
    spread = ((x - mean).square() * weight).sum(0) + (0.5 - mean).square() + 1 / 12
    return mean, spread / count


def level_frequencies(x: Tensor, weight: Tensor, levels: int) -> Tensor:
    """
    How often levels 0..levels-1 occur, as if one more row had come, evenly over all of them.

    :param Tensor x: levels where the weight is not 0, else anything, ``[row, leaf, pixel]``.
    :param Tensor weight: 1 or 0, same shape.
    :returns: ``[leaf, pixel, level]``, positive, sums of 1 along the last axis.
    """
    index = torch.where(weight > 0, x, 0).long()
    counts = weight.new_full((*x.shape[1:], levels), 1 / levels)
    counts.scatter_add_(-1, index.movedim(0, -1), weight.movedim(0, -1))
    return counts / (weight.sum(0) + 1).unsqueeze(-1)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Probabilities away from 0, so that their logarithms are finite."""

from __future__ import annotations

import torch
from torch import Tensor


def away_from_zero(probabilities: Tensor, least: float) -> Tensor:
    r"""
    The distribution :math:`q \ge` ``least`` that maximises :math:`\sum_i p_i \log q_i`: small probabilities are raised
    to ``least``, and the others shrink by a common factor to make room (those within that factor of ``least`` may end
    as much below it).

    :param Tensor probabilities: sum to 1 along the last axis.
    :param float least: positive, and far below one over the number of entries.
    """
    low = probabilities < least
    others = torch.where(low, 0.0, probabilities)
    room = 1 - least * low.sum(-1, keepdim=True)
    return torch.where(low, least, others * (room / others.sum(-1, keepdim=True)))

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Scales and floors that keep sums of exponentials finite."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def largest(values: Tensor, dim: int) -> Tensor:
    """The largest log-value along an axis, which stays as an axis of size 1, as a scale to subtract."""
    # a value of -inf must not become a scale; two of the bound can still be added
    return values.amax(dim=dim, keepdim=True).clamp_(min=torch.finfo(values.dtype).min / 4)


def floored(log_weight: Tensor) -> Tensor:
    """Log-weights from a floor upwards (-65 nats for float32, -531 for float64).

    The floor leaves room below the largest finite number for a flow divided by such a weight.
    """
    return log_weight.clamp(min=0.75 * math.log(torch.finfo(log_weight.dtype).tiny))

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Draws to which a derivative that is known is attached, and the uniform noise that they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyro_spvae.circuits.numerics import by_hand
from pyro_spvae.distributions.leaf import summed_to


def attached(parameter: Tensor, value: Tensor, slope: Tensor) -> Tensor:
    r"""
    A value with the derivative :math:`\partial v / \partial \ell` = ``slope`` in a parameter, entry by entry.

    :param Tensor parameter: :math:`\ell`, broadcastable to the value.
    :param Tensor value: without a gradient of its own, as ``slope``.
    """
    if by_hand(parameter, value, slope):
        return _Attached.apply(parameter, value, slope)
    return value + slope * (parameter - parameter.detach())


class _Attached(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parameter: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(parameter, slope)
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        parameter, slope = ctx.saved_tensors
        return summed_to(grad * slope, parameter), None, None


def edge(dtype: torch.dtype) -> float:
    """What uniform noise keeps from 0 and 1: 8 rounding errors, about 1e-6 in single precision."""
    return 8 * torch.finfo(dtype).eps


def uniform(shape: Sequence[int], like: Tensor) -> Tensor:
    r"""Noise :math:`\rho \sim U(0, 1)` that is inside by :func:`edge`, of the type and on the device of ``like``."""
    inside = edge(like.dtype)
    return torch.empty(tuple(shape), dtype=like.dtype, device=like.device).uniform_(inside, 1 - inside)


def inside(rho: Tensor) -> Tensor:
    """Numbers kept from 0 and 1 by :func:`edge`."""
    return rho.clamp(edge(rho.dtype), 1 - edge(rho.dtype))

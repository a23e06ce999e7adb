# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The quantile function that overlapping exponentials and logistics share: the root of a quadratic equation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Root(NamedTuple):
    r"""
    The solution :math:`\zeta` of :math:`u m^2 + b m - v e^{-\beta} = 0`, :math:`m = e^{-\beta \zeta} > 0`.

    :ivar Tensor zeta: :math:`\zeta`.
    :ivar Tensor power: :math:`m` where :math:`b \le 0`, else :math:`e^{-\beta} / m`: what is not lost to rounding.
    :ivar Tensor root: :math:`\sqrt{b^2 + 4 u v e^{-\beta}}`, by which derivatives are divided.
    """

    zeta: Tensor
    power: Tensor
    root: Tensor


def quadratic(b: Tensor, u: Tensor, v: Tensor, beta: Tensor) -> Root:
    r"""
    Solves :math:`u m^2 + b m - v e^{-\beta} = 0` without cancellation: the root is :math:`(\sqrt{D} - b) / (2 u)` where
    :math:`b \le 0` and :math:`2 v e^{-\beta} / (\sqrt{D} + b)` elsewhere, so that with :math:`w = u` or :math:`v`

    .. math:: \zeta = -\frac{1}{\beta} \log \frac{|b| + \sqrt{D}}{2 u} \quad \text{or} \quad
        1 + \frac{1}{\beta} \log \frac{|b| + \sqrt{D}}{2 v}.

    The published form divides by :math:`1 - q` and subtracts nearly equal numbers: in single precision it is not finite
    for one draw in three at :math:`\beta = 18`, and in double precision it fails at 40.

    :param Tensor b: any numbers.
    :param Tensor u: positive.
    :param Tensor v: positive.
    :param Tensor beta: :math:`\beta`, 0-dimensional.
    """
    root = (b * b + 4 * (u * v * (-beta).exp())).sqrt().clamp(min=torch.finfo(b.dtype).tiny)
    late = b > 0
    power = (b.abs() + root) / (2 * torch.where(late, v, u))
    distance = power.log() / beta
    return Root(torch.where(late, 1 + distance, -distance), power, root)

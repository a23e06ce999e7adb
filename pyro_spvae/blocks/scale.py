# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""From an unconstrained network output to a standard deviation."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_spvae.checks import is_number
from pyro_spvae.circuits.numerics import at_least_single

SCALES = ("softplus", "precision", "exp", "logvar")
_LOGVAR = (-6.0, 2.0)  # ends of the range of log-variances in the VampPrior paper's code
_MARGIN = 1e-6  # of raw_scale, to the ends of the range, where unconstrained values are infinite or have no gradient


def positive_scale(raw: Tensor, kind: str, floor: float) -> Tensor:
    r"""
    Standard deviations from unconstrained values :math:`s`.

    - ``softplus``: :math:`\sigma = \mathrm{floor} + \log(1 + e^s)`.
    - ``precision``: :math:`\sigma = \max(\mathrm{floor}, (1 + s^2)^{-1/2})`, the parameterisation of the SPVAE paper's
      code, which has no floor; it cannot exceed 1 and its gradient vanishes at :math:`s = 0`.
    - ``exp``: :math:`\sigma = \max(\mathrm{floor}, e^s)`, that of Burda et al. 2016.
    - ``logvar``: :math:`\sigma = \max(\mathrm{floor}, e^{t / 2})` with :math:`t` the nearest number to :math:`s` in
      [-6, 2], that of the VampPrior paper's code: from 0.050 to 2.718, without a gradient outside.

    :param Tensor raw: any shape.
    :param str kind: one of the above.
    :param float floor: smallest standard deviation, at least 0.

    Example::

        >>> from pyro_spvae.blocks import positive_scale
        >>> positive_scale(torch.tensor([-20.0, 0.0]), "exp", floor=0.01)
        tensor([0.0100, 1.0000])
    """
    raw = at_least_single(raw)
    if kind == "softplus":
        return F.softplus(raw).add_(floor)  # in place: softplus' derivative needs its argument alone
    if kind == "precision":
        scale = torch.rsqrt(1 + raw.square())
    else:
        scale = torch.exp(raw if kind == "exp" else 0.5 * F.hardtanh(raw, *_LOGVAR))
    return scale.clamp(min=floor) if floor > 0 else scale


def raw_scale(scale: Tensor, kind: str, floor: float) -> Tensor:
    r"""
    The unconstrained values :math:`s` that :func:`positive_scale` turns into these standard deviations, at least 0 for
    ``precision``.

    Standard deviations that it cannot reach, or only at infinity, are moved to the nearest that it can, with a margin
    of 1e-6.

    :param Tensor scale: positive, any shape.
    :param str kind: as of :func:`positive_scale`.
    :param float floor: smallest standard deviation, at least 0.
    """
    if kind == "exp":
        return scale.clamp(min=max(floor, _MARGIN)).log()
    if kind == "logvar":
        low = max(_LOGVAR[0] + _MARGIN, 2 * math.log(floor) if floor > 0 else -math.inf)
        return (2 * scale.log()).clamp(low, _LOGVAR[1] - _MARGIN)
    if kind == "softplus":
        above = (scale - floor).clamp(min=_MARGIN)
        return above + torch.log(-torch.expm1(-above))
    return (scale.clamp(min=max(floor, _MARGIN)).clamp(max=1 - _MARGIN) ** -2 - 1).sqrt()


def check_scale(kind: Any, floor: Any) -> float:
    """
    The smallest standard deviation: ``floor``, or where it is ``None`` the default, 1e-3 for ``softplus``, else none.

    :raises ValueError: in one sentence for options that :func:`positive_scale` does not take.
    """
    if kind not in SCALES:
        raise ValueError(f"scale is {kind!r}; known are {', '.join(SCALES)}")
    if floor is None:
        return 1e-3 if kind == "softplus" else 0.0
    if not is_number(floor) or floor < 0:
        raise ValueError(f"min_scale is {floor!r}; a number of at least 0 is needed")
    return float(floor)

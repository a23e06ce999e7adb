# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Transformations of data that change what a likelihood is a density of."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_LEVELS = 2**16


def dequantize(x: Tensor, levels: int, generator: torch.Generator | None = None) -> Tensor:
    r"""Integer grey levels made continuous by uniform noise, :math:`y = (x + u) / L` with :math:`u` uniform on (0, 1).

    The mean of a density of :math:`y` over the noise bounds the probability of :math:`x` from below,
    :math:`\log P(x) \ge \mathbb{E}_u[\log p(y)] - D \log L` nats (Theis, van den Oord and Bethge 2016, "A note on the
    evaluation of generative models", section 3.1).

    The noise lies on a grid of midpoints that the floating-point type of ``x`` resolves, so that rounding never moves a
    value to the next grey level or onto 0 or 1: ``(y * levels).floor() == x`` always.

    :param torch.Tensor x: grey levels 0 .. levels - 1 in a floating-point type of at least 32 bits, `[..]`.
    :param int levels: the number of grey levels L, 2 .. 65,536.
    :param torch.Generator generator: source of the noise; torch's global one by default.
    :returns: values strictly inside (0, 1), of the type and shape of ``x``, on its device.
    :raises ValueError: if ``levels`` is out of range or ``x`` holds anything but grey levels.
    :raises TypeError: if ``x`` is not of a floating-point type of at least 32 bits.
    """
    if not 2 <= levels <= MAX_LEVELS:
        raise ValueError(f"levels is {levels}, but it must be between 2 and {MAX_LEVELS}.")
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"x is of type {x.dtype}, but dequantize needs torch.float32 or torch.float64.")
    if not is_grey_levels(x, levels):
        raise ValueError(f"x must hold whole numbers between 0 and levels - 1 = {levels - 1} only.")
    # x takes ceil(log2 levels) of the type's bits; two more are left for the rounding of the division and its inverse.
    mantissa_bits = round(-math.log2(torch.finfo(x.dtype).eps))
    steps = 2 ** (mantissa_bits - 2 - math.ceil(math.log2(levels)))
    device = x.device if generator is None else generator.device
    noise = torch.randint(steps, x.shape, generator=generator, device=device).to(x)
    return (x + (noise + 0.5) / steps) / levels


def is_grey_levels(x: Tensor, levels: int) -> bool:
    """Whether every entry is a whole number between 0 and ``levels - 1`` (NaN is not).

    :param torch.Tensor x: values to look at, `[..]`.
    :param int levels: the number of grey levels.
    """
    return bool(((x >= 0) & (x < levels) & (x == x.floor())).all())

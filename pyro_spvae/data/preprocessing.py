# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Transformations of data that change what a likelihood is a density of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyro_spvae.data.values import Values, is_grey_levels

MAX_LEVELS = 2**16

PREPROCESSING = ("none", "integers", "dequantize", "binarize", "binarize-static", "paper", "paper-discrete")
"""The names of :func:`preprocessing`."""

_PAPER_LEVELS = 255  # the paper rounds to multiples of 1/255, and this is the standard deviation of its noise


@dataclass(frozen=True)
class Preprocessing:
    """
    A transformation of rows, most of them with noise.

    :ivar str name: how it is asked for.
    :ivar Values values: what kind of values it makes.
    :ivar bool draws_anew: whether training sees other noise in every batch; rows to validate and test by never do.
    :ivar callable noise: noise for a shape from a generator, or ``None`` where there is none.
    :ivar callable apply: transforms float32 rows ``[n, *event]`` with noise of the same shape.
    :ivar bool whole_rows: whether a value depends on the other entries of its row, none of which may be missing then.
    """

    name: str
    values: Values
    draws_anew: bool
    noise: Callable[[torch.Size, torch.Generator], Tensor] | None
    apply: Callable[[Tensor, Tensor | None], Tensor]
    whole_rows: bool = False


def preprocessing(name: str, values: Values, data: str = "the data") -> Preprocessing | None:
    r"""
    The transformation of a name.

    - ``none``: values as they are.
    - ``integers``: grey levels as they are.
    - ``dequantize``: :math:`(x + u) / L` with uniform noise, see :func:`dequantize`; anew for every batch.
    - ``binarize``: 1 with probability :math:`x / (L - 1)`, or :math:`x` for continuous values in [0, 1]; anew for every
      batch (Salakhutdinov and Murray 2008). ``binarize-static``: drawn once.
    - ``paper-discrete``: what the SPVAE paper's code calls discrete. Every image is scaled by its own smallest and
      largest value, over all of its channels together, and rounded to the grey levels 0 to 255.
    - ``paper``: what that code calls continuous. Every image is scaled to [0, 1] in the same way and rounded to
      multiples of 1/255; :math:`N(0, 1/255^2)` is added, drawn once, and reflected at 0 and 1; the image is scaled to
      [0, 1] again. An image of one single value is 0 before the noise. Log-densities of the result compare with those
      of the paper, whose images are grey, and with nothing else.

    :param str name: one of those.
    :param Values values: what kind of values is to be transformed.
    :param str data: what they are called in messages.
    :returns: the transformation, or ``None`` where nothing is to be done.
    :raises ValueError: for an unknown name, or values that it cannot transform.
    """
    step = _transformation(name, values, data)
    return step and replace(step, values=replace(step.values, preprocess=name, raw=values))


def _transformation(name: str, values: Values, data: str) -> Preprocessing | None:
    if name == "none":
        return None
    continuous = values.levels is None
    kind = "continuous" if continuous else f"{values.levels} grey levels"
    refusal = f"preprocess is {name!r}, but the values of {data} are {kind}; "
    if name == "integers":
        if continuous:
            raise ValueError(refusal + "grey levels are needed")
        return None
    if name == "dequantize":
        if values.levels is None:
            raise ValueError(refusal + "grey levels are needed")
        return _dequantization(values.levels)
    if name in ("binarize", "binarize-static"):
        if continuous and not (values.low >= 0 and values.high <= 1):
            raise ValueError(refusal + "grey levels or values in [0, 1] are needed")
        return _binarization(name, 1.0 if values.levels is None else values.levels - 1.0)
    if name == "paper":
        return Preprocessing(name, Values(low=0, high=1), False, _normal, _paper, whole_rows=True)
    if name == "paper-discrete":
        values = Values.grey_levels(_PAPER_LEVELS + 1)
        return Preprocessing(name, values, False, None, lambda x, noise: _grey_levels(x), whole_rows=True)
    raise ValueError(f"preprocess is {name!r}; known are {', '.join(PREPROCESSING)}")


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

    Example::

        >>> from pyro_spvae.data import dequantize
        >>> x = torch.tensor([0.0, 3.0, 15.0])
        >>> (dequantize(x, levels=16) * 16).floor()
        tensor([ 0.,  3., 15.])
    """
    if not 2 <= levels <= MAX_LEVELS:
        raise ValueError(f"levels is {levels}, but it must be between 2 and {MAX_LEVELS}.")
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"x is of type {x.dtype}, but dequantize needs torch.float32 or torch.float64.")
    if not is_grey_levels(x, levels):
        raise ValueError(f"x must hold whole numbers between 0 and levels - 1 = {levels - 1} only.")
    return (x + _uniform(x.shape, levels, x.dtype, generator).to(x.device)) / levels


def _uniform(shape: torch.Size, levels: int, dtype: torch.dtype, generator: torch.Generator | None) -> Tensor:
    """Uniform noise on the grid that :func:`dequantize` describes."""
    # x takes ceil(log2 levels) of the type's bits; two more are left for the rounding of the division and its inverse.
    mantissa_bits = round(-math.log2(torch.finfo(dtype).eps))
    steps = 2 ** (mantissa_bits - 2 - math.ceil(math.log2(levels)))
    device = "cpu" if generator is None else generator.device
    noise = torch.randint(steps, shape, generator=generator, device=device).to(dtype)
    return (noise + 0.5) / steps


def _dequantization(levels: int) -> Preprocessing:
    def apply(x: Tensor, noise: Tensor | None) -> Tensor:
        assert noise is not None
        return (x + noise) / levels

    return Preprocessing(
        "dequantize",
        Values(low=0, high=1, scaled_from=levels),
        True,
        lambda shape, generator: _uniform(shape, levels, torch.float32, generator),
        apply,
    )


def _binarization(name: str, largest: float) -> Preprocessing:
    def noise(shape: torch.Size, generator: torch.Generator) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float32, device=generator.device)  # in [0, 1)

    def apply(x: Tensor, noise: Tensor | None) -> Tensor:
        assert noise is not None
        return (noise * largest < x).to(x.dtype)

    return Preprocessing(name, Values.grey_levels(2), name == "binarize", noise, apply)


def _normal(shape: torch.Size, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float32, device=generator.device)


def _paper(x: Tensor, noise: Tensor | None) -> Tensor:
    assert noise is not None
    discrete = _grey_levels(x) / _PAPER_LEVELS
    noisy = (discrete + noise / _PAPER_LEVELS).abs()  # reflected at 0
    return _scaled(1 - (1 - noisy).abs())  # and at 1


def _grey_levels(x: Tensor) -> Tensor:
    """Every row from 0 to 255 in whole numbers."""
    return (_scaled(x) * _PAPER_LEVELS).round()


def _scaled(x: Tensor) -> Tensor:
    """Every row from 0 to 1, all of its channels together; rows of one value are 0."""
    flat = x.flatten(1)
    shape = (-1,) + (1,) * (x.dim() - 1)
    low = flat.min(1).values.reshape(shape)
    span = flat.max(1).values.reshape(shape) - low
    return (x - low) / torch.where(span > 0, span, torch.ones_like(span))

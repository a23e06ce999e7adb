# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a data set is: three tensors, and what kind of values they hold."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from pyro_spvae.data.preprocessing import dequantize, is_grey_levels

Nats = TypeVar("Nats", float, Tensor)

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Values:
    """What kind of values data hold; it decides which likelihoods fit and in which unit results compare.

    :param float low: smallest possible value, or the smallest that occurs where none is known.
    :param float high: largest possible value, or the largest that occurs where none is known.
    :param int levels: number of integer grey levels 0 .. levels - 1; ``None`` for continuous values.
    :param int scaled_from: number of grey levels that continuous values in [0, 1] were dequantised or scaled from;
        ``None`` for grey levels themselves and for values that never were any.
    :raises ValueError: if the parts contradict each other.
    """

    low: float
    high: float
    levels: int | None = None
    scaled_from: int | None = None

    def __post_init__(self) -> None:
        if self.levels is not None and (self.levels < 2 or (self.low, self.high) != (0, self.levels - 1)):
            raise ValueError(
                f"values with levels={self.levels} run from {self.low} to {self.high}, "
                "but L >= 2 grey levels run from 0 to L - 1."
            )
        if self.scaled_from is not None and (self.levels is not None or (self.low, self.high) != (0, 1)):
            raise ValueError(
                f"scaled_from={self.scaled_from} is for continuous values between 0 and 1, not for "
                f"levels={self.levels} between {self.low} and {self.high}."
            )

    @classmethod
    def grey_levels(cls, levels: int) -> Values:
        """Integer grey levels 0 .. levels - 1.

        :param int levels: how many, at least 2.
        """
        return cls(low=0, high=levels - 1, levels=levels)


@dataclass(frozen=True, eq=False)
class DataSet:
    """Rows for training, for early stopping and for the final figure, and the kind of values they hold.

    :param str name: what reports call it.
    :param torch.Tensor train: float32 `[N, *event]`; event is (C, H, W) for images, (D,) for tables.
    :param torch.Tensor validation: float32, likewise.
    :param torch.Tensor test: float32, likewise.
    :param Values values: what kind of values the three hold.
    :raises ValueError: if a split is empty, is not float32, differs from the others in its event shape, or holds NaN,
        infinities or values other than ``values`` states.
    """

    name: str
    train: Tensor
    validation: Tensor
    test: Tensor
    values: Values

    def __post_init__(self) -> None:
        for split in SPLITS:
            x = getattr(self, split)
            if x.dtype != torch.float32 or x.dim() not in (2, 4) or x.numel() == 0:
                raise ValueError(
                    f"{split} of the data set {self.name!r} is {x.dtype} of shape {list(x.shape)}, but it must be "
                    "non-empty torch.float32 of shape [N, C, H, W] or [N, D]."
                )
            if x.shape[1:] != self.train.shape[1:]:
                raise ValueError(
                    f"{split} of the data set {self.name!r} has rows of shape {list(x.shape[1:])}, but those of train "
                    f"have {list(self.train.shape[1:])}."
                )
            self._check_values(split, x)

    def _check_values(self, split: str, x: Tensor) -> None:
        where, values = f"{split} of the data set {self.name!r}", self.values
        broken = x.numel() - int(torch.isfinite(x).sum())
        if broken:
            raise ValueError(f"{where} holds {broken} NaN or infinite values, but all must be finite.")
        if values.levels is not None and not is_grey_levels(x, values.levels):
            raise ValueError(f"{where} holds values other than its grey levels 0 to {values.levels - 1}.")
        low, high = float(x.min()), float(x.max())
        if low < values.low or high > values.high:
            raise ValueError(
                f"{where} runs from {low:g} to {high:g}, but its values are stated to lie between {values.low:g} and "
                f"{values.high:g}."
            )

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one row: (C, H, W) for images, (D,) for tables."""
        return self.train.shape[1:]

    @property
    def is_image(self) -> bool:
        """Whether a row is an image, `[C, H, W]`, and not a row of a table, `[D]`."""
        return len(self.event_shape) == 3

    def bits_per_dim(self, log_likelihood: Nats) -> Nats | None:
        r"""A log-likelihood in bits for each dimension (lower is better), the unit in which codes compare.

        For grey levels this is :math:`-\ell / (D \ln 2)`. For a density on [0, 1] of values that were dequantised or
        scaled from :math:`L` grey levels it is :math:`-\ell / (D \ln 2) + \log_2 L`: a grey level is a bin of width
        :math:`1/L`, so the two compare. Any other continuous density depends on the unit of measurement, and has no
        such figure.

        :param log_likelihood: :math:`\ell` of a row or the mean over rows, in nats; a float or a tensor.
        :returns: bits per dimension, or ``None`` where they are undefined.
        """
        levels, scaled_from = self.values.levels, self.values.scaled_from
        if levels is None and scaled_from is None:
            return None
        bits = -log_likelihood / (math.prod(self.event_shape) * math.log(2))
        return bits if scaled_from is None else bits + math.log2(scaled_from)

    def dequantized(self, seed: int = 0) -> DataSet:
        """The same rows for a continuous likelihood: grey levels with uniform noise, scaled to (0, 1), once for all.

        :param int seed: seed of the noise; torch's global generator is left alone.
        :raises ValueError: if the values are continuous already.
        """
        levels = self.values.levels
        if levels is None:
            raise ValueError(f"the data set {self.name!r} is continuous, but only grey levels can be dequantised.")
        generator = torch.Generator().manual_seed(seed)
        train, validation, test = (dequantize(getattr(self, split), levels, generator) for split in SPLITS)
        values = Values(low=0, high=1, scaled_from=levels)
        return replace(self, train=train, validation=validation, test=test, values=values)

    def __repr__(self) -> str:
        rows = ", ".join(f"{split}={len(getattr(self, split))}" for split in SPLITS)
        return f"DataSet({self.name!r}, {rows}, event_shape={tuple(self.event_shape)}, {self.values})"

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What kind of values data hold."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from pyro_spvae.checks import plain

Nats = TypeVar("Nats", float, Tensor)


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
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))  # as data.json holds it
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

    def bits_per_dim(self, log_likelihood: Nats, event_shape: Sequence[int]) -> Nats | None:
        r"""A log-likelihood in bits for each dimension (lower is better), the unit in which codes compare.

        For grey levels this is :math:`-\ell / (D \ln 2)`. For a density on [0, 1] of values that were dequantised or
        scaled from :math:`L` grey levels it is :math:`-\ell / (D \ln 2) + \log_2 L`: a grey level is a bin of width
        :math:`1/L`, so the two compare. Any other continuous density depends on the unit of measurement, and has no
        such figure.

        :param log_likelihood: :math:`\ell` of a row or the mean over rows, in nats; a float or a tensor.
        :param event_shape: shape of a row.
        :returns: bits per dimension, or ``None`` where they are undefined.
        """
        if self.levels is None and self.scaled_from is None:
            return None
        bits = -log_likelihood / (math.prod(event_shape) * math.log(2))
        return bits if self.scaled_from is None else bits + math.log2(self.scaled_from)

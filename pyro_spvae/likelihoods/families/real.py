# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Families of real columns: Normal and Student-t."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_spvae.distributions import LeafNormal, LeafStudentT
from pyro_spvae.distributions.leaf import LeafDistribution
from pyro_spvae.likelihoods.families.family import (
    LEAST,
    ColumnFamily,
    Unit,
    multiple,
    normal_outputs_of,
    normal_statistics,
    raw_multiple,
)
from pyro_spvae.likelihoods.families.most_likely import gamma_shape

_LEAST_DF, _DF = 2.1, 6.0  # degrees of freedom: variances are finite; where outputs are 0
_MOST_DF = 100.0  # that an M-step writes: hardly any tails
_SCALE = math.sqrt((_DF - 2) / _DF)  # of deviation 1 where outputs are 0


class NormalFamily(ColumnFamily):
    r""":math:`N(m + s\,o_1,\; (s\,g(o_2))^2)` with the factor :math:`g` of :func:`multiple`."""

    takes = "a real column takes finite numbers"
    normal: str | None = "values"

    def outputs(self, categories: int) -> int:
        return 2

    def statistics(self, x: Tensor, unit: Unit, outputs: tuple[Tensor, ...]) -> Tensor:
        """Standardised values and their squares."""
        return normal_statistics((x - unit.location) / unit.scale)

    def outputs_of(self, means: Tensor, unit: Unit) -> tuple[Tensor, ...]:
        return normal_outputs_of(means)

    def law(self, outputs: tuple[Tensor, ...], unit: Unit, mask: Tensor | None = None) -> LeafDistribution:
        loc, raw = outputs
        return LeafNormal(torch.addcmul(unit.location, unit.scale, loc), unit.scale * multiple(raw), mask)

    def features(self, x: Tensor, unit: Unit) -> Tensor:
        """Standardised."""
        return ((x - unit.location) / unit.scale).unsqueeze(-1)

    def supports(self, x: Tensor, unit: Unit) -> Tensor:
        return x.isfinite()


class StudentTFamily(NormalFamily):
    r"""
    Student's t with location :math:`m + s\,o_1`, scale in proportion to :math:`s\,g(o_2)` and degrees of freedom
    :math:`2.1 + 3.9\,g(o_3)`; of deviation :math:`s` at outputs of 0.

    For EM it is a Normal variable of precision :math:`u / \sigma^2` whose u is Gamma distributed with concentration and
    rate :math:`\nu / 2` (Liu and Rubin 1995); given x, with concentration :math:`(\nu + 1) / 2` and rate
    :math:`(\nu + (x - \mu)^2 / \sigma^2) / 2`.
    """

    normal = None

    def outputs(self, categories: int) -> int:
        return 3

    def law(self, outputs: tuple[Tensor, ...], unit: Unit, mask: Tensor | None = None) -> LeafDistribution:
        loc, scale, df = self._standardised(outputs)
        return LeafStudentT(df, torch.addcmul(unit.location, unit.scale, loc), unit.scale * scale, mask)

    @staticmethod
    def _standardised(outputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Location and scale of standardised values, and degrees of freedom."""
        loc, raw, tails = outputs
        return loc, _SCALE * multiple(raw, LEAST), _LEAST_DF + (_DF - _LEAST_DF) * multiple(tails, 0.0)

    def count_statistics(self, categories: int) -> int:
        return 4

    def statistics(self, x: Tensor, unit: Unit, outputs: tuple[Tensor, ...]) -> Tensor:
        """Expectations of u, u z, u z^2 and log u, of standardised values z."""
        loc, scale, df = self._standardised(outputs)
        z = (x - unit.location) / unit.scale
        rate = df + ((z - loc) / scale).square()
        u = (df + 1) / rate
        return torch.stack([u, u * z, u * z.square(), torch.digamma((df + 1) / 2) - (rate / 2).log()], -1)

    def outputs_of(self, means: Tensor, unit: Unit) -> tuple[Tensor, ...]:
        """
        Those of a scale of u that is free, which gives a faster EM (Liu, Rubin and Wu 1998, "Parameter expansion to
        accelerate EM"); where the scale of values has its smallest value, those of the mean 1 of u.
        """
        u, first, second, log = means[..., 0], means[..., 1], means[..., 2], means[..., 3]
        loc = first / u
        square = second / u - loc.square()
        least = (_SCALE * LEAST) ** 2
        gap = torch.where(square > least, u.log() - log, u - 1 - log)
        square = torch.where(square > least, square, (square * u).clamp(min=least))
        df = (2 * gamma_shape(gap, _MOST_DF / 2)).clamp(min=_LEAST_DF)
        return loc, raw_multiple(square.sqrt() / _SCALE), raw_multiple((df - _LEAST_DF) / (_DF - _LEAST_DF), 0.0)

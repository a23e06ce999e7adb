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
)

_LEAST_DF, _DF = 2.1, 6.0  # degrees of freedom: variances are finite; where outputs are 0


class NormalFamily(ColumnFamily):
    r""":math:`N(m + s\,o_1,\; (s\,g(o_2))^2)` with the factor :math:`g` of :func:`multiple`."""

    takes = "a real column takes finite numbers"
    normal: str | None = "values"

    def outputs(self, categories: int) -> int:
        return 2

    def statistics(self, x: Tensor, unit: Unit) -> Tensor:
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
    """

    normal = None
    statistics = ColumnFamily.statistics
    outputs_of = ColumnFamily.outputs_of

    def outputs(self, categories: int) -> int:
        return 3

    def law(self, outputs: tuple[Tensor, ...], unit: Unit, mask: Tensor | None = None) -> LeafDistribution:
        loc, raw, tails = outputs
        df = _LEAST_DF + (_DF - _LEAST_DF) * multiple(tails, 0.0)
        scale = unit.scale * math.sqrt((_DF - 2) / _DF) * multiple(raw, LEAST)
        return LeafStudentT(df, torch.addcmul(unit.location, unit.scale, loc), scale, mask)

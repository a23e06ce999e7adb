# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Families of positive columns: log-normal and Gamma."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_spvae.distributions import LeafGamma, LeafLogNormal
from pyro_spvae.distributions.leaf import LeafDistribution
from pyro_spvae.likelihoods.families.family import (
    LEAST,
    ColumnFamily,
    Unit,
    mean_above_zero,
    multiple,
    normal_outputs_of,
    normal_statistics,
    positive_location,
    raw_mean_above_zero,
    raw_multiple,
)
from pyro_spvae.likelihoods.families.most_likely import gamma_shape

_LEAST_SPREAD = 1e-4  # of a Gamma variable, over its mean


class _PositiveFamily(ColumnFamily):
    takes = "a positive column takes finite numbers above 0"

    def outputs(self, categories: int) -> int:
        return 2

    def supports(self, x: Tensor, unit: Unit) -> Tensor:
        return x.isfinite() & (x > 0)


class LogNormalFamily(_PositiveFamily):
    r""":math:`\log x \sim N(m + s\,o_1,\; (s\,g(o_2))^2)`; location and scale are those of logarithms."""

    normal = "logarithms"

    def statistics(self, x: Tensor, unit: Unit, outputs: tuple[Tensor, ...]) -> Tensor:
        """Standardised logarithms and their squares."""
        return normal_statistics((_log(x) - unit.location) / unit.scale)

    def outputs_of(self, means: Tensor, unit: Unit) -> tuple[Tensor, ...]:
        return normal_outputs_of(means)

    def law(self, outputs: tuple[Tensor, ...], unit: Unit, mask: Tensor | None = None) -> LeafDistribution:
        loc, raw = outputs
        return LeafLogNormal(torch.addcmul(unit.location, unit.scale, loc), unit.scale * multiple(raw), mask)

    def features(self, x: Tensor, unit: Unit) -> Tensor:
        """Standardised logarithms."""
        return ((_log(x) - unit.location) / unit.scale).unsqueeze(-1)


class GammaFamily(_PositiveFamily):
    r"""
    Gamma of mean :math:`\mu = m\,g(2 o_1 s / m)` and relative deviation :math:`v = (s / m)\,g(o_2)`: concentration
    :math:`1 / (v^2 + 10^{-8})`.
    """

    def law(self, outputs: tuple[Tensor, ...], unit: Unit, mask: Tensor | None = None) -> LeafDistribution:
        loc, raw = outputs
        mean = mean_above_zero(loc, unit)
        spread = unit.scale / positive_location(unit) * multiple(raw)
        concentration = 1 / (spread.square() + _LEAST_SPREAD**2)
        return LeafGamma(concentration, concentration / mean, mask)

    def statistics(self, x: Tensor, unit: Unit, outputs: tuple[Tensor, ...]) -> Tensor:
        """Values in units of the location, and their logarithms."""
        location = positive_location(unit)
        return torch.stack([x / location, _log(x) - location.log()], -1)

    def outputs_of(self, means: Tensor, unit: Unit) -> tuple[Tensor, ...]:
        """The mean, and the concentration that is most likely given it."""
        location = positive_location(unit)
        raw_mean = raw_mean_above_zero(means[..., 0] * location, unit)
        mean, ratio = mean_above_zero(raw_mean, unit) / location, unit.scale / location
        gap = means[..., 0] / mean - 1 - (means[..., 1] - mean.log())
        concentration = gamma_shape(gap, 1 / ((LEAST * ratio).square() + _LEAST_SPREAD**2))
        spread = (1 / concentration - _LEAST_SPREAD**2).clamp(min=0).sqrt()
        return raw_mean, raw_multiple(spread / ratio)

    def features(self, x: Tensor, unit: Unit) -> Tensor:
        """Logarithms, standardised as those of a log-normal variable of the same mean and deviation."""
        return log_standardised(_log(x), positive_location(unit), unit.scale).unsqueeze(-1)


def log_standardised(log: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Logarithms of values of a mean and a deviation, less their mean and over their deviation, if log-normal."""
    variance = torch.log1p((deviation / mean).square())
    return (log - mean.log() + 0.5 * variance) / variance.sqrt()


def _log(x: Tensor) -> Tensor:
    return x.clamp(min=torch.finfo(x.dtype).tiny).log()

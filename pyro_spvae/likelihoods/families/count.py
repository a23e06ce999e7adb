# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Families of counts: negative binomial and Poisson."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_spvae.distributions import LeafNegativeBinomial, LeafPoisson
from pyro_spvae.distributions.leaf import LeafDistribution
from pyro_spvae.likelihoods.families.family import (
    ColumnFamily,
    Unit,
    mean_above_zero,
    multiple,
    positive_location,
    raw_mean_above_zero,
)
from pyro_spvae.likelihoods.families.positive import log_standardised

_LEAST_DISPERSION = 1e-3  # at outputs of 0, of rows that vary no more than Poisson variables


class _CountFamily(ColumnFamily):
    takes = "a count takes 0, 1, 2, .."

    def supports(self, x: Tensor, unit: Unit) -> Tensor:
        return x.isfinite() & (x >= 0) & (x == x.round())

    def features(self, x: Tensor, unit: Unit) -> Tensor:
        """log(1 + x), standardised as that of a log-normal variable 1 + x of the same mean and deviation."""
        return log_standardised(torch.log1p(x), 1 + positive_location(unit), unit.scale).unsqueeze(-1)


class PoissonFamily(_CountFamily):
    r"""Poisson of rate :math:`m\,g(2 o_1 s / m)`."""

    def outputs(self, categories: int) -> int:
        return 1

    def law(self, outputs: tuple[Tensor, ...], unit: Unit, mask: Tensor | None = None) -> LeafDistribution:
        return LeafPoisson(mean_above_zero(outputs[0], unit), mask)

    def statistics(self, x: Tensor, unit: Unit) -> Tensor:
        """The values themselves."""
        return x.unsqueeze(-1)

    def outputs_of(self, means: Tensor, unit: Unit) -> tuple[Tensor, ...]:
        return (raw_mean_above_zero(means[..., 0], unit),)


class NegativeBinomialFamily(_CountFamily):
    r"""
    Negative binomial of mean :math:`\mu = m\,g(2 o_1 s / m)` and variance :math:`\mu + \mu^2 d`, with the dispersion
    :math:`d = g(o_2)\,(s^2 - m) / m^2`, at least 0.001 at outputs of 0.
    """

    def outputs(self, categories: int) -> int:
        return 2

    def law(self, outputs: tuple[Tensor, ...], unit: Unit, mask: Tensor | None = None) -> LeafDistribution:
        loc, raw = outputs
        mean, location = mean_above_zero(loc, unit), positive_location(unit)
        excess = (unit.scale.square() - location) / location.square()
        dispersion = excess.clamp(min=_LEAST_DISPERSION) * multiple(raw)
        return LeafNegativeBinomial(1 / dispersion, mean.log() + dispersion.log(), mask)

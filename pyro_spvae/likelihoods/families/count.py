# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Families of counts: negative binomial and Poisson."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_spvae.distributions import LeafNegativeBinomial, LeafPoisson
from pyro_spvae.distributions.large_counts import LARGE
from pyro_spvae.distributions.leaf import LeafDistribution
from pyro_spvae.likelihoods.families.family import (
    LEAST,
    ColumnFamily,
    Unit,
    mean_above_zero,
    multiple,
    positive_location,
    raw_mean_above_zero,
    raw_multiple,
)
from pyro_spvae.likelihoods.families.most_likely import gamma_shape
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
        return LeafPoisson(mean_above_zero(outputs[0], unit), mask, large=unit.most > LARGE)

    def count_statistics(self, categories: int) -> int:
        return 1

    def statistics(self, x: Tensor, unit: Unit, outputs: tuple[Tensor, ...]) -> Tensor:
        """The values themselves."""
        return x.unsqueeze(-1)

    def outputs_of(self, means: Tensor, unit: Unit) -> tuple[Tensor, ...]:
        return (raw_mean_above_zero(means[..., 0], unit),)


class NegativeBinomialFamily(_CountFamily):
    r"""
    Negative binomial of mean :math:`\mu = m\,g(2 o_1 s / m)` and variance :math:`\mu + \mu^2 d`, with the dispersion
    :math:`d = g(o_2)\,(s^2 - m) / m^2`, at least 0.001 at outputs of 0.

    For EM it is a Poisson variable whose rate :math:`\lambda` is Gamma distributed with concentration
    :math:`r = 1 / d` and mean :math:`\mu`; given x, with concentration :math:`r + x` and mean
    :math:`\mu (r + x) / (r + \mu)`.
    """

    def outputs(self, categories: int) -> int:
        return 2

    def law(self, outputs: tuple[Tensor, ...], unit: Unit, mask: Tensor | None = None) -> LeafDistribution:
        mean, dispersion = self._parameters(outputs, unit)
        return LeafNegativeBinomial(1 / dispersion, mean.log() + dispersion.log(), mask, large=unit.most > LARGE)

    def count_statistics(self, categories: int) -> int:
        return 3

    def statistics(self, x: Tensor, unit: Unit, outputs: tuple[Tensor, ...]) -> Tensor:
        """The values, their expected rates and the logarithms of these, in units of the location."""
        mean, dispersion = self._parameters(outputs, unit)
        location, number = positive_location(unit), 1 / dispersion
        ratio = mean / location / (number + mean)
        logs = torch.digamma(number + x) + ratio.log()
        return torch.stack([x / location, (number + x) * ratio, logs], -1)

    def outputs_of(self, means: Tensor, unit: Unit) -> tuple[Tensor, ...]:
        """The dispersion of most likely rates, and then the mean of the values, most likely for any dispersion."""
        value, rate, log = means[..., 0], means[..., 1], means[..., 2]
        excess = self._excess(unit)
        number = gamma_shape(rate.log() - log, 1 / (excess * LEAST))
        return raw_mean_above_zero(value * positive_location(unit), unit), raw_multiple(1 / (number * excess))

    @staticmethod
    def _excess(unit: Unit) -> Tensor:
        """The dispersion at outputs of 0."""
        location = positive_location(unit)
        return ((unit.scale.square() - location) / location.square()).clamp(min=_LEAST_DISPERSION)

    def _parameters(self, outputs: tuple[Tensor, ...], unit: Unit) -> tuple[Tensor, Tensor]:
        """Mean and dispersion."""
        loc, raw = outputs
        return mean_above_zero(loc, unit), self._excess(unit) * multiple(raw)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The family of proportions: Beta."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_spvae.distributions import LeafBeta
from pyro_spvae.distributions.leaf import LeafDistribution
from pyro_spvae.likelihoods.families.family import LEAST, ColumnFamily, Unit, multiple, raw_multiple
from pyro_spvae.likelihoods.families.most_likely import beta_shapes

_END = 1e-3  # how near to 0 and 1 the mean of training rows is taken to be
_NEAREST = 1e-6  # how near a mean can come
_LEAST_COUNT, _MOST_COUNT = 1e-2, 1e8  # of the sum of both concentrations
_LEAST_CONCENTRATION = 1e-3
_NEAREST_SHARE = 1e-8  # to 0 and 1 that an M-step writes, so that outputs are finite


class BetaFamily(ColumnFamily):
    r"""
    Beta of mean :math:`\operatorname{sigmoid}(\operatorname{logit} m + o_1 s / (m (1 - m)))` and concentrations that
    add up to :math:`(m (1 - m) / s^2 - 1) / g(o_2)^2`.
    """

    takes = "a proportion takes numbers between 0 and 1, these two left out"

    def outputs(self, categories: int) -> int:
        return 2

    def law(self, outputs: tuple[Tensor, ...], unit: Unit, mask: Tensor | None = None) -> LeafDistribution:
        raw_mean, raw = outputs
        location, spread, count = self._start(unit)
        logit = torch.logit(location) + raw_mean * unit.scale / spread
        count = 1 / (multiple(raw).square() / count + 1 / _MOST_COUNT)
        above, below = (_NEAREST + (1 - 2 * _NEAREST) * torch.sigmoid(sign * logit) for sign in (1, -1))
        return LeafBeta(_LEAST_CONCENTRATION + above * count, _LEAST_CONCENTRATION + below * count, mask)

    @staticmethod
    def _start(unit: Unit) -> tuple[Tensor, Tensor, Tensor]:
        """Mean at outputs of 0, that times what it lacks to 1, and the sum of concentrations."""
        location = unit.location.clamp(_END, 1 - _END)
        spread = location * (1 - location)
        return location, spread, (spread / unit.scale.square() - 1).clamp(min=_LEAST_COUNT)

    def statistics(self, x: Tensor, unit: Unit, outputs: tuple[Tensor, ...]) -> Tensor:
        """Logarithms of values and of what they lack to 1."""
        return torch.stack([x, 1 - x], -1).clamp(min=torch.finfo(x.dtype).tiny).log()

    def outputs_of(self, means: Tensor, unit: Unit) -> tuple[Tensor, ...]:
        location, spread, start = self._start(unit)
        most = (1 / (LEAST**2 / start + 1 / _MOST_COUNT)).expand(means.shape[:-1])
        mean = torch.stack([means[..., 0], means[..., 1]])
        shapes = beta_shapes(mean, most, _LEAST_CONCENTRATION, _NEAREST)
        count = (shapes.sum(0) - 2 * _LEAST_CONCENTRATION).clamp(min=_LEAST_CONCENTRATION)
        share = ((shapes[0] - _LEAST_CONCENTRATION) / count - _NEAREST) / (1 - 2 * _NEAREST)
        logit = torch.logit(share, eps=_NEAREST_SHARE)
        factor = (start * (1 / count - 1 / _MOST_COUNT)).clamp(min=0).sqrt()
        return (logit - torch.logit(location)) * spread / unit.scale, raw_multiple(factor)

    def features(self, x: Tensor, unit: Unit) -> Tensor:
        """Standardised."""
        return ((x - unit.location) / unit.scale).unsqueeze(-1)

    def supports(self, x: Tensor, unit: Unit) -> Tensor:
        return (x > 0) & (x < 1)

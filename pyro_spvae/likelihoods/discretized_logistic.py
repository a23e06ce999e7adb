# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The discretised logistic likelihood of grey levels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.blocks.scale import check_scale, positive_scale, raw_scale
from pyro_spvae.circuits.numerics import at_least_single
from pyro_spvae.distributions import LeafDiscretizedLogistic
from pyro_spvae.distributions.leaf import type_of_levels
from pyro_spvae.distributions.logistic_bins import EDGES
from pyro_spvae.likelihoods.likelihood import Likelihood
from pyro_spvae.likelihoods.summaries import unit_moments

LOCATIONS = ("free", "sigmoid")
SCALES = ("hardtanh", "softplus", "exp")

_LOG_SCALE = (-4.5, 0.0)  # ends of the range of log-scales in the VampPrior paper's code
_OF_DEVIATION = math.sqrt(3) / math.pi  # scale of a logistic variable of standard deviation 1
_INITIAL = 0.3 * _OF_DEVIATION


class DiscretizedLogistic(Likelihood):
    r"""
    Grey levels 0..levels-1 as bins of a logistic variable with a learned mean and scale each, in units of [0, 1]
    (Kingma et al. 2016; Salimans et al. 2017). See :class:`~pyro_spvae.distributions.LeafDiscretizedLogistic`.

    The first and the last bin take in the tails, and the mean, 1/2 more than the first output, may leave [0, 1]: then
    almost all of the mass may be at black or white, which it is in most pixels of drawn figures.

    ``edges="truncated"`` is the likelihood of grey images in the VampPrior paper (Tomczak and Welling 2018): means
    within [0, 1], a range of scales, and bins that are all alike, which is a lower bound.

    :param int levels: number of levels, at least 2.
    :param str edges: ``"tails"`` (default): the first and the last bin take in the tails, so that masses sum to 1;
        ``"truncated"``: the paper's form.
    :param str scale: of the logistic. ``"softplus"``: :math:`s = \mathrm{min\_scale} + \log(1 + e^t)` of the second
        output; ``"exp"``: :math:`s = \max(\mathrm{min\_scale}, e^t)`; ``"hardtanh"``, the paper's: :math:`\log s` is
        the nearest number to it in [-4.5, 0], with no gradient outside, where half of the outputs of a new network lie.
        By default ``"softplus"``, but ``"hardtanh"`` of truncated edges.
    :param float min_scale: smallest scale of ``"softplus"`` and ``"exp"``, 1e-3 by default (a quarter of a bin of 256).
    :param str location: ``"free"``: the mean is 1/2 plus the first output; ``"sigmoid"``: it is the output's sigmoid,
        with truncated edges moved to the nearest number at least half a bin from 0 and 1, as in the paper's code. By
        default free where scale and edges are left as they are by default, else sigmoid.
    :param bool from_mean: whether a decoder's outputs are added to those of the means and variances of training data,
        see :class:`~pyro_spvae.conditionals.Pixels`; by default where the location is free.
    :raises ValueError: for options out of range.

    Example::

        >>> likelihood = DiscretizedLogistic(levels=16).bind(leaves=1, pixels=1)
        >>> law = likelihood((torch.zeros(1, 1), torch.zeros(1, 1)))
        >>> round(law.log_prob(torch.arange(16.0).reshape(16, 1, 1)).exp().sum().item(), 4)
        1.0
    """

    of = "levels"
    same_at_all_pixels = True

    def __init__(
        self,
        levels: int = 256,
        edges: str = "tails",
        scale: str | None = None,
        min_scale: float | None = None,
        location: str | None = None,
        from_mean: bool | None = None,
    ) -> None:
        super().__init__()
        self.levels = checks.positive_integer("levels", levels)
        if levels < 2:
            raise ValueError(f"levels is {levels!r}; at least 2 are needed")
        self.edges = checks.one_of("edges", edges, EDGES)
        free = edges == "tails" and scale is None
        scale = ("softplus" if edges == "tails" else "hardtanh") if scale is None else scale
        self.scale = checks.one_of("scale", scale, SCALES)
        if scale == "hardtanh" and min_scale is not None:
            raise ValueError(
                f"min_scale is {min_scale!r}, but the scale 'hardtanh' has a floor of its own; leave it out"
            )
        self.min_scale = check_scale(scale, 1e-3 if min_scale is None else min_scale) if scale != "hardtanh" else None
        location = ("free" if free else "sigmoid") if location is None else location
        self.location = checks.one_of("location", location, LOCATIONS)
        from_mean = location == "free" if from_mean is None else from_mean
        self.from_mean = checks.boolean("from_mean", from_mean)
        self.accepts = f"the integers 0 to {levels - 1}"

    @property
    def heads(self) -> tuple[int, ...]:
        pixels = self.sizes["pixels"]
        return (pixels, pixels)

    def forward(self, outputs: tuple[Tensor, ...], mask: Tensor | None = None) -> TorchDistribution:
        raw_loc, raw = map(at_least_single, outputs)
        loc = 0.5 + raw_loc if self.location == "free" else torch.sigmoid(raw_loc)
        if self.edges == "truncated" and self.location == "sigmoid":
            half = 0.5 / self.levels
            loc = loc.clamp(half, 1 - half)
        if self.min_scale is None:
            log_scale = F.hardtanh(raw, *_LOG_SCALE)
        elif self.scale == "exp":  # not the logarithm of an exponential, which may be infinite
            log_scale = raw.clamp(min=math.log(self.min_scale)) if self.min_scale > 0 else raw
        else:
            log_scale = positive_scale(raw, self.scale, self.min_scale).log()
        law = LeafDiscretizedLogistic(loc, log_scale, self.levels, mask, self.edges)
        law._dtype = type_of_levels(outputs[0].dtype, self.levels)
        return law

    def _raw_scale(self, scale: Tensor) -> Tensor:
        """Outputs of a scale, or of the nearest that there is."""
        if self.min_scale is None:
            return scale.log().clamp(*_LOG_SCALE)
        return raw_scale(scale, self.scale, self.min_scale)

    def initial_outputs(self, leaves: int) -> tuple[Tensor, ...]:
        """Means of a logistic variable of standard deviation 0.45 about 1/2; scales of a standard deviation of 0.3."""
        loc, raw = super().initial_outputs(leaves)
        loc = 0.25 * loc if self.location == "free" else loc  # the slope of a sigmoid
        return loc, self._raw_scale(torch.full_like(raw, _INITIAL))

    def outputs_from(self, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        """
        Means and scales of the variances of the bins' middles, as if one more row had come, evenly over [0, 1]; scales
        are at least one hundredth and so far from their floor that they can still learn.
        """
        mean, variance = unit_moments(self.features(x), weight)
        scale = (_OF_DEVIATION * variance.sqrt()).clamp(min=0.01)
        return mean - 0.5 if self.location == "free" else torch.logit(mean), self._raw_scale(scale)

    def features(self, x: Tensor) -> Tensor:
        """Middles of the bins."""
        return (x + 0.5) / self.levels

    def supports(self, x: Tensor) -> Tensor:
        return (x >= 0) & (x < self.levels) & (x == x.round())

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
from pyro_spvae.distributions import LeafDiscretizedLogistic
from pyro_spvae.distributions.logistic_bins import EDGES
from pyro_spvae.likelihoods.likelihood import Likelihood

SCALES = ("hardtanh", "softplus")

_LOG_SCALE = (-4.5, 0.0)  # ends of the range of log-scales in the VampPrior paper's code
_INITIAL = 0.3 * math.sqrt(3) / math.pi  # scale of a logistic variable of standard deviation 0.3


class DiscretizedLogistic(Likelihood):
    r"""
    Grey levels 0..levels-1 as bins of a logistic variable on [0, 1], with a learned mean and scale each: the
    likelihood of grey images in the VampPrior paper (Tomczak and Welling 2018).

    The mean is a sigmoid of the first output, in the truncated form moved to the nearest number at least half a bin
    from 0 and 1, as in the paper's code. See :class:`~pyro_spvae.distributions.LeafDiscretizedLogistic`.

    :param int levels: number of levels, at least 2.
    :param str edges: ``"tails"`` (default): the first and the last bin take in the tails, so that masses sum to 1;
        ``"truncated"``: the paper's form, which is a lower bound.
    :param str scale: of the logistic, in units of [0, 1]. ``"hardtanh"`` (default): :math:`\log s` is the nearest
        number to the second output in [-4.5, 0], as in the paper's code, with no gradient outside, where half of the
        outputs of a new network lie; ``"softplus"``: :math:`s = \mathrm{min\_scale} + \log(1 + e^t)`, which always
        has one.
    :param float min_scale: smallest scale of ``"softplus"``, 1e-3 by default (a quarter of a bin of 256).
    :raises ValueError: for options out of range.
    """

    of = "levels"
    same_at_all_pixels = True

    def __init__(
        self, levels: int = 256, edges: str = "tails", scale: str = "hardtanh", min_scale: float | None = None
    ) -> None:
        super().__init__()
        self.levels = checks.positive_integer("levels", levels)
        if levels < 2:
            raise ValueError(f"levels is {levels!r}; at least 2 are needed")
        if edges not in EDGES:
            raise ValueError(f"edges is {edges!r}; known are {', '.join(EDGES)}")
        if scale not in SCALES:
            raise ValueError(f"scale is {scale!r}; known are {', '.join(SCALES)}")
        if scale == "hardtanh" and min_scale is not None:
            raise ValueError(
                f"min_scale is {min_scale!r}, but the scale 'hardtanh' has a floor of its own; leave it out"
            )
        self.edges = edges
        self.scale = scale
        self.min_scale = None if scale == "hardtanh" else check_scale(scale, min_scale)
        self.accepts = f"the integers 0 to {levels - 1}"

    @property
    def heads(self) -> tuple[int, ...]:
        pixels = self.sizes["pixels"]
        return (pixels, pixels)

    def forward(self, outputs: tuple[Tensor, ...], mask: Tensor | None = None) -> TorchDistribution:
        raw_loc, raw = outputs
        loc = torch.sigmoid(raw_loc)
        if self.edges == "truncated":
            half = 0.5 / self.levels
            loc = loc.clamp(half, 1 - half)
        if self.min_scale is None:
            log_scale = F.hardtanh(raw, *_LOG_SCALE)
        else:
            log_scale = positive_scale(raw, "softplus", self.min_scale).log()
        return LeafDiscretizedLogistic(loc, log_scale, self.levels, mask, self.edges)

    def initial_outputs(self, leaves: int) -> tuple[Tensor, ...]:
        """Standard normal outputs for the mean; scales of a standard deviation of 0.3."""
        loc, raw = super().initial_outputs(leaves)
        scale = torch.full_like(raw, _INITIAL)
        return loc, scale.log() if self.min_scale is None else raw_scale(scale, "softplus", self.min_scale)

    def features(self, x: Tensor) -> Tensor:
        """Middles of the bins."""
        return (x + 0.5) / self.levels

    def supports(self, x: Tensor) -> Tensor:
        return (x >= 0) & (x < self.levels) & (x == x.round())

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The beta-binomial likelihood of grey levels."""

from __future__ import annotations

from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.blocks.scale import positive_scale
from pyro_spvae.distributions import LeafBetaBinomial
from pyro_spvae.likelihoods.likelihood import Likelihood

_LEAST = 1e-3  # smallest concentration


class BetaBinomial(Likelihood):
    r"""
    Levels 0..N as successes of N trials whose probability is Beta distributed: binomial counts that vary more. The two
    concentrations of a pixel are learned, :math:`0.001 + \log(1 + e^t)`.

    :param int total_count: N, the largest value.
    """

    of = "levels"
    same_at_all_pixels = True

    def __init__(self, total_count: int = 255) -> None:
        super().__init__()
        self.total_count = checks.positive_integer("total_count", total_count)
        self.accepts = f"the integers 0 to {total_count}"

    @property
    def heads(self) -> tuple[int, ...]:
        pixels = self.sizes["pixels"]
        return (pixels, pixels)

    def forward(self, outputs: tuple[Tensor, ...], mask: Tensor | None = None) -> TorchDistribution:
        above, below = (positive_scale(output, "softplus", _LEAST) for output in outputs)
        return LeafBetaBinomial(self.total_count, above, below, mask)

    def features(self, x: Tensor) -> Tensor:
        return x / self.total_count

    def supports(self, x: Tensor) -> Tensor:
        return (x >= 0) & (x <= self.total_count) & (x == x.round())

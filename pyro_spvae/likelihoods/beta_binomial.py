# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The beta-binomial likelihood of grey levels."""

from __future__ import annotations

from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.blocks.scale import positive_scale, raw_scale
from pyro_spvae.distributions import LeafBetaBinomial
from pyro_spvae.likelihoods.likelihood import Likelihood
from pyro_spvae.likelihoods.summaries import unit_moments

_LEAST = 1e-3  # smallest concentration


class BetaBinomial(Likelihood):
    r"""
    Levels 0..N as successes of N trials whose probability is Beta distributed: binomial counts that vary more. The two
    concentrations of a pixel are learned, :math:`0.001 + \log(1 + e^t)`.

    :param int total_count: N, the largest value.
    :param bool from_mean: whether a decoder's outputs are added to those of the means and variances of training data,
        see :class:`~pyro_spvae.conditionals.Pixels`.

    Example::

        >>> likelihood = BetaBinomial(total_count=15).bind(leaves=1, pixels=1)
        >>> law = likelihood((torch.zeros(1, 1), torch.zeros(1, 1)))
        >>> round(law.log_prob(torch.arange(16.0).reshape(16, 1, 1)).exp().sum().item(), 4)
        1.0
    """

    of = "levels"
    same_at_all_pixels = True

    def __init__(self, total_count: int = 255, from_mean: bool = True) -> None:
        super().__init__()
        self.total_count = checks.positive_integer("total_count", total_count)
        self.from_mean = checks.boolean("from_mean", from_mean)
        self.accepts = f"the integers 0 to {total_count}"

    @property
    def heads(self) -> tuple[int, ...]:
        pixels = self.sizes["pixels"]
        return (pixels, pixels)

    def forward(self, outputs: tuple[Tensor, ...], mask: Tensor | None = None) -> TorchDistribution:
        above, below = (positive_scale(output, "softplus", _LEAST) for output in outputs)
        return LeafBetaBinomial(self.total_count, above, below, mask)

    def outputs_from(self, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        r"""
        Concentrations by moments: with mean :math:`m` and variance :math:`v` of :math:`x / N`,
        :math:`v = m (1 - m) (1 + (N - 1) \rho) / N` where :math:`\rho = 1 / (\alpha + \beta + 1)`, which is moved to
        within 0.001 of 0 and 1 where it is not; concentrations are 0.002 at least, where they can still learn.
        """
        number = self.total_count
        mean, variance = unit_moments(x / number, weight)
        correlation = (variance * number / (mean * (1 - mean)) - 1) / max(number - 1, 1)
        correlation = correlation.clamp(_LEAST, 1 - _LEAST)
        total = 1 / correlation - 1
        above, below = (
            raw_scale((share * total).clamp(min=2 * _LEAST), "softplus", _LEAST) for share in (mean, 1 - mean)
        )
        return above, below

    def features(self, x: Tensor) -> Tensor:
        return x / self.total_count

    def supports(self, x: Tensor) -> Tensor:
        return (x >= 0) & (x <= self.total_count) & (x == x.round())

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The Categorical likelihood of levels with a free probability each."""

from __future__ import annotations

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.distributions import LeafCategorical
from pyro_spvae.distributions.simplex import away_from_zero
from pyro_spvae.likelihoods.likelihood import LEAST, Likelihood
from pyro_spvae.likelihoods.summaries import level_frequencies


class Categorical(Likelihood):
    """
    Levels 0..levels-1 with a free probability each, ``levels`` logits a pixel. Of many levels
    :class:`~pyro_spvae.likelihoods.LowRankCategorical` costs less.

    :param int levels: number of levels.
    :param bool from_mean: whether a decoder's outputs are added to the logarithms of the frequencies of levels in
        training data, see :class:`~pyro_spvae.conditionals.Pixels`.

    Example::

        >>> likelihood = Categorical(levels=4).bind(leaves=1, pixels=3)
        >>> likelihood.heads  # logits that a decoder makes of a leaf
        (12,)
        >>> law = likelihood((torch.zeros(1, 12),))
        >>> law.log_prob(torch.zeros(1, 3)).exp().round(decimals=4)
        tensor([0.0156])
    """

    of = "levels"
    same_at_all_pixels = True

    def __init__(self, levels: int, from_mean: bool = True) -> None:
        super().__init__()
        self.levels = checks.positive_integer("levels", levels)
        self.from_mean = checks.boolean("from_mean", from_mean)
        self.accepts = f"the integers 0 to {levels - 1}"

    @property
    def heads(self) -> tuple[int, ...]:
        return (self.sizes["pixels"] * self.levels,)

    def forward(self, outputs: tuple[Tensor, ...], mask: Tensor | None = None) -> TorchDistribution:
        (logits,) = outputs
        return LeafCategorical(logits.unflatten(-1, (self.sizes["pixels"], self.levels)), mask=mask)

    def statistics(self, x: Tensor, weight: Tensor) -> Tensor:
        """The number of times that each level occurs."""
        counts = weight.new_zeros(*x.shape[1:], self.levels)  # [L, P, V]
        return counts.scatter_add_(-1, x.long().movedim(0, -1), weight.movedim(0, -1))

    def uniform_statistics(self) -> Tensor:
        return torch.full((self.levels,), 1 / self.levels, device="cpu")

    def outputs_of(self, means: Tensor) -> tuple[Tensor, ...]:
        """Logarithms of probabilities of at least 1e-6."""
        return (away_from_zero(means, LEAST).log().flatten(-2),)

    def outputs_from(self, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        """Logarithms of the frequencies, as if one more row had come, evenly over all levels."""
        return (level_frequencies(x, weight, self.levels).log().flatten(-2),)

    def features(self, x: Tensor) -> Tensor:
        return x / max(self.levels - 1, 1)

    def supports(self, x: Tensor) -> Tensor:
        return x.round().clamp_(0, self.levels - 1) == x

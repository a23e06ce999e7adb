# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The Binomial likelihood of grey levels."""

from __future__ import annotations

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.distributions import LeafBinomial
from pyro_spvae.likelihoods.likelihood import LEAST, Likelihood
from pyro_spvae.likelihoods.summaries import unit_moments


class Binomial(Likelihood):
    """
    Grey levels 0..N as a binomial count, one logit each (the discrete model of the SPVAE paper, with N = 255).

    :param int total_count: N, the largest value.
    :param bool from_mean: whether a decoder's outputs are added to the log-odds of the means of training data, see
        :class:`~pyro_spvae.conditionals.Pixels`; ``False`` is the paper's form.

    Example::

        >>> likelihood = Binomial(total_count=15).bind(leaves=1, pixels=2)
        >>> law = likelihood((torch.zeros(1, 2),))  # logits
        >>> law.mean
        tensor([[7.5000, 7.5000]])
    """

    of = "levels"
    same_at_all_pixels = True

    def __init__(self, total_count: int = 255, from_mean: bool = True) -> None:
        super().__init__()
        self.total_count = checks.positive_integer("total_count", total_count)
        self.from_mean = checks.boolean("from_mean", from_mean)
        self.accepts = f"the integers 0 to {total_count}"

    def forward(self, outputs: tuple[Tensor, ...], mask: Tensor | None = None) -> TorchDistribution:
        (logits,) = outputs
        return LeafBinomial(self.total_count, logits, mask=mask)

    def statistics(self, x: Tensor, weight: Tensor) -> Tensor:
        """The sum of levels, in units of N."""
        return torch.einsum("blp,blp->lp", weight, x.to(weight.dtype) / self.total_count).unsqueeze(-1)

    def uniform_statistics(self) -> Tensor:
        return torch.tensor([0.5], device="cpu")

    def outputs_of(self, means: Tensor) -> tuple[Tensor, ...]:
        """Log-odds of probabilities from 1e-6 to 1 - 1e-6."""
        return (torch.logit(means.squeeze(-1), eps=LEAST),)

    def outputs_from(self, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        """Log-odds of the means, as if one more row had come, evenly over all levels."""
        mean, _ = unit_moments(x / self.total_count, weight)
        return (torch.logit(mean),)

    def features(self, x: Tensor) -> Tensor:
        return x / self.total_count

    def supports(self, x: Tensor) -> Tensor:
        return (x >= 0) & (x <= self.total_count) & (x == x.round())

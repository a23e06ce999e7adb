# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The Bernoulli likelihood of binary pixels."""

from __future__ import annotations

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from pyro_spvae.distributions import LeafBernoulli
from pyro_spvae.likelihoods.likelihood import LEAST, Likelihood


class Bernoulli(Likelihood):
    """Binary pixels, one logit each.

    Example::

        >>> likelihood = Bernoulli().bind(leaves=2, pixels=3)
        >>> law = likelihood((torch.zeros(2, 3),))  # logits, [leaf, pixel]
        >>> law.log_prob(torch.ones(2, 3)).exp().round(decimals=4)
        tensor([0.1250, 0.1250])
    """

    of = "binary"
    same_at_all_pixels = True
    accepts = "0 and 1"

    def forward(self, outputs: tuple[Tensor, ...], mask: Tensor | None = None) -> TorchDistribution:
        (logits,) = outputs
        return LeafBernoulli(logits, mask=mask)

    def statistics(self, x: Tensor, weight: Tensor) -> Tensor:
        """The number of ones."""
        return torch.einsum("blp,blp->lp", weight, x.to(weight.dtype)).unsqueeze(-1)

    def uniform_statistics(self) -> Tensor:
        return torch.tensor([0.5], device="cpu")

    def outputs_of(self, means: Tensor) -> tuple[Tensor, ...]:
        """Log-odds of probabilities from 1e-6 to 1 - 1e-6."""
        return (torch.logit(means.squeeze(-1), eps=LEAST),)

    def outputs_from(self, x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        """Log-odds of the means, within 0.001 of 0 and 1 at most (Burda et al. 2016, in their code)."""
        mean = (x * weight).sum(0) / weight.sum(0).clamp(min=1)
        return (torch.logit(mean, eps=1e-3),)

    def supports(self, x: Tensor) -> Tensor:
        return (x == 0) | (x == 1)

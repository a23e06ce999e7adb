# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Families of categories: Bernoulli, categorical and ordinal."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_spvae.distributions import LeafBernoulli, LeafCategorical, LeafNominal, ordinal_log_probs
from pyro_spvae.distributions.leaf import LeafDistribution
from pyro_spvae.distributions.simplex import away_from_zero
from pyro_spvae.likelihoods.families.family import ColumnFamily, Unit, multiple, raw_multiple

_LEAST = 1e-6  # probability that an M-step writes
_RAREST = 1e-4  # of a category at outputs of 0, which no training row may have


class _CodedFamily(ColumnFamily):
    def supports(self, x: Tensor, unit: Unit) -> Tensor:
        return (x >= 0) & (x < unit.frequencies.size(-1)) & (x == x.round())

    def count_statistics(self, categories: int) -> int:
        return categories

    def statistics(self, x: Tensor, unit: Unit, outputs: tuple[Tensor, ...]) -> Tensor:
        """One for the category, 0 for the others."""
        numbers = torch.arange(unit.frequencies.size(-1), device=x.device)
        return (x.unsqueeze(-1) == numbers).to(x.dtype)

    def uniform_statistics(self, categories: int) -> Tensor:
        return torch.full((categories,), 1 / categories, device="cpu")

    def outputs_of(self, means: Tensor, unit: Unit) -> tuple[Tensor, ...]:
        """Of probabilities of at least 1e-6."""
        return self._outputs_of(away_from_zero(means, _LEAST), unit)

    def _outputs_of(self, probs: Tensor, unit: Unit) -> tuple[Tensor, ...]:
        raise NotImplementedError

    @staticmethod
    def log_frequencies(unit: Unit) -> Tensor:
        """Of each category, ``[.., place, category]``."""
        return away_from_zero(unit.frequencies.double(), _RAREST).log().to(unit.frequencies.dtype)


class BernoulliFamily(_CodedFamily):
    """Log-odds are those of the training rows plus the output."""

    takes = "a binary column takes 0 and 1"

    def outputs(self, categories: int) -> int:
        return 1

    def law(self, outputs: tuple[Tensor, ...], unit: Unit, mask: Tensor | None = None) -> LeafDistribution:
        log = self.log_frequencies(unit)
        return LeafBernoulli(outputs[0] + (log[..., 1] - log[..., 0]), mask)

    def _outputs_of(self, probs: Tensor, unit: Unit) -> tuple[Tensor, ...]:
        log = probs.log() - self.log_frequencies(unit)
        return (log[..., 1] - log[..., 0],)

    def features(self, x: Tensor, unit: Unit) -> Tensor:
        """0 or 1."""
        return x.unsqueeze(-1)


class CategoricalFamily(_CodedFamily):
    """Logits are log-frequencies of the training rows plus the outputs."""

    takes = "a categorical column takes the numbers 0, 1, .. of its categories"

    def outputs(self, categories: int) -> int:
        return categories

    def width(self, categories: int) -> int:
        return categories

    def law(self, outputs: tuple[Tensor, ...], unit: Unit, mask: Tensor | None = None) -> LeafDistribution:
        return LeafNominal(torch.stack(outputs, -1) + self.log_frequencies(unit), mask)

    def _outputs_of(self, probs: Tensor, unit: Unit) -> tuple[Tensor, ...]:
        return (probs.log() - self.log_frequencies(unit)).unbind(-1)

    def features(self, x: Tensor, unit: Unit) -> Tensor:
        """One for the category, 0 for the others."""
        numbers = torch.arange(unit.frequencies.size(-1), device=x.device)
        return (x.unsqueeze(-1) == numbers).to(x.dtype)


class OrdinalFamily(_CodedFamily):
    r"""
    Proportional odds: the location :math:`o_1` moves all cut points, and the distances of neighbours are those that
    give the frequencies of the training rows, times :math:`g(o_2), g(o_3), ..`: :math:`V - 1` outputs for :math:`V`
    categories, of which the location says what a shift of the first cut point would.
    """

    takes = "an ordinal column takes the numbers 0, 1, .. of its categories"

    def outputs(self, categories: int) -> int:
        return categories - 1

    def width(self, categories: int) -> int:
        return categories - 1

    def _outputs_of(self, probs: Tensor, unit: Unit) -> tuple[Tensor, ...]:
        cuts, base = _cuts(probs), _cuts(away_from_zero(unit.frequencies.double(), _RAREST)).to(probs)
        gaps = (cuts[..., 1:] - cuts[..., :-1]) / (base[..., 1:] - base[..., :-1])
        return (base[..., 0] - cuts[..., 0], *raw_multiple(gaps).unbind(-1))

    def law(self, outputs: tuple[Tensor, ...], unit: Unit, mask: Tensor | None = None) -> LeafDistribution:
        location, *raw = outputs
        cuts = _cuts(away_from_zero(unit.frequencies.double(), _RAREST))
        gaps = (cuts[..., 1:] - cuts[..., :-1]).to(location.dtype)
        if raw:
            gaps = gaps * multiple(torch.stack(raw, -1))
        return LeafCategorical(ordinal_log_probs(cuts[..., 0].to(location.dtype) - location, gaps), mask)

    def features(self, x: Tensor, unit: Unit) -> Tensor:
        """One for each cut point that the category lies above, 0 for the others."""
        cuts = torch.arange(unit.frequencies.size(-1) - 1, device=x.device)
        return (x.unsqueeze(-1) > cuts).to(x.dtype)


def _cuts(probs: Tensor) -> Tensor:
    """Cut points: log-odds of P(x < k), k = 1 .. V - 1."""
    return torch.logit(probs.cumsum(-1)[..., :-1])

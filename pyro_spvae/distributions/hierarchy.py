# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Latent bits in groups, each group given those before it, as bits or smoothed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_spvae.checks import instance
from pyro_spvae.distributions.factorial_bernoulli import Bits, FactorialBernoulli, log_mass
from pyro_spvae.distributions.grouped import Grouped, LogitsOf
from pyro_spvae.distributions.smoothed_bernoulli import SmoothedBernoulli
from pyro_spvae.distributions.smoothing.draws import uniform
from pyro_spvae.distributions.smoothing.registry import register_smoothing
from pyro_spvae.distributions.smoothing.smoothing import Smoothing


class BinaryHierarchy(Grouped, Bits):
    r"""
    Latent bits in groups, each factorial given the bits of those before it,

    .. math:: q(z) = \prod_g \prod_i \text{Bernoulli}(z_{g,i}; \sigma(\ell_{g,i}(z_{<g}))).

    :param sizes: numbers of bits by group.
    :param logits_of: see :class:`~pyro_spvae.distributions.grouped.Grouped`.

    Example::

        >>> from pyro_spvae.distributions import BinaryHierarchy
        >>> weight = torch.ones(2, 3)
        >>> q = BinaryHierarchy((2, 3), lambda group, before: torch.zeros(4, 2) if group == 0 else before @ weight)
        >>> z = q.sample()  # [4, 5]
        >>> q.log_prob(z).shape  # nats
        torch.Size([4])
    """

    support = constraints.independent(constraints.boolean, 1)

    def sample(self, sample_shape: list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draws ``sample_shape + batch_shape + event_shape``."""
        return self._draw(sample_shape, lambda logits, shape: torch.bernoulli(logits.detach().sigmoid().expand(shape)))

    def _log_prob(self, value: Tensor) -> Tensor:
        return self._by_group(value, log_mass)

    def _of_group(self, logits: Tensor) -> FactorialBernoulli:
        return FactorialBernoulli(logits, validate_args=False)


class SmoothedHierarchy(Grouped):
    r"""
    Smoothed bits in groups, each factorial given the smoothed bits of those before it,

    .. math:: q(\zeta) = \prod_g \prod_i \sum_{z} q(z_{g,i} = z \mid \zeta_{<g})\, r(\zeta_{g,i} \mid z)

    (Vahdat et al. 2018, section 4.2).

    :param sizes: numbers of bits by group.
    :param logits_of: see :class:`~pyro_spvae.distributions.grouped.Grouped`.
    :param Smoothing smoothing: :math:`r`.

    Example::

        >>> from pyro_spvae.distributions import OverlappingExponentials, SmoothedHierarchy
        >>> weight = torch.ones(2, 3, requires_grad=True)
        >>> logits_of = lambda group, before: torch.zeros(4, 2) if group == 0 else before @ weight
        >>> q = SmoothedHierarchy((2, 3), logits_of, OverlappingExponentials(beta=8.0))
        >>> zeta = q.rsample()  # [4, 5], between 0 and 1
        >>> q.log_prob(zeta).shape  # nats
        torch.Size([4])
    """

    has_rsample = True

    def __init__(
        self,
        sizes: Sequence[int],
        logits_of: LogitsOf,
        smoothing: Smoothing,
        *,
        first: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        instance("smoothing", smoothing, Smoothing)
        self.smoothing = smoothing
        super().__init__(sizes, logits_of, first=first, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=1)
    def support(self) -> constraints.Constraint:
        """That of the smoothing transformation."""
        return constraints.independent(self.smoothing.support, 1)

    def rsample(self, sample_shape: list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draws ``sample_shape + batch_shape + event_shape``, differentiable in all logits."""
        return self._draw(sample_shape, lambda logits, shape: self.smoothing.rsample(logits, uniform(shape, logits)))

    def _log_prob(self, value: Tensor) -> Tensor:
        return self._by_group(value, lambda logits, zeta: self.smoothing.log_prob(logits, zeta).sum(-1))

    def _of_group(self, logits: Tensor) -> SmoothedBernoulli:
        return SmoothedBernoulli(logits, self.smoothing, validate_args=False)


def groups(law: Any, value: Tensor) -> list[tuple[Tensor, Tensor]]:
    """
    The logits of each group of latent bits given the value of those before it, with the group's own value.

    :param law: a FactorialBernoulli or SmoothedBernoulli, which are one group, a BinaryHierarchy or SmoothedHierarchy.
    :param Tensor value: ``[.., leaf, D]``.
    :returns: a pair ``[.., leaf, size]`` for each group.
    :raises TypeError: for any other distribution.

    Example::

        >>> from pyro_spvae.distributions import FactorialBernoulli, groups
        >>> [(logits, value)] = groups(FactorialBernoulli(torch.zeros(2, 3)), torch.ones(2, 3))  # one group
        >>> logits.shape, value.shape
        (torch.Size([2, 3]), torch.Size([2, 3]))
    """
    if isinstance(law, Grouped):
        return law.groups(value)
    if isinstance(law, (FactorialBernoulli, SmoothedBernoulli)):
        return [(law.logits, value)]
    raise TypeError(
        f"a {type(law).__name__} is no distribution of latent bits; a FactorialBernoulli, SmoothedBernoulli, "
        "BinaryHierarchy or SmoothedHierarchy is needed"
    )


@register_smoothing(BinaryHierarchy)
def _smoothed(law: BinaryHierarchy, smoothing: Smoothing) -> SmoothedHierarchy:
    smooth = SmoothedHierarchy(law.sizes, law.logits_of, smoothing, first=law.first, validate_args=False)
    smooth._dtype = law._dtype
    return smooth.expand(law.batch_shape)

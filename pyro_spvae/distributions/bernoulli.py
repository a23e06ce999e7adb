# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Bernoulli leaf distribution: independent binary pixels given by their logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid, softplus

from pyro_spvae.circuits.numerics import by_hand
from pyro_spvae.distributions.leaf import LeafDistribution, ParameterConstraint, checked_parameter, summed_to

_BOOLEAN_VECTOR = constraints.independent(constraints.boolean, 1)


class LeafBernoulli(LeafDistribution):
    r"""
    Independent binary pixels, one event ``[pixel]``. With :math:`s = 2x - 1 \in \{-1, 1\}`,

    .. math:: \log p(x) = \sum_j m_j \log \operatorname{sigmoid}(s_j \ell_j),

    which keeps full relative accuracy for any logit, and costs one product and one special function a pixel.

    :param torch.Tensor logits: log-odds :math:`\ell` of a pixel being 1, ``[.., pixel]``.
    :param torch.Tensor mask: optional bool tensor broadcastable to ``[.., pixel]``, True = the pixel counts.
    :param bool validate_args: whether to check parameters and values; None follows Pyro's global switch.
    :raises TypeError: if ``logits`` is no floating-point tensor, or ``mask`` no bool tensor.
    :raises ValueError: if shapes do not broadcast, or, under validation, if a logit is NaN.

    Example::

        >>> from pyro_spvae.distributions import LeafBernoulli
        >>> mask = torch.tensor([True, True, False])
        >>> LeafBernoulli(torch.zeros(3), mask).log_prob(torch.ones(3)).exp()  # of the two pixels that count
        tensor(0.2500)
    """

    arg_constraints = {"logits": ParameterConstraint(constraints.real, 1)}

    def __init__(self, logits: Tensor, mask: Tensor | None = None, *, validate_args: bool | None = None) -> None:
        self.logits = checked_parameter(type(self).__name__, "logits", logits, 1)
        self._dtype = logits.dtype
        super().__init__(logits.shape[:-1], logits.shape[-1], mask, validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Pixels that count are 0 or 1."""
        return self._support(constraints.boolean, _BOOLEAN_VECTOR)

    @property
    def probs(self) -> Tensor:
        """Probability of a pixel being 1, un-expanded ``[.., pixel]``."""
        return self.logits.sigmoid()

    @property
    def mean(self) -> Tensor:
        """Mean, ``batch_shape + event_shape``."""
        return self._full(self.probs)

    @property
    def mode(self) -> Tensor:
        """The more probable value, 0 where both are, ``batch_shape + event_shape``."""
        return self._full((self.logits > 0).to(self.logits.dtype))

    @property
    def variance(self) -> Tensor:
        """Variance, ``batch_shape + event_shape``."""
        return self._full(self.logits.sigmoid() * (-self.logits).sigmoid())

    def sample(self, sample_shape: list[int] | tuple[int, ...] = ()) -> Tensor:
        """
        Draw binary pixels, in the dtype of the logits.

        :param torch.Size sample_shape: shape of independent draws.
        :returns: ``sample_shape + batch_shape + event_shape``.
        """
        with torch.no_grad():
            return torch.bernoulli(self.probs.expand(self._extended_shape(sample_shape))).to(self._dtype)

    def by_pixel(self, value: Tensor) -> Tensor:
        value = value.to(self.logits.dtype)
        if value.numel() > self.logits.numel() and not value.requires_grad and by_hand(self.logits, value):
            return _LookedUp.apply(self.logits, value)
        return logsigmoid((2.0 * value - 1.0) * self.logits)

    def _log_prob(self, value: Tensor) -> Tensor:
        return self._sum_event(self.by_pixel(self._fill(value)))

    def entropy(self) -> Tensor:
        """:returns: entropy over the pixels that count, ``batch_shape``, nats."""
        probs = self.probs
        entropy = probs * softplus(-self.logits) + (1.0 - probs) * softplus(self.logits)
        return self._sum_event(entropy).expand(self.batch_shape)


class _LookedUp(torch.autograd.Function):
    """The log-probabilities of 0 and 1 are computed once for each logit, and taken for each of its many values."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(logits, value)
        return torch.where(value > 0.5, logsigmoid(logits), logsigmoid(-logits))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, value = ctx.saved_tensors
        return summed_to(grad * value, logits) - summed_to(grad, logits) * logits.sigmoid(), None

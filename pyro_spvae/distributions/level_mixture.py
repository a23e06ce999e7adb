# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Leaf distribution of levels as mixtures of a few distributions over them, which pixels share but for biases."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions import constraints

from pyro_spvae.circuits.numerics import by_hand, largest
from pyro_spvae.distributions.leaf import (
    LeafDistribution,
    ParameterConstraint,
    checked_parameter,
    full_precision,
    type_of_levels,
)

_NAME = "LeafLevelMixture"


class LeafLevelMixture(LeafDistribution):
    r"""
    Independent pixels over the integers :math:`0..V-1`, one event ``[pixel]``, each a mixture of :math:`R`
    distributions over levels, a factorisation of rank :math:`R` of the probabilities of :class:`LeafCategorical`,

    .. math:: \log p(x) = \sum_j m_j \log \sum_r \operatorname{softmax}(o_j)_r
        \frac{e^{t_{x_j r} + b_{j x_j}}}{Z_{j r}} \quad \text{nats}, \qquad Z_{j r} = \sum_v e^{t_{v r}} e^{b_{j v}}.

    Where table :math:`t` and biases :math:`b` have no axis of data, the normalisers :math:`Z` are one product of
    matrices, and all else is looked up, so that a pixel of a datum costs :math:`R` terms and not :math:`V`.

    :param torch.Tensor logits: unnormalised logarithms :math:`o` of the weights, ``[.., pixel, component]``.
    :param torch.Tensor table: :math:`t`, of all pixels, ``[.., level, component]``.
    :param torch.Tensor bias: :math:`b`, finite, ``[.., pixel, level]``.
    :param torch.Tensor mask: optional bool tensor broadcastable to ``[.., pixel]``, True = the pixel counts.
    :param bool validate_args: whether to check parameters and values; None follows Pyro's global switch.
    :raises TypeError: if a parameter is no floating-point tensor, or ``mask`` no bool tensor.
    :raises ValueError: if shapes do not fit or broadcast, or, under validation, if a parameter is NaN.

    Example::

        >>> from pyro_spvae.distributions import LeafLevelMixture
        >>> logits, table, bias = torch.randn(1, 3), torch.randn(8, 3), torch.zeros(1, 8)  # a pixel, 8 levels
        >>> law = LeafLevelMixture(logits, table, bias)
        >>> round(law.log_prob(torch.arange(8.0).unsqueeze(-1)).exp().sum().item(), 4)
        1.0
    """

    arg_constraints = {
        "logits": ParameterConstraint(constraints.real, 2),
        "table": ParameterConstraint(constraints.real, 2),
        "bias": ParameterConstraint(constraints.real, 2),
    }

    def __init__(
        self,
        logits: Tensor,
        table: Tensor,
        bias: Tensor,
        mask: Tensor | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.logits = checked_parameter(_NAME, "logits", logits, 2)
        self.table = checked_parameter(_NAME, "table", table, 2)
        self.bias = checked_parameter(_NAME, "bias", bias, 2)
        self._dtype = type_of_levels(logits.dtype, self.num_levels)
        (pixels, components), levels = self.logits.shape[-2:], self.table.size(-2)
        given = ", ".join(f"{name} {tuple(getattr(self, name).shape)}" for name in self.arg_constraints)
        if self.table.size(-1) != components or self.bias.shape[-2:] != (pixels, levels):
            raise ValueError(
                f"{_NAME} needs logits [.., pixel, component], table [.., level, component] and bias [.., pixel, "
                f"level], but the shapes are {given}."
            )
        try:
            shape = broadcast_shape(*(value.shape[:-2] for value in (self.logits, self.table, self.bias)))
        except ValueError:
            raise ValueError(f"the parameters of {_NAME} must broadcast, but their shapes are {given}.") from None
        super().__init__(shape, pixels, mask, validate_args)

    @property
    def num_levels(self) -> int:
        """Number of levels a pixel can take."""
        return self.table.size(-2)

    @property
    def num_components(self) -> int:
        """Number of distributions that a pixel is a mixture of."""
        return self.logits.size(-1)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Pixels that count are integers from 0 to ``num_levels - 1``."""
        pixel = constraints.integer_interval(0, self.num_levels - 1)
        return self._support(pixel, constraints.independent(pixel, 1))

    @property
    def probs(self) -> Tensor:
        """Probability of each level, un-expanded ``[.., pixel, level]``."""
        with full_precision(self.logits):
            return (self._components() @ self.logits.softmax(-1).unsqueeze(-1)).squeeze(-1)

    def _components(self) -> Tensor:
        """The distributions of each pixel, ``[.., pixel, level, component]``."""
        return (self.table.unsqueeze(-3) + self.bias.unsqueeze(-1)).softmax(-2)

    @property
    def mean(self) -> Tensor:
        """Mean of the level's number, ``batch_shape + event_shape``."""
        return self._full((self.probs * self._levels()).sum(-1))

    @property
    def variance(self) -> Tensor:
        """Variance of the level's number, ``batch_shape + event_shape``."""
        probs, levels = self.probs, self._levels()
        apart = levels - (probs * levels).sum(-1, keepdim=True)
        return self._full((probs * apart.square()).sum(-1))

    def _levels(self) -> Tensor:
        return torch.arange(self.num_levels, dtype=self.table.dtype, device=self.table.device)

    @property
    def mode(self) -> Tensor:
        """The most probable level, the lowest of several, ``batch_shape + event_shape``."""
        with torch.no_grad():
            return self._full(self.probs.argmax(-1).to(self.logits.dtype))

    def sample(self, sample_shape: list[int] | tuple[int, ...] = ()) -> Tensor:
        """
        Draws a component for each pixel, then a level of it, in the dtype of ``logits``.

        :param torch.Size sample_shape: shape of independent draws.
        :returns: ``sample_shape + batch_shape + event_shape``.
        """
        with torch.no_grad():
            shape = self._extended_shape(sample_shape)
            below = self.logits.softmax(-1).cumsum(-1)[..., :-1]
            component = (torch.rand((*shape, 1), dtype=below.dtype, device=below.device) >= below).sum(-1)
            sums = self._components().cumsum(-2)
            row = _numbered(sums.shape[:-2], sums.device) * self.num_levels
            uniform = torch.rand(shape, dtype=sums.dtype, device=sums.device)
            level, last = torch.zeros_like(component), torch.full_like(component, self.num_levels - 1)
            for _ in range((self.num_levels - 1).bit_length()):  # bisection, to the first whose sum is above
                middle = (level + last) // 2
                is_above = sums.take((row + middle) * self.num_components + component) > uniform
                level, last = torch.where(is_above, level, middle + 1), torch.where(is_above, middle, last)
                level = torch.minimum(level, last)
            return level.to(self._dtype)

    def by_pixel(self, value: Tensor) -> Tensor:
        level = value.long()
        rows = _numbered(self.table.shape[:-2], level.device).unsqueeze(-1) * self.num_levels  # [.., 1]
        table = torch.nn.functional.embedding(rows + level, self.table.reshape(-1, self.num_components))
        pixels = _numbered(self.bias.shape[:-1], level.device) * self.num_levels  # [.., pixel]
        bias = self.bias.take(pixels + level)
        given = table - self._log_normalisers()
        hand = torch.is_grad_enabled() and by_hand(self.logits, given)
        return (_LogMixed.apply(self.logits, given) if hand else _log_mixed(self.logits, given)) + bias

    def _log_normalisers(self) -> Tensor:
        r""":math:`\log Z`, ``[.., pixel, component]``; in double precision, for a product that is not of logarithms."""
        table, bias = self.table.double(), self.bias.double()
        top, most = largest(table.detach(), -2), largest(bias.detach(), -1)
        total = (bias - most).exp() @ (table - top).exp()
        return (total.log() + (top + most)).to(self.table.dtype)

    def _log_prob(self, value: Tensor) -> Tensor:
        # filled rather than weighed: an impossible level at a masked-out pixel is -inf
        return self._fill(self.by_pixel(self._fill(value))).sum(-1)


def _numbered(shape: torch.Size, device: torch.device) -> Tensor:
    """Entries in the order of memory, numbered."""
    return torch.arange(shape.numel(), device=device).reshape(shape)


def _log_mixed(logits: Tensor, given: Tensor) -> Tensor:
    """Log-probabilities under mixtures of components, over the last axis."""
    return (logits + given).logsumexp(-1) - logits.logsumexp(-1)


class _LogMixed(torch.autograd.Function):
    """
    The same, with the exponentials kept for derivatives, which are a few products of them; autograd would compute them
    anew, and pass over all components as often again.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, given: Tensor) -> Tensor:
        joint = logits + given
        top, top_joint = largest(logits, -1), largest(joint, -1)
        weight, joint = (logits - top).exp_(), joint.sub_(top_joint).exp_()
        total, total_joint = weight.sum(-1, keepdim=True), joint.sum(-1, keepdim=True)
        ctx.save_for_backward(logits, given, weight, joint, total, total_joint)
        return ((total_joint / total).log_() + (top_joint - top)).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        logits, given, weight, joint, total, total_joint = ctx.saved_tensors
        grad = grad.unsqueeze(-1)
        if torch.is_grad_enabled():  # to be differentiated again
            weight, joint, total, total_joint = logits.softmax(-1), (logits + given).softmax(-1).nan_to_num(), 1.0, 1.0
        else:  # 0 of a level that no component allows, at a pixel that does not count
            total_joint = total_joint.masked_fill(total_joint == 0, 1.0)
        of_joint = joint * (grad / total_joint)
        by_given = of_joint.sum_to_size(given.shape) if ctx.needs_input_grad[1] else None
        by_logits = (of_joint - weight * (grad / total)).sum_to_size(logits.shape) if ctx.needs_input_grad[0] else None
        return by_logits, by_given

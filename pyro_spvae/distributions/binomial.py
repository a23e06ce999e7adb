# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Binomial leaf distribution: independent grey levels 0..N, the number of successes of N trials each."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from pyro_spvae.checks import is_integer
from pyro_spvae.distributions.leaf import LeafDistribution, ParameterConstraint, checked_parameter, type_of_levels


class LeafBinomial(LeafDistribution):
    r"""
    Independent Binomial pixels, one event ``[pixel]`` of integers :math:`0..N`,

    .. math::
        \log p(x) = \sum_j m_j \left[\log \binom{N}{x_j} + x_j \log \operatorname{sigmoid}(\ell_j)
        + (N - x_j) \log \operatorname{sigmoid}(-\ell_j)\right].

    The binomial coefficient depends on the value alone and is computed once for all particles.

    :param int total_count: number of trials :math:`N`, at least 1 (255 for 8-bit grey levels).
    :param torch.Tensor logits: log-odds :math:`\ell` of one success, ``[.., pixel]``.
    :param torch.Tensor mask: optional bool tensor broadcastable to ``[.., pixel]``, True = the pixel counts.
    :param bool validate_args: whether to check parameters and values; None follows Pyro's global switch.
    :raises TypeError: if ``total_count`` is no int, ``logits`` no floating-point tensor, or ``mask`` no bool tensor.
    :raises ValueError: if ``total_count`` is below 1, if shapes do not broadcast, or, under validation, if a
        logit is NaN.

    Example::

        >>> from pyro_spvae.distributions import LeafBinomial
        >>> law = LeafBinomial(2, torch.zeros(1))
        >>> law.log_prob(torch.arange(3.0).unsqueeze(-1)).exp().round(decimals=4)
        tensor([0.2500, 0.5000, 0.2500])
    """

    arg_constraints = {"logits": ParameterConstraint(constraints.real, 1)}

    def __init__(
        self, total_count: int, logits: Tensor, mask: Tensor | None = None, *, validate_args: bool | None = None
    ) -> None:
        if not is_integer(total_count):
            raise TypeError(f"total_count of LeafBinomial must be an int, but {total_count!r} was given.")
        if total_count < 1:
            raise ValueError(f"total_count of LeafBinomial must be at least 1, but {total_count} was given.")
        self.logits = checked_parameter("LeafBinomial", "logits", logits, 1)
        self.total_count = int(total_count)
        self._dtype = type_of_levels(logits.dtype, total_count + 1)
        super().__init__(logits.shape[:-1], logits.shape[-1], mask, validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Pixels that count are integers from 0 to ``total_count``."""
        pixel = constraints.integer_interval(0, self.total_count)
        return self._support(pixel, constraints.independent(pixel, 1))

    @property
    def probs(self) -> Tensor:
        """Probability of one success, un-expanded ``[.., pixel]``."""
        return self.logits.sigmoid()

    @property
    def mean(self) -> Tensor:
        """Mean, ``batch_shape + event_shape``."""
        return self._full(self.total_count * self.probs)

    @property
    def mode(self) -> Tensor:
        r"""The most probable value, :math:`\lfloor (N + 1) p \rfloor`, ``batch_shape + event_shape``."""
        return self._full(((self.total_count + 1) * self.probs).floor().clamp(max=self.total_count))

    @property
    def variance(self) -> Tensor:
        """Variance, ``batch_shape + event_shape``."""
        return self._full(self.total_count * self.logits.sigmoid() * (-self.logits).sigmoid())

    def sample(self, sample_shape: list[int] | tuple[int, ...] = ()) -> Tensor:
        """
        Draw grey levels, in the dtype of the logits.

        :param torch.Size sample_shape: shape of independent draws.
        :returns: ``sample_shape + batch_shape + event_shape``.
        """
        with torch.no_grad():
            probs = self.probs.expand(self._extended_shape(sample_shape))
            return torch.binomial(torch.full_like(probs, self.total_count), probs).to(self._dtype)

    def _log_prob(self, value: Tensor) -> Tensor:
        value = self._fill(value.to(self.logits.dtype))
        # Both terms have one sign. The cheaper x * logits - N * softplus(logits) cancels: in float32 it is off by 1e-4
        # nats a pixel at N = 255.
        term = value * logsigmoid(self.logits) + (self.total_count - value) * logsigmoid(-self.logits)
        return self._sum_event(log_binomial_coefficient(self.total_count, value)) + self._sum_event(term)


def log_binomial_coefficient(total_count: int, value: Tensor) -> Tensor:
    r"""
    Logarithm of :math:`\binom{N}{x}`, rounded once from double precision.

    :param int total_count: number of trials :math:`N`.
    :param torch.Tensor value: floating-point tensor of integers :math:`x` in ``0..N``, any shape.
    :returns: a tensor of the shape and dtype of ``value``, nats.
    """
    # A patch has many pixels and few grey levels: one table of N + 1 entries is cheaper than two lgamma() a pixel.
    tabulate = total_count < value.numel()
    if tabulate:
        count = torch.arange(total_count + 1, dtype=torch.float64, device=value.device)
    else:
        count = value.double()
    log_choose = math.lgamma(total_count + 1) - torch.lgamma(count + 1.0) - torch.lgamma(total_count - count + 1.0)
    log_choose = log_choose.to(value.dtype)
    if not tabulate:
        return log_choose
    # index_select() refuses negative indices, which plain indexing would take from the end of the table.
    return log_choose.index_select(0, value.long().flatten()).view(value.shape)

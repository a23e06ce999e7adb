# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Leaf distributions of counts: Poisson, negative binomial and beta-binomial."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_spvae.checks import is_positive
from pyro_spvae.distributions.beta import log_beta
from pyro_spvae.distributions.binomial import log_binomial_coefficient
from pyro_spvae.distributions.elementwise import LeafElementwise
from pyro_spvae.distributions.large_counts import NegativeBinomial, Poisson
from pyro_spvae.distributions.leaf import ParameterConstraint

_POSITIVE = ParameterConstraint(constraints.positive, 1)


class _Counts(LeafElementwise):
    """Values are whole numbers; of large ones terms cancel."""

    doubled = True
    pixel_support: constraints.Constraint = constraints.nonnegative_integer

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Pixels that count are whole numbers."""
        return self._support(self.pixel_support, constraints.independent(self.pixel_support, 1))


class LeafPoisson(_Counts):
    r"""
    Independent Poisson counts, one event ``[pixel]``,
    :math:`\log p(x) = \sum_j m_j [x_j \log \lambda_j - \lambda_j - \log x_j!]`.

    :param torch.Tensor rate: :math:`\lambda > 0`, ``[.., pixel]``.
    :param torch.Tensor mask: optional bool tensor broadcastable to ``[.., pixel]``, True = the pixel counts.
    :param bool large: whether counts above 100,000 are to be exact, which takes two to four times as long.
    :param bool validate_args: whether to check parameters and values; None follows Pyro's global switch.
    :raises TypeError: if ``rate`` is no floating-point tensor, or ``mask`` no bool tensor.
    :raises ValueError: if shapes do not broadcast, or, under validation, if a rate is invalid.

    Example::

        >>> from pyro_spvae.distributions import LeafPoisson
        >>> law = LeafPoisson(torch.tensor([3.0]))
        >>> law.mean, law.log_prob(torch.zeros(1))
        (tensor([3.]), tensor(-3.))
    """

    arg_constraints = {"rate": _POSITIVE}

    def __init__(
        self, rate: Tensor, mask: Tensor | None = None, *, large: bool = True, validate_args: bool | None = None
    ) -> None:
        self.large = large
        super().__init__({"rate": rate}, mask, validate_args)

    def family(self, *parameters: Tensor) -> Any:
        return (Poisson if self.large else dist.Poisson)(*parameters, validate_args=False)

    def _mode(self, law: Any) -> Tensor:
        return torch.floor(law.rate)


class LeafNegativeBinomial(_Counts):
    r"""
    Independent counts of a negative binomial distribution, one event ``[pixel]``: a Poisson variable whose rate is
    Gamma distributed with concentration :math:`r` and mean :math:`r e^\ell`,

    .. math::
        \log p(x) = \sum_j m_j \left[\log \frac{\Gamma(x_j + r_j)}{\Gamma(r_j) \, x_j!}
        + x_j \log \operatorname{sigmoid}(\ell_j) + r_j \log \operatorname{sigmoid}(-\ell_j)\right].

    :param torch.Tensor total_count: :math:`r > 0`, not only integers, ``[.., pixel]``.
    :param torch.Tensor logits: :math:`\ell`, the logarithm of mean over :math:`r`.
    :param torch.Tensor mask: optional bool tensor broadcastable to ``[.., pixel]``, True = the pixel counts.
    :param bool large: whether counts above 100,000 are to be exact, which takes two to four times as long.
    :param bool validate_args: whether to check parameters and values; None follows Pyro's global switch.
    :raises TypeError: if a parameter is no floating-point tensor, or ``mask`` no bool tensor.
    :raises ValueError: if shapes do not broadcast, or, under validation, if a parameter is invalid.

    Example::

        >>> from pyro_spvae.distributions import LeafNegativeBinomial
        >>> law = LeafNegativeBinomial(torch.tensor([2.0]), torch.tensor([0.0]))
        >>> law.mean, law.variance  # r e^l, and more than it
        (tensor([2.]), tensor([4.]))
    """

    arg_constraints = {"total_count": _POSITIVE, "logits": ParameterConstraint(constraints.real, 1)}

    def __init__(
        self,
        total_count: Tensor,
        logits: Tensor,
        mask: Tensor | None = None,
        *,
        large: bool = True,
        validate_args: bool | None = None,
    ) -> None:
        self.large = large
        super().__init__({"total_count": total_count, "logits": logits}, mask, validate_args)

    def family(self, *parameters: Tensor) -> Any:
        total_count, logits = parameters
        kind = NegativeBinomial if self.large else dist.NegativeBinomial
        return kind(total_count, logits=logits, validate_args=False)


class LeafBetaBinomial(_Counts):
    r"""
    Independent beta-binomial counts, one event ``[pixel]`` of integers :math:`0..N`: successes of N trials whose
    probability is Beta distributed,

    .. math::
        \log p(x) = \sum_j m_j \left[\log \binom{N}{x_j} + \log B(x_j + \alpha_j, N - x_j + \beta_j)
        - \log B(\alpha_j, \beta_j)\right].

    :param int total_count: number of trials :math:`N`, at least 1.
    :param torch.Tensor concentration1: :math:`\alpha > 0`, ``[.., pixel]``.
    :param torch.Tensor concentration0: :math:`\beta > 0`.
    :param torch.Tensor mask: optional bool tensor broadcastable to ``[.., pixel]``, True = the pixel counts.
    :param bool validate_args: whether to check parameters and values; None follows Pyro's global switch.
    :raises TypeError: if a parameter is no floating-point tensor, or ``mask`` no bool tensor.
    :raises ValueError: if ``total_count`` is no positive integer, if shapes do not broadcast, or, under validation, if
        a parameter is invalid.

    Example::

        >>> from pyro_spvae.distributions import LeafBetaBinomial
        >>> law = LeafBetaBinomial(4, torch.ones(1), torch.ones(1))
        >>> law.log_prob(torch.arange(5.0).unsqueeze(-1)).exp().round(decimals=4)  # uniform on 0..4
        tensor([0.2000, 0.2000, 0.2000, 0.2000, 0.2000])
    """

    arg_constraints = {"concentration1": _POSITIVE, "concentration0": _POSITIVE}

    def __init__(
        self,
        total_count: int,
        concentration1: Tensor,
        concentration0: Tensor,
        mask: Tensor | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        if not is_positive(total_count):
            raise ValueError(f"total_count of LeafBetaBinomial is {total_count!r}; a positive integer is needed.")
        self.total_count = int(total_count)
        self.pixel_support = constraints.integer_interval(0, self.total_count)
        parameters = {"concentration1": concentration1, "concentration0": concentration0}
        super().__init__(parameters, mask, validate_args)

    def family(self, *parameters: Tensor) -> Any:
        a, b = parameters
        return dist.BetaBinomial(a, b, self.total_count, validate_args=False)

    def by_pixel(self, value: Tensor) -> Tensor:
        a, b = self.concentration1.double(), self.concentration0.double()
        value, number = value.double(), self.total_count
        given = log_beta(value + a, number - value + b) - log_beta(a, b)
        return (log_binomial_coefficient(number, value) + given).to(self._type)

    def _mode(self, law: Any) -> Tensor:
        r""":math:`\lfloor (N + 1) (\alpha - 1) / (\alpha + \beta - 2) \rfloor` within 0..N, or the likelier end."""
        a, b = self.concentration1.double(), self.concentration0.double()
        peaked = a + b > 2
        inner = ((self.total_count + 1) * (a - 1) / torch.where(peaked, a + b - 2, 1.0)).floor()
        return torch.where(peaked, inner.clamp(0, self.total_count), self.total_count * (a >= b).to(a))

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Leaf distributions of positive values: Gamma and log-normal."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from pyro_spvae.distributions.elementwise import LeafElementwise
from pyro_spvae.distributions.leaf import ParameterConstraint


class LeafGamma(LeafElementwise):
    r"""
    Independent Gamma values, one event ``[pixel]``,

    .. math::
        \log p(x) = \sum_j m_j \left[\alpha_j \log \beta_j + (\alpha_j - 1) \log x_j - \beta_j x_j
        - \log \Gamma(\alpha_j)\right].

    :param torch.Tensor concentration: :math:`\alpha > 0`, ``[.., pixel]``.
    :param torch.Tensor rate: :math:`\beta > 0`.
    :param torch.Tensor mask: optional bool tensor broadcastable to ``[.., pixel]``, True = the pixel counts.
    :param bool validate_args: whether to check parameters and values; None follows Pyro's global switch.
    :raises TypeError: if a parameter is no floating-point tensor, or ``mask`` no bool tensor.
    :raises ValueError: if shapes do not broadcast, or, under validation, if a parameter is invalid.

    Example::

        >>> from pyro_spvae.distributions import LeafGamma
        >>> law = LeafGamma(torch.tensor([4.0, 1.0]), torch.tensor([2.0, 1.0]))
        >>> law.mean, law.variance
        (tensor([2., 1.]), tensor([1., 1.]))
    """

    arg_constraints = {
        "concentration": ParameterConstraint(constraints.positive, 1),
        "rate": ParameterConstraint(constraints.positive, 1),
    }
    has_rsample = True
    doubled = True
    filler = 1.0
    pixel_support = constraints.positive
    open_ends = (0.0, None)

    def __init__(
        self, concentration: Tensor, rate: Tensor, mask: Tensor | None = None, *, validate_args: bool | None = None
    ) -> None:
        super().__init__({"concentration": concentration, "rate": rate}, mask, validate_args)

    def family(self, *parameters: Tensor) -> Any:
        concentration, rate = parameters
        return dist.Gamma(concentration, rate, validate_args=False)


class LeafLogNormal(LeafElementwise):
    r"""
    Independent values whose logarithms are Normal, one event ``[pixel]``,

    .. math::
        \log p(x) = -\sum_j m_j \left[\tfrac12 \left(\frac{\log x_j - \mu_j}{\sigma_j}\right)^2 + \log \sigma_j
        + \log x_j + \tfrac12 \log 2\pi\right].

    :param torch.Tensor loc: mean :math:`\mu` of logarithms, ``[.., pixel]``.
    :param torch.Tensor scale: their standard deviation :math:`\sigma > 0`.
    :param torch.Tensor mask: optional bool tensor broadcastable to ``[.., pixel]``, True = the pixel counts.
    :param bool validate_args: whether to check parameters and values; None follows Pyro's global switch.
    :raises TypeError: if a parameter is no floating-point tensor, or ``mask`` no bool tensor.
    :raises ValueError: if shapes do not broadcast, or, under validation, if a parameter is invalid.

    Example::

        >>> from pyro_spvae.distributions import LeafLogNormal
        >>> law = LeafLogNormal(torch.zeros(2), torch.ones(2))
        >>> law.log_prob(torch.ones(2))  # as of the logarithms, which are 0
        tensor(-1.8379)
    """

    arg_constraints = {
        "loc": ParameterConstraint(constraints.real, 1),
        "scale": ParameterConstraint(constraints.positive, 1),
    }
    has_rsample = True
    filler = 1.0
    pixel_support = constraints.positive
    open_ends = (0.0, None)

    def __init__(
        self, loc: Tensor, scale: Tensor, mask: Tensor | None = None, *, validate_args: bool | None = None
    ) -> None:
        super().__init__({"loc": loc, "scale": scale}, mask, validate_args)

    def family(self, *parameters: Tensor) -> Any:
        loc, scale = parameters
        return dist.LogNormal(loc, scale, validate_args=False)

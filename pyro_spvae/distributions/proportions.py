# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Leaf distribution of proportions: Beta."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_spvae.distributions.beta import Beta
from pyro_spvae.distributions.elementwise import LeafElementwise
from pyro_spvae.distributions.leaf import ParameterConstraint


class LeafBeta(LeafElementwise):
    r"""
    Independent Beta values, one event ``[pixel]`` of numbers between 0 and 1, both outside of the support,

    .. math::
        \log p(x) = \sum_j m_j \left[(\alpha_j - 1) \log x_j + (\beta_j - 1) \log(1 - x_j) - \log B(\alpha_j, \beta_j)
        \right].

    :param torch.Tensor concentration1: :math:`\alpha > 0`, ``[.., pixel]``.
    :param torch.Tensor concentration0: :math:`\beta > 0`.
    :param torch.Tensor mask: optional bool tensor broadcastable to ``[.., pixel]``, True = the pixel counts.
    :param bool validate_args: whether to check parameters and values; None follows Pyro's global switch.
    :raises TypeError: if a parameter is no floating-point tensor, or ``mask`` no bool tensor.
    :raises ValueError: if shapes do not broadcast, or, under validation, if a parameter is invalid.

    Example::

        >>> from pyro_spvae.distributions import LeafBeta
        >>> law = LeafBeta(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0]))
        >>> law.mean, law.log_prob(torch.tensor([0.3, 0.5])).exp().round(decimals=4)
        (tensor([0.5000, 0.5000]), tensor(1.5000))
    """

    arg_constraints = {
        "concentration1": ParameterConstraint(constraints.positive, 1),
        "concentration0": ParameterConstraint(constraints.positive, 1),
    }
    has_rsample = True
    doubled = True
    filler = 0.5
    pixel_support = constraints.interval(0.0, 1.0)
    open_ends = (0.0, 1.0)

    def __init__(
        self,
        concentration1: Tensor,
        concentration0: Tensor,
        mask: Tensor | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        parameters = {"concentration1": concentration1, "concentration0": concentration0}
        super().__init__(parameters, mask, validate_args)

    def family(self, *parameters: Tensor) -> Any:
        a, b = parameters
        return Beta(a, b, validate_args=False)

    def _mode(self, law: Any) -> Tensor:
        r""":math:`(\alpha - 1) / (\alpha + \beta - 2)`, or the end where the density is larger."""
        a, b = torch.broadcast_tensors(law.concentration1, law.concentration0)
        peaked = (a > 1) & (b > 1)
        inner = (a - 1) / torch.where(peaked, a + b - 2, 1.0)
        return torch.where(peaked, inner, (a > b).to(a))

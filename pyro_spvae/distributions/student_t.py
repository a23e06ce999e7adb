# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Student-t leaf distribution: independent real values with heavy tails."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from pyro_spvae.distributions.elementwise import LeafElementwise
from pyro_spvae.distributions.leaf import ParameterConstraint


class LeafStudentT(LeafElementwise):
    r"""
    Independent values of Student's t distribution, one event ``[pixel]``, with :math:`u = (x - \mu) / \sigma`,

    .. math::
        \log p(x) = \sum_j m_j \left[\log \Gamma(\tfrac{\nu_j + 1}{2}) - \log \Gamma(\tfrac{\nu_j}{2})
        - \tfrac12 \log(\pi \nu_j) - \log \sigma_j - \tfrac{\nu_j + 1}{2} \log(1 + u_j^2 / \nu_j)\right].

    :param torch.Tensor df: degrees of freedom :math:`\nu > 0`, ``[.., pixel]``.
    :param torch.Tensor loc: location :math:`\mu`.
    :param torch.Tensor scale: scale :math:`\sigma > 0`, not the standard deviation.
    :param torch.Tensor mask: optional bool tensor broadcastable to ``[.., pixel]``, True = the pixel counts.
    :param bool validate_args: whether to check parameters and values; None follows Pyro's global switch.
    :raises TypeError: if a parameter is no floating-point tensor, or ``mask`` no bool tensor.
    :raises ValueError: if shapes do not broadcast, or, under validation, if a parameter is invalid.

    Example::

        >>> from pyro_spvae.distributions import LeafStudentT
        >>> law = LeafStudentT(torch.tensor([4.0]), torch.tensor([1.0]), torch.tensor([1.0]))
        >>> law.mean, law.variance  # df / (df - 2)
        (tensor([1.]), tensor([2.]))
    """

    arg_constraints = {
        "df": ParameterConstraint(constraints.positive, 1),
        "loc": ParameterConstraint(constraints.real, 1),
        "scale": ParameterConstraint(constraints.positive, 1),
    }
    has_rsample = True
    doubled = True

    def __init__(
        self, df: Tensor, loc: Tensor, scale: Tensor, mask: Tensor | None = None, *, validate_args: bool | None = None
    ) -> None:
        super().__init__({"df": df, "loc": loc, "scale": scale}, mask, validate_args)

    def family(self, *parameters: Tensor) -> Any:
        return dist.StudentT(*parameters, validate_args=False)

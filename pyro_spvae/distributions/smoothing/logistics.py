# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Two logistic distributions, around the bits 0 and 1."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from pyro_spvae.distributions.smoothing.quadratic import Root, quadratic
from pyro_spvae.distributions.smoothing.smoothing import Smoothing


class OverlappingLogistics(Smoothing):
    r"""
    Overlapping logistics on the real line (Vahdat et al. 2018, appendix B): of location :math:`z` and scale
    :math:`1 / \beta`,

    .. math:: R(\zeta \mid z) = \sigma(\beta (\zeta - z)), \quad
        r(\zeta \mid z) = \beta\, \sigma(\beta (\zeta - z))\, \sigma(-\beta (\zeta - z)).

    Draws are the quantiles of the mixture, from a quadratic equation whose coefficients do not grow with
    :math:`\beta`.

    :param beta: see :class:`Smoothing`.

    Example::

        >>> from pyro_spvae.distributions import OverlappingLogistics
        >>> r = OverlappingLogistics(beta=8.0)
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> r.rsample(logits, torch.tensor([0.1, 0.5, 0.9])).detach().round(decimals=3)
        tensor([-0.1730,  0.5000,  1.1730])
    """

    support = constraints.real

    def log_density(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        beta = self._beta(zeta)
        of_zero, of_one = (logsigmoid(x) + logsigmoid(-x) + beta.log() for x in (beta * zeta, beta * (zeta - 1)))
        return of_zero, of_one

    def cdf(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        beta = self._beta(zeta)
        return (beta * zeta).sigmoid(), (beta * (zeta - 1)).sigmoid()

    def means(self) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(self.beta), torch.ones_like(self.beta)

    def conditional(self, z: Tensor, rho: Tensor) -> Tensor:
        return z.to(rho.dtype) + rho.logit() / self._beta(rho)

    def draw(self, logits: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
        r"""
        Quantiles, with :math:`\partial \zeta / \partial \ell = q (1 - q) (1 - e^{-\beta}) / (\beta \sqrt{D})`.
        """
        beta = self._beta(logits)
        q, p = logits.sigmoid(), (-logits).sigmoid()
        zeta, _, root = self._solve(q, p, rho, beta)
        return zeta, p * q * (-torch.expm1(-beta) / beta) / root

    def quantile(self, logits: Tensor, rho: Tensor) -> Tensor:
        """The quantile function of the mixture, in operations that autograd follows."""
        return self._solve(logits.sigmoid(), (-logits).sigmoid(), rho, self._beta(logits)).zeta

    @staticmethod
    def _solve(q: Tensor, p: Tensor, rho: Tensor, beta: Tensor) -> Root:
        return quadratic(rho - p + (-beta).exp() * (rho - q), rho, 1 - rho, beta)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Two overlapping exponential distributions, of the bits 0 and 1."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_spvae.distributions.smoothing.quadratic import Root, quadratic
from pyro_spvae.distributions.smoothing.smoothing import Smoothing


class OverlappingExponentials(Smoothing):
    r"""
    Overlapping exponentials on [0, 1] (Vahdat et al. 2018, section 3), one the mirror image of the other,

    .. math:: r(\zeta \mid 0) = e^{-\beta \zeta} / Z_\beta, \quad r(\zeta \mid 1) = e^{\beta (\zeta - 1)} / Z_\beta,
        \quad Z_\beta = (1 - e^{-\beta}) / \beta.

    Draws are the quantiles of the mixture, eq. (3), in a form that is finite in single precision for any :math:`\beta`.

    :param beta: see :class:`Smoothing`.

    Example::

        >>> from pyro_spvae.distributions import OverlappingExponentials
        >>> r = OverlappingExponentials(beta=8.0)
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> r.rsample(logits, torch.tensor([0.1, 0.5, 0.9])).detach().round(decimals=3)
        tensor([0.0280, 0.5000, 0.9720])
    """

    def log_density(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        beta = self._beta(zeta)
        log_normaliser = (-torch.expm1(-beta)).log() - beta.log()
        start = -(beta * zeta + log_normaliser)
        return start, beta * zeta - (beta + log_normaliser)

    def log_ratio(self, zeta: Tensor) -> Tensor:
        beta = self._beta(zeta)
        return 2 * beta * zeta - beta

    def cdf(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        beta = self._beta(zeta)
        of_zero = torch.expm1(-beta * zeta) / torch.expm1(-beta)
        return of_zero, of_zero * (beta * (zeta - 1)).exp()

    def means(self) -> tuple[Tensor, Tensor]:
        of_zero = 1 / self.beta - 1 / torch.expm1(self.beta)
        return of_zero, 1 - of_zero

    def conditional(self, z: Tensor, rho: Tensor) -> Tensor:
        beta = self._beta(rho)
        of_zero = -torch.log1p(rho * torch.expm1(-beta)) / beta
        of_one = 1 + torch.log(rho + (1 - rho) * (-beta).exp()) / beta
        return torch.where(z > 0, of_one, of_zero).clamp(0, 1)

    def draw(self, logits: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
        r"""
        Quantiles, with :math:`\partial \zeta / \partial \ell = q (1 - q) (1 - m)(1 - e^{-\beta} / m) / (\beta
        \sqrt{D})`.
        """
        beta = self._beta(logits)
        q, p = logits.sigmoid(), (-logits).sigmoid()
        zeta, power, root = self._solve(q, p, rho, beta)
        slope = (1 - power) * (1 - (-beta).exp() / power) * (p * q / beta) / root
        return zeta.clamp(0, 1), slope

    def quantile(self, logits: Tensor, rho: Tensor) -> Tensor:
        """The quantile function of the mixture, in operations that autograd follows."""
        return self._solve(logits.sigmoid(), (-logits).sigmoid(), rho, self._beta(logits)).zeta

    @staticmethod
    def _solve(q: Tensor, p: Tensor, rho: Tensor, beta: Tensor) -> Root:
        return quadratic(rho - p + (-beta).exp() * (q - rho), p, q, beta)

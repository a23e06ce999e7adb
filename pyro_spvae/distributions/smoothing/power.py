# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Two power functions, of the bits 0 and 1."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_spvae.distributions.kept import inside
from pyro_spvae.distributions.smoothing.smoothing import Smoothing


class PowerFunctions(Smoothing):
    r"""
    Power functions on (0, 1), one the mirror image of the other,

    .. math:: r(\zeta \mid 0) = \lambda \zeta^{\lambda - 1}, \quad
        r(\zeta \mid 1) = \lambda (1 - \zeta)^{\lambda - 1}, \quad \lambda = 1 / \beta,

    a further pair that becomes the bits for large :math:`\beta`, as section 3 of Vahdat et al. (2018) asks for; at
    :math:`\beta = 1` both are uniform. Draws have implicit gradients.

    The densities are infinite at one end: :math:`\epsilon^\lambda` of the probability of :math:`z` lies within
    :math:`\epsilon` of it. Draws nearer than the floating-point type resolves stand at the last number inside, without
    a gradient; near 1 in single precision these are 2e-4 of the ones at :math:`\beta = 2`, and 12 % at 8.

    :param beta: at least 1; see :class:`Smoothing`.

    Example::

        >>> from pyro_spvae.distributions import PowerFunctions
        >>> r = PowerFunctions(beta=2.0)
        >>> r.conditional(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5]))
        tensor([0.2500, 0.7500])
    """

    least_beta = 1.0

    def log_density(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        power = self._power(zeta)
        zeta = inside(zeta)
        of_zero, of_one = (power.log() + (power - 1) * log for log in (zeta.log(), torch.log1p(-zeta)))
        return of_zero, of_one

    def cdf(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        power = self._power(zeta)
        return zeta**power, 1 - (1 - zeta) ** power

    def means(self) -> tuple[Tensor, Tensor]:
        return 1 / (1 + self.beta), self.beta / (1 + self.beta)

    def conditional(self, z: Tensor, rho: Tensor) -> Tensor:
        beta = self._beta(rho)
        return inside(torch.where(z > 0, 1 - (1 - rho) ** beta, rho**beta))

    def implicit_slope(self, logits: Tensor, zeta: Tensor) -> Tensor:
        """That of values at the ends is 0, since they do not move."""
        info = torch.finfo(zeta.dtype)
        ends = (zeta <= info.tiny) | (zeta >= 1 - info.eps / 2)
        return super().implicit_slope(logits, zeta).masked_fill(ends, 0)

    def _power(self, like: Tensor) -> Tensor:
        return 1 / self._beta(like)

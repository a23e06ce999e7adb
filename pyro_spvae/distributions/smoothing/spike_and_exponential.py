# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Rolfe's spike at 0 and exponential distribution of the bit 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid

from pyro_spvae.distributions.smoothing.draws import attached
from pyro_spvae.distributions.smoothing.smoothing import Smoothing


class SpikeAndExponential(Smoothing):
    r"""
    A spike at 0 and an exponential on [0, 1] (Rolfe 2017),

    .. math:: r(\zeta \mid 0) = \delta(\zeta), \quad
        r(\zeta \mid 1) = \beta e^{\beta \zeta} / (e^\beta - 1).

    Log-densities are those of the mixed law, an atom at 0 and a density elsewhere: with respect to Lebesgue measure
    plus the point mass at 0. A draw moves through the jump between them without noticing, so that the gradient of a
    log-density in a draw would be biased, and is refused; ``CircuitELBO(kl="analytic")`` needs none. The posterior of a
    bit given :math:`\zeta` is the step :math:`1\{\zeta > 0\}`, with Rolfe's derivative by hand, see :meth:`posterior`.

    :param beta: see :class:`Smoothing`.

    Example::

        >>> from pyro_spvae.distributions import SpikeAndExponential
        >>> r = SpikeAndExponential(beta=4.0)
        >>> logits = torch.zeros(3, requires_grad=True)
        >>> r.rsample(logits, torch.tensor([0.2, 0.6, 0.9])).detach().round(decimals=3)
        tensor([0.0000, 0.6150, 0.9450])
    """

    support = constraints.unit_interval

    def log_density(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        """Of the atom and of the exponential; minus infinity where the value is none of theirs."""
        spike = zeta <= 0
        return (
            torch.zeros_like(zeta).masked_fill(~spike, -math.inf),
            self._log_exponential(zeta).masked_fill(spike, -math.inf),
        )

    def log_ratio(self, zeta: Tensor) -> Tensor:
        """Plus infinity above 0, minus infinity at 0."""
        return torch.full_like(zeta, math.inf).masked_fill(zeta <= 0, -math.inf)

    def cdf(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        beta = self._beta(zeta)
        of_one = (beta * (zeta - 1)).exp() * torch.expm1(-beta * zeta) / torch.expm1(-beta)
        return torch.ones_like(zeta), of_one

    def means(self) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(self.beta), -1 / torch.expm1(-self.beta) - 1 / self.beta

    def conditional(self, z: Tensor, rho: Tensor) -> Tensor:
        beta = self._beta(rho)
        of_one = 1 + (rho + (1 - rho) * (-beta).exp()).log() / beta
        return torch.where(z > 0, _above_spike(of_one), 0.0)

    def draw(self, logits: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
        r"""
        Quantiles: 0 for :math:`\rho \le 1 - q`, else that of the exponential at :math:`u = (\rho - 1 + q) / q`, with
        :math:`\partial \zeta / \partial \ell = (1 - q)(1 - u)(1 - e^{-\beta}) / (\beta (u + (1 - u) e^{-\beta}))`.
        """
        beta = self._beta(logits)
        q, p = logits.sigmoid(), (-logits).sigmoid()
        z = rho > p
        u = torch.where(z, rho - p, 1.0) / torch.where(z, q, 1.0)
        mixed = u + (1 - u) * (-beta).exp()
        zeta = _above_spike(1 + mixed.log() / beta)
        slope = p * (1 - u) * (-torch.expm1(-beta) / beta) / mixed
        return torch.where(z, zeta, 0.0), torch.where(z, slope, 0.0)

    def log_prob(self, logits: Tensor, zeta: Tensor) -> Tensor:
        r"""
        The log-density of the mixed law of every bit in nats, differentiable in the logits of a given value.

        :raises ValueError: when a gradient in ``zeta`` is asked for.
        """
        zeta = zeta.view_as(zeta)
        if zeta.requires_grad:
            zeta.register_hook(_refuse)
        return torch.where(zeta > 0, logsigmoid(logits) + self._log_exponential(zeta), logsigmoid(-logits))

    def posterior(self, logits: Tensor, zeta: Tensor) -> Tensor:
        r"""
        The bit :math:`z = 1\{\zeta > 0\}`, with the derivative :math:`\partial z / \partial \ell = (1 - z)\, q`
        instead of 0: the gradient of :math:`E[z_i\, g(\zeta)]` is then unbiased for any :math:`g` (Rolfe 2017).

        :param Tensor logits: :math:`\ell`, ``[.., D]``.
        :param Tensor zeta: broadcastable with them; it gets no gradient.
        """
        with torch.no_grad():
            q = logits.detach().sigmoid()
            z = (zeta > 0).to(q.dtype)
            slope = (1 - z) * q
            z = z.expand_as(slope)
        return attached(logits, z, slope)

    def _log_exponential(self, zeta: Tensor) -> Tensor:
        beta = self._beta(zeta)
        return beta * (zeta - 1) + (beta.log() - (-torch.expm1(-beta)).log())


def _above_spike(zeta: Tensor) -> Tensor:
    """Draws of the exponential, which rounding must not take to the spike."""
    return zeta.clamp(torch.finfo(zeta.dtype).tiny, 1)


def _refuse(grad: Tensor) -> None:
    raise ValueError(
        "the gradient of a log-density in a draw smoothed by SpikeAndExponential is biased by the jump at its spike; "
        'kl="analytic" is needed'
    )

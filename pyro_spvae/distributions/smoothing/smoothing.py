# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a smoothing transformation is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_spvae.checks import is_number
from pyro_spvae.circuits.numerics import softplus
from pyro_spvae.distributions.smoothing.draws import attached, inside
from pyro_spvae.distributions.smoothing.registry import smoothed
from pyro_spvae.part import Part


class Smoothing(Part):
    r"""
    A smoothing transformation :math:`r(\zeta \mid z)` of a bit :math:`z`, of inverse temperature :math:`\beta`: for
    :math:`\beta \to \infty` it becomes the bit itself (Vahdat et al. 2018, section 3). Smoothed is the mixture

    .. math:: q(\zeta) = (1 - q)\, r(\zeta \mid 0) + q\, r(\zeta \mid 1), \qquad q = \sigma(\ell),

    whose draws are differentiable in the logit. Its call turns a distribution of bits into the smoothed one in training
    mode, and leaves it as it is in evaluation mode, which is the limit of large :math:`\beta`.

    Subclasses implement :meth:`log_density`, :meth:`cdf`, :meth:`means` and :meth:`conditional`; draws then have
    implicit gradients, and where the quantile function is known :meth:`draw` is overridden.

    :param beta: :math:`\beta > 0`; a pair ``(first, last)`` is annealed linearly from the first to the last by
        :meth:`advance`. It is kept in a buffer, so that saved models and schedules agree.
    :raises ValueError: if it is not positive, or a pair does not rise.

    Example::

        >>> from pyro_spvae.distributions import FactorialBernoulli, OverlappingExponentials
        >>> smoothing = OverlappingExponentials(beta=(6.0, 14.0))  # annealed
        >>> smoothing.advance(0.5)
        >>> smoothing.beta.item()
        10.0
        >>> type(smoothing(FactorialBernoulli(torch.zeros(3)))).__name__  # in training
        'SmoothedBernoulli'
        >>> type(smoothing.eval()(FactorialBernoulli(torch.zeros(3)))).__name__
        'FactorialBernoulli'
    """

    #: of the smoothed variable
    support: Any = constraints.unit_interval

    #: the smallest inverse temperature, which is excluded where it is 0
    least_beta: float = 0.0

    inverse_temperature: Tensor

    def __init__(self, beta: float | tuple[float, float] = 8.0) -> None:
        super().__init__()
        self._ends = _ends(beta, self.least_beta)
        self.register_buffer("inverse_temperature", torch.tensor(self._ends[0]))

    def build(self) -> None:
        """Has no parameters."""

    @property
    def beta(self) -> Tensor:
        r"""The inverse temperature :math:`\beta`, 0-dimensional."""
        return self.inverse_temperature

    def advance(self, progress: float) -> None:
        """Anneals the inverse temperature, where a pair was given."""
        first, last = self._ends
        if first != last:
            self.inverse_temperature.fill_(first + (last - first) * progress)

    def log_density(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        r"""The log-densities :math:`\log r(\zeta \mid 0)` and :math:`\log r(\zeta \mid 1)` in nats."""
        raise NotImplementedError(f"{type(self).__name__} must define log_density(self, zeta)")

    def log_ratio(self, zeta: Tensor) -> Tensor:
        r""":math:`\log r(\zeta \mid 1) - \log r(\zeta \mid 0)`."""
        of_zero, of_one = self.log_density(zeta)
        return of_one - of_zero

    def cdf(self, zeta: Tensor) -> tuple[Tensor, Tensor]:
        r"""The distribution functions :math:`R(\zeta \mid 0)` and :math:`R(\zeta \mid 1)`."""
        raise NotImplementedError(f"{type(self).__name__} must define cdf(self, zeta)")

    def means(self) -> tuple[Tensor, Tensor]:
        r""":math:`E[\zeta \mid z = 0]` and :math:`E[\zeta \mid z = 1]`, 0-dimensional."""
        raise NotImplementedError(f"{type(self).__name__} must define means(self)")

    def conditional(self, z: Tensor, rho: Tensor) -> Tensor:
        r"""
        Draws of :math:`r(\zeta \mid z)`, the quantiles :math:`R^{-1}(\rho \mid z)`.

        :param Tensor z: bits.
        :param Tensor rho: uniform noise inside of (0, 1), broadcastable with them.
        """
        raise NotImplementedError(f"{type(self).__name__} must define conditional(self, z, rho)")

    def log_prob(self, logits: Tensor, zeta: Tensor) -> Tensor:
        r"""
        The log-density of the mixture of every bit, :math:`\log r(\zeta \mid 0) + \log(1 + e^{\ell + h(\zeta)}) -
        \log(1 + e^\ell)` nats with the log-ratio :math:`h`.

        :param Tensor logits: :math:`\ell`, ``[.., D]``.
        :param Tensor zeta: broadcastable with them.
        """
        return self.log_density(zeta)[0] + (softplus(logits + self.log_ratio(zeta)) - softplus(logits))

    def posterior(self, logits: Tensor, zeta: Tensor) -> Tensor:
        r""":math:`q(z = 1 \mid \zeta) = \sigma(\ell + \log r(\zeta \mid 1) - \log r(\zeta \mid 0))`."""
        return (logits + self.log_ratio(zeta)).sigmoid()

    def rsample(self, logits: Tensor, rho: Tensor) -> Tensor:
        r"""
        Draws of the mixture :math:`q(\zeta)`, differentiable in the logits.

        :param Tensor logits: :math:`\ell`, ``[.., D]``.
        :param Tensor rho: uniform noise inside of (0, 1), of the shape of the draws.
        """
        with torch.no_grad():
            zeta, slope = self.draw(logits.detach(), rho)
        return attached(logits, zeta, slope)

    def draw(self, logits: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
        r"""
        Draws with their derivative :math:`\partial \zeta / \partial \ell`: a bit first and then the smoothed variable
        given it, both from one number, with the implicit gradient.
        """
        q, p = logits.sigmoid(), (-logits).sigmoid()
        z = rho > p
        # of the bit that was not drawn the divisor may be 0
        within = torch.where(z, rho - p, rho) / torch.where(z, q, p)
        zeta = self.conditional(z, inside(within))
        return zeta, self.implicit_slope(logits, zeta)

    def implicit_slope(self, logits: Tensor, zeta: Tensor) -> Tensor:
        r"""
        The implicit gradient of draws of a mixture, :math:`\partial \zeta / \partial \ell = -F_\ell(\zeta) / f(\zeta) =
        q (1 - q) (R(\zeta \mid 0) - R(\zeta \mid 1)) / q(\zeta)` (Figurnov et al. 2018).
        """
        of_zero, of_one = self.cdf(zeta)
        weight = logits.sigmoid() * (-logits).sigmoid()
        return weight * (of_zero - of_one) * (-self.log_prob(logits, zeta)).exp()

    def forward(self, law: Any) -> Any:
        """
        The smoothed form of a distribution of bits in training mode, itself in evaluation mode.

        :raises TypeError: in training mode for one that has none, see :func:`register_smoothing`.
        """
        return smoothed(law, self) if self.training else law

    def _beta(self, like: Tensor) -> Tensor:
        """The inverse temperature in the type of a tensor, whose precision formulas then have."""
        return self.inverse_temperature.to(like.dtype)

    def extra_repr(self) -> str:
        return f"beta={self._ends[0] if self._ends[0] == self._ends[1] else self._ends}"


def _ends(beta: Any, least: float) -> tuple[float, float]:
    """The first and the last inverse temperature."""
    pair = isinstance(beta, (tuple, list))
    ends = tuple(beta) if pair else (beta, beta)
    wanted = f"a number of at least {least:g}" if least else "a positive number"
    fits = len(ends) == 2 and all(is_number(end) and (end > 0 if not least else end >= least) for end in ends)
    if not fits or (pair and ends[1] <= ends[0]):
        raise ValueError(f"beta is {beta!r}; {wanted}, or a pair of them that rises, is needed")
    return float(ends[0]), float(ends[1])

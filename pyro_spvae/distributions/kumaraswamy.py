# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The Kumaraswamy distribution, reparameterised and stable, and its divergence from a Beta."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import Beta, TorchDistribution
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import constraints
from torch.distributions.kl import register_kl
from torch.distributions.utils import broadcast_all

from pyro_spvae.circuits.numerics import at_least_single, by_hand
from pyro_spvae.distributions.beta import log_beta
from pyro_spvae.distributions.kept import LogFractions, inside, keep, kept, log1mexp, log_fractions
from pyro_spvae.distributions.known import Known
from pyro_spvae.distributions.leaf import full_precision, summed_to

_EULER = 0.57721566490153286
_FAR = -30.0  # of log(1 - v^a), below which log(1 - v) is that less log a, to the last digit
_LARGE = 20.0  # argument from which on Stirling's series is used
_LEFT, _STEP, _NODES = -24.0, 0.2, 140  # trapezoids of log e, which end where exp(-e) is below 1e-16


class Kumaraswamy(TorchDistribution):
    r"""
    The Kumaraswamy distribution on (0, 1), whose draws are differentiable in its parameters (Kumaraswamy 1980;
    Nalisnick and Smyth 2017),

    .. math:: p(v) = a b\, v^{a - 1} (1 - v^a)^{b - 1}, \qquad v = (1 - u^{1/b})^{1/a},\ u \sim U(0, 1).

    Draws and densities are computed from :math:`\log u`: :math:`\log(1 - v^a) = \log(u) / b` is exact, where computed
    from :math:`v` it is lost to rounding, so that values and gradients are finite for parameters down to 0.05 in single
    precision, at which torch's distribution draws 0, 1 and infinite densities. What :math:`\log v` and
    :math:`\log(1 - v)` of a draw are is kept beside it, for its own density and for any other of this package that is
    asked about it.

    :param Tensor concentration1: :math:`a > 0`, ``[..]``.
    :param Tensor concentration0: :math:`b > 0`, broadcastable with it.
    :param bool validate_args: whether to check parameters and values; None follows Pyro's global switch.

    Example::

        >>> from pyro_spvae.distributions import Kumaraswamy
        >>> q = Kumaraswamy(torch.tensor([0.5, 2.0]), torch.tensor([0.1, 3.0]))
        >>> v = q.rsample((4,))  # [4, 2], inside of (0, 1)
        >>> q.log_prob(v).shape  # nats
        torch.Size([4, 2])
    """

    arg_constraints = {"concentration1": constraints.positive, "concentration0": constraints.positive}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, concentration1: Tensor, concentration0: Tensor, validate_args: bool | None = None) -> None:
        a, b = broadcast_all(concentration1, concentration0)
        self._dtype = a.dtype  # of draws
        self.concentration1, self.concentration0 = at_least_single(a), at_least_single(b)
        self._draw = Known[tuple[Tensor, Tensor]]()
        super().__init__(a.shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Kumaraswamy:
        """The same with expanded parameters; a draw keeps its density."""
        new: Any = self._get_checked_instance(Kumaraswamy, _instance)
        shape = torch.Size(batch_shape)
        new.concentration1 = self.concentration1.expand(shape)
        new.concentration0 = self.concentration0.expand(shape)
        new._draw, new._dtype = self._draw, self._dtype
        super(Kumaraswamy, new).__init__(shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """
        Draws, differentiable in the parameters.

        :returns: ``[*sample_shape, *batch_shape]``, above 0 and below 1.
        """
        a, b = self.concentration1, self.concentration0
        noise = torch.empty(self._extended_shape(torch.Size(sample_shape)), dtype=a.dtype, device=a.device)
        quantile = _Quantile.apply if by_hand(a, b) else _quantile
        value, log_value, tail = quantile(noise.exponential_(), a, b)
        if value.dtype != self._dtype:
            value = inside(value.to(self._dtype))
        self._draw = Known(value, (log_value, tail))
        return keep(value, LogFractions(log_value, lambda: _log_rest(log_value, tail, a)))

    def log_prob(self, value: Tensor) -> Tensor:
        """
        The log-density in nats, ``[*batch]``; of a draw from the noise it was made of.
        """
        if self._validate_args:
            self._validate_sample(value)
        a, b = self.concentration1, self.concentration0
        drawn = self._draw.of(value)
        if drawn is not None:
            log_value, tail = drawn
        else:
            logs = log_fractions(at_least_single(value) if kept(value) is None else value)
            log_value, tail = logs.log_value, _log_tail(logs, a)
        tensors = (a, b, log_value, tail)
        log_density = _LogDensity.apply if by_hand(*tensors) else _log_density
        log_prob: Tensor = log_density(*tensors)
        return log_prob

    def cdf(self, value: Tensor) -> Tensor:
        """:math:`1 - (1 - v^a)^b`."""
        return -torch.expm1(self.concentration0 * log1mexp(self.concentration1 * inside(value).log()))

    def icdf(self, value: Tensor) -> Tensor:
        """The value below which a share of the probability lies."""
        tail = torch.log1p(-value) / self.concentration0
        return inside((log1mexp(tail) / self.concentration1).exp())

    def moment(self, order: float) -> Tensor:
        r""":math:`E[v^m] = b\, B(1 + m / a, b)`."""
        a, b = self.concentration1, self.concentration0
        x = 1 + order / a
        return (b.log() + x.lgamma() - _log_rising(b, x)).exp()

    @property
    def mean(self) -> Tensor:
        return self.moment(1)

    @property
    def variance(self) -> Tensor:
        return self.moment(2) - self.mean.square()

    @property
    def mode(self) -> Tensor:
        """The value of largest density; NaN where there is none, or several."""
        a, b = self.concentration1, self.concentration0
        inner = ((a - 1) / (a * b - 1).clamp(min=torch.finfo(a.dtype).tiny)) ** (1 / a)
        edge = torch.where((a < 1) & (b >= 1), 0.0, torch.where((a >= 1) & (b < 1), 1.0, torch.nan))
        edge = torch.where((a == 1) & (b > 1), 0.0, torch.where((a > 1) & (b == 1), 1.0, edge))
        return torch.where((a > 1) & (b > 1), inner, edge)

    def entropy(self) -> Tensor:
        r""":math:`(1 - 1/b) + (1 - 1/a)(\gamma + \psi(b + 1)) - \log(a b)` nats."""
        a, b = self.concentration1, self.concentration0
        return (1 - 1 / b) + (1 - 1 / a) * (_EULER + torch.digamma(b + 1)) - a.log() - b.log()

    @property
    def mean_log(self) -> Tensor:
        r""":math:`E[\log v] = -(\gamma + \psi(b + 1)) / a`."""
        return -(_EULER + torch.digamma(self.concentration0 + 1)) / self.concentration1

    @property
    def mean_log_rest(self) -> Tensor:
        r"""
        :math:`E[\log(1 - v)] = \int_0^\infty e^{-t} \log(1 - v(t))\, dt` with :math:`v(t) = (1 - e^{-t/b})^{1/a}`, by
        trapezoids of :math:`\log t`, whose error is below 1e-6 relatively, for a from 0.02 up.
        """
        a, b = self.concentration1, self.concentration0
        places = _LEFT + _STEP * torch.arange(_NODES, dtype=a.dtype, device=a.device)
        nodes = places.exp().reshape(-1, *[1] * a.dim())
        weights = _STEP * (places - places.exp()).exp()
        log_tail = -nodes / b  # [node, *batch]
        rest = _log_rest(log1mexp(log_tail.clamp(min=_FAR)) / a, log_tail, a)
        with full_precision(weights):
            return torch.tensordot(weights, rest, 1)

    def mean_log_rest_by_series(self, terms: int = 10, tail: bool = True) -> Tensor:
        r"""
        The same as the published series :math:`-b \sum_m B(m/a, b) / (m + a b)`, cut off after some terms.

        :param int terms: M, the number of terms; the authors' code has 10 or 11.
        :param bool tail: add :math:`-\Gamma(b) (a / (M + 1/2))^b`, about what is cut off where :math:`M \gg a b`.
            Without it the sum is too large: a divergence from a Beta with :math:`\beta > 1` is under-estimated.
        """
        a, b = self.concentration1, self.concentration0
        total = torch.zeros_like(a)
        for m in range(1, terms + 1):
            x = m / a
            total = total + (x.lgamma() - _log_rising(b, x)).exp() / (m + a * b)
        total = b * total
        if tail:
            total = total + (b.lgamma() + b * (a.log() - math.log(terms + 0.5))).exp()
        return -total


def _quantile(noise: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The value :math:`v` of standard exponential noise, its logarithm and :math:`\\log(1 - v^a)`, see the class."""
    tail = -(noise / b).clamp(min=torch.finfo(noise.dtype).tiny)
    log_value = log1mexp(tail) / a
    return inside(log_value.exp()), log_value, tail


class _Quantile(torch.autograd.Function):
    """The same with a derivative in few operations."""

    @staticmethod
    def forward(ctx: Any, noise: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        energy = (noise / b).clamp_(min=torch.finfo(noise.dtype).tiny)
        tail = -energy
        log_value = _log1mexp(tail).div_(a)
        exact = log_value.exp()
        value = inside(exact)
        slope = exact.masked_fill_(exact != value, 0)  # values at the ends are constants
        ctx.save_for_backward(a, b, energy, log_value, slope)
        return value, log_value, tail

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_value: Tensor, by_log: Tensor, by_tail: Tensor) -> tuple[Tensor | None, ...]:
        a, b, energy, log_value, slope = ctx.saved_tensors
        by_power = torch.addcmul(by_log, by_value, slope).div_(a)  # log v^a
        ratio = energy / torch.expm1(energy)  # between 0 and 1, where the derivative itself may be infinite
        by_a = (by_power * log_value).neg_()
        by_b = (by_tail * energy).addcmul_(by_power, ratio, value=-1).div_(b)
        return None, summed_to(by_a, a), summed_to(by_b, b)


def _log_rest(log_value: Tensor, tail: Tensor, a: Tensor) -> Tensor:
    r""":math:`\log(1 - v)` of :math:`\log v` and :math:`\log(1 - v^a)`."""
    return torch.where(tail < _FAR, tail - a.log(), log1mexp(log_value))


def _log_tail(logs: LogFractions, a: Tensor) -> Tensor:
    r""":math:`\log(1 - v^a)` of :math:`\log v` and :math:`\log(1 - v)`."""
    rest = logs.log_rest
    return torch.where(rest < _FAR, rest + a.log(), log1mexp(a * logs.log_value))


def _log_density(a: Tensor, b: Tensor, log_value: Tensor, tail: Tensor) -> Tensor:
    """That of a value whose logarithms are given, in operations that autograd follows."""
    return a.log() + b.log() + (a - 1) * log_value + (b - 1) * tail


class _LogDensity(torch.autograd.Function):
    """The same with a derivative in few operations."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, log_value: Tensor, tail: Tensor) -> Tensor:
        ctx.save_for_backward(a, b, log_value, tail)
        return _log_density(a, b, log_value, tail)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        a, b, log_value, tail = ctx.saved_tensors
        return (
            summed_to(grad * (a.reciprocal() + log_value), a),
            summed_to(grad * (b.reciprocal() + tail), b),
            summed_to(grad * (a - 1), log_value),
            summed_to(grad * (b - 1), tail),
        )


@register_kl(Kumaraswamy, Beta)
def kl_kumaraswamy_beta(q: Kumaraswamy, p: Any) -> Tensor:
    r"""
    :math:`E_q[\log q(v) - \log p(v)]` in nats: :math:`-H(q) + \log B(\alpha, \beta) - (\alpha - 1) E[\log v] -
    (\beta - 1) E[\log(1 - v)]`; exact, and without the last term where :math:`\beta = 1`.
    """
    alpha, beta = p.concentration1, p.concentration0
    return -q.entropy() + log_beta(alpha, beta) - (alpha - 1) * q.mean_log - (beta - 1) * q.mean_log_rest


def _log_rising(b: Tensor, x: Tensor) -> Tensor:
    r"""
    :math:`\log \Gamma(b + x) - \log \Gamma(b)` for positive arguments; by Stirling's series where :math:`b` is
    large and the difference of both would be lost to rounding.
    """
    small = b.clamp(max=_LARGE)
    large = b.clamp(min=_LARGE)
    total = large + x
    series = (large - 0.5) * torch.log1p(x / large) + x * total.log() - x
    for power, factor in ((1, 1 / 12), (3, -1 / 360), (5, 1 / 1260)):
        series = series + factor * (total**-power - large**-power)
    return torch.where(b < _LARGE, (small + x).lgamma() - small.lgamma(), series)


def _log1mexp(x: Tensor) -> Tensor:
    """The same for values that have no gradient, and are not closer to 0 than the smallest normal number."""
    near, far = torch.expm1(x).neg_().log_(), x.exp().neg_().log1p_()
    return torch.where(x > -math.log(2), near, far)

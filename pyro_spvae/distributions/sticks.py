# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Weights of a mixture by breaking a stick: in logarithms, back, and in the mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions import constraints, kl_divergence
from torch.distributions.kl import register_kl

from pyro_spvae.circuits.numerics import at_least_single, by_hand
from pyro_spvae.distributions.kept import LogFractions, inside, keep, kept, log1mexp, log_fractions


def log_stick_weights(v: Tensor) -> Tensor:
    r"""
    Logarithms of the weights that fractions of a stick of length 1 make (Sethuraman 1994),

    .. math:: \pi_k = v_k \prod_{j < k} (1 - v_j), \qquad \pi_K = \prod_{j < K} (1 - v_j),

    finite wherever the fractions are inside of (0, 1).

    :param Tensor v: what is broken off what is left, ``[.., K - 1]``.
    :returns: ``[.., K]``, whose exponentials sum to 1.

    Example::

        >>> from pyro_spvae.distributions import log_stick_weights
        >>> log_stick_weights(torch.tensor([0.5, 0.5])).exp()
        tensor([0.5000, 0.2500, 0.2500])
    """
    log_weights: Tensor = _LogStickWeights.apply(v) if by_hand(v) else _log_stick_weights(v)
    return log_weights


def _log_stick_weights(v: Tensor) -> Tensor:
    """The same in operations that autograd follows."""
    v = inside(v)
    left = torch.log1p(-v).cumsum(-1)  # log of what is left after each break
    start = torch.zeros_like(left[..., :1])
    return torch.cat([v.log(), start], -1) + torch.cat([start, left], -1)


class _LogStickWeights(torch.autograd.Function):
    """The same with a derivative in few operations."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        inner = inside(v)
        ctx.save_for_backward(v, inner)
        left = (-inner).log1p_().cumsum(-1)
        log_weights = torch.cat([inner.log(), left[..., -1:]], -1)
        log_weights[..., 1:-1].add_(left[..., :-1])
        return log_weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        v, inner = ctx.saved_tensors
        by_left = grad[..., 1:].flip(-1).cumsum(-1).flip(-1)  # by logarithms of what is left after each break
        slope = (grad[..., :-1] / inner).sub_(by_left.div_(1 - inner))
        return slope.masked_fill_(v != inner, 0)  # fractions at the ends are constants


def stick_weights(v: Tensor) -> Tensor:
    """The weights themselves, see :func:`log_stick_weights`; ``[.., K]`` on the simplex.

    Example::

        >>> from pyro_spvae.distributions import stick_weights
        >>> stick_weights(torch.tensor([0.25, 0.5]))
        tensor([0.2500, 0.3750, 0.3750])
    """
    return log_stick_weights(v).exp()


def stick_fractions(log_weights: Tensor) -> Tensor:
    """
    The inverse of :func:`log_stick_weights`: what each weight is of what the weights before it have left.

    :param Tensor log_weights: ``[.., K]``.
    :returns: ``[.., K - 1]``.

    Example::

        >>> from pyro_spvae.distributions import log_stick_weights, stick_fractions
        >>> stick_fractions(log_stick_weights(torch.tensor([0.2, 0.7]))).round(decimals=4)
        tensor([0.2000, 0.7000])
    """
    return _log_fractions(log_weights).log_value.exp()


def _log_fractions(log_weights: Tensor) -> LogFractions:
    """Their logarithms and those of the rests, each by the sums of weights that it is rounded least in."""
    rest = log_weights.flip(-1).logcumsumexp(-1).flip(-1)  # log of the sums from k on
    log_value, log_rest = log_weights[..., :-1] - rest[..., :-1], rest[..., 1:] - rest[..., :-1]
    half, floor = -math.log(2), -torch.finfo(rest.dtype).tiny
    by_rest, by_value = (log1mexp(log.clamp(max=floor)) for log in (log_rest, log_value))
    return LogFractions(
        torch.where(log_value > half, by_rest, log_value), torch.where(log_rest > half, by_value, log_rest)
    )


def mean_stick_weights(mean: Tensor) -> Tensor:
    """
    The means of the weights of independent fractions, exactly: the weights of the fractions' means, as a weight is a
    product in which every fraction occurs once.

    :param Tensor mean: of the fractions, ``[.., K - 1]``.
    :returns: ``[.., K]`` on the simplex.

    Example::

        >>> from pyro_spvae.distributions import mean_stick_weights
        >>> mean_stick_weights(torch.tensor([1 / 3, 1 / 2]))
        tensor([0.3333, 0.3333, 0.3333])
    """
    return stick_weights(mean)


class StickWeights(TorchDistribution):
    r"""
    The weights :math:`\pi` that random fractions of a stick make, on the simplex: of fractions that are Beta a
    Dirichlet process, cut off, or a Dirichlet distribution; of Kumaraswamy fractions the posterior of the
    stick-breaking VAE (Nalisnick and Smyth 2017).

    :param TorchDistribution fractions: on (0, 1), with events ``[K - 1]``; draws are differentiable where its draws
        are.

    Example::

        >>> from pyro_spvae.distributions import Beta, StickWeights
        >>> prior = StickWeights(Beta(torch.ones(4), 5 * torch.ones(4)).to_event(1))
        >>> prior.sample().shape
        torch.Size([5])
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.simplex

    def __init__(self, fractions: TorchDistribution, validate_args: bool | None = None) -> None:
        if fractions.event_dim != 1:
            raise ValueError(
                f"fractions have events of shape {list(fractions.event_shape)}; a vector of them is needed"
            )
        self.fractions = fractions
        event = torch.Size((fractions.event_shape[0] + 1,))
        super().__init__(fractions.batch_shape, event, validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws are differentiable."""
        return bool(self.fractions.has_rsample)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> StickWeights:
        """The same with expanded fractions."""
        return StickWeights(self.fractions.expand(torch.Size(batch_shape)), validate_args=False)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Weights ``[*sample_shape, *batch, K]``."""
        with torch.no_grad():
            return self._made_of(self.fractions.sample(torch.Size(sample_shape)))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """The same, differentiable."""
        return self._made_of(self.fractions.rsample(torch.Size(sample_shape)))

    def _made_of(self, fractions: Tensor) -> Tensor:
        weights = stick_weights(at_least_single(fractions)).to(fractions.dtype)
        return keep(weights, fractions)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""
        The log-density on the simplex in its first K - 1 entries, as of a Dirichlet distribution, nats: that of the
        fractions less :math:`\sum_{k < K} \log \prod_{j < k} (1 - v_j)`. A draw, of any distribution of this class, is
        known by its fractions, which small weights do not tell.
        """
        fractions = kept(value)
        if fractions is None:
            if self._validate_args:
                self._validate_sample(value)
            fractions = _fractions_of(at_least_single(value))
        left = log_fractions(fractions).log_rest[..., :-1].cumsum(-1)
        return self.fractions.log_prob(fractions) - left.sum(-1)

    @property
    def mean(self) -> Tensor:
        """Exact for independent fractions."""
        return mean_stick_weights(self.fractions.mean)


def _fractions_of(weights: Tensor) -> Tensor:
    """The fractions of weights that nothing is kept of."""
    logs = _log_fractions(inside(weights).log())
    return keep(inside(logs.log_value.exp()), logs)


@register_kl(StickWeights, StickWeights)
def _kl_stick_weights(q: StickWeights, p: StickWeights) -> Tensor:
    """That of the fractions, of which the weights are one-to-one."""
    return kl_divergence(q.fractions, p.fractions)

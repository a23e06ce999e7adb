# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
r"""
Masses of the bins of a logistic variable, however far out they lie, and moments of the bin that it falls in.

Level :math:`v` of :math:`0..V-1` is the bin :math:`[v/V, (v+1)/V)`. All functions work entry by entry, on values, means
:math:`\mu` and log-scales :math:`\log s` that broadcast, both in units of [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_spvae.checks import is_integer
from pyro_spvae.circuits.numerics import by_hand
from pyro_spvae.distributions.leaf import double

EDGES = ("tails", "truncated")

_LOG_FLOOR = math.log(1e-7)  # what the VampPrior paper's code adds to every mass
_BLOCK = 2**22  # pairs of entry and level that moments hold at a time


def checked_levels(owner: str, levels: Any) -> int:
    """
    The number of levels.

    :param str owner: name of the distribution, for the message.
    :raises TypeError: if it is no int.
    :raises ValueError: if it is below 2.
    """
    if not is_integer(levels):
        raise TypeError(f"levels of {owner} must be an int, but {levels!r} was given.")
    if levels < 2:
        raise ValueError(f"levels of {owner} must be at least 2, but {levels} was given.")
    return int(levels)


def log_mass(
    value: Tensor,
    loc: Tensor,
    log_scale: Tensor,
    weight: Tensor | None,
    levels: int,
    edges: str = "tails",
    summed: bool = True,
) -> Tensor:
    """
    Log-masses of levels in nats, times a weight; without a graph of more than two numbers an entry.

    :param Tensor value: levels ``[.., entry]``, in the type of the parameters; without a gradient.
    :param Tensor weight: of each entry, such as a mask of 0 and 1, broadcastable; ``None`` for 1.
    :param str edges: ``"tails"`` or ``"truncated"``, see
        :class:`~pyro_spvae.distributions.LeafDiscretizedLogistic`.
    :param bool summed: over the last axis, or one number an entry.
    """
    # without a graph its derivatives would be computed for nothing
    hand = torch.is_grad_enabled() and by_hand(value, loc, log_scale)
    function = _LogMass.apply if hand else _weighted_log_mass
    result: Tensor = function(value, loc, log_scale, weight, levels, edges, summed)
    return result


class _LogMass(torch.autograd.Function):
    """
    Log-masses, weighted, and summed if asked to.

    Derivatives are computed together with the value and kept: two numbers an entry in the place of the dozen that
    autograd would keep. Where they are to be differentiated again, they are computed anew by operations that autograd
    follows.
    """

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        loc: Tensor,
        log_scale: Tensor,
        weight: Tensor | None,
        levels: int,
        edges: str,
        summed: bool,
    ) -> Tensor:
        ctx.options = (levels, edges, summed)
        result, *kept = log_mass_and_slopes(value, loc, log_scale, levels, edges, any(ctx.needs_input_grad))
        ctx.save_for_backward(value, loc, log_scale, weight, *kept)
        result = result if weight is None else result * weight
        return result.sum(-1) if summed else result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        value, loc, log_scale, weight, by_loc, by_log_scale = ctx.saved_tensors
        levels, edges, summed = ctx.options
        if torch.is_grad_enabled():
            _, by_loc, by_log_scale = log_mass_and_slopes(value, loc, log_scale, levels, edges, differentiate=True)
        grad = grad.unsqueeze(-1) if summed else grad
        grad = grad if weight is None else grad * weight
        _, needs_loc, needs_log_scale, *_ = ctx.needs_input_grad
        return (
            None,
            (grad * by_loc).sum_to_size(loc.shape) if needs_loc else None,
            (grad * by_log_scale).sum_to_size(log_scale.shape) if needs_log_scale else None,
            *[None] * 4,
        )


def _weighted_log_mass(
    value: Tensor, loc: Tensor, log_scale: Tensor, weight: Tensor | None, levels: int, edges: str, summed: bool
) -> Tensor:
    """The same in operations that autograd follows."""
    result, _, _ = log_mass_and_slopes(value, loc, log_scale, levels, edges)
    result = result if weight is None else result * weight
    return result.sum(-1) if summed else result


def log_mass_and_slopes(
    value: Tensor, loc: Tensor, log_scale: Tensor, levels: int, edges: str, differentiate: bool = False
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """:returns: log-mass of each entry in nats, and its derivatives in ``loc`` and in ``log_scale``."""
    precision = inverse_scale(log_scale, levels)
    start, end = value / levels, (value + 1) / levels
    gap = -torch.expm1(-precision / levels)
    by_gap = (precision / levels) * (1 - gap) / gap if differentiate else None  # of log(gap), in -log(scale)
    if edges == "tails":  # the first bin has no lower end and the last one no upper end, which costs little here
        first, last = value <= 0, value >= levels - 1
        inner = (~(first | last)).to(value.dtype)
        far = torch.finfo(value.dtype).max ** 0.5
        start, end = start.masked_fill(first, -far), end.masked_fill(last, far)
        gap = torch.addcmul(1 - inner, gap, inner)
        by_gap = None if by_gap is None else by_gap * inner
    lower, upper = (start - loc) * precision, (end - loc) * precision
    by_lower, by_upper = torch.sigmoid(lower), torch.sigmoid(-upper)
    # log sigmoid(-t) = -max(t, 0) + log sigmoid(|t|), where no sigmoid is small: one logarithm of their product does
    size = torch.maximum(by_lower, 1 - by_lower) * torch.maximum(by_upper, 1 - by_upper) * gap
    result = size.log() - torch.maximum(lower, -upper).clamp(min=0)
    if edges == "truncated":
        result = torch.logaddexp(result, torch.full_like(result, _LOG_FLOOR))
    if by_gap is None:
        return result, None, None
    by_loc = (by_lower - by_upper) * precision
    by_log_scale = lower * by_lower - upper * by_upper - by_gap
    if edges == "truncated":
        share = -torch.expm1(_LOG_FLOOR - result)  # of the logistic in the mass; the rest is the floor
        by_loc, by_log_scale = by_loc * share, by_log_scale * share
    return result, by_loc, by_log_scale


def inverse_scale(log_scale: Tensor, levels: int) -> Tensor:
    r"""
    :math:`1/s`, between bounds (:math:`|\log s|` of about 30 in float32, 340 in float64) within which the width of a
    bin stays above 0, its ends stay finite, and ends that are far away stay so in units of the scale.
    """
    finite = torch.finfo(log_scale.dtype)
    return torch.exp(-log_scale).clamp(1e3 * levels * finite.tiny**0.5, finite.max**0.5 / 2)


def mean_level(loc: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    r"""
    The mean of the level :math:`x` of a draw, the first or the last one where that lies outside of [0, 1):
    :math:`\sum_{v \ge 1} P(x \ge v)`.
    """
    return _summed(loc, log_scale, levels, torch.ones_like)


def level_variance(loc: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    r"""
    The variance of that level, :math:`\sum_{v \ge 1} (2v - 1) P(x \ge v) - E[x]^2`, which cancel: in double precision,
    where the device has it.
    """
    wide = double(loc), double(log_scale)
    first = _summed(*wide, levels, torch.ones_like)
    second = _summed(*wide, levels, lambda level: 2.0 * level - 1.0)
    return (second - first.square()).clamp(min=0).to(torch.promote_types(loc.dtype, log_scale.dtype))


def _summed(loc: Tensor, log_scale: Tensor, levels: int, weight: Callable[[Tensor], Tensor]) -> Tensor:
    """Probabilities of reaching each level but the first, weighed by a function of the level and added up."""
    precision = inverse_scale(log_scale, levels)
    total = torch.zeros_like(loc + precision)
    block = max(1, _BLOCK // max(total.numel(), 1))
    for start in range(1, levels, block):
        level = torch.arange(start, min(start + block, levels), dtype=total.dtype, device=total.device)
        level = level.reshape(-1, *[1] * total.dim())
        reached = torch.sigmoid((loc - level / levels) * precision)  # [level, .., entry]
        total = total + (reached * weight(level)).sum(0)
    return total


def sample_bins(loc: Tensor, log_scale: Tensor, levels: int, shape: torch.Size) -> Tensor:
    """
    The bins of logistic variables, the first or the last for those outside of [0, 1).

    :param torch.Size shape: of the result, which parameters broadcast to.
    """
    noise = torch.rand(shape, dtype=loc.dtype, device=loc.device).logit_()
    x = noise.div_(inverse_scale(log_scale, levels)).add_(loc)
    return x.mul_(levels).floor_().clamp_(0, levels - 1)

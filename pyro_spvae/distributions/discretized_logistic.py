# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Discretised logistic leaf distribution: independent grey levels, each the bin that a logistic variable falls in."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions import constraints

from pyro_spvae.checks import is_integer
from pyro_spvae.circuits.numerics import by_hand
from pyro_spvae.distributions.leaf import LeafDistribution, ParameterConstraint, checked_parameter

EDGES = ("tails", "truncated")

_LOG_FLOOR = math.log(1e-7)  # what the VampPrior paper's code adds to every mass
_BLOCK = 2**22  # pairs of pixel and level that moments hold at a time


class LeafDiscretizedLogistic(LeafDistribution):
    r"""
    Independent pixels on the integers :math:`0..V-1`, one event ``[pixel]``. Level :math:`v` stands for the bin
    :math:`[v/V, (v+1)/V)` of a logistic variable with mean :math:`\mu` and scale :math:`s`, both in units of [0, 1].
    With :math:`a_v = (v/V - \mu)/s` and :math:`d = 1/(Vs)` the mass of a bin is

    .. math::
        \operatorname{sigmoid}(a_v + d) - \operatorname{sigmoid}(a_v)
        = \operatorname{sigmoid}(a_v + d) \operatorname{sigmoid}(-a_v) (1 - e^{-d}),

    of which the right-hand side keeps its relative accuracy however far out the bin lies.

    - ``edges="tails"``: the first bin reaches down to :math:`-\infty` and the last one up to :math:`\infty`, so that
      the masses sum to 1 (Kingma et al. 2016; Salimans et al. 2017).
    - ``edges="truncated"``: the form of the VampPrior paper's code (Tomczak and Welling 2018), the logarithm of the
      mass above plus 1e-7, in all bins alike. What the logistic has outside of [0, 1] belongs to no bin, so that the
      masses sum to less than 1 (to 0.54 at :math:`\mu = 1/512`, :math:`s = e^{-4.5}`, to 0.24 at :math:`\mu = 1/2`,
      :math:`s = 1`), and log-likelihoods are lower bounds of those of the normalised masses (but for the 1e-7, which
      adds up to 2.6e-5 nats a pixel of 256 levels where nothing lies outside).

    The two differ in ``log_prob`` and :attr:`mode` alone. Draws, and their :attr:`mean` and :attr:`variance`, are in
    both those of a logistic variable, moved to the nearest bin where it lies outside of [0, 1): the masses of
    ``"tails"``, to which ``"truncated"`` gives no law of its own.

    :param torch.Tensor loc: mean :math:`\mu`, ``[.., pixel]``.
    :param torch.Tensor log_scale: :math:`\log s`, any shape that broadcasts against ``loc``.
    :param int levels: number of levels :math:`V`, at least 2.
    :param torch.Tensor mask: optional bool tensor broadcastable to ``[.., pixel]``, True = the pixel counts.
    :param str edges: ``"tails"`` or ``"truncated"``.
    :param bool validate_args: whether to check parameters and values; None follows Pyro's global switch.
    :raises TypeError: if a parameter is no floating-point tensor, ``levels`` no int, or ``mask`` no bool tensor.
    :raises ValueError: if ``levels`` is below 2, ``edges`` is unknown, shapes do not broadcast, or, under validation,
        a parameter is NaN.
    """

    arg_constraints = {
        "loc": ParameterConstraint(constraints.real, 1),
        "log_scale": ParameterConstraint(constraints.real, 1),
    }

    def __init__(
        self,
        loc: Tensor,
        log_scale: Tensor,
        levels: int = 256,
        mask: Tensor | None = None,
        edges: str = "tails",
        *,
        validate_args: bool | None = None,
    ) -> None:
        if not is_integer(levels):
            raise TypeError(f"levels of LeafDiscretizedLogistic must be an int, but {levels!r} was given.")
        if levels < 2:
            raise ValueError(f"levels of LeafDiscretizedLogistic must be at least 2, but {levels} was given.")
        if edges not in EDGES:
            raise ValueError(
                f"edges of LeafDiscretizedLogistic must be one of {', '.join(EDGES)}, but {edges!r} was given."
            )
        self.loc = checked_parameter("LeafDiscretizedLogistic", "loc", loc, 1)
        self.log_scale = checked_parameter("LeafDiscretizedLogistic", "log_scale", log_scale, 0)
        self._dtype = loc.dtype
        try:
            *batch_shape, event_size = broadcast_shape(loc.shape, log_scale.shape)
        except ValueError:
            raise ValueError(
                f"log_scale of LeafDiscretizedLogistic must broadcast against loc of shape {tuple(loc.shape)}, "
                f"but its shape is {tuple(log_scale.shape)}."
            ) from None
        self.levels = int(levels)
        self.edges = edges
        super().__init__(batch_shape, event_size, mask, validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Pixels that count are integers from 0 to ``levels - 1``."""
        pixel = constraints.integer_interval(0, self.levels - 1)
        return self._support(pixel, constraints.independent(pixel, 1))

    @property
    def mean(self) -> Tensor:
        r"""Mean of draws, :math:`\sum_{v \ge 1} P(x \ge v)`, ``batch_shape + event_shape``."""
        return self._full(self._moments()[0])

    @property
    def variance(self) -> Tensor:
        """Variance of draws, ``batch_shape + event_shape``."""
        first, second = self._moments()
        return self._full(second - first.square())

    def _moments(self) -> tuple[Tensor, Tensor]:
        r"""Means of :math:`x` and of :math:`x^2`, the latter :math:`\sum_{v \ge 1} (2v - 1) P(x \ge v)`."""
        precision = _precision(self.log_scale, self.levels)
        first = torch.zeros_like(self.loc + precision)
        second = torch.zeros_like(first)
        block = max(1, _BLOCK // max(first.numel(), 1))
        for start in range(1, self.levels, block):
            level = torch.arange(start, min(start + block, self.levels), dtype=first.dtype, device=first.device)
            level = level.reshape(-1, *[1] * first.dim())
            reached = torch.sigmoid((self.loc - level / self.levels) * precision)  # [level, .., pixel]
            first = first + reached.sum(0)
            second = second + (reached * (2.0 * level - 1.0)).sum(0)
        return first, second

    @property
    def mode(self) -> Tensor:
        """
        The most probable level, ``batch_shape + event_shape``: the bin of the mean, or an edge bin whose tail weighs
        more.
        """
        with torch.no_grad():
            last = self.levels - 1
            loc, log_scale = torch.broadcast_tensors(self.loc, self.log_scale)
            own = (loc * self.levels).floor().clamp(0, last)
            if self.edges == "truncated":
                return self._full(own)
            inner = own.clamp(min(1, last), max(1, last - 1))
            level = torch.stack([inner, torch.zeros_like(inner), torch.full_like(inner, last)])
            log_mass, _, _ = _log_mass(level, loc, log_scale, self.levels, self.edges)
            return self._full(level.gather(0, log_mass.argmax(0, keepdim=True)).squeeze(0))

    def sample(self, sample_shape: list[int] | tuple[int, ...] = ()) -> Tensor:
        """
        Draw levels, in the dtype of the parameters: the bins of logistic variables, the first or the last for those
        outside of [0, 1).

        :param torch.Size sample_shape: shape of independent draws.
        :returns: ``sample_shape + batch_shape + event_shape``.
        """
        with torch.no_grad():
            shape = self._extended_shape(sample_shape)
            noise = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device).logit_()
            x = noise.div_(_precision(self.log_scale, self.levels)).add_(self.loc)
            return x.mul_(self.levels).floor_().clamp_(0, self.levels - 1).to(self._dtype)

    def _log_prob(self, value: Tensor) -> Tensor:
        value = self._fill(value.to(self.loc.dtype))
        weight = None if self.pixel_mask is None else self.pixel_mask.to(self.loc.dtype)
        log_mass = _EventLogMass.apply if by_hand(value, self.loc, self.log_scale) else _event_log_mass
        log_prob: Tensor = log_mass(value, self.loc, self.log_scale, weight, self.levels, self.edges)
        return log_prob


class _EventLogMass(torch.autograd.Function):
    """
    The sum over an event of :func:`_log_mass`, weighted.

    Derivatives are computed together with the value and kept: two numbers a pixel in the place of the dozen that
    autograd would keep. Where they are to be differentiated again, they are computed anew by operations that autograd
    follows.
    """

    @staticmethod
    def forward(
        ctx: Any, value: Tensor, loc: Tensor, log_scale: Tensor, weight: Tensor | None, levels: int, edges: str
    ) -> Tensor:
        ctx.options = (levels, edges)
        log_mass, *kept = _log_mass(value, loc, log_scale, levels, edges, any(ctx.needs_input_grad))
        ctx.save_for_backward(value, loc, log_scale, weight, *kept)
        return (log_mass if weight is None else log_mass * weight).sum(-1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        value, loc, log_scale, weight, by_loc, by_log_scale = ctx.saved_tensors
        if torch.is_grad_enabled():
            levels, edges = ctx.options
            _, by_loc, by_log_scale = _log_mass(value, loc, log_scale, levels, edges, differentiate=True)
        grad = grad.unsqueeze(-1) if weight is None else grad.unsqueeze(-1) * weight
        _, needs_loc, needs_log_scale, *_ = ctx.needs_input_grad
        return (
            None,
            (grad * by_loc).sum_to_size(loc.shape) if needs_loc else None,
            (grad * by_log_scale).sum_to_size(log_scale.shape) if needs_log_scale else None,
            None,
            None,
            None,
        )


def _event_log_mass(
    value: Tensor, loc: Tensor, log_scale: Tensor, weight: Tensor | None, levels: int, edges: str
) -> Tensor:
    """The same in operations that autograd follows."""
    log_mass, _, _ = _log_mass(value, loc, log_scale, levels, edges)
    return (log_mass if weight is None else log_mass * weight).sum(-1)


def _log_mass(
    value: Tensor, loc: Tensor, log_scale: Tensor, levels: int, edges: str, differentiate: bool = False
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """:returns: log-mass ``[.., pixel]`` of each level in nats, and its derivatives in ``loc`` and in ``log_scale``."""
    precision = _precision(log_scale, levels)
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
    log_mass = size.log() - torch.maximum(lower, -upper).clamp(min=0)
    if edges == "truncated":
        log_mass = torch.logaddexp(log_mass, torch.full_like(log_mass, _LOG_FLOOR))
    if by_gap is None:
        return log_mass, None, None
    by_loc = (by_lower - by_upper) * precision
    by_log_scale = lower * by_lower - upper * by_upper - by_gap
    if edges == "truncated":
        share = -torch.expm1(_LOG_FLOOR - log_mass)  # of the logistic in the mass; the rest is the floor
        by_loc, by_log_scale = by_loc * share, by_log_scale * share
    return log_mass, by_loc, by_log_scale


def _precision(log_scale: Tensor, levels: int) -> Tensor:
    r"""
    :math:`1/s`, between bounds (:math:`|\log s|` of about 30 in float32, 340 in float64) within which the width of a
    bin stays above 0, its ends stay finite, and ends that are far away stay so in units of the scale.
    """
    finite = torch.finfo(log_scale.dtype)
    return torch.exp(-log_scale).clamp(1e3 * levels * finite.tiny**0.5, finite.max**0.5 / 2)

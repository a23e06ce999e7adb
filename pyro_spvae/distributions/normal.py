# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Normal leaf distributions: independent values with a location and a scale, and the parameter-free standard Normal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.kl import register_kl

from pyro_spvae.circuits.numerics import by_hand
from pyro_spvae.distributions.divergences import register_by_dimension
from pyro_spvae.distributions.known import Known
from pyro_spvae.distributions.leaf import LeafDistribution, ParameterConstraint, checked_parameter, summed_to

if TYPE_CHECKING:
    from collections.abc import Sequence

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


class LeafNormal(LeafDistribution):
    r"""
    Independent Normal values, one event ``[value]``,

    .. math::
        \log p(x) = -\sum_j m_j \left[\tfrac12 \left(\frac{x_j - \mu_j}{\sigma_j}\right)^2 + \log \sigma_j
        + \tfrac12 \log 2\pi\right].

    Where gradients are recorded, ``log_prob`` of its own draw is computed from the value like any other: reusing the
    noise is cheaper, but would drop the partial derivative in the value, on which doubly reparameterised gradients
    rest. Without gradients the noise of the last draw is reused.

    :param torch.Tensor loc: mean :math:`\mu`, ``[.., value]``.
    :param torch.Tensor scale: standard deviation :math:`\sigma > 0`, ``[.., value]``; any shape that broadcasts against
        ``loc``.
    :param torch.Tensor mask: optional bool tensor broadcastable to ``[.., value]``, True = the value counts.
    :param bool validate_args: whether to check parameters and values; None follows Pyro's global switch.
    :raises TypeError: if a parameter is no floating-point tensor, or ``mask`` no bool tensor.
    :raises ValueError: if shapes do not broadcast, or, under validation, if a parameter is invalid.

    Example::

        >>> from pyro_spvae.distributions import LeafNormal
        >>> mask = torch.tensor([True, False])
        >>> LeafNormal(torch.zeros(2), torch.ones(2), mask).log_prob(torch.zeros(2))  # of the first alone
        tensor(-0.9189)
    """

    arg_constraints = {
        "loc": ParameterConstraint(constraints.real, 1),
        "scale": ParameterConstraint(constraints.positive, 1),
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, loc: Tensor, scale: Tensor, mask: Tensor | None = None, *, validate_args: bool | None = None
    ) -> None:
        self._dtype = loc.dtype if isinstance(loc, Tensor) else None
        loc = checked_parameter("LeafNormal", "loc", loc, 1)
        scale = checked_parameter("LeafNormal", "scale", scale, 0)
        try:
            *batch_shape, event_size = broadcast_shape(loc.shape, scale.shape)
        except ValueError:
            raise ValueError(
                f"scale of LeafNormal must broadcast against loc of shape {tuple(loc.shape)}, "
                f"but its shape is {tuple(scale.shape)}."
            ) from None
        self._draw = Known[Tensor]()  # its noise
        # Only the event is expanded: summing log(scale) needs every pixel, the batch can wait.
        self.loc = _expand_event(loc, event_size)
        self.scale = _expand_event(scale, event_size)
        super().__init__(batch_shape, event_size, mask, validate_args)

    @property
    def mean(self) -> Tensor:
        """Mean, ``batch_shape + event_shape``."""
        return self._full(self.loc)

    @property
    def mode(self) -> Tensor:
        """The mean, ``batch_shape + event_shape``."""
        return self.mean

    @property
    def variance(self) -> Tensor:
        """Variance, ``batch_shape + event_shape``."""
        return self._full(self.scale.square())

    def rsample(self, sample_shape: list[int] | tuple[int, ...] = ()) -> Tensor:
        r"""
        Draw :math:`\mu + \sigma \epsilon` with standard Normal noise; differentiable in the parameters.

        :param torch.Size sample_shape: shape of independent draws.
        :returns: ``sample_shape + batch_shape + event_shape``.
        """
        shape = self._extended_shape(sample_shape)
        if _is_leaf_first(self.loc) and len(shape) > 2:
            # stacked networks work leaf first: drawn in that order the sample needs no copy on its way into the next
            # one
            leaf_first = (shape[-2], *shape[:-2], shape[-1])
            noise = torch.randn(leaf_first, dtype=self.loc.dtype, device=self.loc.device).movedim(0, -2)
        else:
            noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        value = torch.addcmul(self.loc, self.scale, noise).to(self._dtype)
        self._draw = Known() if torch.is_grad_enabled() or value.dtype != noise.dtype else Known(value, noise)
        return value

    def _log_prob(self, value: Tensor) -> Tensor:
        noise = None if torch.is_grad_enabled() or self.pixel_mask is not None else self._draw.of(value)
        if noise is not None:
            squares = noise.square().sum(-1)
            return squares.mul_(-0.5) - (self.scale.log().sum(-1) + self._event_shape[0] * _HALF_LOG_TWO_PI)
        if self.pixel_mask is None:
            tensors = (value, self.loc, self.scale)
            log_density = _NormalLogDensity.apply if by_hand(*tensors) else _normal_log_density
            log_prob: Tensor = log_density(*tensors)
            return log_prob - self._event_shape[0] * _HALF_LOG_TWO_PI
        # The value is filled first and the difference masked before it is squared: no filler can overflow to inf * 0.
        quadratic = (self._weigh(self._fill(value) - self.loc) / self.scale).square().sum(-1)
        return -0.5 * quadratic - self._log_normalizer()

    def by_pixel(self, value: Tensor) -> Tensor:
        return -0.5 * ((value - self.loc) / self.scale).square() - self.scale.log() - _HALF_LOG_TWO_PI

    def _log_normalizer(self) -> Tensor:
        """:returns: ``[..]``, the sum of log(scale) + log(2 pi) / 2 over the values that count."""
        return self._sum_event(self.scale.log() + _HALF_LOG_TWO_PI)

    def entropy(self) -> Tensor:
        """:returns: entropy over the values that count, ``batch_shape``, nats."""
        return (self._log_normalizer() + 0.5 * self._count()).expand(self.batch_shape)

    def _count(self) -> Tensor | int:
        """:returns: number of values that count."""
        if self.pixel_mask is None:
            return self.event_shape[0]
        return self.pixel_mask.expand(*self.pixel_mask.shape[:-1], self.event_shape[0]).sum(-1)


class _NormalLogDensity(torch.autograd.Function):
    r"""
    :math:`-\sum_j [u_j^2 / 2 + \log \sigma_j]` with :math:`u = (x - \mu) / \sigma`, in half of autograd's passes over
        memory.

    Where a derivative is to be differentiated again, backward is computed from the inputs by operations autograd
    follows.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        difference = value - loc
        # fresh memory costs more than arithmetic: temporaries are written over where shapes allow and nobody needs them
        u = difference.div_(scale) if _fits(scale, difference) else difference / scale
        ctx.save_for_backward(value, loc, scale, u)
        squares = u.square() if any(ctx.needs_input_grad) else u.square_()
        return squares.sum(-1).mul_(-0.5) - scale.log().sum(-1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        value, loc, scale, u = ctx.saved_tensors
        if torch.is_grad_enabled():
            u = (value - loc) / scale
        ratio = grad.unsqueeze(-1) / scale
        by_loc = u * ratio
        needs_value, needs_loc, needs_scale = ctx.needs_input_grad
        return (
            summed_to(-by_loc, value) if needs_value else None,
            summed_to(by_loc, loc) if needs_loc else None,
            summed_to(by_loc * u - ratio, scale) if needs_scale else None,
        )


def _normal_log_density(value: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """The same in operations that autograd follows."""
    return ((value - loc) / scale).square().sum(-1) * -0.5 - scale.log().sum(-1)


def _fits(small: Tensor, large: Tensor) -> bool:
    """Whether an operation with ``small`` can be written into ``large``."""
    return small.dim() <= large.dim() and all(
        size in (1, other) for size, other in zip(small.shape[::-1], large.shape[::-1], strict=False)
    )


class LeafStandardNormal(LeafDistribution):
    r"""
    Standard Normal values without any parameter, one event ``[value]`` of size :math:`d`,

    .. math:: \log p(x) = -\tfrac12 \lVert x \rVert^2 - \tfrac{d}{2} \log 2\pi.

    :param int event_size: number of values :math:`d` of an event, at least 1.
    :param torch.Size batch_shape: batch shape; plates expand it.
    :param torch.dtype dtype: floating-point type of samples and moments; None is torch's default.
    :param torch.device device: device of samples and moments; None is torch's default.
    :param bool validate_args: whether to check values; None follows Pyro's global switch.
    :raises ValueError: if ``event_size`` is below 1.

    Example::

        >>> from pyro_spvae.distributions import LeafStandardNormal
        >>> p = LeafStandardNormal(3, batch_shape=(2,))
        >>> p.sample().shape, p.log_prob(torch.zeros(2, 3))
        (torch.Size([2, 3]), tensor([-2.7568, -2.7568]))
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self,
        event_size: int,
        batch_shape: Sequence[int] = (),
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if event_size < 1:
            raise ValueError(f"event_size of LeafStandardNormal must be at least 1, but {event_size} was given.")
        self.dtype = dtype
        self.device = device
        super().__init__(batch_shape, event_size, None, validate_args)

    @property
    def mean(self) -> Tensor:
        """Zeros, ``batch_shape + event_shape``."""
        return self._full(torch.zeros((), dtype=self.dtype, device=self.device))

    @property
    def mode(self) -> Tensor:
        """The mean, ``batch_shape + event_shape``."""
        return self.mean

    @property
    def variance(self) -> Tensor:
        """Ones, ``batch_shape + event_shape``."""
        return self._full(torch.ones((), dtype=self.dtype, device=self.device))

    def rsample(self, sample_shape: list[int] | tuple[int, ...] = ()) -> Tensor:
        """
        Draw standard Normal noise.

        :param torch.Size sample_shape: shape of independent draws.
        :returns: ``sample_shape + batch_shape + event_shape``.
        """
        return torch.randn(self._extended_shape(sample_shape), dtype=self.dtype, device=self.device)

    def _log_prob(self, value: Tensor) -> Tensor:
        return -0.5 * value.square().sum(-1) - self._event_shape[0] * _HALF_LOG_TWO_PI

    def entropy(self) -> Tensor:
        r""":returns: :math:`\frac{d}{2} (1 + \log 2\pi)`, ``batch_shape``, nats."""
        entropy = torch.tensor(self._event_shape[0] * (0.5 + _HALF_LOG_TWO_PI), dtype=self.dtype, device=self.device)
        return entropy.expand(self.batch_shape)


def _is_leaf_first(parameter: Tensor) -> bool:
    """
    :returns: whether ``[.., leaf, value]`` lies in memory with the leaf outermost, as stacked networks leave it, or
        would with more data: a program that is traced with one row, where strides tie, is one for any number.
    """
    return parameter.dim() > 2 and all(parameter.stride(-2) >= stride for stride in parameter.stride()[:-2])


def _expand_event(parameter: Tensor, event_size: int) -> Tensor:
    """:returns: ``parameter`` itself, or a view of it, with last dimension ``event_size``."""
    if parameter.dim() and parameter.shape[-1] == event_size:
        return parameter
    return parameter.expand(*parameter.shape[:-1], event_size)


@register_kl(LeafNormal, LeafNormal)
def _kl_normal_normal(p: LeafNormal, q: LeafNormal) -> Tensor:
    if p.pixel_mask is not q.pixel_mask:
        # Pyro's mean-field ELBO then falls back on sampling, which is right for any pair of masks.
        raise NotImplementedError("The KL divergence of two LeafNormals needs the same mask object in both, or none.")
    shape = _kl_shape(p, q)
    ratio = (p.scale / q.scale).square()
    quadratic = ((p.loc - q.loc) / q.scale).square()
    return p._sum_event(0.5 * (ratio + quadratic - 1.0 - ratio.log())).expand(shape)


@register_kl(LeafNormal, LeafStandardNormal)
def _kl_normal_standard_normal(p: LeafNormal, q: LeafStandardNormal) -> Tensor:
    terms = _by_dimension(p, q)
    if terms is None:
        raise NotImplementedError("The KL divergence to a LeafStandardNormal needs a LeafNormal without mask.")
    return terms.sum(-1).expand(_kl_shape(p, q))


@register_by_dimension(LeafNormal, LeafStandardNormal)
def _by_dimension(p: LeafNormal, q: LeafStandardNormal) -> Tensor | None:
    if p.pixel_mask is not None:
        return None
    return 0.5 * (p.scale.square() + p.loc.square() - 1.0) - p.scale.log()


def _kl_shape(p: LeafDistribution, q: LeafDistribution) -> Sequence[int]:
    """:returns: common batch shape, once the events are known to agree."""
    if p.event_shape != q.event_shape:
        raise ValueError(
            f"kl_divergence was given events of shape {tuple(p.event_shape)} and {tuple(q.event_shape)}, "
            "but accepts distributions over equal events only."
        )
    return broadcast_shape(p.batch_shape, q.batch_shape)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
What all lean leaf distributions share.

Every latent and every observation of a leaf program is one *event* (a latent code, a patch of pixels) in a batch
``[particle, data, leaf]``. Plates expand a distribution to that whole batch before it is scored, and a stock
distribution then repeats its arithmetic (the logarithm of a scale, the normaliser of a logit) for every copy. The
distributions of this package only *record* the larger batch shape: their parameters stay as they were given, arithmetic
broadcasts as late as it can, and the event is summed once.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions import constraints

from pyro_spvae.circuits.numerics import at_least_single

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from typing_extensions import Self

_AS_IT_IS: AbstractContextManager[Any] = nullcontext()


class PixelwiseConstraint(constraints.Constraint):
    r"""
    An event is valid if each of its *counted* pixels satisfies ``base``; masked-out pixels may hold anything.

    :param Constraint base: constraint on one pixel.
    :param torch.Tensor mask: bool ``[.., pixel]``, True = the pixel counts.
    """

    event_dim = 1

    def __init__(self, base: constraints.Constraint, mask: Tensor) -> None:
        self.base = base
        self.mask = mask
        self.is_discrete = base.is_discrete
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """:returns: bool ``[..]``, whether each event of ``value`` ``[.., pixel]`` is valid."""
        return (self.base.check(value) | ~self.mask).all(-1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base!r})"


class ParameterConstraint(constraints.independent):
    """
    ``constraints.independent`` for parameters, whose ``check`` answers for every entry.

    Validation only asks whether all of them hold; reducing the event first costs more than the density itself.
    """

    def check(self, value: Tensor) -> Tensor:
        """:returns: bool, the shape of ``value``."""
        return self.base_constraint.check(value)


class LeafDistribution(TorchDistribution):
    r"""
    Base class of distributions over one event ``[pixel]`` whose pixels are independent given the parameters,

    .. math:: \log p(x) = \sum_{j} m_j \, \log p(x_j) \quad \text{nats},

    where the optional mask :math:`m_j` says which pixels count. A masked-out pixel (padding of a ragged region, missing
    data) adds exactly 0 to the log-density and to every gradient, whatever finite value fills it. Sampling ignores the
    mask.

    Subclasses set their parameters (named in ``arg_constraints``), call ``super().__init__`` and implement
    ``_log_prob``. Densities and moments are computed in at least single precision, whatever the type of parameters and
    values, and whatever autocast says; draws have the type of the parameters that were given.

    :param torch.Size batch_shape: common batch shape of the parameters.
    :param int event_size: number of pixels (or latent values) of an event.
    :param torch.Tensor mask: optional bool tensor broadcastable to ``[.., pixel]``, True = the pixel counts. It is
        kept as :attr:`pixel_mask`, because ``mask`` is a method of every Pyro distribution. Its batch dimensions take
        part in ``batch_shape``.
    :param bool validate_args: whether to check parameters and values; None follows Pyro's global switch.
    :raises TypeError: if ``mask`` is not a bool tensor.
    :raises ValueError: if ``mask`` does not broadcast against ``batch_shape + (event_size,)``.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    pixel_mask: Tensor | None
    _dtype: torch.dtype | None = None  # of draws; that of the parameters as they were given

    #: whether values are drawn step by step, which takes long and can show its progress
    stepwise: bool = False

    #: a value inside of the support of every pixel
    filler: float = 0.0

    def __init__(
        self,
        batch_shape: Sequence[int],
        event_size: int,
        mask: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if mask is not None:
            batch_shape = self._batch_shape_with(mask, torch.Size(batch_shape), event_size)
        self.pixel_mask = mask
        super().__init__(torch.Size(batch_shape), torch.Size((event_size,)), validate_args=validate_args)

    def _batch_shape_with(self, mask: Tensor, batch_shape: torch.Size, event_size: int) -> Sequence[int]:
        name = type(self).__name__
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            given = f"a tensor of {mask.dtype}" if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
            raise TypeError(f"mask of {name} must be a bool tensor (True = the pixel counts), but {given} was given.")
        refusal = (
            f"mask of {name} must broadcast to {(*batch_shape, event_size)}, but its shape is {tuple(mask.shape)}."
        )
        if not mask.dim() or mask.shape[-1] not in (1, event_size):
            raise ValueError(refusal)
        try:
            return broadcast_shape(batch_shape, mask.shape[:-1])
        except ValueError:
            raise ValueError(refusal) from None

    def expand(self, batch_shape: Sequence[int], _instance: LeafDistribution | None = None) -> Self:
        """
        Record a larger batch shape; parameters and mask are shared with this distribution, not expanded.

        :param torch.Size batch_shape: the shape to expand to.
        :returns: the same distribution with ``batch_shape`` recorded.
        :raises ValueError: if this distribution's batch shape does not expand to ``batch_shape``.
        """
        new_shape = checked_growth(type(self).__name__, self.batch_shape, batch_shape)
        new: Any = self.__new__(type(self)) if _instance is None else _instance
        new.__dict__.update(self.__dict__)
        new._batch_shape = new_shape
        return new

    def detach(self) -> Self:
        """
        The same distribution with its parameters cut from the graph, as doubly reparameterised gradients need
        (Tucker et al., 2019, eq. 8): its log-density still has a gradient in the value.

        :returns: a distribution of the same class and shapes.
        """
        new = self.expand(self.batch_shape)
        for name in self.arg_constraints:
            setattr(new, name, getattr(self, name).detach())
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """
        Log-density (log-mass) of each event, summed over the pixels that count.

        :param torch.Tensor value: ``[.., pixel]``, broadcastable against ``batch_shape + event_shape``.
        :returns: ``[..]``, nats.
        :raises ValueError: if the event size differs, or, under validation, if a counted pixel lies outside the
            support.
        """
        if self._validate_args:
            self._validate_sample(value)
        if value.shape[-1:] != self._event_shape:
            # Unlike other distributions, also without validation: an event of size 1 would broadcast to a wrong sum.
            raise ValueError(
                f"value of shape {tuple(value.shape)} was given to {type(self).__name__}.log_prob, "
                f"which accepts events of shape {tuple(self._event_shape)}."
            )
        log_prob = self._precisely(value)
        shape = broadcast_shape(value.shape[:-1], self._batch_shape)
        return log_prob if log_prob.shape == shape else log_prob.expand(shape)

    def sample_selected(self, selected: Tensor) -> Tensor:
        """
        Draws of some events, in the place of the others of which anything may stand; by default all are drawn.

        :param torch.Tensor selected: bool, broadcastable to ``batch_shape``, True = drawn.
        :returns: ``batch_shape + event_shape``.
        """
        return self.sample()

    def _precisely(self, value: Tensor) -> Tensor:
        with full_precision(value):
            return self._log_prob(at_least_single(value))

    def _log_prob(self, value: Tensor) -> Tensor:
        """:returns: the log-density in the smallest shape that broadcasts to ``[..]``."""
        raise NotImplementedError

    def by_pixel(self, value: Tensor) -> Tensor:
        """
        Log-density (log-mass) of each pixel, whether it counts or not.

        :param torch.Tensor value: ``[.., pixel]``, in the support.
        :returns: nats, ``[.., pixel]``, in the smallest shape that broadcasts.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say the densities of single pixels.")

    def _full(self, parameter: Tensor) -> Tensor:
        """:returns: a view of ``parameter`` expanded to ``batch_shape + event_shape``."""
        return parameter.expand(self._batch_shape + self._event_shape)

    def _fill(self, value: Tensor) -> Tensor:
        """:returns: ``value`` with 0 in the masked-out pixels, so that no arithmetic meets what stood there."""
        return value if self.pixel_mask is None else torch.where(self.pixel_mask, value, 0.0)

    def _weigh(self, term: Tensor) -> Tensor:
        """:returns: finite ``term`` ``[.., pixel]`` times the mask; cheaper than where() on all particles."""
        return term if self.pixel_mask is None else term * self.pixel_mask.to(term.dtype)

    def _sum_event(self, term: Tensor) -> Tensor:
        """:returns: the sum ``[..]`` of finite ``term`` ``[.., pixel]`` over the pixels that count."""
        term = self._weigh(term)
        return term.squeeze(-1) if term.size(-1) == 1 else term.sum(-1)

    def _support(self, pixel: constraints.Constraint, event: constraints.Constraint) -> constraints.Constraint:
        """:returns: ``event``, or ``pixel`` applied to the pixels that count if there is a mask."""
        return event if self.pixel_mask is None else PixelwiseConstraint(pixel, self.pixel_mask)

    def __repr__(self) -> str:
        parts = [f"{name}: {tuple(getattr(self, name).shape)}" for name in self.arg_constraints]
        if self.pixel_mask is not None:
            parts.append(f"mask: {tuple(self.pixel_mask.shape)}")
        parts.append(f"batch_shape: {tuple(self._batch_shape)}")
        parts.append(f"event_shape: {tuple(self._event_shape)}")
        return f"{type(self).__name__}({', '.join(parts)})"


def checked_parameter(owner: str, name: str, parameter: Tensor, min_dim: int) -> Tensor:
    """
    Refuse a parameter that is no floating-point tensor of at least ``min_dim`` dimensions.

    :param str owner: name of the distribution, for the message.
    :param str name: name of the parameter, for the message.
    :returns: the parameter, in single precision if it was in a lower one.
    :raises TypeError: if it is no floating-point tensor.
    :raises ValueError: if it has too few dimensions.
    """
    if not isinstance(parameter, Tensor) or not parameter.is_floating_point():
        given = f"a tensor of {parameter.dtype}" if isinstance(parameter, Tensor) else f"a {type(parameter).__name__}"
        raise TypeError(f"{name} of {owner} must be a floating-point tensor, but {given} was given.")
    if parameter.dim() < min_dim:
        raise ValueError(
            f"{name} of {owner} must have at least {min_dim} dimension(s), but its shape is {tuple(parameter.shape)}."
        )
    return at_least_single(parameter)


def double(x: Tensor) -> Tensor:
    """In double precision, which some devices do not have."""
    return x if x.device.type == "mps" else x.double()


def type_of_levels(dtype: torch.dtype, levels: int) -> torch.dtype:
    """Of draws from 0 to ``levels - 1``: the given type, or single precision where that does not hold them all."""
    return dtype if levels - 1 <= 2 / torch.finfo(dtype).eps else torch.float32


def checked_growth(owner: str, old_shape: torch.Size, batch_shape: Sequence[int]) -> torch.Size:
    """
    A batch shape that one expands to.

    :param str owner: name of the distribution, for the message.
    :raises ValueError: if it does not.
    """
    new_shape = torch.Size(batch_shape)
    extra = len(new_shape) - len(old_shape)
    if extra < 0 or any(old not in (1, new) for old, new in zip(old_shape, new_shape[extra:], strict=True)):
        raise ValueError(
            f"batch_shape {tuple(new_shape)} was given to expand a {owner} of batch shape {tuple(old_shape)}, of which "
            "only dimensions of size 1 and new ones on the left can grow."
        )
    return new_shape


def summed_to(gradient: Tensor, like: Tensor) -> Tensor:
    """
    A gradient in the shape of what it belongs to, summed over the dimensions in which that was broadcast; without a
    pass over memory where these have size 1.
    """
    if gradient.shape == like.shape:
        return gradient
    if gradient.numel() == like.numel():
        return gradient.reshape(like.shape)
    return gradient.sum_to_size(like.shape)


def full_precision(x: Tensor) -> AbstractContextManager[Any]:
    """Where matrix products are not rounded to half precision by an autocast that goes on outside."""
    kind = x.device.type
    within = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if within else _AS_IT_IS

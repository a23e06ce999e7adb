# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What rounding loses of a draw, kept beside its value, for any density that is asked about the same value."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from pyro_spvae.distributions.known import State

#: by the identity of a value: what it held, and logarithms of fractions, or the fractions that weights are made of
_KEPT: Any = WeakTensorKeyDictionary()


class LogFractions:
    r"""
    :math:`\log v` and :math:`\log(1 - v)` of fractions, which rounded fractions near 0 or 1 do not have.

    :param Tensor log_value: :math:`\log v`.
    :param log_rest: :math:`\log(1 - v)`, or a function that computes it, which is called when it is needed.
    """

    def __init__(self, log_value: Tensor, log_rest: Tensor | Callable[[], Tensor]) -> None:
        self.log_value = log_value
        self._log_rest = log_rest

    @property
    def log_rest(self) -> Tensor:
        r""":math:`\log(1 - v)`."""
        if isinstance(self._log_rest, Tensor):
            return self._log_rest
        found = self._log_rest()
        if found.requires_grad or not self.log_value.requires_grad:  # else its derivative may yet be asked for
            self._log_rest = found
        return found

    def mapped(self, fn: Callable[[Tensor], Tensor]) -> LogFractions:
        """The same of fractions that are rearranged."""
        return LogFractions(fn(self.log_value), lambda: fn(self.log_rest))


def keep(value: Tensor, exact: LogFractions | Tensor) -> Tensor:
    """
    Keeps what is known of a value for as long as this tensor exists and is not changed in place.

    :param exact: logarithms of fractions, or the fractions that weights are made of.
    :returns: the value.
    """
    _KEPT[value] = State(value), exact
    return value


def kept(value: Tensor) -> Any:
    """What is kept of a value, if anything."""
    state, exact = _KEPT.get(value, (None, None))
    return exact if state is not None and state.lasts(value) else None


def carried(value: Tensor, fn: Callable[[Tensor], Tensor]) -> Tensor:
    """
    A value that is rearranged, with what is kept of it.

    :param callable fn: makes the new tensor, of the value and of tensors of like shape.
    """
    new, exact = fn(value), kept(value)
    if exact is None:
        return new
    return keep(new, carried(exact, fn) if isinstance(exact, Tensor) else exact.mapped(fn))


def chosen(mask: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """
    One of two values by a mask, with what is kept of them.

    :param Tensor mask: ``bool``, broadcastable to the values; the first where it holds.
    """
    new, exact = torch.where(mask, one, other), (kept(one), kept(other))
    if any(isinstance(known, LogFractions) for known in exact):
        first, second = log_fractions(one), log_fractions(other)
        log_value = torch.where(mask, first.log_value, second.log_value)
        return keep(new, LogFractions(log_value, lambda: torch.where(mask, first.log_rest, second.log_rest)))
    if all(isinstance(known, Tensor) for known in exact):
        return keep(new, chosen(mask, *exact))
    return new


def log_fractions(value: Tensor) -> LogFractions:
    """The logarithms of fractions, kept or their own."""
    exact = kept(value)
    if isinstance(exact, LogFractions):
        return exact
    inner = inside(value)
    return LogFractions(inner.log(), lambda: torch.log1p(-inner))


def inside(value: Tensor) -> Tensor:
    """Values above 0 and below 1, of which both logarithms are finite."""
    info = torch.finfo(value.dtype)
    return value.clamp(info.tiny, 1 - info.eps / 2)


def log1mexp(x: Tensor) -> Tensor:
    r""":math:`\log(1 - e^x)` for :math:`x < 0`, precise near 0 and far from it, with finite gradients."""
    small = x > -math.log(2)
    tiny = torch.finfo(x.dtype).tiny
    near = torch.where(small, x, -1.0).clamp(max=-tiny)
    far = torch.where(small, -1.0, x)
    return torch.where(small, (-torch.expm1(near)).log(), torch.log1p(-far.exp()))

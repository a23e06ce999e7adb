# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Keeping results of deterministic computations for the length of a ``with`` block."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])
_Calls = dict[Any, tuple[Any, Any]]
# what is known of calls with arguments, and of calls without any
_memory: ContextVar[tuple[_Calls, _Calls] | None] = ContextVar("pyro_spvae_memo", default=None)


@contextmanager
def memoize(fresh: bool = False, data: bool = False) -> Iterator[None]:
    """
    Within the block each method marked :func:`memoized` runs once per object and (identical) arguments.

    An objective uses it, so that model and guide cut a batch into patches once, and evaluation, where thousands of
    particles are decoded for one encoding of the data. Parameters must not change inside the block. A block inside
    another one shares its memory.

    :param bool fresh: forget, for the length of this block, what blocks around it know.
    :param bool data: forget it, but for methods without arguments, whose results depend on parameters alone (the
        components of a VampPrior): those last as long as the block around this one.
    """
    known = _memory.get()
    if known is not None and not fresh and not data:
        yield
        return
    lasting: _Calls = {} if known is None or fresh else known[1]
    token = _memory.set(({}, lasting))
    try:
        yield
    finally:
        _memory.reset(token)


def memoized(method: _F) -> _F:
    """Marks a method that draws no random numbers as reusable inside :func:`memoize`; elsewhere it changes nothing."""

    @functools.wraps(method)
    def wrapper(self: Any, *args: Any) -> Any:
        known = _memory.get()
        if known is None:
            return method(self, *args)
        memory = known[0] if args else known[1]
        key = (id(self), method.__qualname__, *map(id, args))
        if key not in memory:
            # holding self and the arguments keeps their ids from being given to other objects
            memory[key] = (method(self, *args), (self, args))
        return memory[key][0]

    return wrapper  # type: ignore[return-value]

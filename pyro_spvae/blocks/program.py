# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Pyro programs as modules, which state their parameters only where somebody may ask for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from pyro.nn import PyroModule

_STATED = ContextVar("_STATED", default=True)


@contextmanager
def unstated() -> Iterator[None]:
    """
    Within the block programs state no parameters: traces hold none of them, and Pyro's parameter store learns of none.
    For optimisers that take them from the modules, with Pyro's setting ``module_local_params``.
    """
    token = _STATED.set(False)
    try:
        yield
    finally:
        _STATED.reset(token)


class Program(PyroModule):
    """
    A module whose methods are Pyro programs.

    Reading a child or a parameter within a program states it, each parameter of the child passing all handlers; in
    networks of hundreds of small tensors that takes as long as a tenth of a training step. Within :func:`unstated` it
    is read alone. What Pyro itself makes of an attribute (``PyroParam``, ``PyroSample``, a ``PyroModule``) it makes in
    any case.
    """

    def __getattr__(self, name: str) -> Any:
        if not _STATED.get():
            for kind in ("_modules", "_parameters"):
                found = self.__dict__.get(kind, {}).get(name)
                if found is not None and not isinstance(found, PyroModule):
                    return found
        return super().__getattr__(name)

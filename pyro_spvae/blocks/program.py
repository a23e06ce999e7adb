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

    Example::

        >>> from pyro import poutine
        >>> from pyro_spvae.blocks import unstated
        >>> spvae = SPVAE(whole((8, 8)), units=1, likelihood=Bernoulli())
        >>> with unstated():
        ...     trace = poutine.trace(spvae.model).get_trace(num=2)
        >>> any(site["type"] == "param" for site in trace.nodes.values())
        False
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

    Example::

        >>> from pyro import poutine, sample
        >>> from pyro.distributions import Normal
        >>> from pyro_spvae.blocks import Program, unstated
        >>> class Line(Program):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.slope = torch.nn.Parameter(torch.ones(()))
        ...
        ...     def forward(self):
        ...         return sample("y", Normal(self.slope, 1.0))
        >>> list(poutine.trace(Line()).get_trace().nodes)
        ['_INPUT', 'slope', 'y', '_RETURN']
        >>> with unstated():
        ...     list(poutine.trace(Line()).get_trace().nodes)
        ['_INPUT', 'y', '_RETURN']
    """

    def __getattr__(self, name: str) -> Any:
        if not _STATED.get():
            for kind in ("_modules", "_parameters"):
                found = self.__dict__.get(kind, {}).get(name)
                if found is not None and not isinstance(found, PyroModule):
                    return found
        return super().__getattr__(name)

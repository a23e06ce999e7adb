# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Which distributions of bits have a smoothed form."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

_Smoothed = Callable[[Any, Any], Any]


@functools.singledispatch
def smoothed(law: Any, smoothing: Any) -> Any:
    r"""
    The smoothed form of a distribution of bits, :math:`q(\zeta) = \sum_z q(z)\, r(\zeta \mid z)`.

    :param law: a distribution of bits, of a class with :func:`register_smoothing` or a subclass of one.
    :param Smoothing smoothing: :math:`r`.
    :raises TypeError: for any other.

    Example::

        >>> from pyro_spvae.distributions import FactorialBernoulli, PowerFunctions, smoothed
        >>> law = smoothed(FactorialBernoulli(torch.zeros(2, 3)), PowerFunctions(beta=4.0))
        >>> law.rsample().shape
        torch.Size([2, 3])
    """
    known = ", ".join(cls.__name__ for cls in smoothed.registry if cls is not object)
    raise TypeError(f"a {type(law).__name__} has no smoothed form; one of {known} is needed")


def register_smoothing(binary: type) -> Callable[[_Smoothed], _Smoothed]:
    """
    Registers how a distribution of bits is smoothed.

    :param type binary: its class.

    Example::

        >>> from pyro_spvae.distributions import FactorialBernoulli, OverlappingExponentials, SmoothedBernoulli
        >>> from pyro_spvae.distributions import register_smoothing, smoothed
        >>> class Bits(FactorialBernoulli):
        ...     pass
        >>> @register_smoothing(Bits)
        ... def _(law, smoothing):
        ...     return SmoothedBernoulli(law.logits, smoothing)
        >>> type(smoothed(Bits(torch.zeros(3)), OverlappingExponentials())).__name__
        'SmoothedBernoulli'
    """
    return smoothed.register(binary)

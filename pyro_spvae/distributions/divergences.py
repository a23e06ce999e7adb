# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Divergences by pair of distributions, and what of them belongs to each dimension."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.distributions import kl_divergence

_Divergence = Callable[[Any, Any, Tensor], Tensor]
_ByDimension = Callable[[Any, Any], Tensor | None]

_divergences: dict[tuple[type, type], _Divergence] = {}
_by_dimension: dict[tuple[type, type], _ByDimension] = {}


def register_divergence(guide: type, model: type) -> Callable[[_Divergence], _Divergence]:
    r"""
    Registers a divergence :math:`E_q[\log q(z) - \log p(z)]` of a pair of classes, as
    ``torch.distributions.register_kl`` does; it may also use the value that was drawn, where only a part of the
    expectation is known.

    :param type guide: class of :math:`q`.
    :param type model: class of :math:`p`.

    Example::

        >>> from pyro_spvae.distributions import LeafNormal, divergence, register_divergence
        >>> class Shifted(LeafNormal):
        ...     pass
        >>> @register_divergence(Shifted, Shifted)
        ... def _(q, p, value):
        ...     return (0.5 * ((q.loc - p.loc) / p.scale).square()).sum(-1)  # of equal scales
        >>> q, p = Shifted(torch.ones(3), torch.ones(3)), Shifted(torch.zeros(3), torch.ones(3))
        >>> divergence(q, p, q.sample())
        tensor(1.5000)
    """

    def decorate(function: _Divergence) -> _Divergence:
        _divergences[guide, model] = function
        return function

    return decorate


def divergence(guide: Any, model: Any, value: Tensor) -> Tensor | None:
    """
    The divergence of a guide's distribution from a model's, where one is known for the pair: one that was registered
    here, or else torch's.

    :param guide: :math:`q`.
    :param model: :math:`p`.
    :param Tensor value: drawn from :math:`q`.
    :returns: nats, of the common batch shape; ``None`` if none is known.

    Example::

        >>> from pyro_spvae.distributions import LeafNormal, LeafStandardNormal, divergence
        >>> q, p = LeafNormal(torch.ones(2, 4), torch.ones(2, 4)), LeafStandardNormal(4)
        >>> divergence(q, p, q.sample())  # half of the squared norm of the mean
        tensor([2., 2.])
    """
    found = _find(_divergences, guide, model)
    try:
        return kl_divergence(guide, model) if found is None else found(guide, model, value)
    except NotImplementedError:
        return None


def register_by_dimension(guide: type, model: type) -> Callable[[_ByDimension], _ByDimension]:
    """Registers a divergence that is a sum over the dimensions of an event, as its terms ``[.., leaf, *event]``."""

    def decorate(function: _ByDimension) -> _ByDimension:
        _by_dimension[guide, model] = function
        return function

    return decorate


def divergence_by_dimension(guide: Any, model: Any) -> Tensor | None:
    """The terms of a divergence by dimension, ``[.., leaf, *event]`` in nats; ``None`` where it is no such sum.

    Example::

        >>> from pyro_spvae.distributions import LeafNormal, LeafStandardNormal, divergence_by_dimension
        >>> divergence_by_dimension(LeafNormal(torch.tensor([0.0, 2.0]), torch.ones(2)), LeafStandardNormal(2))
        tensor([0., 2.])
    """
    found = _find(_by_dimension, guide, model)
    return None if found is None else found(guide, model)


def _find(registry: dict[tuple[type, type], Any], guide: Any, model: Any) -> Any:
    """The entry of the nearest classes."""
    for of_guide in type(guide).__mro__:
        for of_model in type(model).__mro__:
            if (of_guide, of_model) in registry:
                return registry[of_guide, of_model]
    return None

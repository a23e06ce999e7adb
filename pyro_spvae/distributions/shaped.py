# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A distribution of vectors as one of arrays, such as maps of latent variables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from typing_extensions import Self

from pyro_spvae.checks import is_positive
from pyro_spvae.distributions.divergences import (
    divergence,
    divergence_by_dimension,
    register_by_dimension,
    register_divergence,
)
from pyro_spvae.distributions.smoothing.registry import register_smoothing, smoothed


class Shaped(TorchDistribution):
    r"""
    A distribution of vectors whose events are arrays of another shape, with the same density,

    .. math:: p(h) = p_b(\mathrm{vec}\, h),

    so that lean distributions of vectors serve convolutional latent variables ``[C, H, W]`` too. Nothing is copied:
    parameters, draws and densities are those of ``base_dist``.

    :param base: a distribution with events ``[D]``.
    :param tuple event_shape: the shape of an event, of D entries.
    :raises ValueError: if the shape has another number of entries.

    Example::

        >>> from pyro_spvae.distributions import LeafStandardNormal, Shaped
        >>> p = Shaped(LeafStandardNormal(12), (3, 2, 2))
        >>> p.sample().shape, p.log_prob(torch.zeros(3, 2, 2))  # nats
        (torch.Size([3, 2, 2]), tensor(-11.0273))
    """

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(self, base: Any, event_shape: Sequence[int]) -> None:
        shape = torch.Size(event_shape)
        if not shape or not all(map(is_positive, shape)) or base.event_shape != (math.prod(shape),):
            raise ValueError(
                f"event_shape is {tuple(event_shape)!r}, but events of the {type(base).__name__} have the shape "
                f"{list(base.event_shape)}; a shape of as many entries is needed"
            )
        self.base_dist = base
        super().__init__(base.batch_shape, shape, validate_args=False)  # the base checks its own values

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws are differentiable in the parameters."""
        return bool(self.base_dist.has_rsample)

    @property
    def support(self) -> Any:
        """That of the vectors, of arrays."""
        support = self.base_dist.support
        entry = getattr(support, "base_constraint", support)  # of one number
        return constraints.independent(entry, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """Mean, ``batch_shape + event_shape``."""
        return self._array(self.base_dist.mean)

    @property
    def mode(self) -> Tensor:
        """Mode, ``batch_shape + event_shape``."""
        return self._array(self.base_dist.mode)

    @property
    def variance(self) -> Tensor:
        """Variance, ``batch_shape + event_shape``."""
        return self._array(self.base_dist.variance)

    @property
    def log_responsibilities(self) -> Callable[[Tensor], Tensor] | None:
        """Of mixture components given an array; ``None`` for other distributions."""
        known = getattr(self.base_dist, "log_responsibilities", None)
        return None if known is None else lambda value: known(self.vector(value))

    @property
    def conditional_mean(self) -> Callable[[Tensor], Tensor] | None:
        """Means of entries given those before, of an array; ``None`` where the distribution of vectors has none."""
        known = getattr(self.base_dist, "conditional_mean", None)
        return None if known is None else lambda value: self._array(known(self.vector(value)))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws ``sample_shape + batch_shape + event_shape``."""
        return self._array(self.base_dist.rsample(torch.Size(sample_shape)))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws without derivatives."""
        with torch.no_grad():
            return self._array(self.base_dist.sample(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """
        Nats, ``[..]``.

        :raises ValueError: for values of another shape.
        """
        if value.shape[value.dim() - len(self.event_shape) :] != self.event_shape:
            raise ValueError(
                f"value of shape {tuple(value.shape)} was given to Shaped.log_prob, which accepts events of shape "
                f"{tuple(self.event_shape)}."
            )
        return self.base_dist.log_prob(self.vector(value))

    def entropy(self) -> Tensor:
        """Nats, ``batch_shape``."""
        return self.base_dist.entropy()

    def vector(self, value: Tensor) -> Tensor:
        """Arrays ``[.., *event_shape]`` as vectors ``[.., D]``."""
        return value.flatten(value.dim() - len(self.event_shape))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        """The same with a larger batch, which is recorded only."""
        return type(self)(self.base_dist.expand(torch.Size(batch_shape)), self.event_shape)

    @property
    def detach(self) -> Any:
        """
        The same with parameters cut from the graph, for doubly reparameterised gradients; not there where the
        distribution of vectors has none.
        """
        detached = self.base_dist.detach
        return lambda: type(self)(detached(), self.event_shape)

    def _array(self, value: Tensor) -> Tensor:
        return value.unflatten(-1, self.event_shape)


@register_smoothing(Shaped)
def _smoothed(law: Shaped, smoothing: Any) -> Shaped:
    return Shaped(smoothed(law.base_dist, smoothing), law.event_shape)


@register_divergence(Shaped, Shaped)
def _divergence(q: Shaped, p: Shaped, value: Tensor) -> Tensor:
    found = divergence(q.base_dist, p.base_dist, q.vector(value)) if q.event_shape == p.event_shape else None
    if found is None:
        raise NotImplementedError
    return found


@register_by_dimension(Shaped, Shaped)
def _by_dimension(q: Shaped, p: Shaped) -> Tensor | None:
    terms = divergence_by_dimension(q.base_dist, p.base_dist)
    return None if terms is None else terms.unflatten(-1, q.event_shape)

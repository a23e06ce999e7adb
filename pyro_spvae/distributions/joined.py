# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Distributions over all leaves that are made of distributions over some of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions import constraints
from typing_extensions import Self

from pyro_spvae.distributions.autoregressive import means_need_draws, pixel_means, pixel_summaries
from pyro_spvae.distributions.kept import carried
from pyro_spvae.distributions.kinds import hidden_pixels, kind_probabilities, limit_support, mixture_of


class SomeLeaves(TorchDistribution):
    r"""
    A distribution of some of the leaves, as one of all of them: the others have the value 0 and log-density 0,

    .. math:: \log p(v)_l = \log p_b(v_{i_1}, \ldots, v_{i_n})_j \text{ if } l = i_j, \text{ else } 0.

    :param base: distribution with batch ``[.., n]``, or one that expands to it.
    :param Tensor index: numbers of its leaves, int64 ``[n]``.
    :param int leaves: number of all leaves.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(self, base: Any, index: Tensor, leaves: int) -> None:
        self.base = base.expand(broadcast_shape(base.batch_shape, (len(index),)))
        self.index = index
        self.leaves = leaves
        super().__init__(torch.Size((*self.base.batch_shape[:-1], leaves)), base.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws are differentiable in the parameters."""
        return bool(self.base.has_rsample)

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        """Whether values can be listed."""
        return bool(self.base.has_enumerate_support)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All values, ``[value, .., leaf or 1] + event_shape``."""
        values = self.base.enumerate_support(expand=False)
        return values.expand(len(values), *self.batch_shape, *self.event_shape) if expand else values

    @property
    def support(self) -> Any:
        """Of the leaves meant."""
        return self.base.support

    @property
    def limit_support(self) -> Any | None:
        """Of what this is a smoothed form of; ``None`` for other distributions."""
        return limit_support(self.base)

    @property
    def mean(self) -> Tensor:
        """Mean, 0 for the other leaves."""
        return self._scatter(self.base.mean, self.event_dim)

    @property
    def mode(self) -> Tensor:
        """Mode, 0 for the other leaves."""
        return self._scatter(self.base.mode, self.event_dim)

    @property
    def probs(self) -> Tensor | None:
        """Probabilities of numbered kinds, behind the event; 0 for the other leaves. ``None`` for other variables."""
        probs = kind_probabilities(self.base)
        return None if probs is None else self._scatter(probs, self.event_dim + 1)

    @property
    def log_responsibilities(self) -> Callable[[Tensor], Tensor] | None:
        """Of mixture components given a value, 0 for the other leaves; ``None`` for other distributions."""
        mixture = mixture_of(self.base)
        return (
            None
            if mixture is None
            else lambda value: self._scatter(mixture.log_responsibilities(self.gather(value)), 1)
        )

    @property
    def means_need_draws(self) -> bool:
        """Whether :meth:`conditional_mean` looks at values."""
        return means_need_draws(self.base)

    def conditional_mean(self, value: Tensor) -> Tensor:
        """Means of pixels given the values of those before, where they depend on them; 0 for the other leaves."""
        return self._scatter(pixel_means(self.base, self.gather(value)), self.event_dim)

    def summary(self, value: Tensor) -> Tensor:
        """What stands for pixels where an answer is no draw; 0 for the other leaves."""
        return self._scatter(pixel_summaries(self.base, self.gather(value)), self.event_dim)

    def given_seen(self, value: Tensor, seen: Tensor) -> SomeLeaves:
        """The same of the pixels that are not seen, given those that are."""
        return SomeLeaves(hidden_pixels(self.base, self.gather(value), self.gather(seen)), self.index, self.leaves)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws ``sample_shape + [.., leaf] + event_shape``."""
        return self._scatter(self.base.rsample(torch.Size(sample_shape)), self.event_dim)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws without derivatives."""
        with torch.no_grad():
            return self._scatter(self.base.sample(torch.Size(sample_shape)), self.event_dim)

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats, ``[.., leaf]``."""
        return self._scatter(self.base.log_prob(self.gather(value)), 0)

    def entropy(self) -> Tensor:
        """Nats, ``[.., leaf]``; 0 for the other leaves."""
        return self._scatter(self.base.entropy(), 0)

    def gather(self, value: Tensor) -> Tensor:
        """The leaves meant, of a value of all of them, or one value for all."""
        axis = value.dim() - self.event_dim - 1
        if axis < 0 or value.size(axis) == 1:
            return value
        return carried(value, lambda all_leaves: all_leaves.index_select(axis, self.index))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        """The same with a larger batch; the leaf axis stays."""
        shape = torch.Size(batch_shape)
        if shape[-1] != self.leaves:
            raise ValueError(f"batch_shape {tuple(shape)} must end in the number of leaves, {self.leaves}.")
        base = self.base.expand(torch.Size((*shape[:-1], len(self.index))))
        return type(self)(base, self.index, self.leaves)

    @property
    def detach(self) -> Callable[[], Self]:
        """
        The same with parameters cut from the graph, for doubly reparameterised gradients; not there where the
        distribution of some of the leaves has none.
        """
        detached = self.base.detach
        return lambda: type(self)(detached(), self.index, self.leaves)

    def _scatter(self, values: Tensor, event_dim: int) -> Tensor:
        axis = values.dim() - event_dim - 1

        def put(own: Tensor) -> Tensor:
            shape = list(own.shape)
            shape[axis] = self.leaves
            return own.new_zeros(shape).index_copy(axis, self.index, own)

        return carried(values, put)


def own_leaves(law: Any) -> Tensor | None:
    """The leaves that a site is a variable of, ``bool [leaf]``; ``None`` for one of all leaves."""
    while not isinstance(law, SomeLeaves):
        law = getattr(law, "base_dist", None)  # of what is masked
        if law is None:
            return None
    inner = own_leaves(law.base)
    own = torch.ones(len(law.index), dtype=torch.bool, device=law.index.device) if inner is None else inner
    return own.new_zeros(law.leaves).index_copy(0, law.index, own)


def as_given(law: Any) -> Any:
    """The distribution that a program of some of the leaves has stated; any other itself."""
    while isinstance(law, SomeLeaves):
        law = law.base
    return law


class JoinedLeaves(TorchDistribution):
    """
    Distributions of disjoint sets of leaves that are all leaves together, as one.

    :param parts: a :class:`SomeLeaves` for each set.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.real_vector  # each part checks its own values

    def __init__(self, parts: Sequence[SomeLeaves]) -> None:
        self.parts = tuple(parts)
        shape = broadcast_shape(*(part.batch_shape for part in self.parts))
        super().__init__(torch.Size(shape), self.parts[0].event_shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """Mean, ``[.., leaf] + event_shape``."""
        return self._added([part.mean for part in self.parts])

    @property
    def mode(self) -> Tensor:
        """Mode, ``[.., leaf] + event_shape``."""
        return self._added([part.mode for part in self.parts])

    @property
    def means_need_draws(self) -> bool:
        """Whether :meth:`conditional_mean` looks at values."""
        return any(part.means_need_draws for part in self.parts)

    def conditional_mean(self, value: Tensor) -> Tensor:
        """Means of pixels given the values of those before, where they depend on them."""
        return self._added([part.conditional_mean(value) for part in self.parts])

    def summary(self, value: Tensor) -> Tensor:
        """What stands for pixels where an answer is no draw."""
        return self._added([part.summary(value) for part in self.parts])

    def given_seen(self, value: Tensor, seen: Tensor) -> JoinedLeaves:
        """The same of the pixels that are not seen, given those that are."""
        return JoinedLeaves([part.given_seen(value, seen) for part in self.parts])

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws ``sample_shape + [.., leaf] + event_shape``."""
        return self._added([part.expand(self.batch_shape).sample(sample_shape) for part in self.parts])

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats, ``[.., leaf]``."""
        return self._added([part.log_prob(value) for part in self.parts])

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        """The same with a larger batch."""
        return type(self)([part.expand(batch_shape) for part in self.parts])

    def _added(self, values: list[Tensor]) -> Tensor:
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Leaf distribution of the columns of a table, which follow several families."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions import constraints
from typing_extensions import Self

from pyro_spvae.distributions.autoregressive import pixel_summaries
from pyro_spvae.distributions.leaf import LeafDistribution


@dataclass(frozen=True, eq=False)
class ColumnGroup:
    """
    The places of all leaves whose values follow one family.

    :ivar LeafDistribution law: batch ``[..]`` without the leaf, one event ``[place]``.
    :ivar Tensor index: where they are in ``[leaf, pixel]``, flattened; int64 ``[place]``, in order.
    :ivar Tensor leaf: of which leaf each is, int64 ``[place]``; ``None`` where every leaf has equally many of them.
    """

    law: LeafDistribution
    index: Tensor
    leaf: Tensor | None


class LeafColumns(LeafDistribution):
    r"""
    Independent values of the columns of a table, one event ``[pixel]`` of a leaf, each of the family of its column,

    .. math:: \log p(x) = \sum_j m_j \log p_{f(j)}(x_j; \theta_j).

    Places that belong to no group are padding: they count for nothing, and draws and moments are 0 there.

    :param groups: a :class:`ColumnGroup` for each family.
    :param int leaves: number of leaves, the last dimension of the batch, which is not expanded.
    :param int pixels: size of an event.
    :param torch.Tensor mask: optional bool tensor broadcastable to ``[.., leaf, pixel]``, True = the value counts.
    :param bool validate_args: whether to check values; None follows Pyro's global switch.
    :raises TypeError: if ``mask`` is no bool tensor.
    :raises ValueError: if it does not broadcast.

    Example::

        >>> from pyro_spvae.data import Column
        >>> from pyro_spvae.distributions import LeafColumns
        >>> likelihood = Columns([Column("age", "count", location=40.0, scale=9.0), Column("change", "real")])
        >>> likelihood = likelihood.bind(leaves=1, pixels=2, scopes=((0, 1),))
        >>> law = likelihood(tuple(torch.zeros(1, size) for size in likelihood.heads))
        >>> isinstance(law, LeafColumns), law.mean.round(decimals=3)
        (True, tensor([[40.,  0.]]))
    """

    def __init__(
        self,
        groups: Sequence[ColumnGroup],
        leaves: int,
        pixels: int,
        mask: Tensor | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.groups = tuple(groups)
        self.leaves = leaves
        batch = broadcast_shape(*(group.law.batch_shape for group in self.groups))
        super().__init__((*batch, leaves), pixels, mask, validate_args)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws of all families are differentiable in their parameters."""
        return all(group.law.has_rsample for group in self.groups)

    @constraints.dependent_property(event_dim=1)
    def support(self) -> constraints.Constraint:
        """Values that count are in the support of their column's family."""
        return ColumnsConstraint(self)

    @property
    def mean(self) -> Tensor:
        """Mean, ``batch_shape + event_shape``; of categories that of their numbers."""
        return self._each(lambda law: law.mean)

    def summary(self, value: Tensor) -> Tensor:
        """Means, and of categories without an order the most probable one, ``batch_shape + event_shape``."""
        return self._each(lambda law: pixel_summaries(law, value))

    @property
    def mode(self) -> Tensor:
        """The most probable values, ``batch_shape + event_shape``."""
        return self._each(lambda law: law.mode)

    @property
    def variance(self) -> Tensor:
        """Variance, ``batch_shape + event_shape``."""
        return self._each(lambda law: law.variance)

    def rsample(self, sample_shape: list[int] | tuple[int, ...] = ()) -> Tensor:
        """
        Draws that are differentiable in the parameters.

        :param torch.Size sample_shape: shape of independent draws.
        :returns: ``sample_shape + batch_shape + event_shape``.
        :raises NotImplementedError: unless :attr:`has_rsample`.
        """
        if not self.has_rsample:
            raise NotImplementedError("rsample of LeafColumns needs families of real values alone.")
        return self._each(lambda law: law.rsample(sample_shape))

    def sample(self, sample_shape: list[int] | tuple[int, ...] = ()) -> Tensor:
        """The same of any families, without derivatives."""
        with torch.no_grad():
            return self._each(lambda law: law.sample(torch.Size(sample_shape)))

    def detach(self) -> Self:
        """The same distribution with its parameters cut from the graph."""
        new = self.expand(self.batch_shape)
        new.groups = tuple(ColumnGroup(group.law.detach(), group.index, group.leaf) for group in self.groups)
        return new

    def places(self, group: ColumnGroup, value: Tensor) -> Tensor:
        """The values of a group, ``[.., place]``, of ``[.., leaf, pixel]`` or what broadcasts to it."""
        whole = broadcast_shape(value.shape, (self.leaves, *self._event_shape))
        return value.expand(whole).flatten(-2).index_select(-1, group.index)

    def _log_prob(self, value: Tensor) -> Tensor:
        total: Tensor | None = None
        for group in self.groups:
            own = self.places(group, value)
            mask = None if self.pixel_mask is None else self.places(group, self.pixel_mask)
            if mask is None:
                terms = group.law.by_pixel(own)
            else:
                terms = torch.where(mask, group.law.by_pixel(torch.where(mask, own, group.law.filler)), 0.0)
            if group.leaf is None:
                summed = terms.unflatten(-1, (self.leaves, -1)).sum(-1)
            else:
                summed = terms.new_zeros(*terms.shape[:-1], self.leaves).index_add(-1, group.leaf, terms)
            total = summed if total is None else total + summed
        assert total is not None
        return total

    def _each(self, values: Callable[[LeafDistribution], Tensor]) -> Tensor:
        """What each family says, at its places in ``[.., leaf, pixel]``; 0 in padding."""
        lead, size = self._batch_shape[:-1], math.prod((self.leaves, *self._event_shape))
        found = [values(group.law.expand(lead)) for group in self.groups]
        flat = found[0].new_zeros(*found[0].shape[:-1], size)
        for group, own in zip(self.groups, found, strict=True):
            flat = flat.index_copy(-1, group.index, own.to(flat.dtype))
        return flat.unflatten(-1, (self.leaves, -1))

    def __repr__(self) -> str:
        families = ", ".join(f"{type(group.law).__name__}[{len(group.index)}]" for group in self.groups)
        return (
            f"LeafColumns({families}, batch_shape: {tuple(self._batch_shape)}, event_shape: {list(self._event_shape)})"
        )


class ColumnsConstraint(constraints.Constraint):
    """
    Each value that counts is in the support of its column's family.

    :param LeafColumns law: the distribution.
    """

    event_dim = 1

    def __init__(self, law: LeafColumns) -> None:
        self.law = law
        self.is_discrete = all(_support(group.law).is_discrete for group in law.groups)
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """:returns: bool ``[..]``, whether each event of ``value`` ``[.., leaf, pixel]`` is valid."""
        fine = torch.ones((), dtype=torch.bool, device=value.device)
        for group in self.law.groups:
            own = self.law.places(group, value)
            if self.law.pixel_mask is not None:
                own = torch.where(self.law.places(group, self.law.pixel_mask), own, group.law.filler)
            inside = _support(group.law).check(own)
            if group.leaf is None:
                each = inside.unflatten(-1, (self.law.leaves, -1)).all(-1)
            else:
                outside = (~inside).long()
                each = outside.new_zeros(*outside.shape[:-1], self.law.leaves).index_add(-1, group.leaf, outside) == 0
            fine = fine & each
        return fine


def _support(law: LeafDistribution) -> constraints.Constraint:
    """Of single values."""
    support = law.support
    assert isinstance(support, constraints.independent)
    return support.base_constraint

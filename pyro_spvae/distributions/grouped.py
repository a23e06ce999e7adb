# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What distributions of latent bits in groups share: each group is factorial given those before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_spvae.checks import is_positive
from pyro_spvae.distributions.known import Known
from pyro_spvae.distributions.leaf import LeafDistribution, checked_parameter

LogitsOf = Callable[[int, "Tensor | None"], Tensor]


class Grouped(LeafDistribution):
    r"""
    A distribution of groups of latent variables, :math:`q(z) = \prod_g q(z_g \mid z_{<g})`, each group factorial given
    those before it; one event ``[D]`` with the groups one after the other.

    The logits of the value last asked for are kept, so that a draw, its log-density and a divergence call the networks
    once a group. Those of a draw are functions of what was drawn group by group: a gradient of its log-density in the
    parameters is complete, one in the draw itself goes through each group's own density alone.

    :param sizes: numbers of bits by group.
    :param logits_of: ``logits_of(group, before)`` gives the logits of a group, ``[.., leaf, size]``, from the values of
        all groups before it, ``[.., leaf, bits]``, or ``None`` for the first, ``group == 0``.
    :param Tensor first: those of the first group, where they are known.
    :raises ValueError: for no sizes, or logits of another size.
    """

    limit_support: Any = constraints.boolean

    @property
    def detach(self) -> Any:
        """
        There is none: the parameters are those of networks that ``logits_of`` calls, through which values pass too.
        Objectives that hold parameters constant run the guide anew.
        """
        raise AttributeError(f"a {type(self).__name__} has no detach")

    def __init__(
        self,
        sizes: Sequence[int],
        logits_of: LogitsOf,
        *,
        first: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        if not isinstance(sizes, (list, tuple)) or not sizes or not all(map(is_positive, sizes)):
            raise ValueError(f"sizes is {sizes!r}; the numbers of bits of all groups are needed, such as [100, 100]")
        self.sizes = tuple(map(int, sizes))
        self.logits_of = logits_of
        self._known = Known[tuple[bool, list[Tensor]]]()
        given = logits_of(0, None) if first is None else first
        self.first = self._checked(0, given)
        self._dtype = given.dtype
        super().__init__(self.first.shape[:-1], sum(self.sizes), validate_args=validate_args)

    def logits(self, value: Tensor) -> list[Tensor]:
        """
        The logits of each group given the value of those before it, ``[.., leaf, size]`` nats each.

        :param Tensor value: ``[.., leaf, D]``.
        """
        known = self._known.of(value)
        if known is None or (torch.is_grad_enabled() and not known[0]):
            known = torch.is_grad_enabled(), list(self._given(value))
            self._known = Known(value, known)
        return known[1]

    def groups(self, value: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The logits of each group with the group's own value, see :func:`~pyro_spvae.distributions.groups`."""
        return list(zip(self.logits(value), value.split(self.sizes, -1), strict=True))

    def _given(self, value: Tensor) -> Iterator[Tensor]:
        end, value = 0, value.to(self._dtype)
        for group, size in enumerate(self.sizes):
            yield self._group(group, value[..., :end])
            end += size

    def _group(self, group: int, before: Tensor) -> Tensor:
        return self._checked(group, self.logits_of(group, before)) if group else self.first

    def _checked(self, group: int, logits: Tensor) -> Tensor:
        checked = checked_parameter(type(self).__name__, f"logits_of({group}, ..)", logits, 1)
        if checked.shape[-1] != self.sizes[group]:
            raise ValueError(
                f"logits_of({group}, ..) of {type(self).__name__} has the shape {list(checked.shape)}; "
                f"{self.sizes[group]} logits, the size of the group, are needed"
            )
        return checked

    def _draw(self, sample_shape: Sequence[int], draw: Callable[[Tensor, torch.Size], Tensor]) -> Tensor:
        """
        The groups one after the other.

        :param draw: draws of one group from its logits, of a shape.
        """
        batch = self._extended_shape(torch.Size(sample_shape))[:-1]
        logits: list[Tensor] = []
        value = self.first.new_empty((*batch, 0), dtype=self._dtype)
        for group, size in enumerate(self.sizes):
            logits.append(self._group(group, value))
            drawn = draw(logits[-1], torch.Size((*batch, size))).to(self._dtype)
            value = torch.cat((value, drawn), -1) if group else drawn
        self._known = Known(value, (torch.is_grad_enabled(), logits))
        return value

    def _by_group(self, value: Tensor, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The sum of a function ``[..]`` of a group's logits and values over the groups."""
        terms = [function(logits, part.to(logits.dtype)) for logits, part in self.groups(value)]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    def _precisely(self, value: Tensor) -> Tensor:
        return self._log_prob(value)  # whose networks are called as they are elsewhere

    @property
    def mean(self) -> Tensor:
        """
        Mean, ``batch_shape + event_shape``, of a single group.

        :raises NotImplementedError: for several groups.
        """
        if len(self.sizes) > 1:
            raise NotImplementedError(
                f"a {type(self).__name__} of several groups has no mean in closed form; conditional_mean(value) has "
                "those of each group given the groups before it"
            )
        mean: Tensor = self._of_group(self.first).expand(self.batch_shape).mean
        return mean

    def conditional_mean(self, value: Tensor) -> Tensor:
        r"""
        Means :math:`E[\zeta_g \mid \zeta_{<g}]` of each group given the values of those before it.

        :param Tensor value: ``[.., D]``, broadcastable to ``batch_shape + event_shape``.
        :returns: ``batch_shape + event_shape`` broadcast with ``value``.
        """
        means = [self._of_group(logits).mean for logits in self.logits(value)]
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape, *(mean.shape[:-1] for mean in means))
        return torch.cat([mean.expand(*shape, mean.size(-1)) for mean in means], -1)

    def _of_group(self, logits: Tensor) -> Any:
        """The distribution of a group of these logits."""
        raise NotImplementedError(f"{type(self).__name__} must define _of_group(self, logits)")

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Enumerated sites of the guide: particles with a weight of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_spvae.infer.site import counted

_NEVER = -1e30  # logarithm of a weight of 0; finite, so that 0 times it is 0


def enumerate_guide(guide: Callable[..., Any], nesting: int) -> Callable[..., Any]:
    """
    A guide whose sites with ``infer={"enumerate": "parallel"}`` take all their values, each along an axis of its own to
    the left of all plates.

    :param callable guide: the guide, with the plate of particles if there is one.
    :param int nesting: number of plate dimensions.
    """
    return poutine.enum(guide, first_available_dim=-1 - nesting)


def enumerate_dim(site: Any) -> int | None:
    """The axis of a site that is enumerated; ``None`` for others."""
    dim: int | None = site["infer"].get("_enumerate_dim")
    return dim


class Enumerated:
    r"""
    The enumerated sites inside the leaf plate of one trace, and the sums over them: :math:`q(c)` is the product of the
    sites' probabilities, which may depend on the values of sites before.
    """

    def __init__(self) -> None:
        self._sites: list[tuple[int, Tensor, Tensor]] = []  # axis, log-share and what counts in log-weights

    def add(self, site: Any, log_prob: Tensor) -> Tensor:
        r"""
        Adds a site.

        :param Tensor log_prob: :math:`\log q(c)` of all values, ``[.., data, leaf]``.
        :returns: the same under the site's mask and scale.
        """
        dim = enumerate_dim(site)
        assert dim is not None
        log_prob = log_prob.clamp(min=_NEVER)
        # a leaf that a program leaves out has the density 1 whatever the value; its values share that evenly
        self._sites.append((dim, log_prob - log_prob.logsumexp(dim, keepdim=True), counted(site, log_prob)))
        return self._sites[-1][-1]

    @property
    def dims(self) -> list[int]:
        """The axes, from the right."""
        return [dim for dim, _, _ in self._sites]

    @property
    def log_share(self) -> Tensor | None:
        r""":math:`\log q(c)` of each combination of values, ``[value, .., data, leaf]``; ``None`` without any site."""
        return self._densities()[0] if self._sites else None

    def weighted(self, rest: Tensor, alpha: float = 0.0) -> Tensor:
        r"""
        :math:`\log q(c) w_c^{1 - \alpha}`, nats, ``[value, .., data, leaf]``.

        :param Tensor rest: log-weights without the sites' own :math:`-\log q(c)`, same shape.
        """
        if not self._sites:
            return rest
        share, log_q = self._densities()
        # the sites' densities by themselves first: they cancel for alpha = 0, however small they are
        return (share - (1 - alpha) * log_q) + (1 - alpha) * rest

    def sum_out(self, rest: Tensor, alpha: float) -> Tensor:
        """
        Importance weights of drawn particles.

        :param Tensor rest: as of :meth:`weighted`.
        :param float alpha: order of the bound.
        :returns: ``[.., data, leaf]`` in nats.
        """
        if not self._sites:
            return rest
        share, log_q = self._densities()
        if alpha == 1.0:
            return self.total(share.exp() * (rest - log_q))
        if alpha == -math.inf:
            weight = torch.where(share > 0.5 * _NEVER, rest - log_q, _NEVER)
            return self._leading(weight.amax(self.dims, keepdim=True))
        return self._leading(self.weighted(rest, alpha).logsumexp(self.dims, keepdim=True)) / (1 - alpha)

    def _densities(self) -> tuple[Tensor, Tensor]:
        """What each combination of values counts, and its density as it is in log-weights; all axes."""
        return _sum([share for _, share, _ in self._sites]), _sum([log_q for _, _, log_q in self._sites])

    def expect(self, value: Tensor) -> Tensor:
        r"""The mean :math:`\sum_c q(c) v_c` of values ``[value, .., data, leaf]``."""
        share = self.log_share
        return value if share is None else self.total(share.exp() * value)

    def total(self, value: Tensor) -> Tensor:
        """The sum over the axes that values ``[value, .., data, leaf]`` have."""
        dims = [dim for dim in self.dims if value.dim() >= -dim]
        return self._leading(value.sum(dims, keepdim=True)) if dims else value

    def _leading(self, value: Tensor) -> Tensor:
        """Without the axes, all of size 1 by now, which lie to the left of all others."""
        return value.reshape(value.shape[max(0, value.dim() + 1 + max(self.dims)) :])


def flatten_particles(value: Tensor, shape: torch.Size, event_dim: int = 0) -> Tensor:
    """
    Values of enumerated and drawn particles along one axis.

    :param Tensor value: ``[.., data or 1, leaf or 1, *event]``, which broadcasts to ``shape``.
    :param Size shape: axes of enumeration, drawn particles, data and leaves.
    :returns: ``[particle, data, leaf, *event]``.
    """
    event = value.shape[value.dim() - event_dim :]
    return value.expand(*shape, *event).reshape(-1, *shape[-2:], *event)


def _sum(terms: list[Tensor]) -> Tensor:
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total

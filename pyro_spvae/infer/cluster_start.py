# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Sum-product networks that start at clusters of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from pyro_spvae.circuits import Circuit
from pyro_spvae.circuits.assigned import assigned_counts
from pyro_spvae.circuits.clusters import region_clusters
from pyro_spvae.infer.em import ExpectedStatistics

_BLOCK = 256  # rows that are counted together


@runtime_checkable
class Clustered(Protocol):
    """A model that can start at clusters of data, see :meth:`pyro_spvae.models.SPN.start_at_clusters`."""

    circuit: Circuit

    def check_closed_form(self) -> None:
        """Raises a ValueError if a leaf has no closed M-step."""

    def start_at_clusters(self, x: Any, observed: Any = None, *, tick: Callable[[int], None] = ...) -> None:
        """Weights and leaf parameters by counting clusters."""


def clustered_statistics(
    expected: ExpectedStatistics,
    parts: Callable[[], Iterator[tuple[Tensor, Tensor, Tensor | None]]],
    blur: float,
    tick: Callable[[int], None] = lambda done: None,
) -> None:
    r"""
    The statistics of data where each is known to belong to one unit of each region, its cluster about the region
    (:func:`~pyro_spvae.circuits.clusters.region_clusters`), but less sharply: how often the units of two regions meet,
    and how often a leaf explains a datum, are counted for :math:`1 - b`, and for :math:`b` as if units did not depend
    on each other or on the data,

    .. math:: n'_{ij} = (1 - b)\, n_{ij} + b\, n_{i \cdot} n_{\cdot j} / n, \qquad
        w'_l = (1 - b)\, [l = u] + b\, \frac{n_l + 1}{n + L}

    with L leaves of a region. So what never met in these data is not taken for impossible, and leaves without data
    begin at what is common to all.

    :param ExpectedStatistics expected: of no data yet; filled.
    :param callable parts: gives the data, few at a time and always in the same order: features
        ``[data, leaf, feature]``, values ``[data, leaf, pixel]``, and which of these count, ``bool`` broadcastable to
        them, or ``None`` for all.
    :param float blur: b, from 0 to 1.
    :param callable tick: told now and then how many regions have clusters.
    """
    circuit = expected.circuit
    features = torch.cat([own[:, :: circuit.leaves].clone() for own, _, _ in parts()])
    units = region_clusters(features, circuit.regions, circuit.units, circuit.leaves, tick)
    expected.sums = [_blurred(own, blur) for layer in _counts(circuit, units) for own in layer]
    expected.sums += _of_leaves(expected, units[:, : circuit.num_leaf_regions], parts, blur)
    expected.rows = len(units)


def _counts(circuit: Circuit, units: Tensor) -> list[list[Tensor]]:
    total: list[list[Tensor]] = []
    for block in units.split(_BLOCK):
        found = [[own.double() for own in layer] for layer in assigned_counts(circuit, block)]
        pairs = zip(total, found, strict=True)
        total = [[a + b for a, b in zip(*pair, strict=True)] for pair in pairs] if total else found
    return total


def _blurred(counts: Tensor, blur: float) -> Tensor:
    """Counts ``[.., i, j]`` of the units of two regions, or of those of several partitions side by side."""
    total = counts.sum((-1, -2), keepdim=True).clamp(min=1)  # rows times partitions
    apart = counts.sum(-1, keepdim=True) * counts.sum(-2, keepdim=True) / total
    return (1 - blur) * counts + blur * apart


def _of_leaves(
    expected: ExpectedStatistics,
    units: Tensor,
    parts: Callable[[], Iterator[tuple[Tensor, Tensor, Tensor | None]]],
    blur: float,
) -> list[Tensor]:
    """What the leaves have to know of the data, whose units of leaf regions are ``[data, leaf region]``."""
    rows, leaves = len(units), expected.circuit.leaves
    share = torch.stack([(units == leaf).sum(0) + 1 for leaf in range(leaves)], dim=-1) / (rows + leaves)
    sums: list[Tensor] = []
    first = 0
    for _, patches, mask in parts():
        own = torch.nn.functional.one_hot(units[first : first + len(patches)], leaves)
        first += len(patches)
        found = expected.leaf.expected(patches, ((1 - blur) * own + blur * share).flatten(1).double(), mask)
        sums = [total + new for total, new in zip(sums, found, strict=True)] if sums else found
    return sums

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What data whose hidden variables are known say of a circuit's weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from .circuit import Circuit
from .layer import Layer


def assigned_counts(circuit: Circuit, units: Tensor) -> list[list[Tensor]]:
    """
    How often each weight is used where it is known for every datum which unit of each region it belongs to, whether or
    not its induced tree reaches the region.

    Where a region has several partitions, each of them is counted for each datum.

    :param Circuit circuit: the circuit.
    :param Tensor units: ``int64 [data, region]``, below the region's number of units.
    :returns: for each of ``circuit.layers`` counts in the shapes of ``layer.log_factors()``.
    """
    layers = cast("list[Layer]", list(circuit.layers))
    rows = layers[-1].stop if layers else circuit.num_leaves
    chosen = torch.zeros(rows, len(units), dtype=torch.bool, device=units.device)
    for region, first, number in _rows(circuit, layers):
        own = units[:, region] if number > 1 else torch.zeros_like(units[:, region])
        chosen[first : first + number] = own == torch.arange(number, device=own.device).unsqueeze(-1)
    return [layer.assigned_counts(chosen) for layer in layers]


def _rows(circuit: Circuit, layers: list[Layer]) -> Iterator[tuple[int, int, int]]:
    """Of each region the number, the row of its first unit, and how many these are."""
    for region in range(circuit.num_leaf_regions):
        yield region, region * circuit.leaves, circuit.leaves
    for layer in layers:
        yield from layer.own_rows()

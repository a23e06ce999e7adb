# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The options of circuits that every check runs under, and how many weights they leave, counted from scopes alone."""

from __future__ import annotations

import functools
from collections.abc import Hashable

import numpy as np

from pyro_spvae.circuits import RegionGraph

OPTIONS: dict[str, dict[str, str]] = {
    "plain": {},
    "tied": {"tie": "shape"},
    "cp": {"weights": "cp"},
    "tied-cp": {"tie": "shape", "weights": "cp"},
}


def relative(regions: RegionGraph, region: int, origin: int) -> frozenset[tuple[int, ...]]:
    """Coordinates of a region's variables, relative to the corner of the box around another."""
    corner = np.stack(np.unravel_index(regions.scope(origin), regions.shape)).min(1)
    points = np.stack(np.unravel_index(regions.scope(region), regions.shape)).T - corner
    return frozenset(tuple(point) for point in points.tolist())


def content(regions: RegionGraph, region: int) -> Hashable:
    """All partitions from a region downwards as sets of relative coordinates; two regions are alike if it is equal."""
    below, met, found = [region], set(), set()
    while below:
        one = below.pop()
        if one not in met:
            met.add(one)
            below += [part for _, *parts in regions.region_partitions[one] for part in parts]
            found |= {tuple(relative(regions, node, region) for node in own) for own in regions.region_partitions[one]}
    return frozenset(found) or relative(regions, region, region)


@functools.cache
def options_of(regions: RegionGraph) -> dict[str, dict[str, str]]:
    """Those that make a difference: regions that are alike can be tied, weights of partitions can be products."""
    inner = range(regions.num_leaf_regions, regions.num_regions)
    without = set() if len({content(regions, region) for region in inner}) < len(inner) else {"tie"}
    without |= set() if inner else {"weights"}
    return {name: options for name, options in OPTIONS.items() if without.isdisjoint(options)}


def expected_num_weights(regions: RegionGraph, units: int, leaves: int | None, options: dict[str, str]) -> int:
    """Weights of a circuit, by a walk over its partitions."""
    leaves = units if leaves is None else leaves
    if not regions.partitions:
        return leaves if leaves > 1 else 0
    total, seen = 0, set()
    for region in range(regions.num_leaf_regions, regions.num_regions):
        alike = content(regions, region) if "tie" in options else region
        if alike in seen:
            continue
        seen.add(alike)
        for _, *parts in regions.region_partitions[region]:
            left, right = (leaves if regions.is_leaf(part) else units for part in parts)
            one_sum = 1 + left + right if "weights" in options else left * right
            total += one_sum if region == regions.root else units * one_sum
    return total

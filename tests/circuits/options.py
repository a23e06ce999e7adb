# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Circuits that every check looks at, the options it runs under, and how many weights these leave, by scopes alone."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable

import numpy as np
import pytest

from pyro_spvae.circuits import RegionGraph, poon_domingos, quad_tree, random_binary_tree, whole

OPTIONS: dict[str, dict[str, str]] = {
    "plain": {},
    "tied": {"tie": "shape"},
    "cp": {"weights": "cp"},
    "tied-cp": {"tie": "shape", "weights": "cp"},
}
# leaf regions at several levels, one of them a part in two partitions
UNEVEN = RegionGraph((4,), [[0], [1], [2, 3], [1, 2, 3]], [(9, 4, 2), (9, 0, 3), (4, 0, 1)])
# two alike regions, 8 and 9, whose partitions are written in different orders and directions
ORDERS = RegionGraph(
    (6,),
    [[0], [1], [2], [3], [4], [5]],
    [(6, 0, 1), (7, 1, 2), (8, 6, 2), (8, 0, 7), (10, 4, 5), (11, 3, 4), (9, 10, 3), (9, 5, 11), (12, 9, 8)],
)
# partitions of three and four parts, beside one of two; leaf regions at several levels; 0 1 and 5 6 are alike
MANY_PARTS = RegionGraph(
    (7,),
    [[0], [1], [2], [3], [4], [5], [6], [0, 1, 2]],
    [(8, 0, 1), (9, 5, 6), (10, 8, 2, 3, 4), (10, 7, 3, 4), (11, 10, 9)],
)
# a tree of variables: each node with the nodes below it
HIDDEN_TREE = RegionGraph((6,), [[0], [1], [2], [3], [4], [5]], [(6, 1, 3, 4), (7, 2, 5), (8, 0, 6, 7)])
# the region graph, the number of units (above four the log-sum-exp is not exact), and that of leaves
CIRCUITS: dict[str, tuple[RegionGraph, int, int | None]] = {
    "grid": (poon_domingos((2, 2), 1), 2, None),
    "more leaves than units": (poon_domingos((2, 3), 1), 1, 2),
    "one unit": (poon_domingos((3, 3), 1), 1, None),
    "quad tree": (quad_tree((2, 2)), 3, None),
    "overlapping trees": (random_binary_tree(5, 2, 3, seed=4), 2, None),
    "uneven": (UNEVEN, 2, 3),
    "uneven, many units": (UNEVEN, 5, 2),
    "many parts": (MANY_PARTS, 2, None),
    "hidden tree": (HIDDEN_TREE, 2, 3),
    "mixture": (whole((3, 3)), 1, 7),
    "leaf": (whole(3), 1, None),
    "grid, many units": (poon_domingos((2, 2), 1), 6, None),
    "ragged grid, many units": (poon_domingos((3, 5), 2), 5, None),
    "more units than leaves": (poon_domingos((2, 3), 1), 6, 3),
    "many leaves": (poon_domingos((3, 2), 1), 2, 5),
    "two deltas": (poon_domingos((4, 4), [2, 1]), 3, None),
    "overlapping trees, many units": (random_binary_tree((3, 3), 2, 4, seed=1), 6, 5),
    "orders": (ORDERS, 2, None),
    "many parts, many units": (MANY_PARTS, 6, 5),
    "hidden tree, many units": (HIDDEN_TREE, 7, None),
}
ENUMERABLE = list(CIRCUITS)[:11]  # few enough induced trees to list them


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


def options_of(regions: RegionGraph) -> dict[str, dict[str, str]]:
    """Those that make a difference: regions that are alike can be tied, weights of partitions can be products."""
    inner = range(regions.num_leaf_regions, regions.num_regions)
    without = set() if len({content(regions, region) for region in inner}) < len(inner) else {"tie"}
    without |= set() if inner else {"weights"}
    taken = {name: options for name, options in OPTIONS.items() if without.isdisjoint(options)}
    if any(len(partition.parts) > 2 for partition in regions.partitions):  # only weights that are products take these
        return {name: options for name, options in taken.items() if "weights" in options}
    return taken


def under_every_option(names: Iterable[str]) -> list:
    """Parameters ``circuit``: names of circuits, each with all options that make a difference to it."""
    return [
        pytest.param((name, options), id=f"{name}-{option}")
        for name in names
        for option, options in options_of(CIRCUITS[name][0]).items()
    ]


def expected_num_weights(regions: RegionGraph, units: int, leaves: int, tie: str, weights: str) -> int:
    """Weights of a circuit, by a walk over its partitions."""
    if not regions.partitions:
        return leaves if leaves > 1 else 0
    total, seen = 0, set()
    for region in range(regions.num_leaf_regions, regions.num_regions):
        alike = content(regions, region) if tie == "shape" else region
        if alike in seen:
            continue
        seen.add(alike)
        partitions = regions.region_partitions[region]
        for _, *parts in partitions:
            sizes = [leaves if regions.is_leaf(part) else units for part in parts]
            one_sum = sum(sizes) + (len(partitions) > 1) if weights == "cp" else math.prod(sizes)
            total += one_sum if region == regions.root and weights == "full" else units * one_sum
    return total + units * (weights == "cp" and units > 1)

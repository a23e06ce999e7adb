# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The layers of a circuit over a region graph."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from .factored_layer import FactoredLayer
from .layer import Layer
from .region_graph import RegionGraph
from .sum_layer import Block, SumLayer, mixture
from .tying import shape_classes

Pair = tuple[int, int]


def build_layers(
    regions: RegionGraph, units: int, leaves: int, *, tied: bool = False, factored: bool = False
) -> list[Layer]:
    """The layers of a circuit, children before parents, the root last.

    :param RegionGraph regions: the structure.
    :param int units: sum nodes of an inner region; the root has one, or where weights are products as many and one more
        that mixes them.
    :param int leaves: leaf distributions of a leaf region.
    :param bool tied: whether regions of one of the :func:`~.tying.shape_classes` share their weights.
    :param bool factored: whether weights are products. A root that mixes its own leaves has but one factor.
    :raises ValueError: if weights are free and a partition has more than two parts.
    """
    num_rows = regions.num_leaf_regions * leaves
    if not regions.partitions:
        if leaves == 1:
            return []
        return [mixture(0, num_rows, leaves, 0)]
    classes = shape_classes(regions) if tied else list(range(regions.num_regions))
    if not factored:
        return list(_free_layers(regions, units, leaves, classes))
    layer = FactoredLayer(regions, units, leaves, classes)
    if units == 1:
        return [layer]
    # one sum of products of factors would make the parts of a partition independent
    return [layer, mixture(regions.root, layer.stop, units, layer.stop - units)]


def _free_layers(regions: RegionGraph, units: int, leaves: int, classes: list[int]) -> list[SumLayer]:
    """Layers with one weight for each product."""
    for partition in regions.partitions:
        if len(partition.parts) > 2:
            raise ValueError(
                f"weights must be 'cp' for regions with a partition of {len(partition.parts)} parts, such as region "
                f"{partition.region}, but is 'full', which takes partitions of two."
            )
    num_rows = regions.num_leaf_regions * leaves
    first_row = {region: region * leaves for region in range(regions.num_leaf_regions)}
    layers: list[SumLayer] = []
    for level in regions.levels:
        # regions of one level that have equally many partitions of each kind
        groups: defaultdict[tuple[Block, ...], list[tuple[int, list[list[Pair]]]]] = defaultdict(list)
        for region in level:
            kinds = _by_kind(regions, region, units, leaves)
            blocks = tuple(Block(len(pairs), *kind) for kind, pairs in kinds.items())
            groups[blocks].append((region, list(kinds.values())))
        for blocks, members in sorted(groups.items()):
            sums = units if level != regions.levels[-1] else 1
            children: list[tuple[Tensor, Tensor | None]] = []
            for place, block in enumerate(blocks):
                chosen = [parts[place] for _, parts in members]
                children.append(
                    (
                        _rows([[first_row[left] for left, _ in some] for some in chosen], block.left),
                        _rows([[first_row[right] for _, right in some] for some in chosen], block.right),
                    )
                )
            # regions of one class are in one group, as they have the same level and the same kinds of parts
            own = [region for region, _ in members]
            layers.append(SumLayer(own, num_rows, sums, list(blocks), children, [classes[region] for region in own]))
            for region in own:
                first_row[region] = num_rows
                num_rows += sums
    return layers


def _by_kind(regions: RegionGraph, region: int, units: int, leaves: int) -> dict[Pair, list[Pair]]:
    """Parts of the partitions of a region by their numbers of units, smaller number first."""
    kinds: defaultdict[Pair, list[Pair]] = defaultdict(list)
    for partition in regions.region_partitions[region]:
        left, right = sorted(partition.parts, key=lambda part: leaves if regions.is_leaf(part) else units)
        sizes = (leaves if regions.is_leaf(part) else units for part in (left, right))
        kinds[tuple(sizes)].append((left, right))  # type: ignore[index]
    return dict(sorted(kinds.items()))


def _rows(first: list[list[int]], units: int) -> Tensor:
    """Rows ``[R, P, unit]`` of regions whose first rows are ``[R, P]``."""
    return torch.tensor(first).unsqueeze(-1) + torch.arange(units)

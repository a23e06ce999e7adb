# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Where the rows, partitions and edges of a circuit with product weights lie in their tables.

An *edge* is a part of a partition: it has the weights by which each sum of the region mixes the units of the part. All
edges from leaf regions have one table of weights, and so have all edges from inner regions, so that a circuit has few
tensors however many regions it has. Regions, partitions and edges are numbered level by level: what is computed
together is a slice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from .region_graph import RegionGraph

# of a choice, all but the tensor of weights, of which only the place is known
Found = tuple[int, int, int, int, int | None]


@dataclass(frozen=True)
class Choice:
    """Regions of a level with equally many partitions.

    :ivar int region: number of the first among inner regions, as they are ordered here.
    :ivar int regions: how many they are.
    :ivar int partitions: of each, ``P``.
    :ivar int first: number of the first partition; theirs are ``[region, partition]`` flattened.
    :ivar weights: which of the tensors of partition weights is theirs, and the place of the first region in it; None
        where there is nothing to choose.
    """

    region: int
    regions: int
    partitions: int
    first: int
    weights: tuple[int, int] | None


@dataclass(frozen=True)
class Level:
    """Regions whose values are known together, and the edges from them.

    :ivar int start: their first row; their rows are ``[region, unit]`` flattened.
    :ivar int regions: how many they are.
    :ivar int units: of each, ``K``.
    :ivar int kind: which table has the weights of the edges.
    :ivar edges: first and one behind the last edge, in that table.
    :ivar bool in_turn: whether edge i comes from region i.
    :ivar choices: how the values of inner regions follow from partitions; none for leaf regions.
    """

    start: int
    regions: int
    units: int
    kind: int
    edges: tuple[int, int]
    in_turn: bool
    choices: tuple[Choice, ...] = ()

    @property
    def stop(self) -> int:
        """One behind the last row."""
        return self.start + self.regions * self.units


@dataclass
class Edges:
    """A table of edges.

    :ivar int units: of a part, ``K``.
    :ivar list child: place of the region in its level, for each edge.
    :ivar list first: row of the part's first unit.
    :ivar list partition: number of the partition.
    :ivar list classes: number of the weights; equal for edges that share them.
    :ivar list even: the part of the products of the region that one unit of the part is in.
    """

    units: int
    child: list[int] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    partition: list[int] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)
    even: list[float] = field(default_factory=list)


@dataclass
class PartitionWeights:
    """The regions that share one tensor of partition weights, all of ``partitions`` partitions.

    :ivar list classes: number of the weights for each region.
    :ivar list even: the part of its products that each partition has.
    """

    partitions: int
    classes: list[int] = field(default_factory=list)
    even: list[list[float]] = field(default_factory=list)


@dataclass
class FactoredStructure:
    """See the module.

    :ivar list regions: inner regions in the order in which they have rows.
    :ivar list slots: for each of these, for each partition, its edges, those of inner regions counted on from those of
        leaf regions.
    :ivar list shapes: for each of these, for each partition, the numbers of units of its parts.
    """

    levels: list[Level]
    edges: list[Edges]
    weights: list[PartitionWeights]
    regions: list[int]
    slots: list[list[list[int]]]
    shapes: list[tuple[tuple[int, ...], ...]]
    num_partitions: int


def factored_structure(regions: RegionGraph, units: int, leaves: int, classes: Sequence[int]) -> FactoredStructure:
    """The tables of a circuit.

    :param RegionGraph regions: the structure, with at least one partition.
    :param int units: sum nodes of every inner region, the root too.
    :param int leaves: leaves of a leaf region.
    :param classes: a number for each region, equal for those that share their weights.
    """
    leaf_regions = regions.num_leaf_regions

    def size(part: int) -> int:
        return leaves if regions.is_leaf(part) else units

    # parts and partitions of fewer units first, as in a circuit of free weights
    taken_apart: dict[int, list[tuple[int, ...]]] = {}
    shapes: dict[int, tuple[tuple[int, ...], ...]] = {}
    for region in range(leaf_regions, regions.num_regions):
        own = [tuple(sorted(partition.parts, key=size)) for partition in regions.region_partitions[region]]
        own.sort(key=lambda parts: tuple(map(size, parts)))
        taken_apart[region] = own
        shapes[region] = tuple(tuple(map(size, parts)) for parts in own)

    def form(region: int) -> tuple[int, tuple[tuple[int, ...], ...]]:
        return len(taken_apart[region]), shapes[region]

    weights: dict[int, PartitionWeights] = {}
    weight_classes: dict[int, dict[int, int]] = {}
    levels: list[tuple[int, list[int], list[Found]]] = []
    order: list[int] = []
    first_partition: dict[int, int] = {}
    num_partitions, row = 0, leaf_regions * leaves
    for level in regions.levels:
        members, start = sorted(level, key=lambda region: (form(region), region)), row
        choices: list[Found] = []
        for count, chosen in groupby(members, key=lambda region: len(taken_apart[region])):
            own_regions = list(chosen)
            found = None
            if count > 1:
                table = weights.setdefault(count, PartitionWeights(count))
                numbers = weight_classes.setdefault(count, {})
                found = len(table.classes)
                for region in own_regions:
                    table.classes.append(numbers.setdefault(classes[region], len(numbers)))
                    table.even.append(_shares(shapes[region]))
            choices.append((len(order), len(own_regions), count, num_partitions, found))
            for region in own_regions:
                order.append(region)
                first_partition[region] = num_partitions
                num_partitions += count
                row += units
        levels.append((start, members, choices))

    edges, numbered, spans = _edges(regions, taken_apart, shapes, first_partition, classes, levels, units, leaves)
    kinds = sorted(weights)
    made = [Level(0, leaf_regions, leaves, 0, *spans[0])]
    for (start, members, choices), span in zip(levels, spans[1:], strict=True):
        taken = tuple(
            Choice(first, number, count, partition, None if found is None else (kinds.index(count), found))
            for first, number, count, partition, found in choices
        )
        made.append(Level(start, len(members), units, 1, *span, taken))
    slots = [
        [
            [numbered[region, place, part] for part in range(len(parts))]
            for place, parts in enumerate(taken_apart[region])
        ]
        for region in order
    ]
    return FactoredStructure(
        levels=made,
        edges=[table for table in edges if table.child],
        weights=[weights[count] for count in kinds],
        regions=order,
        slots=slots,
        shapes=[shapes[region] for region in order],
        num_partitions=num_partitions,
    )


def _edges(
    regions: RegionGraph,
    taken_apart: dict[int, list[tuple[int, ...]]],
    shapes: dict[int, tuple[tuple[int, ...], ...]],
    first_partition: dict[int, int],
    classes: Sequence[int],
    levels: Sequence[tuple[int, list[int], list[Found]]],
    units: int,
    leaves: int,
) -> tuple[list[Edges], dict[tuple[int, int, int], int], list[tuple[tuple[int, int], bool]]]:
    """Both tables; the number of the edge of each region's partition and part; for each level its edges in their table,
    and whether they come from its regions in turn."""
    parents: dict[int, list[tuple[int, int, int]]] = {}
    for region in first_partition:  # in the order of rows
        for place, parts in enumerate(taken_apart[region]):
            for number, part in enumerate(parts):
                parents.setdefault(part, []).append((region, place, number))
    tables = [Edges(leaves), Edges(units)]
    known: list[dict[tuple[int, int, int], int]] = [{}, {}]
    numbered: dict[tuple[int, int, int], int] = {}
    spans = []
    places = [(0, list(range(regions.num_leaf_regions))), *((start, members) for start, members, _ in levels)]
    for level, (start, members) in enumerate(places):
        kind = min(level, 1)
        table, before = tables[kind], len(tables[kind].child)
        offset = kind * len(tables[0].child)
        for place, child in enumerate(members):
            for region, partition, number in parents.get(child, ()):
                numbered[region, partition, number] = offset + len(table.child)
                table.child.append(place)
                table.first.append(start + place * table.units)
                table.partition.append(first_partition[region] + partition)
                key = (classes[region], partition, number)
                table.classes.append(known[kind].setdefault(key, len(known[kind])))
                table.even.append(_shares(shapes[region])[partition] / table.units)
        span = (before, len(table.child))
        spans.append((span, table.child[before:] == list(range(len(members)))))
    return tables, numbered, spans


def _shares(shapes: tuple[tuple[int, ...], ...]) -> list[float]:
    """The part of a region's products that each of its partitions has."""
    products = [math.prod(sizes) for sizes in shapes]
    return [own / sum(products) for own in products]

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Which regions of a graph are translations of each other."""

from __future__ import annotations

from collections.abc import Hashable

from .region_graph import RegionGraph

Point = tuple[int, ...]


def shape_classes(regions: RegionGraph) -> list[int]:
    """A number for each region, equal for regions that are translations of each other in the array ``regions.shape``.

    Two leaf regions are, if their scopes are. Two inner regions are, if their partitions are the same up to one
    translation and all parts, taken apart alike, are translations too; then their scopes are. Partitions and parts
    of such regions are in one order: they are ordered by level and scope, which no translation changes. So the k-th
    partition of one is the k-th of the other, and the same goes for units and products.

    On a Poon-Domingos grid all rectangles of one shape are in one class ("homogeneous" parameters in PyJuice; Liu et
    al. 2024, "Scaling tractable probabilistic circuits").

    :param RegionGraph regions: the structure.
    :return: numbers from 0, in the order of the first region of each class.
    """
    known: dict[Hashable, int] = {}
    classes: list[int] = []
    corners: list[Point] = []  # least coordinate of the scope along each axis
    for region, partitions in enumerate(regions.region_partitions):
        key: Hashable
        if partitions:
            corner = tuple(map(min, *(corners[part] for part in partitions[0].parts)))
            key = tuple(
                tuple((classes[part], _minus(corners[part], corner)) for part in own.parts) for own in partitions
            )
        else:
            points = [_coordinates(variable, regions.shape) for variable in regions.scope(region)]
            corner = tuple(map(min, *points)) if len(points) > 1 else points[0]
            key = frozenset(_minus(point, corner) for point in points)
        corners.append(corner)
        classes.append(known.setdefault(key, len(known)))
    return classes


def _coordinates(variable: int, shape: tuple[int, ...]) -> Point:
    reversed_point = []
    for size in reversed(shape):
        variable, place = divmod(variable, size)
        reversed_point.append(place)
    return tuple(reversed(reversed_point))


def _minus(point: Point, origin: Point) -> Point:
    return tuple(one - other for one, other in zip(point, origin, strict=True))

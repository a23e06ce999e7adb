# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The structure of a sum-product network: which variables go together, and how they may be taken apart."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._structure import Structure, canonical_structure, check_integer, check_shape


class Partition(tuple[int, ...]):
    """One way to take a region apart, ``(region, *parts)``: it is the disjoint union of two parts or more, which are
    regions too.

    Example::

        >>> graph = poon_domingos((4, 4), delta=2)
        >>> partition = graph.partitions[0]
        >>> region, *parts = partition
        >>> graph.scope(region) == tuple(sorted(sum((graph.scope(part) for part in parts), ())))
        True
    """

    __slots__ = ()

    @property
    def region(self) -> int:
        """Number of the region."""
        return self[0]

    @property
    def parts(self) -> tuple[int, ...]:
        """Numbers of its parts."""
        return self[1:]


@dataclass(frozen=True, repr=False)
class RegionGraph:
    r"""A region graph: sets of variables and their partitions (Poon and Domingos 2011, Dennis and Ventura 2012).

    The variables are the entries of an array of ``shape``, numbered row-major. A *region* is a non-empty set of
    variables, its *scope*. A *leaf region* ("cell") has no partition; any other region has one or more, each into two
    regions or more with disjoint scopes whose union is its own. Leaf regions may overlap when they belong to different
    partitions.

    Regions are numbered: first the leaf regions, ordered by their sorted scopes (row-major for a grid), then the inner
    ones by level and scope, so that children come before parents and the root is last. The first part of
    a partition is the one that holds the region's first variable, and so on. Any numbering may be given, as long as
    the leaf regions take the numbers of their places in ``leaf_scopes`` and inner regions take larger ones; two graphs
    of equal content are equal and hash alike, whatever order they were written in.

    The graph checks itself and cannot be changed::

        >>> graph = RegionGraph((3,), leaf_scopes=[[0], [1], [2]], partitions=[(3, 0, 1), (4, 3, 2)])
        >>> graph.scope(3)
        (0, 1)

    :param shape: sizes of the array of variables; one axis or more.
    :param leaf_scopes: the variables of each leaf region.
    :param partitions: tuples ``(region, *parts)`` of region numbers.
    :raises ValueError: naming the region or partition that is at fault, if a partition is not one of disjoint
        regions, two or more, that cover its region, if there is a cycle, if more than one region (or none) belongs to
        no partition, if the root lacks variables, or if two regions have one scope.
    """

    shape: tuple[int, ...]
    leaf_scopes: tuple[tuple[int, ...], ...]
    partitions: tuple[Partition, ...]

    def __init__(
        self,
        shape: int | Iterable[int],
        leaf_scopes: Iterable[Iterable[int]],
        partitions: Iterable[Iterable[int]],
    ) -> None:
        sizes = check_shape(shape)
        structure = canonical_structure(math.prod(sizes), leaf_scopes, partitions)
        # object.__setattr__ because the class is frozen
        object.__setattr__(self, "shape", sizes)
        object.__setattr__(self, "leaf_scopes", structure.leaf_scopes)
        object.__setattr__(self, "partitions", tuple(map(Partition, structure.partitions)))
        object.__setattr__(self, "_structure", structure)

    if TYPE_CHECKING:
        _structure: Structure

    @property
    def num_variables(self) -> int:
        """Number of variables, the product of ``shape``."""
        return math.prod(self.shape)

    @property
    def num_regions(self) -> int:
        """Number of regions, leaf and inner."""
        return len(self._structure.masks)

    @property
    def num_leaf_regions(self) -> int:
        """Number of leaf regions; they are the regions ``0 .. num_leaf_regions - 1``."""
        return len(self.leaf_scopes)

    @property
    def root(self) -> int:
        """Number of the region that holds all variables: the last one."""
        return self.num_regions - 1

    @cached_property
    def regions(self) -> tuple[tuple[int, ...], ...]:
        """The sorted scope of each region, in the order of their numbers."""
        return tuple(self.scope(region) for region in range(self.num_regions))

    @cached_property
    def levels(self) -> tuple[tuple[int, ...], ...]:
        """Inner regions by level, from 1: one more than the highest level of a child, leaf regions being at 0."""
        grouped: list[list[int]] = [[] for _ in range(self._structure.levels[-1])]
        for region in range(self.num_leaf_regions, self.num_regions):
            grouped[self._structure.levels[region] - 1].append(region)
        return tuple(tuple(level) for level in grouped)

    @cached_property
    def region_partitions(self) -> tuple[tuple[Partition, ...], ...]:
        """The partitions of each region, in the order of the region numbers; leaf regions have none."""
        grouped: list[list[Partition]] = [[] for _ in range(self.num_regions)]
        for partition in self.partitions:
            grouped[partition.region].append(partition)
        return tuple(tuple(own) for own in grouped)

    def scope(self, region: int) -> tuple[int, ...]:
        """The variables of one region, sorted.

        :param int region: number of the region.
        :raises ValueError: if there is no such region.
        """
        if not 0 <= region < self.num_regions:
            raise ValueError(f"region must be in 0..{self.num_regions - 1}, but is {region}.")
        return self._structure.scope(region)

    def is_leaf(self, region: int) -> bool:
        """Whether a region is a leaf region.

        :param int region: number of the region.
        """
        return region < self.num_leaf_regions

    def counts(self, units: int, leaves: int | None = None) -> dict[str, int]:
        """The size of a circuit over this graph with one sum node at the root and ``units`` at any other inner region.

        A partition has one product for each choice of a unit of each of its parts, and each sum of a region has one
        weight for each product of the region. A root that is a leaf region itself has one sum over its leaves if it has
        several, and no sum otherwise.

        :param int units: sum nodes of an inner region.
        :param int leaves: leaf distributions of a leaf region, as many as ``units`` by default.
        :return: ``regions``, ``leaf_regions``, ``partitions``, ``sums``, ``products``, ``weights``, ``leaves``.
        :raises ValueError: if ``units`` or ``leaves`` is not a positive integer.
        """
        leaves = units if leaves is None else leaves
        units, leaves = (
            check_integer(name, value, 1, "a positive integer")
            for name, value in (("units", units), ("leaves", leaves))
        )
        sums = products = weights = 0
        for region, partitions in enumerate(self.region_partitions):
            own_sums = 1 if region == self.root else units
            own_products = sum(
                math.prod(leaves if self.is_leaf(part) else units for part in partition.parts)
                for partition in partitions
            )
            sums += own_sums if partitions else 0
            products += own_products
            weights += own_sums * own_products
        if not self.partitions and leaves > 1:
            sums, weights = 1, leaves
        return {
            "regions": self.num_regions,
            "leaf_regions": self.num_leaf_regions,
            "partitions": len(self.partitions),
            "sums": sums,
            "products": products,
            "weights": weights,
            "leaves": self.num_leaf_regions * leaves,
        }

    def to_json(self) -> str:
        """The graph as JSON text, an object with the three arguments of the constructor."""
        return json.dumps(
            {"shape": self.shape, "leaf_scopes": self.leaf_scopes, "partitions": self.partitions},
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> RegionGraph:
        """The graph that :meth:`to_json` wrote.

        :param str text: JSON text.
        :raises ValueError: if the text is not JSON, has other keys, holds anything but integers, or describes
            something that is not a region graph.
        """
        try:
            content = json.loads(text)
        except (TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"text must be the JSON of a region graph, but is not JSON: {error}.") from error
        keys = ["shape", "leaf_scopes", "partitions"]
        if not isinstance(content, dict) or set(content) != set(keys):
            given = sorted(content) if isinstance(content, dict) else type(content).__name__
            raise ValueError(f"text must be a JSON object with exactly the keys {keys}, but has {given}.")
        if not _is_integers(content["shape"]):
            raise ValueError(f"shape must be a JSON list of integers, but is {content['shape']!r}.")
        for key in keys[1:]:
            rows = content[key]
            if not isinstance(rows, list) or not all(_is_integers(row) for row in rows):
                raise ValueError(f"{key} must be a JSON list of lists of integers, but is not.")
        return cls(**content)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`to_json` to a file.

        :param path: the file; an existing one is replaced.
        """
        Path(path).write_text(self.to_json() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RegionGraph:
        """Read a graph that :meth:`save` wrote.

        :param path: the file, in UTF-8 with or without byte-order mark.
        """
        return cls.from_json(Path(path).read_text(encoding="utf-8-sig"))

    def __repr__(self) -> str:
        return (
            f"RegionGraph(shape={self.shape}, regions={self.num_regions}, leaf_regions={self.num_leaf_regions}, "
            f"partitions={len(self.partitions)})"
        )


def _is_integers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, int) and not isinstance(entry, bool) for entry in value)

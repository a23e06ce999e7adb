# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Functions that build region graphs."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Sequence

from ._structure import check_integer, check_shape
from .region_graph import RegionGraph

# an axis-aligned box: (start, stop) on each axis
Box = tuple[tuple[int, int], ...]
Split = tuple[Box, Box]

_SMALLEST_CELL = 4  # entries a side


def poon_domingos(shape: int | Iterable[int], delta: int | Sequence[int]) -> RegionGraph:
    """All axis-aligned rectangles, each with all of its cuts (Poon and Domingos 2011).

    A region is cut along any axis at any multiple of ``delta`` from its own start. With several deltas the first that
    cuts a region is used for it, so that ``[4, 1]`` goes on from cells of side 4 to single entries. A region that none
    of them cuts is a leaf region. Sides that ``delta`` does not divide leave an uneven last cell.

    :param shape: sizes of the array of variables, or the number of variables of a table.
    :param delta: side of a cell, or several sides, coarse first (strictly decreasing).
    :raises ValueError: if a delta is not a positive integer, if they do not decrease, or if the first is larger than
        every side.

    Example::

        >>> poon_domingos((28, 28), delta=7)
        RegionGraph(shape=(28, 28), regions=100, leaf_regions=16, partitions=200)
    """
    sizes = check_shape(shape)
    deltas = _check_deltas(sizes, delta if isinstance(delta, Sequence) else [delta])

    def cuts(box: Box) -> list[Split]:
        for step in deltas:
            found = [
                _cut(box, axis, at) for axis, (start, stop) in enumerate(box) for at in range(start + step, stop, step)
            ]
            if found:
                return found
        return []

    return _from_boxes(sizes, cuts)


def default_delta(shape: int | Iterable[int]) -> int:
    """A side of cells for :func:`poon_domingos` and :func:`quad_tree`, about a quarter of the longest side.

    Of the numbers that divide all sides, so that cells are equal, are at least 4, since smaller cells leave a leaf
    little to learn, and from a sixth to a third of the longest side, the one whose ratio to a quarter of it is nearest
    to 1, the larger of two. Where there is none, a quarter rounded up, at least 4 and at most the longest side: last
    cells of some sides are smaller then.

    :param shape: sizes of the array of variables, or the number of variables of a table.

    Example::

        >>> from pyro_spvae.circuits.builders import default_delta
        >>> default_delta((28, 28)), default_delta((32, 32)), default_delta((64, 48)), default_delta((28, 20))
        (7, 8, 16, 7)
    """
    sizes = check_shape(shape)
    longest, least = max(sizes), min(_SMALLEST_CELL, max(sizes))
    low, high = max(least, math.ceil(longest / 6)), max(least, longest // 3)
    equal = [side for side in range(low, high + 1) if all(size % side == 0 for size in sizes)]
    if equal:
        return max(equal, key=lambda side: (min(4 * side / longest, longest / (4 * side)), side))
    return max(math.ceil(longest / 4), least)


def quad_tree(shape: int | Iterable[int], delta: int = 1) -> RegionGraph:
    """A tree of halves: each region is cut once, along the axes in turn, down to cells with no side above ``delta``.

    The cut is at the multiple of ``delta`` (from the region's own start) that is nearest to the middle, the
    lower one if two are. On a grid two cuts make four quadrants.

    :param shape: sizes of the array of variables, or the number of variables of a table.
    :param int delta: side of a cell.
    :raises ValueError: if delta is not a positive integer, or larger than every side.

    Example::

        >>> graph = quad_tree((8, 8), delta=2)
        >>> graph
        RegionGraph(shape=(8, 8), regions=31, leaf_regions=16, partitions=15)
        >>> sum(len(scope) for scope in graph.leaf_scopes)  # cells that tile the image
        64
    """
    sizes = check_shape(shape)
    (step,) = _check_deltas(sizes, [delta])
    # the axis whose turn it is, by box; each box of a tree is reached in one way only
    turn: dict[Box, int] = {tuple((0, size) for size in sizes): 0}

    def cuts(box: Box) -> list[Split]:
        for offset in range(len(box)):
            axis = (turn[box] + offset) % len(box)
            start, stop = box[axis]
            if stop - start > step:
                at = min(range(start + step, stop, step), key=lambda cut: abs(2 * cut - start - stop))
                halves = _cut(box, axis, at)
                for half in halves:
                    turn[half] = axis + 1
                return [halves]
        return []

    return _from_boxes(sizes, cuts)


def random_binary_tree(shape: int | Iterable[int], depth: int, repetitions: int = 1, seed: int = 0) -> RegionGraph:
    """Random balanced binary trees under one root (Peharz et al. 2019, "Random sum-product networks").

    The root is cut ``repetitions`` times into two random halves, each half again at random, ``depth`` times.
    Regions (and partitions) that come up twice are merged, and a region that is cut in one tree is cut in all, so that
    graphs of few variables may have fewer regions than trees alone would. Leaf regions of different trees overlap.

    :param shape: sizes of the array of variables, or the number of variables of a table.
    :param int depth: number of cuts between the root and a leaf region; with 0 the root is the one region.
    :param int repetitions: number of trees.
    :param int seed: seed of a random generator of its own; the global ones are left alone.
    :raises ValueError: if ``depth`` is negative or needs more leaf regions than there are variables, or if
        ``repetitions`` is not positive.

    Example::

        >>> graph = random_binary_tree(20, depth=2, repetitions=3, seed=0)
        >>> len(graph.leaf_scopes), {len(scope) for scope in graph.leaf_scopes}
        (12, {5})
        >>> Circuit(graph, units=4).num_leaves
        48
    """
    sizes = check_shape(shape)
    depth, repetitions, seed = (
        check_integer(name, value, low)
        for name, value, low in (("depth", depth, 0), ("repetitions", repetitions, 1), ("seed", seed, None))
    )
    everything = whole(sizes).leaf_scopes[0]
    if 2**depth > len(everything):
        raise ValueError(
            f"depth must be such that 2**depth is at most the number of variables, {len(everything)}, but is {depth}."
        )
    generator = random.Random(seed)
    splits: dict[tuple[int, ...], set[tuple[tuple[int, ...], ...]]] = {}
    for _ in range(repetitions):
        regions = [everything]
        for _ in range(depth):
            halves: list[tuple[int, ...]] = []
            for scope in regions:
                mixed = generator.sample(scope, len(scope))
                pair = sorted(tuple(sorted(half)) for half in (mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]))
                splits.setdefault(scope, set()).add(tuple(pair))
                halves += pair
            regions = halves
        for scope in regions:
            splits.setdefault(scope, set())
    return _from_splits(sizes, splits)


def whole(shape: int | Iterable[int]) -> RegionGraph:
    """One region that holds all variables: a circuit over it is a mixture of its leaves, or the leaf if there is one.

    :param shape: sizes of the array of variables, or the number of variables of a table.

    Example::

        >>> whole((28, 28))
        RegionGraph(shape=(28, 28), regions=1, leaf_regions=1, partitions=0)
        >>> mixture = SPN(whole(3), units=1, leaves=5, likelihood=Normal())  # of five products of normals
        >>> mixture.sample(4).shape
        torch.Size([4, 3])
    """
    sizes = check_shape(shape)
    return _from_boxes(sizes, lambda box: [])


def _from_splits(
    sizes: tuple[int, ...], splits: dict[tuple[int, ...], set[tuple[tuple[int, ...], ...]]]
) -> RegionGraph:
    """Number the scopes, leaf regions first, and build the graph."""
    leaf_scopes = sorted(scope for scope, pairs in splits.items() if not pairs)
    inner = sorted(scope for scope, pairs in splits.items() if pairs)
    number = {scope: place for place, scope in enumerate(leaf_scopes + inner)}
    partitions = [(number[scope], *(number[part] for part in parts)) for scope in inner for parts in splits[scope]]
    return RegionGraph(sizes, leaf_scopes, partitions)


def _from_boxes(sizes: tuple[int, ...], cuts: Callable[[Box], list[Split]]) -> RegionGraph:
    """The graph of all boxes that can be reached from the whole array by the cuts."""
    root: Box = tuple((0, size) for size in sizes)
    splits: dict[Box, list[Split]] = {}
    waiting = [root]
    while waiting:
        box = waiting.pop()
        if box not in splits:
            splits[box] = cuts(box)
            waiting += itertools.chain.from_iterable(splits[box])
    leaves = [box for box, found in splits.items() if not found]
    inner = [box for box, found in splits.items() if found]
    number = {box: place for place, box in enumerate(leaves + inner)}
    partitions = [(number[box], number[left], number[right]) for box in inner for left, right in splits[box]]
    return RegionGraph(sizes, [_variables(sizes, box) for box in leaves], partitions)


def _cut(box: Box, axis: int, at: int) -> Split:
    start, stop = box[axis]
    return (
        (*box[:axis], (start, at), *box[axis + 1 :]),
        (*box[:axis], (at, stop), *box[axis + 1 :]),
    )


def _variables(sizes: tuple[int, ...], box: Box) -> list[int]:
    """Row-major numbers of the entries of a box."""
    numbers = [0]
    for size, (start, stop) in zip(sizes, box, strict=True):
        numbers = [number * size + at for number in numbers for at in range(start, stop)]
    return numbers


def _check_deltas(sizes: tuple[int, ...], delta: Sequence[int]) -> list[int]:
    if not delta:
        raise ValueError("delta is empty, but must be a positive integer or a sequence of them.")
    deltas = [check_integer("delta", value, 1) for value in delta]
    if any(fine >= coarse for coarse, fine in itertools.pairwise(deltas)):
        raise ValueError(f"delta must decrease from coarse to fine, but is {list(delta)}.")
    if deltas[0] > max(sizes):
        raise ValueError(f"delta must be at most the largest side, {max(sizes)}, but is {deltas[0]}.")
    return deltas

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Builders of region graphs: the counts of the papers, the shapes of the cells, and what is refused."""

from __future__ import annotations

import math
import random

import pytest

from pyro_spvae.circuits import poon_domingos, quad_tree, random_binary_tree, whole
from pyro_spvae.circuits.builders import default_delta


def test_counts_of_the_paper():
    counts = poon_domingos((28, 28), delta=7).counts(units=2)
    assert counts == {
        "regions": 100,
        "leaf_regions": 16,
        "partitions": 200,
        "sums": 167,
        "products": 800,
        "weights": 1576,
        "leaves": 32,
    }


def test_counts_of_the_poster():
    coarse, fine = (poon_domingos((28, 28), delta).counts(units=2) for delta in (4, [4, 1]))
    assert (coarse["leaves"], coarse["products"]) == (98, 12544)
    assert (fine["leaves"], fine["products"]) == (1568, 51744)
    # the poster counts the root as `units` sums
    assert (coarse["sums"] + 1, fine["sums"] + 1) == (1470, 9702)


@pytest.mark.parametrize(("height", "width"), [(2, 2), (2, 7), (6, 2), (3, 5), (5, 4), (7, 7)])
def test_grid_counts_in_closed_form(height, width):
    graph = poon_domingos((height, width), 1)
    high, wide = math.comb(height + 1, 2), math.comb(width + 1, 2)
    assert graph.num_regions == high * wide
    assert len(graph.partitions) == math.comb(height + 1, 3) * wide + high * math.comb(width + 1, 3)
    # all h x w rectangles of one level have that many partitions
    for level, members in enumerate(graph.levels, start=1):
        assert {len(graph.region_partitions[region]) for region in members} == {level}


def test_poon_domingos_leaves_an_uneven_last_cell():
    graph = poon_domingos((28, 28), 5)
    assert (graph.num_leaf_regions, graph.num_regions, len(graph.partitions)) == (36, 441, 1470)
    assert [len(scope) for scope in graph.leaf_scopes[:6]] == [25] * 5 + [15]
    assert len(graph.leaf_scopes[-1]) == 9
    assert poon_domingos(5, [3]).leaf_scopes == ((0, 1, 2), (3, 4))
    # a delta as long as one side cuts the other axis only
    assert poon_domingos((2, 4), 4) == whole((2, 4))
    assert poon_domingos((2, 4), 2).leaf_scopes == ((0, 1, 4, 5), (2, 3, 6, 7))


def test_poon_domingos_deltas_go_from_coarse_to_fine():
    graph = poon_domingos((4, 4), [2, 1])
    assert graph.num_leaf_regions == 16
    # the four cells of side 2 are regions, and cut on; a 1 x 2 strip across two of them is none
    assert (0, 1, 4, 5) in graph.regions and (1, 2) not in graph.regions and (0, 1) in graph.regions
    root = graph.region_partitions[graph.root]
    assert len(root) == 2
    # multiples of the finer delta count from the region's own start: 3..5 is cut before 5, not before 4
    assert poon_domingos(7, [3, 2]).leaf_scopes == ((0, 1), (2,), (3, 4), (5,), (6,))


def test_quad_tree_makes_quadrants():
    graph = quad_tree((4, 4), 2)
    assert graph.leaf_scopes == ((0, 1, 4, 5), (2, 3, 6, 7), (8, 9, 12, 13), (10, 11, 14, 15))
    assert len(graph.partitions) == 3 and graph.regions[graph.partitions[-1].parts[0]] == tuple(range(8))
    # the axes take turns: the quadrants of a larger image are regions too, and no strip is thinner than a quadrant
    graph = quad_tree((8, 8))
    quadrant = tuple(8 * y + x for y in range(4) for x in range(4))
    assert quadrant in graph.regions and tuple(range(32)) in graph.regions and tuple(range(16)) not in graph.regions
    graph = quad_tree((7, 9), 3)
    assert all(len(own) == 1 for own in graph.region_partitions[graph.num_leaf_regions :])
    assert sum(len(scope) for scope in graph.leaf_scopes) == 63
    sides = [(len({v // 9 for v in scope}), len({v % 9 for v in scope})) for scope in graph.leaf_scopes]
    assert max(max(side) for side in sides) == 3
    # 7 is cut at 3 (a multiple of 3 and nearest to 3.5)
    assert graph.scope(graph.partitions[-1].parts[0]) == tuple(range(27))


@pytest.mark.parametrize("shape", [(13,), (24,), (40,), (7, 9), (13, 4), (12, 20), (5, 6, 7)])
@pytest.mark.parametrize("delta", [1, 2, 3, 4])
def test_quad_tree_cuts_every_region_nearest_to_its_middle(shape, delta):
    """At the multiple of delta from the region's own start; the lower one if two are; below the first cut, too."""
    graph = quad_tree(shape, delta)
    deeper = 0
    for region, left, right in graph.partitions:
        whole_box, *halves = (box(graph.scope(part), shape) for part in (region, left, right))
        (axis,) = (k for k in range(len(shape)) if halves[0][k] != whole_box[k])
        (start, stop), (other_start, at) = whole_box[axis], halves[0][axis]
        assert other_start == start and halves[1][axis] == (at, stop)
        allowed = range(start + delta, stop, delta)
        assert at == min(allowed, key=lambda cut: (abs(cut - start - (stop - cut)), cut))
        deeper += len(allowed) > 1 and start > 0
    assert deeper > 0 or max(shape) < 4 * delta
    assert max(max(stop - start for start, stop in box(scope, shape)) for scope in graph.leaf_scopes) <= delta


def box(scope, shape):
    """First and last place on each axis of the variables, which fill what is between."""
    places = [[v // math.prod(shape[k + 1 :]) % shape[k] for v in scope] for k in range(len(shape))]
    sides = [(min(own), max(own) + 1) for own in places]
    assert math.prod(stop - start for start, stop in sides) == len(scope)
    return sides


def test_random_binary_tree_is_balanced_and_reproducible():
    state = random.getstate()
    graph = random_binary_tree((4, 4), depth=3, repetitions=6, seed=5)
    assert random.getstate() == state
    # the shape of the array does not matter
    assert graph.partitions == random_binary_tree(16, 3, 6, 5).partitions
    assert graph == random_binary_tree((4, 4), 3, 6, 5) and graph != random_binary_tree((4, 4), 3, 6, 6)
    assert len(graph.region_partitions[graph.root]) == 6
    assert {len(scope) for scope in graph.leaf_scopes} == {2}
    for _, left, right in graph.partitions:
        assert abs(len(graph.scope(left)) - len(graph.scope(right))) <= 1
    # leaf regions of different trees overlap
    assert sum(len(scope) for scope in graph.leaf_scopes) > 16
    # of two variables there is one tree, however often it is drawn
    assert random_binary_tree(2, 1, repetitions=9) == poon_domingos(2, 1)
    assert random_binary_tree((2, 3), 0, 4) == whole((2, 3))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: poon_domingos((4, 4), 0), "delta must be an integer of at least 1"),
        (lambda: poon_domingos((4, 4), -2), "delta must be an integer of at least 1"),
        (lambda: poon_domingos((4, 4), 1.5), "delta must be an integer"),
        (lambda: poon_domingos((4, 4), True), "delta must be an integer"),
        (lambda: poon_domingos((4, 4), 5), "delta must be at most the largest side, 4, but is 5"),
        (lambda: poon_domingos((4, 4), [5, 1]), "delta must be at most the largest side"),
        (lambda: poon_domingos((4, 4), [1, 2]), "delta must decrease"),
        (lambda: poon_domingos((4, 4), [2, 2]), "delta must decrease"),
        (lambda: poon_domingos((4, 4), []), "delta is empty"),
        (lambda: poon_domingos((0, 4), 1), "shape must be"),
        (lambda: quad_tree((4, 4), 0), "delta must be an integer"),
        (lambda: quad_tree((4, 4), 5), "delta must be at most"),
        (lambda: random_binary_tree(7, 3), "depth must be such that"),
        (lambda: random_binary_tree(8, -1), "depth must be an integer of at least 0"),
        (lambda: random_binary_tree(8, 1, 0), "repetitions must be an integer of at least 1"),
        (lambda: random_binary_tree(8, 1, 1, "x"), "seed must be an integer"),
        (lambda: whole(0), "shape must be"),
        (lambda: whole(4).counts(0), "units must be a positive integer"),
        (lambda: whole(4).counts(1, 1.5), "leaves must be a positive integer"),
        (lambda: whole(4).scope(1), "region must be in"),
    ],
)
def test_bad_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("shape", "delta"),
    [
        ((28, 28), 7),
        ((32, 32), 8),
        ((64, 48), 16),
        ((30, 30), 6),  # not 10, farther from 7.5, nor 5
        ((42, 28), 14),  # not 7
        ((24, 48), 12),
        ((21, 21), 7),
        ((12, 12), 4),
        ((8, 8), 4),  # at least 4
        ((28, 20), 7),  # 4 would be of more than six cells a side
        ((22, 22), 6),  # a quarter, rounded up
        ((9, 9), 4),
        ((3, 3), 3),
        ((2, 5), 4),
        (16, 4),
    ],
)
def test_default_delta_makes_equal_cells_where_sides_allow_it(shape, delta):
    found, sizes = default_delta(shape), (shape,) if isinstance(shape, int) else shape
    assert found == delta
    cells = {len(scope) for scope in poon_domingos(shape, found).leaf_scopes}
    longest = max(sizes)
    divides = [d for d in range(4, longest) if longest / 6 <= d <= longest / 3 and all(size % d == 0 for size in sizes)]
    assert not divides or (found in divides and len(cells) == 1)

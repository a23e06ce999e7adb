# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Region graphs: what any of them must satisfy, each builder a subclass; counts of the papers; what is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
import random

import matplotlib
import pytest

from pyro_spvae.circuits import RegionGraph, poon_domingos, quad_tree, random_binary_tree, whole

matplotlib.use("Agg")


def renumbered(graph: RegionGraph, seed: int) -> RegionGraph:
    """The same graph written down in another order."""
    generator = random.Random(seed)
    leaves = list(range(graph.num_leaf_regions))
    inner = list(range(graph.num_leaf_regions, graph.num_regions))
    generator.shuffle(leaves)
    generator.shuffle(inner)
    # inner regions may have any larger numbers
    number = {region: place for place, region in enumerate(leaves)}
    number |= {region: len(leaves) + 3 * place for place, region in enumerate(inner)}
    partitions = []
    for region, left, right in graph.partitions:
        parts = [number[left], number[right]]
        generator.shuffle(parts)
        partitions.append((number[region], *parts))
    generator.shuffle(partitions)
    scopes = [list(graph.leaf_scopes[region]) for region in leaves]
    for scope in scopes:
        generator.shuffle(scope)
    return RegionGraph(graph.shape, scopes, partitions)


class RegionGraphTests:
    """What holds for every region graph; subclasses give ``graphs``."""

    graphs: list[RegionGraph] = []

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        metafunc.parametrize("graph", self.graphs, ids=[str(graph.shape) for graph in self.graphs])

    def test_partitions_are_disjoint_and_covering(self, graph):
        assert len(graph.partitions) == len(set(graph.partitions))
        for region, left, right in graph.partitions:
            assert set(graph.scope(left)).isdisjoint(graph.scope(right))
            assert set(graph.scope(left)) | set(graph.scope(right)) == set(graph.scope(region))
            assert graph.scope(left)[0] == graph.scope(region)[0]

    def test_one_root_holds_all_variables(self, graph):
        assert graph.scope(graph.root) == tuple(range(graph.num_variables))
        parts = {part for partition in graph.partitions for part in partition[1:]}
        assert set(range(graph.num_regions)) - parts == {graph.root}
        assert graph.num_variables == math.prod(graph.shape)

    def test_leaf_regions_come_first_by_scope_and_have_no_partition(self, graph):
        assert graph.regions[: graph.num_leaf_regions] == graph.leaf_scopes
        assert list(graph.leaf_scopes) == sorted(tuple(sorted(scope)) for scope in graph.leaf_scopes)
        assert len(set(graph.regions)) == graph.num_regions
        assert {partition.region for partition in graph.partitions} == set(
            range(graph.num_leaf_regions, graph.num_regions)
        )
        assert [graph.is_leaf(region) for region in range(graph.num_regions)].count(True) == graph.num_leaf_regions

    def test_levels_are_one_above_the_highest_child(self, graph):
        level = dict.fromkeys(range(graph.num_leaf_regions), 0)
        level |= {region: place + 1 for place, members in enumerate(graph.levels) for region in members}
        assert sorted(level) == list(range(graph.num_regions))
        for region, partitions in enumerate(graph.region_partitions):
            children = [part for partition in partitions for part in partition[1:]]
            assert level[region] == 1 + max((level[child] for child in children), default=-1)
            assert all(child < region for child in children)

    def test_json_round_trip(self, graph, tmp_path):
        again = RegionGraph.from_json(graph.to_json())
        assert again == graph and hash(again) == hash(graph) and again.regions == graph.regions
        graph.save(tmp_path / "graph.json")
        assert RegionGraph.load(tmp_path / "graph.json") == graph
        assert set(json.loads(graph.to_json())) == {"shape", "leaf_scopes", "partitions"}

    def test_content_decides_equality(self, graph):
        again = renumbered(graph, seed=3)
        assert again == graph and hash(again) == hash(graph) and again.levels == graph.levels
        for same in (copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
            assert same == graph and same.levels == graph.levels
        assert graph != whole(graph.num_variables + 1)

    def test_repr_gives_the_counts(self, graph):
        assert repr(graph) == (
            f"RegionGraph(shape={graph.shape}, regions={len(graph.regions)}, "
            f"leaf_regions={len(graph.leaf_scopes)}, partitions={len(graph.partitions)})"
        )

    @pytest.mark.parametrize(("units", "leaves"), [(1, 1), (2, 2), (2, 3), (5, 1)])
    def test_counts_equal_a_walk_over_the_nodes(self, graph, units, leaves):
        def size(region: int) -> int:
            return leaves if graph.is_leaf(region) else units

        sums = [(region, unit) for region, own in enumerate(graph.region_partitions) if own for unit in range(units)]
        sums = [node for node in sums if node[0] != graph.root or node[1] == 0]
        products = [
            (partition, i, j)
            for partition in graph.partitions
            for i in range(size(partition.left))
            for j in range(size(partition.right))
        ]
        weights = [(node, product) for node in sums for product in products if product[0].region == node[0]]
        mixture = graph.num_regions == 1 and leaves > 1
        counts = graph.counts(units, leaves)
        assert list(counts) == ["regions", "leaf_regions", "partitions", "sums", "products", "weights", "leaves"]
        assert list(counts.values()) == [
            len(graph.regions),
            len(graph.leaf_scopes),
            len(graph.partitions),
            1 if mixture else len(sums),
            len(products),
            leaves if mixture else len(weights),
            len(graph.leaf_scopes) * leaves,
        ]

    def test_is_frozen(self, graph):
        with pytest.raises(dataclasses.FrozenInstanceError):
            graph.shape = (1,)

    def test_plot_returns_axes_with_a_title(self, graph):
        figure, ax = matplotlib.pyplot.subplots()
        assert graph.plot(ax) is ax
        assert "regions" in ax.get_title() and ax.has_data() | bool(ax.patches) | bool(ax.texts)
        matplotlib.pyplot.close(figure)


class TestPoonDomingos(RegionGraphTests):
    graphs = [
        poon_domingos((4, 4), 1),
        poon_domingos((7, 5), [3, 2]),
        poon_domingos((4, 6), [2, 1]),
        poon_domingos((3, 2, 2), 1),
        poon_domingos(5, 2),
    ]


class TestQuadTree(RegionGraphTests):
    graphs = [quad_tree((4, 4)), quad_tree((7, 5), 2), quad_tree((3, 2, 4)), quad_tree(6)]


class TestRandomBinaryTree(RegionGraphTests):
    graphs = [
        random_binary_tree(8, 3, 2, seed=1),
        random_binary_tree((3, 3), 2, 5, seed=2),
        random_binary_tree(5, 2, 4, seed=3),
        random_binary_tree((2, 2), 0, 3),
    ]


class TestWhole(RegionGraphTests):
    graphs = [whole((3, 4)), whole(1), whole(6)]


class TestByHand(RegionGraphTests):
    # leaf regions at different depths, and one leaf region used by two partitions
    graphs = [RegionGraph((4,), [[0], [1], [2, 3], [1, 2, 3]], [(9, 4, 2), (9, 0, 3), (4, 0, 1)])]


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


@pytest.mark.parametrize("height", range(2, 8))
@pytest.mark.parametrize("width", range(2, 8))
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


def test_quad_tree_makes_quadrants():
    graph = quad_tree((4, 4), 2)
    assert graph.leaf_scopes == ((0, 1, 4, 5), (2, 3, 6, 7), (8, 9, 12, 13), (10, 11, 14, 15))
    assert len(graph.partitions) == 3 and graph.regions[graph.partitions[-1].left] == tuple(range(8))
    graph = quad_tree((7, 9), 3)
    assert all(len(own) == 1 for own in graph.region_partitions[graph.num_leaf_regions :])
    assert sum(len(scope) for scope in graph.leaf_scopes) == 63
    sides = [(len({v // 9 for v in scope}), len({v % 9 for v in scope})) for scope in graph.leaf_scopes]
    assert max(max(side) for side in sides) == 3
    # 7 is cut at 3 (a multiple of 3 and nearest to 3.5)
    assert graph.scope(graph.partitions[-1].left) == tuple(range(27))


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


GOOD = {"shape": [3], "leaf_scopes": [[0], [1], [2]], "partitions": [[3, 0, 1], [4, 3, 2]]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [0]}, "shape must be a positive integer"),
        ({"shape": []}, "shape must be a positive integer"),
        ({"shape": 2.5}, "shape must be a positive integer"),
        ({"shape": [True]}, "shape must be a positive integer"),
        ({"leaf_scopes": []}, "leaf_scopes is empty"),
        ({"leaf_scopes": [[0], [1], []]}, "leaf region 2 is empty"),
        ({"leaf_scopes": [[0], [1], [3]]}, "leaf region 2 holds variable 3"),
        ({"leaf_scopes": [[0], [1, 1], [2]]}, "leaf region 1 holds variable 1 twice"),
        ({"leaf_scopes": [[0], ["x"], [2]]}, "leaf region 1 must hold integers"),
        ({"leaf_scopes": [[0], [0], [2]]}, r"partition \(3, 0, 1\) is not disjoint"),
        ({"shape": [4]}, "the root, region 4, must hold all 4 variables, but lacks variable 3"),
        ({"partitions": [[3, 0, 1, 2]]}, "has 3 parts, but must have exactly two"),
        ({"partitions": [[3, 0]]}, "has 1 parts, but must have exactly two"),
        ({"partitions": [[3, 0, "1"]]}, "must be integers"),
        ({"partitions": [[3, 0, 1]]}, r"but regions \[2, 3\] do not"),
        ({"partitions": [[3, 0, 1], [4, 3, 2], [2, 0, 1]]}, "region 2 is a leaf region, but partition"),
        ({"partitions": [[3, 0, 1], [4, 3, 2], [4, 2, 3]]}, r"partition \(4, 2, 3\) is given twice"),
        ({"partitions": [[3, 0, 1], [4, 3, 5]]}, "region 5, a part of region 4, is neither"),
        ({"partitions": [[3, 0, 4], [4, 3, 2]]}, "cycle"),
        ({"partitions": [[3, 0, 1], [4, 3, 2], [4, 0, 1]]}, "do not cover the same variables"),
        ({"partitions": [[3, 0, 1], [5, 0, 1], [4, 3, 2], [4, 5, 2]]}, "regions 3 and 5 have the same scope"),
    ],
)
def test_malformed_graphs_are_refused(change, message):
    assert RegionGraph(**GOOD).num_regions == 5
    with pytest.raises(ValueError, match=message) as caught:
        RegionGraph(**{**GOOD, **change})
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "exactly the keys"),
        (json.dumps({**GOOD, "units": 2}), "exactly the keys"),
        (json.dumps({"shape": [3], "leaf_scopes": [[0]]}), "exactly the keys"),
        (json.dumps({**GOOD, "shape": 3}), "shape must be a JSON list"),
        (json.dumps({**GOOD, "shape": [True]}), "shape must be a JSON list"),
        (json.dumps({**GOOD, "leaf_scopes": [0, 1, 2]}), "leaf_scopes must be a JSON list of lists"),
        (json.dumps({**GOOD, "partitions": [[3, 0, 1.0]]}), "partitions must be a JSON list of lists"),
        (json.dumps({**GOOD, "partitions": {}}), "partitions must be a JSON list of lists"),
    ],
)
def test_malformed_json_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        RegionGraph.from_json(text)


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

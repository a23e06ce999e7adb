# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Region graphs: what any of them must satisfy, each builder a subclass; counts of the papers; what is refused."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
import pickle
import random

import pytest

from pyro_spvae.circuits import RegionGraph, poon_domingos, quad_tree, random_binary_tree, whole
from tests.circuits.options import HIDDEN_TREE, MANY_PARTS, UNEVEN


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
    for region, *own in graph.partitions:
        parts = [number[part] for part in own]
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
        for region, *parts in graph.partitions:
            scopes = [graph.scope(part) for part in parts]
            assert sorted(itertools.chain(*scopes)) == list(graph.scope(region)) and scopes == sorted(scopes)
            assert len(parts) > 1

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
        marked = tmp_path / "marked.json"
        marked.write_bytes(b"\xef\xbb\xbf" + (tmp_path / "graph.json").read_bytes())
        assert RegionGraph.load(marked) == graph
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
            (partition, *chosen)
            for partition in graph.partitions
            for chosen in itertools.product(*(range(size(part)) for part in partition.parts))
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
    graphs = [UNEVEN, MANY_PARTS, HIDDEN_TREE]


GOOD = {"shape": [3], "leaf_scopes": [[0], [1], [2]], "partitions": [[3, 0, 1], [4, 3, 2]]}


REFUSED = [  # a changed graph, or its JSON
    ({"shape": [0]}, "shape must be a positive integer"),
    ({"shape": []}, "shape must be a positive integer"),
    ({"shape": 2.5}, "shape must be a positive integer"),
    ({"shape": [True]}, "shape must be a positive integer"),
    ({"leaf_scopes": []}, "leaf_scopes is empty"),
    ({"leaf_scopes": [[0], [1], []]}, "leaf region 2 is empty"),
    ({"leaf_scopes": [[0], [1], [3]]}, "leaf region 2 holds variable 3"),
    ({"leaf_scopes": [[0], [1, 1], [2]]}, "leaf region 1 holds variable 1 twice"),
    ({"leaf_scopes": [[0], ["x"], [2]]}, "leaf region 1 must hold integers"),
    ({"leaf_scopes": [0, 1, 2]}, "leaf region 0 must be the variables that it holds, but is 0"),
    ({"leaf_scopes": [[0], [0], [2]]}, r"partition \(3, 0, 1\) is not disjoint"),
    ({"shape": [4]}, "the root, region 4, must hold all 4 variables, but lacks variable 3"),
    ({"partitions": [[3, 0]]}, "has 1 parts, but must have at least two"),
    ({"partitions": [[3, 0, 1, 1]]}, "is not disjoint: two parts hold variable 1"),
    ({"partitions": [[3, 0, 1, 2], [3, 0, 2, 1]]}, r"partition \(3, 0, 2, 1\) is given twice"),
    ({"partitions": [[3, 0, "1"]]}, "must be integers"),
    ({"partitions": [[3, 0, 1]]}, r"but regions \[2, 3\] do not"),
    ({"partitions": [[3, 0, 1], [4, 3, 2], [2, 0, 1]]}, "region 2 is a leaf region, but partition"),
    ({"partitions": [[3, 0, 1], [4, 3, 2], [4, 2, 3]]}, r"partition \(4, 2, 3\) is given twice"),
    ({"partitions": [[3, 0, 1], [4, 3, 5]]}, "region 5, a part of region 4, is neither"),
    ({"partitions": [[3, 0, 4], [4, 3, 2]]}, "cycle"),
    ({"partitions": [[3, 0, 1], [4, 3, 2], [4, 0, 1]]}, "do not cover the same variables"),
    ({"partitions": [[3, 0, 1], [5, 0, 1], [4, 3, 2], [4, 5, 2]]}, "regions 3 and 5 have the same scope"),
    ("{", "is not JSON"),
    ("[1]", "exactly the keys"),
    (json.dumps({**GOOD, "units": 2}), "exactly the keys"),
    (json.dumps({"shape": [3], "leaf_scopes": [[0]]}), "exactly the keys"),
    (json.dumps({**GOOD, "shape": 3}), "shape must be a JSON list"),
    (json.dumps({**GOOD, "shape": [True]}), "shape must be a JSON list"),
    (json.dumps({**GOOD, "leaf_scopes": [0, 1, 2]}), "leaf_scopes must be a JSON list of lists"),
    (json.dumps({**GOOD, "partitions": [[3, 0, 1.0]]}), "partitions must be a JSON list of lists"),
    (json.dumps({**GOOD, "partitions": {}}), "partitions must be a JSON list of lists"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_malformed_graphs_are_refused(given, message):
    assert RegionGraph(**GOOD).num_regions == 5
    with pytest.raises(ValueError, match=message) as caught:
        RegionGraph.from_json(given) if isinstance(given, str) else RegionGraph(**{**GOOD, **given})
    assert isinstance(given, str) or "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize("text", [None, 3])
def test_what_is_no_text_is_refused(text):
    with pytest.raises(ValueError, match="^text must be the JSON of a region graph, but is not JSON: "):
        RegionGraph.from_json(text)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Weights shared by regions that are translations of each other."""

from __future__ import annotations

import functools

import pytest
import torch

from pyro_spvae.circuits import Circuit, RegionGraph, poon_domingos, quad_tree, random_binary_tree
from pyro_spvae.circuits.evaluation import upward
from pyro_spvae.circuits.tying import shape_classes

from .options import ORDERS, content, relative

GRAPHS = {
    "grid": poon_domingos((4, 4), 1),
    "ragged grid": poon_domingos((5, 7), 2),
    "two deltas": poon_domingos((4, 4), [2, 1]),
    "three axes": poon_domingos((2, 3, 2), 1),
    "quad tree": quad_tree((4, 6)),
    "random trees": random_binary_tree(8, 2, 6, seed=1),
    "random trees of an image": random_binary_tree((3, 3), 3, 5, seed=2),
    "orders": ORDERS,
}


@pytest.mark.parametrize("name", GRAPHS)
class TestClasses:
    @pytest.fixture
    def graph(self, name):
        return GRAPHS[name]

    def test_are_the_regions_that_are_translations_with_all_below_them(self, graph):
        classes = shape_classes(graph)
        contents = [content(graph, region) for region in range(graph.num_regions)]
        pairs = set(zip(classes, contents, strict=True))
        assert len(pairs) == len(set(classes)) == len(set(contents))

    @pytest.mark.parametrize(("units", "leaves"), [(3, 2), (2, 3)])
    def test_a_shared_weight_is_that_of_the_translated_product(self, graph, units, leaves):
        circuit = Circuit(graph, units, leaves, tie="shape")
        moved = functools.cache(functools.partial(relative, graph))
        nodes = [(cell, i) for cell in range(graph.num_leaf_regions) for i in range(leaves)]
        shared = 0
        for layer in circuit.layers:
            left, right = (rows.view(layer.num_regions, -1).tolist() for rows in (layer.left, layer.right))
            products = {}
            for place, region in enumerate(layer.regions):
                pairs = zip(left[place], right[place], strict=True)
                own = [[(moved(nodes[row][0], region), nodes[row][1]) for row in pair] for pair in pairs]
                number = place if layer.classes is None else int(layer.classes[place])
                assert products.setdefault(number, own) == own
                nodes += [(region, unit) for unit in range(layer.num_sums)]
            shared += layer.num_regions - len(products)
            assert len(products) == len(layer.logits)
        assert shared == graph.num_regions - graph.num_leaf_regions - len(
            {content(graph, region) for region in range(graph.num_leaf_regions, graph.num_regions)}
        )

    @pytest.mark.parametrize("weights", ["full", "cp"])
    @pytest.mark.parametrize("units", [2, 6])
    def test_translated_leaf_values_give_equal_sums(self, graph, units, weights):
        """Every region computes the same function of its leaves as those alike: here with leaves given by shape."""
        circuit = Circuit(graph, units, tie="shape", weights=weights)
        classes = shape_classes(graph)
        leaf = torch.randn(len(set(classes)), units)[classes[: graph.num_leaf_regions]].reshape(1, -1)
        rows, _ = upward(leaf, circuit.layers, [layer.log_factors() for layer in circuit.layers])
        inner = [region for group in circuit.groups() for region in group.regions]
        regions = [*range(graph.num_leaf_regions), *inner]
        first = {region: place * units for place, region in enumerate(regions)}  # the root, of one sum, is last
        values = {region: rows[start : start + units, 0] for region, start in first.items()}
        representative = {number: region for region, number in enumerate(classes)}
        for region, number in enumerate(classes):
            torch.testing.assert_close(values[region], values[representative[number]], rtol=1e-13, atol=1e-13)
        # and others another one
        found = torch.stack([values[region][0] for region in representative.values() if not graph.is_leaf(region)])
        assert torch.pdist(found.unsqueeze(1)).min() > 1e-6


@pytest.mark.parametrize("weights", ["full", "cp"])
def test_rectangles_of_a_grid(weights):
    """By hand: 15 shapes of more than one cell; h x w has h + w - 2 partitions, two sums of four products each."""
    circuit = Circuit(poon_domingos((4, 4), 1), units=2, tie="shape", weights=weights)
    shapes = [(h, w) for h in range(1, 5) for w in range(1, 5) if (h, w) != (1, 1)]
    if weights == "full":
        assert len(shapes) == 15 and sum(layer.num_classes for layer in circuit.layers) == 15
        number = sum((h + w - 2) * 4 * (1 if (h, w) == (4, 4) else 2) for h, w in shapes)
    else:  # two weights for the units of each part, and one for each of several partitions; then those of the mixture
        partitions = [h + w - 2 for h, w in shapes]
        number = sum(2 * (4 * count + (count if count > 1 else 0)) for count in partitions) + 2
    assert sum(parameter.numel() for parameter in circuit.parameters()) == circuit.num_weights == number
    assert number == {"full": 360, "cp": 478}[weights]


@pytest.mark.parametrize(
    ("shape", "leaf_scopes", "partitions"),
    [
        # 0 1 2 is cut after 0, and 3 4 5 before 5
        (6, [[0], [1, 2], [3, 4], [5]], [(4, 0, 1), (5, 2, 3), (6, 4, 5)]),
        # cut alike, but only the first has its part of two taken apart
        (6, [[0], [1], [2], [3], [4, 5]], [(5, 1, 2), (6, 0, 5), (7, 3, 4), (8, 6, 7)]),
        # 0 1 2 has one of the partitions of 3 4 5
        (6, [[0], [1, 2], [3], [4, 5], [3, 4], [5]], [(6, 0, 1), (7, 2, 3), (7, 4, 5), (8, 6, 7)]),
        # of two partitions each only the first are alike: 0 | 123, 01 | 23 and 4 | 567, 456 | 7
        (
            8,
            [[0], [1, 2, 3], [0, 1], [2, 3], [4], [5, 6, 7], [4, 5, 6], [7]],
            [(8, 0, 1), (8, 2, 3), (9, 4, 5), (9, 6, 7), (10, 8, 9)],
        ),
        # neighbours in the numbering, the second pair across two rows
        ((2, 3), [[0], [1], [2], [3], [4], [5]], [(6, 0, 1), (7, 2, 3), (8, 4, 5), (9, 6, 7), (10, 9, 8)]),
    ],
)
def test_what_differs_is_not_shared(shape, leaf_scopes, partitions):
    graph = RegionGraph(shape, leaf_scopes, partitions)
    circuit = Circuit(graph, 2, tie="shape")
    level = [region for region in graph.levels[0] if len(graph.scope(region)) > 1]
    alike = shape_classes(graph)
    if shape != (2, 3):
        assert circuit.num_weights == graph.counts(2)["weights"]
        assert all(layer.classes is None for layer in circuit.layers)
    else:  # 0 1 and 4 5 are alike, 2 3 is not
        one, other, third = (next(r for r in level if graph.scope(r) == scope) for scope in ((0, 1), (4, 5), (2, 3)))
        assert alike[one] == alike[other] != alike[third]
        assert circuit.num_weights == graph.counts(2)["weights"] - 2 * 4

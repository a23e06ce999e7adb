# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Hidden Chow-Liu trees: the tree is the best of all, regions are its subtrees, blocks are as few as can be."""

from __future__ import annotations

import itertools
import math
import random
import warnings

import numpy as np
import pytest
import torch
from scipy.sparse.csgraph import minimum_spanning_tree

from pyro_spvae import chow_liu, whole
from pyro_spvae.circuits._trees import centres, linked, pieces, rooted, spanning_tree
from pyro_spvae.circuits.chow_liu import _joined, _Region, _split
from tests.circuits.planted import field, normals, planted
from tests.circuits.test_region_graph import RegionGraphTests


def random_tree(number, seed):
    """The parent of each node but the first."""
    generator = random.Random(seed)
    return [generator.randrange(node) for node in range(1, number)]


def bits_of_tree(parents, rows=3000, seed=0, flip=0.1):
    """Binary columns, each like its parent but for a tenth of the rows."""
    generator = torch.Generator().manual_seed(seed)
    columns = [torch.rand(rows, generator=generator) < 0.5]
    for parent in parents:
        columns.append(columns[parent] ^ (torch.rand(rows, generator=generator) < flip))
    return torch.stack(columns, 1)


def edges_of(parents):
    return {(parent, node) for node, parent in enumerate(parents, 1)}


def subtrees(tree, root):
    parents = rooted(tree, root)
    below = {node: {node} for node in parents}
    for node in reversed(parents):
        below[parents[node]] |= below[node]
    return {tuple(sorted(scope)) for scope in below.values()}


def symmetric(number, seed):
    weights = torch.randn(number, number, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return weights + weights.T


def labelled_trees(number):
    """All trees over so many nodes, from Pruefer's sequences."""
    for sequence in itertools.product(range(number), repeat=number - 2):
        degrees = [1 + sequence.count(node) for node in range(number)]
        edges = []
        for node in sequence:
            leaf = degrees.index(1)
            edges.append((leaf, node))
            degrees[leaf] -= 1
            degrees[node] -= 1
        yield [*edges, tuple(node for node in range(number) if degrees[node] == 1)]


class TestChowLiuTrees(RegionGraphTests):
    graphs = [
        chow_liu(bits_of_tree(random_tree(12, seed=0))),
        chow_liu(bits_of_tree(random_tree(30, seed=1)), block=4),
        chow_liu(bits_of_tree(random_tree(30, seed=2)), arity=2),
        chow_liu(planted("normal", 0)[0]),
        chow_liu(field(200, seed=0, side=4), block=3),
        chow_liu(torch.arange(6).reshape(2, 3)),
    ]


class TestTree:
    @pytest.mark.parametrize("seed", range(5))
    def test_has_the_most_of_all_trees(self, seed):
        weights = symmetric(5, seed)
        sums = [sum(weights[edge].item() for edge in edges) for edges in labelled_trees(5)]
        assert len(sums) == 125
        found = spanning_tree(weights, range(5))
        assert sum(weights[edge].item() for edge in found) == pytest.approx(max(sums))

    @pytest.mark.parametrize("seed", range(3))
    def test_is_that_of_scipy(self, seed):
        weights = symmetric(40, seed)
        lengths = (20 - weights).fill_diagonal_(0)  # positive, as scipy takes 0 for no edge
        expected = {tuple(sorted(edge)) for edge in zip(*minimum_spanning_tree(lengths.numpy()).nonzero(), strict=True)}
        assert {tuple(sorted(edge)) for edge in spanning_tree(weights, range(40))} == expected

    def test_of_some_nodes_has_no_others(self):
        weights = symmetric(9, 0)
        nodes = [1, 4, 5, 8]
        found = spanning_tree(weights, nodes)
        alone = spanning_tree(weights[nodes][:, nodes], range(4))
        assert [(nodes[one], nodes[other]) for one, other in alone] == found

    @pytest.mark.parametrize("number", [2, 3, 12, 25])
    def test_that_the_rows_were_drawn_from_is_found(self, number):
        """Rooted somewhere, each subtree is a region and each variable a leaf region."""
        parents = random_tree(number, seed=number)
        graph = chow_liu(bits_of_tree(parents))
        assert graph.leaf_scopes == tuple((node,) for node in range(number))
        tree = linked(number, edges_of(parents))
        regions = set(graph.regions)
        roots = [root for root in range(number) if subtrees(tree, root) <= regions]
        assert roots, "no root has its subtrees among the regions"

    def test_of_real_columns_and_mixed_kinds_is_found(self):
        """A path of a normal column, its sign of some kind, and so on; cut in the middle."""
        z = normals(4000, 5, seed=0).cumsum(1)
        x = torch.stack([z[:, 0].exp(), z[:, 1] > 0, z[:, 2], (z[:, 3] > 0) * 7.0, z[:, 4].round()], 1)
        assert {(0, 1), (3, 4)} <= set(chow_liu(x, arity=2).regions)

    @pytest.mark.parametrize("seed", range(4))
    def test_columns_in_another_order_give_the_graph_in_that_order(self, seed):
        parents = random_tree(15, seed)
        x = bits_of_tree(parents, seed=seed)
        order = torch.randperm(15, generator=torch.Generator().manual_seed(seed))
        graph, moved = chow_liu(x), chow_liu(x[:, order])
        back = {tuple(sorted(order[list(scope)].tolist())) for scope in moved.regions}
        assert back == set(graph.regions)

    def test_columns_of_many_categories_attract_nobody(self):
        """Names that are as many as half of the rows seem to tell everything of every column."""
        x = bits_of_tree([0, 1, 2, 3], rows=60)
        names = torch.arange(60)[torch.randperm(60, generator=torch.Generator().manual_seed(0))] % 30
        graph = chow_liu(torch.cat([x, names.unsqueeze(1)], 1), categorical=[False] * 5 + [True])
        assert {(0, 1), (3, 4)} <= {tuple(v for v in scope if v != 5) for scope in graph.regions}

    def test_which_columns_hold_names_is_said(self):
        """Names of another order tell all of each other; taken for numbers, less than a noisy copy does."""
        place = torch.arange(2000) % 20
        other = torch.randperm(20, generator=torch.Generator().manual_seed(1))[place]
        x = torch.stack([place + 0.5 * normals(2000, seed=0), place, other], 1)
        assert chow_liu(x, 2, categorical=[False, True, True]).leaf_scopes == ((0,), (1, 2))
        assert chow_liu(x, 2).leaf_scopes == ((0, 1), (2,))

    def test_images_have_the_shape_of_their_pixels(self):
        x = field(500, seed=0, side=4)
        image = chow_liu(x)
        assert image.shape == (4, 4)
        assert chow_liu(x.unsqueeze(1)) == image
        colour = torch.stack([normals(500, 16, seed=1).reshape(500, 4, 4), x], 1)
        assert chow_liu(colour).regions == image.regions, "noise in another channel takes nothing away"
        table = chow_liu(x.reshape(500, 16))
        assert table.shape == (16,) and table.regions == image.regions
        assert chow_liu(x.reshape(500, 2, 8), shape=(2, 8)).regions == image.regions
        pairs = [scope for scope in image.regions if len(scope) == 2]
        assert pairs
        for one, other in pairs:  # neighbours, or of one neighbour
            assert abs(one // 4 - other // 4) + abs(one % 4 - other % 4) <= 2

    def test_pairs_of_which_both_are_seen_are_used(self):
        x = bits_of_tree([0, 1, 2, 3]).double()
        full = chow_liu(x)
        x[torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.3] = math.nan
        assert chow_liu(x) == full


class TestLevels:
    @pytest.mark.parametrize("seed", range(20))
    def test_roots_are_centres_and_centroids(self, seed):
        generator = random.Random(seed)
        number = generator.randrange(1, 14)
        tree = linked(number, edges_of(random_tree(number, seed)))
        sizes = [generator.randrange(1, 4) for _ in range(number)]
        strengths = [generator.random() for _ in range(number)]

        def depth(root):
            parents, far = rooted(tree, root), {}
            for node, parent in parents.items():
                far[node] = 0 if node == root else far[parent] + 1
            return max(far.values())

        def largest_branch(root):
            scopes = (scope for scope in subtrees(tree, root) if root not in scope)
            return max((sum(sizes[node] for node in scope) for scope in scopes), default=0)

        def least(cost):
            best = min(map(cost, range(number)))
            return [node for node in range(number) if cost(node) == best]

        found = centres(tree, sizes, strengths)
        middle, balanced = least(depth), least(largest_branch)
        assert set(found) == set(middle) | set(balanced) and len(found) == len(set(found))
        assert found[: len(middle)] == sorted(middle, key=lambda node: -strengths[node])
        assert found[len(middle) :] == sorted(set(balanced) - set(middle), key=lambda node: -strengths[node])

    def test_are_those_of_the_best_root(self):
        several = False
        for seed in range(12):
            parents = random_tree(14, seed)
            weights = torch.zeros(14, 14)
            tree = linked(14, edges_of(parents))
            levels = {
                _split([(v,) for v in range(14)], tree, root, 2, weights)[0]
                for root in centres(tree, [1] * 14, [0] * 14)
            }
            several |= len(levels) > 1
            assert len(chow_liu(bits_of_tree(parents, seed=seed), arity=2).levels) == min(levels)
        assert several

    @pytest.mark.parametrize("number", [3, 4, 9, 17])
    def test_of_a_star_are_those_of_a_balanced_tree(self, number):
        graph = chow_liu(bits_of_tree([0] * (number - 1)), arity=2)
        assert len(graph.levels) == math.ceil(math.log2(number))

    @pytest.mark.parametrize(("number", "levels"), [(3, 2), (4, 2), (5, 3), (9, 5), (10, 5)])
    def test_of_a_path_are_about_half_of_it(self, number, levels):
        assert len(chow_liu(bits_of_tree(range(number - 1)), arity=2).levels) == levels

    @pytest.mark.parametrize("arity", [2, 3, 4])
    def test_are_as_few_as_there_can_be(self, arity):
        def fewest(levels):
            if len(levels) == 1:
                return levels[0]
            best = 99
            for count in range(2, min(arity, len(levels)) + 1):
                for own in itertools.combinations(range(len(levels)), count):
                    rest = [level for place, level in enumerate(levels) if place not in own]
                    best = min(best, fewest([*rest, 1 + max(levels[place] for place in own)]))
            return best

        generator = random.Random(arity)
        for number in range(1, 7):
            levels = [generator.randrange(4) for _ in range(number)]
            parts = [_Region(level, 1, 0.0, (place,)) for place, level in enumerate(levels)]
            splits = {}
            region = _joined(parts, arity, splits)
            assert region.levels == fewest(levels) and region.scope == tuple(range(number))
            assert all(len(own) <= arity for (own,) in splits.values())
            fewer = [len(own) for (own,) in splits.values() if len(own) < arity]
            assert len(fewer) <= 1, "no more regions than needed"


class TestBlocks:
    @pytest.mark.parametrize("block", [1, 2, 3, 5, 8, 11])
    @pytest.mark.parametrize("seed", range(2))
    def test_hold_all_columns_once_and_no_more_than_they_may(self, block, seed):
        graph = chow_liu(bits_of_tree(random_tree(23, seed), rows=1000), block)
        assert sorted(itertools.chain(*graph.leaf_scopes)) == list(range(23))
        assert max(map(len, graph.leaf_scopes)) <= block

    @pytest.mark.parametrize("size", [1, 2, 3, 4])
    @pytest.mark.parametrize("seed", range(4))
    def test_are_connected_and_as_few_as_can_be(self, size, seed):
        number = 9
        edges = sorted(edges_of(random_tree(number, seed)))

        def components(kept):
            own = linked(number, kept)
            return {tuple(sorted(rooted(own, node))) for node in range(number)}

        possible = (components(kept) for count in range(number) for kept in itertools.combinations(edges, count))
        fewest = min(len(found) for found in possible if max(map(len, found)) <= size)
        found, tree = pieces(linked(number, edges), 0, symmetric(number, seed), size)
        scopes = {tuple(sorted(group)) for group in found}
        assert len(scopes) == len(found) == fewest and max(map(len, found)) <= size
        assert scopes == components([edge for edge in edges if any(set(edge) <= set(group) for group in found)])
        between = [edge for edge in edges if not any(set(edge) <= set(group) for group in found)]
        home = {node: place for place, group in enumerate(found) for node in group}
        assert tree == linked(fewest, [(home[one], home[other]) for one, other in between])

    def test_what_hangs_from_one_column_is_put_together(self):
        graph = chow_liu(bits_of_tree([0] * 68, rows=500), block=8)
        assert graph.num_leaf_regions == 9, "69 columns in blocks of 8"

    def test_what_hangs_together_least_is_given_up(self):
        """Of a column with four children, three of which fit."""
        generator = torch.Generator().manual_seed(0)
        root = torch.rand(3000, generator=generator) < 0.5
        flips = (0.1, 0.3, 0.05, 0.2)
        x = torch.stack([root, *(root ^ (torch.rand(3000, generator=generator) < flip) for flip in flips)], 1)
        assert chow_liu(x, block=4).leaf_scopes == ((0, 1, 3, 4), (2,))

    def test_of_all_columns_is_the_whole(self):
        x = bits_of_tree(random_tree(6, 0))
        assert chow_liu(x, block=6) == chow_liu(x, block=100) == whole(6)
        assert chow_liu(normals(50, 1, seed=0)) == whole(1)


class TestConstantColumns:
    def test_are_children_of_the_root_and_named(self):
        x = bits_of_tree([0, 1, 2, 3]).double()
        with_constant = torch.cat([torch.full((3000, 1), 2.0), x, torch.ones(3000, 1)], 1)
        with_constant[::2, 6] = math.nan
        names = ["age", *"abcde", "sex"]
        with pytest.warns(
            UserWarning, match=r"^x is constant in age, sex: what takes one value depends on nothing.*\.$"
        ):
            graph = chow_liu(with_constant, names=names, arity=2)
        assert graph.leaf_scopes == tuple((place,) for place in range(7))
        assert {(1, 2), (4, 5)} <= set(graph.regions) and len(graph.levels) == 3
        for scope in graph.regions:  # nothing below the root has a constant column
            assert not {0, 6} & set(scope) or all(
                part <= set(scope) or not part & set(scope) for part in ({1, 2}, {4, 5})
            )

    def test_of_images_are_not_told(self):
        x = field(200, seed=0, side=4)
        x[:, 0] = 0.0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert chow_liu(x).num_leaf_regions == 16

    def test_may_be_all(self):
        with pytest.warns(UserWarning, match="x is constant in variable 0, .*, variable 4 and 2 more: "):
            graph = chow_liu(torch.zeros(5, 7), arity=2)
        assert graph.num_leaf_regions == 7 and len(graph.levels) == 3


class TestArguments:
    def test_the_same_rows_give_the_same_graph_whatever_their_type_and_order(self):
        x = (4 * field(300, 0, side=4)).round().clamp(-100, 100)
        kept = x.clone()
        types = (torch.float64, torch.float32, torch.int8, torch.int64)
        graphs = {chow_liu(given.to(dtype)) for dtype in types for given in (x, x.flip(0))}
        assert len(graphs) == 1 and torch.equal(x, kept)

    @pytest.mark.parametrize(
        ("x", "options", "message"),
        [
            ([[1.0, 2.0]], {}, "x must be a tensor, but is a list"),
            (torch.zeros(5), {}, r"x must be \[N, D\], .* but has shape \(5,\)"),
            (torch.zeros(5, 4), {"shape": (2, 2)}, r"x must be \[N, \*shape\] .* but has shape \(5, 4\)"),
            (torch.zeros(1, 4), {}, "x must have at least 2 rows, but has 1"),
            (torch.zeros(5, 0), {}, "x must have at least one column"),
            (torch.zeros(5, 4, dtype=torch.complex64), {}, "x must be real"),
            (torch.zeros(5, 4), {"block": 0}, "block must be an integer of at least 1, but is 0"),
            (torch.zeros(5, 4), {"block": 1.5}, "block must be an integer of at least 1, but is 1.5"),
            (torch.zeros(5, 4), {"arity": 1}, "arity must be an integer of at least 2, but is 1"),
            (torch.zeros(5, 4), {"bins": 1}, "bins must be an integer of at least 2, but is 1"),
            (torch.zeros(5, 4), {"categorical": [True]}, "categorical must have an entry for each of 4 variables, but"),
            (torch.zeros(5, 2), {"categorical": [2, 2]}, "categorical must hold True or False .*, but holds 2"),
            (torch.zeros(5, 2), {"categorical": ["a", "b"]}, "categorical must hold True or False .*, but holds 'a'"),
            (
                torch.zeros(5, 2),
                {"categorical": [None, True]},
                "categorical must hold True or False .*, but holds None",
            ),
            (torch.zeros(5, 4), {"names": ["a"]}, "names must have an entry for each of 4 variables, but has 1"),
            (
                torch.tensor([[1.0, math.nan, 2.0], [0.0, 1.0, math.nan], [2.0, 1.0, 4.0], [2.0, 3.0, math.nan]]),
                {"names": ["age", "sex", "height"]},
                "x must have at least 2 rows in which both are seen of each two variables, but has 1 of sex and height",
            ),
            (torch.tensor([[math.nan, 0.0], [math.nan, 1.0]]), {}, "x must have .* but has 0 of variable 0 and variab"),
        ],
    )
    def test_bad_arguments_are_refused(self, x, options, message):
        with pytest.raises(TypeError if isinstance(x, list) else ValueError, match=f"^{message}") as caught:
            chow_liu(x, **options)
        assert "\n" not in str(caught.value) and str(caught.value).endswith(".")

    @pytest.mark.parametrize(("name", "given"), [("categorical", True), ("names", "abcd"), ("names", 4)])
    def test_what_is_no_collection_is_refused(self, name, given):
        with pytest.raises(TypeError, match=f"^{name} must have an entry for each of 4 variables, but is {given!r}.$"):
            chow_liu(torch.rand(9, 4), **{name: given})

    def test_names_may_be_numbers_and_truths_arrays(self):
        x = torch.rand(30, 3)
        x[:, 1] = 0.0
        with pytest.warns(UserWarning, match="^x is constant in 7: "):
            graph = chow_liu(x, names=[5, 7, 9], categorical=np.array([False, True, False]))
        with pytest.warns(UserWarning, match="^x is constant in variable 1: "):
            assert graph.regions == chow_liu(x, categorical=torch.tensor([False, True, False])).regions

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Learned region graphs: planted structure is found, and cut where the mathematics says."""

from __future__ import annotations

import random

import pytest
import torch
from scipy.cluster.hierarchy import linkage

from pyro_spvae import learn_regions, whole
from pyro_spvae.circuits._dependence import dependence
from pyro_spvae.circuits.learning import _close_groups, _direction, _normalised_cut, default_leaf_size
from tests.circuits.planted import KINDS, field, normals, planted
from tests.circuits.test_region_graph import RegionGraphTests


class TestLearnedRegions(RegionGraphTests):
    graphs = [
        learn_regions(planted("normal", 0)[0], leaf_size=2, repetitions=3),
        learn_regions(planted("binary", 1)[0], leaf_size=5),
        learn_regions(field(200, seed=0, side=4), leaf_size=3, repetitions=3),
        learn_regions(normals(50, 6, seed=0), leaf_size=2),
        learn_regions(normals(50, 1, seed=0)),
    ]


class TestPlantedBlocks:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("seed", range(2))
    def test_are_the_leaf_regions(self, kind, seed):
        x, blocks = planted(kind, seed)
        # a leaf region might hold more, but independent blocks are not put together
        for leaf_size in (5, 12):
            graph = learn_regions(x, leaf_size, repetitions=3)
            assert graph.leaf_scopes == tuple(sorted(blocks))
            assert len(graph.partitions) == 2, "all trees agree"

    @pytest.mark.parametrize("kind", KINDS)
    def test_are_not_mixed_in_smaller_leaf_regions(self, kind):
        x, blocks = planted(kind, seed=5)
        graph = learn_regions(x, leaf_size=2)
        for scope in graph.leaf_scopes:
            assert len(scope) <= 2 and any(set(scope) <= set(own) for own in blocks)
        assert set(blocks) <= set(graph.regions)

    @pytest.mark.parametrize("seed", range(3))
    def test_are_found_where_a_fifth_of_the_entries_is_missing(self, seed):
        x, blocks = planted("normal", seed)
        x[torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < 0.2] = torch.nan
        assert learn_regions(x, 5).leaf_scopes == tuple(sorted(blocks))

    @pytest.mark.parametrize("seed", range(2))
    def test_are_found_where_they_depend_on_each_other_a_little(self, seed):
        x, blocks = planted("normal", seed, sizes=(6, 5, 5), rows=3000)
        x = x + 0.5 * normals(3000, 1, seed=99)
        assert bool((dependence(x.unsqueeze(1)) + torch.eye(16) > 0).all())
        assert learn_regions(x, 6, repetitions=3).leaf_scopes == tuple(sorted(blocks))

    @pytest.mark.parametrize(
        ("sizes", "smaller"), [((6, 2, 2, 2), 6), ((3, 3, 2, 2, 2), 5), ((5, 2, 2), 4), ((4, 3), 3)]
    )
    def test_are_shared_out_by_their_variables(self, sizes, smaller):
        """Both sides of a cut have about as many variables, however many blocks that takes."""
        x, blocks = planted("normal", 0, sizes=sizes)
        graph = learn_regions(x, max(sizes), repetitions=1)
        assert graph.leaf_scopes == tuple(sorted(blocks))
        (root,) = graph.region_partitions[graph.root]
        _, *parts = root
        assert min(len(graph.scope(part)) for part in parts) == smaller

    def test_of_one_channel_are_found_and_across_channels(self):
        x, blocks = planted("normal", 0, sizes=(4, 4))
        colour = torch.stack([normals(800, 8, seed=1), x], 1).reshape(800, 2, 2, 4)
        graph = learn_regions(colour, 4)
        assert graph.shape == (2, 4) and graph.leaf_scopes == tuple(sorted(blocks))
        # position 0 and 3, and 1 and 2, depend on each other through different channels only
        a, b = normals(800, 2, 1, 2, seed=2).unbind(1)
        across = torch.stack([torch.cat([a, normals(800, 1, 2, seed=3)], 2), torch.cat([b, a.flip(2)], 2)], 1)
        assert learn_regions(across, 2).leaf_scopes == ((0, 3), (1, 2))

    def test_constant_and_empty_columns_depend_on_nothing(self):
        x, blocks = planted("normal", 0)
        x = torch.cat([x, torch.full((800, 2), 3.0), torch.full((800, 1), torch.nan)], 1)
        x[0, 13] = torch.nan
        assert learn_regions(x, 5).leaf_scopes == tuple(sorted([*blocks, (12, 13, 14)]))
        assert not dependence(x.unsqueeze(1))[12:].any()


class TestCloseVariables:
    """Those that are nearly the same are in one leaf region by default, wherever the tree is cut."""

    @pytest.mark.parametrize("common", [0.0, 0.5, 2.0])
    @pytest.mark.parametrize(("pairs", "others", "rows"), [(3, 4, 300), (6, 10, 500), (20, 20, 1000)])
    def test_stay_together(self, pairs, others, rows, common):
        for seed in range(2):
            base = normals(rows, pairs + others, seed=seed) + common * normals(rows, 1, seed=seed + 50)
            base /= (1 + common**2) ** 0.5
            x = torch.cat(
                [base, 0.95 * base[:, :pairs] + (1 - 0.95**2) ** 0.5 * normals(rows, pairs, seed=seed + 99)], 1
            )
            graph = learn_regions(x, repetitions=4)
            for pair in ({one, one + pairs + others} for one in range(pairs)):
                assert all(len(pair & set(scope)) != 1 for scope in graph.leaf_scopes)

    def test_of_binary_columns_stay_together(self):
        x = torch.rand(1000, 15, generator=torch.Generator().manual_seed(0)) < 0.5
        x[:, 1:] ^= x[:, :1] & (torch.rand(1000, 14, generator=torch.Generator().manual_seed(1)) < 0.6)
        twins = x ^ (torch.rand(1000, 15, generator=torch.Generator().manual_seed(2)) < 0.02)
        graph = learn_regions(torch.cat([x, twins], 1), 5, repetitions=4)
        for scope in graph.leaf_scopes:
            assert len({column % 15 for column in scope}) * 2 == len(scope)

    def test_are_groups_of_single_linkage_that_fit(self):
        """Against scipy's dendrogram: of its nodes at or above the bar the largest with no more than so many."""
        for seed in range(10):
            generator = torch.Generator().manual_seed(seed)
            own = 1 + torch.rand(12, generator=generator, dtype=torch.float64)
            shares = torch.rand(12, 12, generator=generator, dtype=torch.float64)
            shares = shares.triu(1) + shares.triu(1).T
            shares = 0.7 * shares**3 + 0.3 * shares  # many are below the bar
            weights = (shares * own.sqrt().outer(own.sqrt())).fill_diagonal_(0) + own.diag()
            for most in (1, 2, 3, 5):
                merges = linkage((1 - shares)[tuple(torch.triu_indices(12, 12, 1))].numpy(), "single")
                nodes = [{place} for place in range(12)]
                for one, other, distance, _ in merges:
                    nodes.append(nodes[int(one)] | nodes[int(other)] if distance <= 0.5 else set(range(12)))
                fit = sorted((node for node in nodes if len(node) <= most), key=len)
                expected = [min(next(node for node in reversed(fit) if place in node)) for place in range(12)]
                assert _close_groups(weights, most).tolist() == expected

    def test_are_not_parted_by_a_threshold(self):
        weights = torch.ones(12, 12).fill_diagonal_(0)
        groups = torch.tensor([0, *[1] * 11])
        assert _normalised_cut(weights, torch.arange(12.0), groups).sum() in (1, 11), "though a side is then small"
        weights = torch.ones(6, 6).fill_diagonal_(0)
        # groups are ordered by the mean of their members
        groups = torch.tensor([0, 1, 2, 0, 1, 2])
        part = _normalised_cut(weights, torch.tensor([0.0, 4.0, 3.0, 6.0, 4.0, 1.0]), groups)
        assert part.nonzero().flatten().tolist() in ([2, 5], [0, 2, 3, 5])


class TestImages:
    def test_leaf_regions_of_smooth_fields_are_compact(self):
        for seed in range(3):
            graph = learn_regions(field(1000, seed), leaf_size=8, repetitions=3)
            assert graph.shape == (8, 8) and max(map(len, graph.leaf_scopes)) <= 8
            places = torch.cartesian_prod(torch.arange(8), torch.arange(8)).double()
            far = torch.cdist(places, places)
            own = [far[list(scope)][:, list(scope)].sum() for scope in graph.leaf_scopes]
            pairs = sum(len(scope) * (len(scope) - 1) for scope in graph.leaf_scopes)
            at_random = far.sum() / (64 * 63)  # mean distance in a leaf region of a random partition
            assert sum(own) / pairs < 0.5 * at_random
            # no part is small, and so no tree is deep
            for region, left, right in graph.partitions:
                sizes = [len(graph.scope(part)) for part in (region, left, right)]
                assert min(sizes[1:]) >= sizes[0] // 5

    def test_trees_differ_where_many_cuts_are_good(self):
        # of so many rows any half shows which cut across the longer side is best; others are nearly as good
        graph = learn_regions(field(5000, 0, side=6)[:, :5], leaf_size=10, repetitions=6)
        assert len(graph.region_partitions[graph.root]) > 3

    def test_further_trees_are_learned_from_half_of_the_rows(self):
        first = torch.arange(400) % 2 == 0
        second = first ^ (torch.arange(400) % 16 < 6)  # a correlation of 0.25 is certain in 400 rows, but not in 200
        x = torch.stack([first, first, second, second], 1)
        assert learn_regions(x, 4, repetitions=1) == whole(4)
        assert learn_regions(x, 4, repetitions=2).leaf_scopes == ((0, 1), (2, 3))

    def test_first_tree_does_not_depend_on_the_seed_and_further_ones_do(self):
        x = field(300, 0, side=4)
        assert learn_regions(x, 4, repetitions=1, seed=1) == learn_regions(x, 4, repetitions=1, seed=2)
        assert learn_regions(x, 4, seed=1) != learn_regions(x, 4, seed=2)

    def test_more_repetitions_keep_the_trees_of_fewer(self):
        x = field(300, 0, side=4)
        few, many = (learn_regions(x, 4, repetitions=count) for count in (2, 5))
        assert set(few.regions) < set(many.regions)

    def test_shape_says_what_the_axes_are(self):
        x = field(300, 0, side=4)
        image = learn_regions(x, 4)
        assert learn_regions(x.reshape(300, 1, 4, 4), 4) == image
        table = learn_regions(x.reshape(300, 16), 4)
        assert table.shape == (16,) and table.leaf_scopes == image.leaf_scopes
        volume = learn_regions(x.reshape(300, 1, 2, 2, 4), 4, shape=(2, 2, 4))
        assert volume.shape == (2, 2, 4) and volume.leaf_scopes == image.leaf_scopes
        assert learn_regions(x, 2, shape=4).shape == (4,), "rows of one image are channels"


class TestCuts:
    def test_direction_is_the_second_generalised_eigenvector(self):
        weights = torch.rand(7, 7, generator=torch.Generator().manual_seed(0))
        weights = (weights + weights.T).fill_diagonal_(0)
        degrees = weights.sum(0)
        v = _direction(weights, None)
        laplacian = torch.diag(degrees) - weights
        quotients = laplacian @ v / (degrees * v)
        values = torch.linalg.eigvals(laplacian / degrees.unsqueeze(1)).real.sort().values
        torch.testing.assert_close(quotients, values[1].expand(7))

    def test_further_directions_are_gaussian_with_the_inverse_laplacian_as_covariance(self):
        """In the span of the second to fourth eigenvector, where they have the variances 1 / lambda."""
        weights = torch.rand(6, 6, generator=torch.Generator().manual_seed(0))
        weights = (weights + weights.T).fill_diagonal_(0)
        scale = weights.sum(0).sqrt()
        values, vectors = torch.linalg.eigh(torch.eye(6) - weights / torch.outer(scale, scale))
        generator = random.Random(0)
        drawn = torch.stack([_direction(weights, generator) for _ in range(3000)])
        parts = (drawn * scale) @ vectors  # along each eigenvector
        assert parts[:, [0, 4, 5]].abs().max() < 1e-9
        covariance = parts[:, 1:4].T @ parts[:, 1:4] / 3000
        torch.testing.assert_close(covariance, torch.diag(1 / values[1:4]), atol=0.1, rtol=0.1)

    def test_threshold_has_the_smallest_normalised_cut(self):
        for seed in range(20):
            generator = torch.Generator().manual_seed(seed)
            weights = torch.rand(11, 11, generator=generator) ** 4
            weights = (weights + weights.T).fill_diagonal_(0)
            direction = torch.randn(11, generator=generator)
            cuts = {}
            for size in range(2, 10):  # a fifth of 11 is 2
                part = torch.zeros(11, dtype=torch.bool)
                part[direction.argsort()[:size]] = True
                crossing = weights[part][:, ~part].sum()
                cuts[size] = (crossing / weights[part].sum() + crossing / weights[~part].sum()).item(), part
            _, best = min(cuts.values(), key=lambda pair: pair[0])
            assert torch.equal(_normalised_cut(weights, direction, torch.arange(11)), best)

    def test_equal_cuts_are_balanced(self):
        everything = torch.ones(9, 9).fill_diagonal_(0)  # all cuts of a complete graph cost the same
        assert int(_normalised_cut(everything, torch.arange(9.0), torch.arange(9)).sum()) in (4, 5)

    def test_variables_without_dependence_are_halved(self):
        graph = learn_regions(torch.arange(8).repeat(2, 1), leaf_size=2, repetitions=3)
        assert graph.leaf_scopes == ((0, 1), (2, 3), (4, 5), (6, 7)) and len(graph.partitions) == 3


class TestArguments:
    def test_same_arguments_make_the_same_graph_and_no_global_generator_moves(self):
        x = field(300, 0, side=4)
        states = torch.get_rng_state(), random.getstate()
        graph = learn_regions(x, 3, repetitions=3, seed=4)
        assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
        torch.manual_seed(1)
        kept = x.clone()
        threads = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            assert learn_regions(x, 3, repetitions=3, seed=4) == graph
        finally:
            torch.set_num_threads(threads)
        assert torch.equal(x, kept)

    def test_type_of_the_data_does_not_matter(self):
        x = (4 * field(300, 0, side=4)).round().clamp(-100, 100)
        graphs = {learn_regions(x.to(dtype), 3) for dtype in (torch.float64, torch.float32, torch.int8, torch.int64)}
        assert len(graphs) == 1
        x = planted("binary", 0)[0]
        assert learn_regions(x, 5) == learn_regions(x.to(torch.uint8), 5)

    def test_rows_beyond_the_most_are_drawn_at_random(self):
        x, blocks = planted("normal", 0, rows=1000)
        x[:500] = 0.0
        assert learn_regions(x[:500], 5).leaf_scopes != tuple(sorted(blocks))
        assert learn_regions(x, 5, max_rows=500, repetitions=1).leaf_scopes == tuple(sorted(blocks))
        graphs = {learn_regions(field(300, 0, side=4), 3, max_rows=100, repetitions=1, seed=seed) for seed in range(4)}
        assert len(graphs) > 1

    def test_leaf_size_is_a_sixteenth_and_at_least_four(self):
        assert [default_leaf_size(count) for count in (1, 3, 20, 64, 96, 784)] == [1, 3, 4, 4, 6, 49]
        x = field(300, 0, side=10)
        assert max(map(len, learn_regions(x).leaf_scopes)) in (5, 6)

    def test_one_variable_is_the_whole(self):
        assert learn_regions(normals(5, 1, seed=0)) == whole(1)
        assert learn_regions(normals(5, 3, 1, 1, seed=0)) == whole((1, 1))

    @pytest.mark.parametrize(
        ("x", "options", "message"),
        [
            ([[1.0, 2.0]], {}, "x must be a tensor, but is a list"),
            (torch.zeros(5), {}, r"x must be \[N, D\], .* but has shape \(5,\)"),
            (torch.zeros(5, 1, 2, 2, 2), {}, r"x must be \[N, D\], .* but has shape \(5, 1, 2, 2, 2\)"),
            (torch.zeros(5, 4), {"shape": (2, 2)}, r"x must be \[N, \*shape\] .* but has shape \(5, 4\)"),
            (torch.zeros(5, 4), {"shape": 0}, "shape must be a positive integer"),
            (torch.zeros(1, 4), {}, "x must have at least 2 rows, but has 1"),
            (torch.zeros(5, 0), {}, "x must have at least one column"),
            (torch.zeros(5, 0, 2, 2), {}, "x must have at least one column"),
            (torch.zeros(5, 4, dtype=torch.complex64), {}, "x must be real"),
            (torch.zeros(5, 4), {"leaf_size": 0}, "leaf_size must be an integer of at least 1, but is 0"),
            (torch.zeros(5, 4), {"leaf_size": 5}, "leaf_size must be at most the number of variables, 4, but is 5"),
            (torch.zeros(5, 4), {"leaf_size": 1.5}, "leaf_size must be an integer"),
            (torch.zeros(5, 4), {"repetitions": 0}, "repetitions must be an integer of at least 1, but is 0"),
            (torch.zeros(5, 4), {"max_rows": 1}, "max_rows must be an integer of at least 2, but is 1"),
            (torch.zeros(5, 4), {"seed": "x"}, "seed must be an integer"),
        ],
    )
    def test_bad_arguments_are_refused(self, x, options, message):
        with pytest.raises(TypeError if isinstance(x, list) else ValueError, match=f"^{message}") as caught:
            learn_regions(x, **options)
        assert "\n" not in str(caught.value) and str(caught.value).endswith(".")

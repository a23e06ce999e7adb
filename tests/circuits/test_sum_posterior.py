# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The posterior over products of sums, against enumeration of all induced trees and against derivatives."""

from __future__ import annotations

import copy

import pytest
import torch

from pyro_spvae.circuits import Circuit, RegionGraph, poon_domingos, random_binary_tree, whole

from .options import options_of
from .oracle import list_trees, recursive_log_prob

UNEVEN = RegionGraph((4,), [[0], [1], [2, 3], [1, 2, 3]], [(9, 4, 2), (9, 0, 3), (4, 0, 1)])


class SumPosteriorTests:
    """What holds for every circuit; subclasses give the structure and the numbers of units."""

    regions: RegionGraph
    units = 2
    leaves: int | None = None

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        options = options_of(self.regions)
        metafunc.parametrize("options", options.values(), ids=options)

    @pytest.fixture
    def circuit(self, options):
        return Circuit(self.regions, self.units, self.leaves, **options)

    @pytest.fixture
    def leaf(self, circuit):
        return 3 * torch.randn(4, circuit.num_leaves)

    def test_shapes_are_those_of_the_weights(self, circuit, leaf):
        weights = circuit.log_weights()
        for shape in ((), (4,), (2, 1, 2), (0,)):
            posterior = circuit.sum_posterior(torch.randn(*shape, circuit.num_leaves))
            assert [tuple(one.shape) for one in posterior] == [(*shape, *weight.shape) for weight in weights]
            assert not any(one.requires_grad for one in posterior)

    def test_is_the_derivative_in_the_log_weights(self, circuit, leaf, monkeypatch):
        free = [weight.detach().requires_grad_() for weight in circuit.log_weights()]
        posterior = circuit.sum_posterior(leaf)
        monkeypatch.setattr(circuit, "log_weights", lambda: free)  # not normalised any more
        for place, value in enumerate(recursive_log_prob(circuit, leaf)):
            if free:
                expected = torch.autograd.grad(value, free, retain_graph=True)
                for one, other in zip(posterior, expected, strict=True):
                    torch.testing.assert_close(one[place], other, rtol=1e-10, atol=1e-13)

    def test_root_is_always_reached(self, circuit, leaf):
        for posterior in circuit.sum_posterior(leaf)[-1:]:
            torch.testing.assert_close(posterior.sum((-1, -2, -3)), torch.ones(4), rtol=0, atol=1e-13)

    def test_leaves_are_reached_as_the_leaf_posterior_says(self, circuit, leaf):
        """Every product passes what it gets to both of its factors."""
        if not circuit.layers:
            return
        reached = torch.zeros(4, circuit.layers[-1].stop)
        for layer, posterior in zip(circuit.layers, circuit.sum_posterior(leaf), strict=True):
            products = posterior.sum(-2).flatten(1)  # [B, R * C]
            for rows in (layer.left, layer.right):
                if rows is not None:
                    reached.index_add_(1, rows, products)
        torch.testing.assert_close(reached[:, : circuit.num_leaves], circuit.posterior(leaf), rtol=1e-10, atol=1e-13)

    def test_weights_alone_without_evidence(self, circuit):
        """With leaf values of 0 the root's products have their weights as probabilities."""
        posterior = circuit.sum_posterior(torch.zeros(circuit.num_leaves))
        for one, weight in zip(posterior[-1:], circuit.log_weights()[-1:], strict=True):
            torch.testing.assert_close(one, weight.exp().detach(), rtol=1e-10, atol=1e-13)

    def test_missing_leaves_count_as_one(self, circuit, leaf):
        mask = torch.rand(leaf.shape) < 0.5
        for one, other in zip(circuit.sum_posterior(leaf, mask), circuit.sum_posterior(leaf * mask), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)

    def test_extreme_values_stay_finite(self, circuit, leaf):
        leaf[0] = -torch.inf
        leaf[1] = 1e4 * leaf[1]
        single = copy.deepcopy(circuit).float()
        for posterior in (circuit.sum_posterior(leaf), single.sum_posterior(leaf.float())):
            assert all(one.isfinite().all() for one in posterior)
            for one in posterior[-1:]:
                torch.testing.assert_close(one[1:].sum((-1, -2, -3)).double(), torch.ones(3), rtol=0, atol=1e-5)


class EnumerableSumPosteriorTests(SumPosteriorTests):
    """Few enough induced trees to list them."""

    def test_equals_enumeration(self, circuit, leaf):
        trees = list_trees(circuit)
        chance = torch.softmax(trees.log_weight + leaf @ trees.leaves.double().T, -1).detach()  # [B, tree]
        posterior = torch.cat([one.flatten(1) for one in (torch.zeros(4, 0), *circuit.sum_posterior(leaf))], 1)
        torch.testing.assert_close(posterior, chance @ trees.products.double(), rtol=1e-10, atol=1e-13)


class TestGrid(EnumerableSumPosteriorTests):
    regions = poon_domingos((2, 2), 1)


class TestGridSixUnits(SumPosteriorTests):
    regions = poon_domingos((3, 2), 1)
    units = 6


class TestMoreLeavesThanUnits(EnumerableSumPosteriorTests):
    regions = poon_domingos((2, 3), 1)
    units, leaves = 1, 2


class TestUnevenManyUnits(EnumerableSumPosteriorTests):
    """Leaf regions at several levels, and sums that are not exact."""

    regions = UNEVEN
    units, leaves = 5, 2


class TestUneven(EnumerableSumPosteriorTests):
    regions = UNEVEN
    units, leaves = 2, 3


class TestOverlappingTrees(EnumerableSumPosteriorTests):
    regions = random_binary_tree(5, 2, 3, seed=4)


class TestWholeMixture(EnumerableSumPosteriorTests):
    regions = whole((3, 3))
    units, leaves = 1, 7


class TestWholeLeaf(EnumerableSumPosteriorTests):
    regions = whole(3)
    units = 1

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Weights that are products, against a circuit with one free weight for each product."""

from __future__ import annotations

import copy

import pytest
import torch

from pyro_spvae.circuits import Circuit, RegionGraph, poon_domingos, random_binary_tree, whole
from pyro_spvae.circuits.evaluation import evaluate

from .oracle import recursive_log_prob

UNEVEN = RegionGraph((4,), [[0], [1], [2, 3], [1, 2, 3]], [(9, 4, 2), (9, 0, 3), (4, 0, 1)])
CASES = {
    "grid": (poon_domingos((3, 3), 1), 2, 2),
    "more leaves": (poon_domingos((3, 2), 1), 2, 3),
    "many units": (poon_domingos((3, 3), 1), 6, 6),
    "many leaves": (poon_domingos((3, 2), 1), 3, 7),
    "uneven": (UNEVEN, 2, 3),
    "uneven with many units": (UNEVEN, 5, 2),
    "random trees": (random_binary_tree((3, 3), 2, 4, seed=1), 6, 5),
}


@pytest.mark.parametrize("tie", ["none", "shape"])
@pytest.mark.parametrize("name", CASES)
class TestAgainstFullWeights:
    @pytest.fixture
    def cp(self, name, tie):
        graph, units, leaves = CASES[name]
        return Circuit(graph, units, leaves, tie=tie, weights="cp")

    @pytest.fixture
    def full(self, cp):
        full = Circuit(cp.regions, cp.units, cp.leaves)
        with torch.no_grad():
            for layer, log_weights in zip(full.layers, cp.log_weights(), strict=True):
                layer.logits.copy_(log_weights)
        return full

    @pytest.fixture
    def leaf(self, cp):
        return (3 * torch.randn(5, cp.num_leaves)).requires_grad_()

    def test_weights_are_the_products_of_the_factors(self, cp):
        """Each log-weight, looked up by its partition and units."""
        for layer, log_weights in zip(cp.layers, cp.log_weights(), strict=True):
            partition, *units = (factor.exp() for factor in layer.log_factors())
            torch.testing.assert_close(partition.sum(1), torch.ones(layer.num_regions, layer.num_sums))
            for factor in units:
                torch.testing.assert_close(factor.sum(-1), torch.ones(factor.shape[:-1]))
            rows = torch.stack([layer.left, layer.right], -1).view(layer.num_regions, -1, 2)  # [R, C, 2]
            product = first = 0
            for place, block in enumerate(layer.blocks):
                left_rows, right_rows = (
                    one.view(layer.num_regions, block.partitions, -1) for one in layer.block_rows(place)
                )
                left, right = units[2 * place : 2 * place + 2]
                for p in range(block.partitions):
                    for i in range(block.left):
                        for j in range(block.right):
                            weight = partition[:, first + p] * left[:, p, :, i] * right[:, p, :, j]
                            torch.testing.assert_close(log_weights[:, :, product].exp(), weight)
                            assert torch.equal(rows[:, product, 0], left_rows[:, p, i])
                            assert torch.equal(rows[:, product, 1], right_rows[:, p, j])
                            product += 1
                first += block.partitions
            assert product == layer.num_products

    def test_value_and_gradients(self, cp, full, leaf):
        factor = torch.randn(5)
        ours, theirs = cp(leaf), full(leaf)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        (ours_leaf,) = torch.autograd.grad(ours @ factor, leaf, retain_graph=True)
        (theirs_leaf,) = torch.autograd.grad(theirs @ factor, leaf)
        torch.testing.assert_close(ours_leaf, theirs_leaf, rtol=1e-10, atol=1e-13)
        # the chain rule by hand: what the full circuit has for each log-weight, passed on to the factors
        free = [weights.detach().requires_grad_() for weights in cp.log_weights()]
        outer = torch.autograd.grad(evaluate(leaf, full.layers, free) @ factor, free)
        expected = torch.autograd.grad(cp.log_weights(), list(cp.parameters()), outer)
        for one, other in zip(torch.autograd.grad(ours @ factor, list(cp.parameters())), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)

    def test_queries(self, cp, full, leaf):
        leaf = leaf.detach()
        impossible = leaf.clone()
        impossible[:2] = -torch.inf  # of no tree
        for values in (leaf, impossible):
            torch.testing.assert_close(cp.posterior(values), full.posterior(values), rtol=1e-10, atol=1e-13)
        for one, other in zip(cp.sum_posterior(leaf), full.sum_posterior(leaf), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-13)
        for one, other in zip(cp.mpe(leaf), full.mpe(leaf), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
        assert cp.num_trees() == full.num_trees()
        trees = []
        for circuit in (cp, full):
            torch.manual_seed(3)
            trees.append((circuit.sample((50,)), circuit.sample((50,), leaf)))
        assert all(torch.equal(*pair) for pair in zip(*trees, strict=True))


@pytest.mark.parametrize("units", [2, 6])
def test_dense_units_of_tiny_weight(units):
    """The densest unit of either part has weight e^-150 and every other lies 300 nats lower."""
    circuit = Circuit(poon_domingos(2, 1), units, weights="cp")
    with torch.no_grad():
        for logits in circuit.layers[0].unit_logits:
            logits.zero_()
            logits[..., 0] = -150.0
    leaf = torch.full((2, units), -300.0)
    leaf[:, 0] = 0.0
    leaf = leaf.flatten().requires_grad_()
    value, expected = circuit(leaf), recursive_log_prob(circuit, leaf)
    assert abs(float(expected.detach()) + 2 * (150 + torch.tensor(units - 1.0).log())) < 1e-6
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    inputs = [leaf, *circuit.parameters()]
    expected_grads = torch.autograd.grad(expected, inputs)
    for one, other in zip(torch.autograd.grad(value, inputs), expected_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    single, low = copy.deepcopy(circuit).float(), leaf.detach().float().requires_grad_()
    value = single(low)
    if units <= 4:
        torch.testing.assert_close(value.double(), expected.detach(), rtol=1e-6, atol=0)
    else:  # two weights at the floor of single precision
        assert -200 < value < -120
    for one, other in zip(torch.autograd.grad(value, [low, *single.parameters()]), expected_grads, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("units", [2, 6])
def test_partitions_far_apart(units):
    """The weight of a partition is never floored, and counts when all others are impossible."""
    circuit = Circuit(UNEVEN, units, weights="cp")
    assert UNEVEN.region_partitions[UNEVEN.root] == ((5, 0, 2), (5, 4, 3))
    with torch.no_grad():
        circuit.layers[-1].partition_logits[:, 0] = -1e4
    leaf = torch.randn(3, circuit.num_leaves)
    for impossible, low, high in ((3, -1.1e4, -0.9e4), (2, -100, 100)):
        values = leaf.unflatten(-1, (-1, units)).clone()
        values[:, impossible] = -torch.inf
        values = values.flatten(1).requires_grad_()
        value = circuit(values)
        assert ((low < value) & (value < high)).all()
        torch.testing.assert_close(value, recursive_log_prob(circuit, values), rtol=1e-12, atol=1e-12)
        gradient = torch.autograd.grad(value.sum(), [values, *circuit.parameters()])
        assert all(one.isfinite().all() for one in gradient)
        reached = gradient[0].unflatten(-1, (-1, units)).sum(-1)  # of each leaf region
        expected = [1.0, 0.0, 1.0, 0.0] if impossible == 3 else [1.0, 1.0, 0.0, 1.0]
        torch.testing.assert_close(reached, torch.tensor(expected).expand(3, 4), rtol=0, atol=1e-12)


def test_memory_of_a_pass_holds_no_pairs_of_units():
    """What is computed from 40 units grows with their number, not with its square."""
    sizes = []
    for units in (20, 40):
        circuit = Circuit(poon_domingos(2, 1), units, weights="cp")
        leaf = torch.randn(3, circuit.num_leaves, requires_grad=True)
        with torch.profiler.profile(profile_memory=True) as profile:
            circuit(leaf).sum().backward()
        sizes.append(sum(max(event.self_cpu_memory_usage, 0) for event in profile.events()))
    assert sizes[1] < 3 * sizes[0]


def test_numbers_of_weights():
    # 2 K + 1 instead of K^2 for each partition and sum: 4x4 cells have 194 partitions below the root and 6 at it
    circuit = Circuit(poon_domingos((4, 4), 1), units=20, weights="cp")
    assert circuit.num_weights == (194 * 20 + 6) * 41
    assert circuit.regions.counts(20)["weights"] == (194 * 20 + 6) * 400


@pytest.mark.parametrize("tie", ["none", "shape"])
def test_a_mixture_of_leaves_has_one_softmax(tie):
    circuit = Circuit(whole(3), units=1, leaves=5, tie=tie, weights="cp")
    assert circuit.num_weights == 5 and circuit.log_weights()[0].shape == (1, 1, 5)

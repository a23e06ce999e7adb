# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Weights that are products, against a circuit with one free weight for each product."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_spvae.circuits import Circuit, RegionGraph, poon_domingos, random_binary_tree, whole

from .options import CIRCUITS, UNEVEN, under_every_option
from .oracle import factors_of_products, recursive_log_prob

CASES = [
    "many parts",
    "hidden tree",
    "many parts, many units",
    "grid",
    "more units than leaves",
    "uneven",
    "uneven, many units",
    "overlapping trees",
    "orders",
]
FACTORED = [case for case in under_every_option(CASES) if "weights" in case.values[0][1]]


@pytest.mark.parametrize(("name", "options"), [pytest.param(*case.values[0], id=case.id) for case in FACTORED])
class TestAgainstFullWeights:
    @pytest.fixture
    def cp(self, name, options):
        return Circuit(*CIRCUITS[name], **options)

    def test_weights_are_the_products_of_the_factors(self, cp):
        """Each log-weight, looked up by its partition and units."""
        layer, root = cp.layers
        assert root.left.tolist() == list(range(root.start - cp.units, root.start))
        factors = layer.log_factors()
        for number, factor in enumerate(factors):
            axis = -1 if number < len(layer.unit_logits) else 1
            torch.testing.assert_close(factor.exp().sum(axis), torch.ones_like(factor.sum(axis)))
        weights = cp.log_weights()
        seen = set()
        for used in factors_of_products(cp):
            own = [factors[number] for number, _ in used.factors]
            # of units [edge, sum, unit], of partitions [region, partition, sum]
            expected = sum(
                factor[place[0], :, place[1]] if number < len(layer.unit_logits) else factor[place]
                for factor, (number, place) in zip(own, used.factors, strict=True)
            )
            torch.testing.assert_close(weights[used.group][used.place, :, used.product], expected)
            seen.add((used.group, used.place, used.product))
        assert len(seen) == sum(one.shape[0] * one.shape[2] for one in weights[:-1])
        for own in weights:
            torch.testing.assert_close(own.exp().sum(-1), torch.ones(own.shape[:2]))

    def test_posterior_of_impossible_data(self, cp):
        if any(len(partition.parts) > 2 for partition in cp.regions.partitions):
            pytest.skip("free weights take partitions of two parts")
        full = Circuit(cp.regions, cp.units, cp.leaves)
        with torch.no_grad():
            *below, sums, mixture = cp.log_weights()
            root = torch.logsumexp(mixture.transpose(1, 2) + sums, 1, keepdim=True)  # sums of products are free
            for layer, log_weights in zip(full.layers, [*below, root], strict=True):
                layer.logits.copy_(log_weights)
        leaf = 3 * torch.randn(5, cp.num_leaves)
        leaf[:2] = -torch.inf  # of no tree
        torch.testing.assert_close(cp.posterior(leaf), full.posterior(leaf), rtol=1e-10, atol=1e-13)
        assert cp.num_trees() == cp.units * full.num_trees()


@pytest.mark.parametrize("units", [2, 6])
def test_partitions_far_apart(units):
    """The weight of a partition is never floored, and counts when all others are impossible."""
    circuit = Circuit(UNEVEN, units, weights="cp")
    assert UNEVEN.region_partitions[UNEVEN.root] == ((5, 0, 2), (5, 4, 3))
    with torch.no_grad():
        circuit.layers[-2].partition_logits[0][:, 0] = -1e4
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
    """What is computed grows with units times sums, not with pairs of units times sums."""
    sizes = []
    for units in (20, 40):
        circuit = Circuit(poon_domingos(2, 1), units, weights="cp")
        leaf = torch.randn(3, circuit.num_leaves, requires_grad=True)
        with torch.profiler.profile(profile_memory=True) as profile:
            circuit(leaf).sum().backward()
        sizes.append(sum(max(event.self_cpu_memory_usage, 0) for event in profile.events()))
    assert sizes[1] < 5 * sizes[0]


@pytest.mark.parametrize("tie", ["none", "shape"])
def test_a_mixture_of_leaves_has_one_softmax(tie):
    circuit = Circuit(whole(3), units=1, leaves=5, tie=tie, weights="cp")
    assert circuit.num_weights == 5 and circuit.log_weights()[0].shape == (1, 1, 5)


def test_halves_of_the_data_may_depend_on_each_other():
    """Of two variables that are equal, a root that mixes its sums knows as much as one with full weights."""
    x = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    leaf = torch.log(torch.tensor([[0.99, 0.01], [0.01, 0.99]]))[x].flatten(1)  # [datum, variable, unit]
    share = torch.tensor([0.5, 0.0, 0.0, 0.5])
    found = {}  # mutual information in nats
    for weights in ("full", "cp"):
        torch.manual_seed(0)
        circuit = Circuit(random_binary_tree(2, 1, 1, seed=0), 2, weights=weights)
        optimiser = torch.optim.Adam(circuit.parameters(), lr=0.3)
        for _ in range(200):
            optimiser.zero_grad()
            loss = -(share * circuit(leaf)).sum()
            loss.backward()
            optimiser.step()
        probability = circuit(leaf).detach().exp().view(2, 2)
        torch.testing.assert_close(probability.sum(), torch.tensor(1.0))
        independent = probability.sum(0) * probability.sum(1, keepdim=True)
        found[weights] = float((probability * (probability / independent).log()).sum())
    same = 0.99**2 + 0.01**2  # the leaves are wrong in one of a hundred cases
    wanted = math.log(2) + same * math.log(same) + (1 - same) * math.log(1 - same)
    assert all(abs(value - wanted) < 2e-3 for value in found.values())


def test_many_parts_are_the_same_parts_joined_by_two():
    """A region of four parts has the sums of one of two parts, of which one is the other two, where the weights within
    it pass its units on one by one."""
    joined = RegionGraph((4,), [[0], [1], [2], [3]], [(4, 0, 1), (5, 4, 2), (6, 5, 3)])
    flat = RegionGraph((4,), [[0], [1], [2], [3]], [(4, 0, 1, 2, 3)])
    for units in (3, 6):
        one, other = (Circuit(graph, units, weights="cp").double() for graph in (flat, joined))
        passed_on = torch.where(torch.eye(units, dtype=torch.bool), 0.0, -1e4).double()
        with torch.no_grad():
            other.layers[0].unit_logits[0].copy_(one.layers[0].unit_logits[0])
            other.layers[0].unit_logits[1].copy_(passed_on.expand(2, -1, -1))
            other.layers[1].logits.copy_(one.layers[1].logits)
        leaf = 3 * torch.randn(20, one.num_leaves).double()
        torch.testing.assert_close(one(leaf), other(leaf), rtol=1e-12, atol=1e-12)


def test_what_is_too_much_to_write_out_is_refused():
    """A region of eight parts of ten units; everything but lists of its products works."""
    graph = RegionGraph((8,), [[part] for part in range(8)], [(8, *range(8))])
    circuit = Circuit(graph, 10, weights="cp")
    leaf = torch.randn(3, circuit.num_leaves)
    assert circuit(leaf).isfinite().all() and circuit.num_trees() == 10 * 10**8
    assert (circuit.sample((5,), leaf).sum(-1) == 8).all() and (circuit.mpe(leaf)[0].sum(-1) == 8).all()
    torch.testing.assert_close(circuit.posterior(leaf).sum(-1), torch.full((3,), 8.0))
    for ask in (circuit.log_weights, circuit.groups, lambda: circuit.sum_posterior(leaf)):
        with pytest.raises(ValueError, match="a region of this circuit has 100,000,000 products, more than the"):
            ask()


def test_free_weights_take_two_parts():
    graph = RegionGraph((3,), [[0], [1], [2]], [(3, 0, 1, 2)])
    with pytest.raises(
        ValueError, match="weights must be 'cp' for regions with a partition of 3 parts, such as region"
    ):
        Circuit(graph, 2)

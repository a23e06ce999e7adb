# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Weights that are products, against a circuit with one free weight for each product."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_spvae.circuits import Circuit, poon_domingos, random_binary_tree, whole

from .options import CIRCUITS, UNEVEN, under_every_option
from .oracle import recursive_log_prob

CASES = ["grid", "more units than leaves", "uneven", "uneven, many units", "overlapping trees", "orders"]
FACTORED = [case for case in under_every_option(CASES) if "weights" in case.values[0][1]]


@pytest.mark.parametrize(("name", "options"), [pytest.param(*case.values[0], id=case.id) for case in FACTORED])
class TestAgainstFullWeights:
    @pytest.fixture
    def cp(self, name, options):
        return Circuit(*CIRCUITS[name], **options)

    def test_weights_are_the_products_of_the_factors(self, cp):
        """Each log-weight, looked up by its partition and units."""
        *layers, root = cp.layers
        assert not root.factored and root.left.tolist() == list(range(root.start - cp.units, root.start))
        for layer, log_weights in zip(layers, cp.log_weights()[:-1], strict=True):
            partition, *units = (factor.exp() for factor in layer.log_factors())
            torch.testing.assert_close(partition.sum(1), torch.ones(layer.num_regions, layer.num_sums))
            for factor in units:
                torch.testing.assert_close(factor.sum(-1), torch.ones(factor.shape[:-1]))
            weights, rows, first = [], [], 0
            for place, block in enumerate(layer.blocks):
                own, first = partition[:, first : first + block.partitions], first + block.partitions
                weights.append(torch.einsum("rpo,rpoi,rpoj->ropij", own, *units[2 * place : 2 * place + 2]).flatten(2))
                shape = (layer.num_regions, block.partitions, block.left, block.right)
                left, right = (one.view(*shape[:2], -1) for one in layer.block_rows(place))
                pairs = (left.unsqueeze(-1).expand(shape), right.unsqueeze(-2).expand(shape))
                rows.append(torch.stack(pairs, -1).flatten(1, 3))
            torch.testing.assert_close(log_weights.exp(), torch.cat(weights, -1))
            given = torch.stack([layer.left, layer.right], -1).view(layer.num_regions, -1, 2)  # [R, C, 2]
            assert torch.equal(given, torch.cat(rows, 1))

    def test_posterior_of_impossible_data(self, cp):
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
        circuit.layers[-2].partition_logits[:, 0] = -1e4
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

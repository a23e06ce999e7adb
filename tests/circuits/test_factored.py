# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Weights that are products, against a circuit with one free weight for each product."""

from __future__ import annotations

import pytest
import torch

from pyro_spvae.circuits import Circuit, poon_domingos, whole

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
        for layer, log_weights in zip(cp.layers, cp.log_weights(), strict=True):
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
            for layer, log_weights in zip(full.layers, cp.log_weights(), strict=True):
                layer.logits.copy_(log_weights)
        leaf = 3 * torch.randn(5, cp.num_leaves)
        leaf[:2] = -torch.inf  # of no tree
        torch.testing.assert_close(cp.posterior(leaf), full.posterior(leaf), rtol=1e-10, atol=1e-13)
        assert cp.num_trees() == full.num_trees()


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


@pytest.mark.parametrize("tie", ["none", "shape"])
def test_a_mixture_of_leaves_has_one_softmax(tie):
    circuit = Circuit(whole(3), units=1, leaves=5, tie=tie, weights="cp")
    assert circuit.num_weights == 5 and circuit.log_weights()[0].shape == (1, 1, 5)

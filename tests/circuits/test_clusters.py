# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Units of regions by clustering, and what they say of weights."""

from __future__ import annotations

import pytest
import torch

from pyro_spvae import Circuit, chow_liu, poon_domingos, random_binary_tree, whole
from pyro_spvae.circuits.assigned import assigned_counts
from pyro_spvae.circuits.clusters import region_clusters
from pyro_spvae.infer.em import expected_counts

pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(name="float64")
def _float64():
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(default)


def chain(rows=400, columns=7):
    """A random walk, whose columns depend most on their neighbours."""
    return torch.randn(rows, columns).cumsum(1)


def same_partition(one, other):
    """Whether two numberings put the same rows together."""
    pairs = set(zip(one.tolist(), other.tolist(), strict=True))
    return len(pairs) == len(set(one.tolist())) == len(set(other.tolist()))


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("regions", ["chow-liu", "random", "whole", "grid"])
def test_groups_that_lie_apart_are_found_everywhere(regions, width):
    x = chain(300, 6)
    graph = {
        "chow-liu": lambda: chow_liu(x),
        "random": lambda: random_binary_tree(6, depth=2, repetitions=2, seed=0),
        "whole": lambda: whole(6),
        "grid": lambda: poon_domingos((2, 3), 1),
    }[regions]()
    group = torch.arange(300) % 2
    features = torch.randn(300, graph.num_leaf_regions, width) + 50 * group[:, None, None]
    found = region_clusters(features, graph, units=2, leaves=2)
    assert found.shape == (300, graph.num_regions) and found.dtype == torch.int64
    for region in range(graph.num_regions):
        assert same_partition(found[:, region], group), region


def test_each_region_is_clustered_by_what_is_near_it():
    # 30 pairs of leaf regions in two groups of 30: those of one half follow one hidden bit, those of the other another
    bits = torch.randint(0, 2, (500, 2))
    half = torch.arange(60) // 30
    features = 20.0 * bits[:, half] + torch.randn(500, 60)
    graph = chow_liu(features)
    found = region_clusters(features.unsqueeze(-1), graph, units=2, leaves=2)
    for leaf, scope in enumerate(graph.leaf_scopes):
        assert same_partition(found[:, leaf], bits[:, half[scope[0]]]), leaf


def test_an_inner_region_of_a_tree_shares_clusters_with_its_own_variable():
    x = chain()
    graph = chow_liu(x)
    order = torch.tensor([scope[0] for scope in graph.leaf_scopes])
    found = region_clusters(x[:, order].unsqueeze(-1), graph, units=3, leaves=3)
    fewer = region_clusters(x[:, order].unsqueeze(-1), graph, units=3, leaves=2)
    for region in range(graph.num_leaf_regions, graph.num_regions):
        (partition,) = graph.region_partitions[region]
        own = [part for part in partition.parts if graph.is_leaf(part)]
        assert any(bool((found[:, region] == found[:, part]).all()) for part in own), region
    assert int(fewer[:, : graph.num_leaf_regions].max()) == 1
    assert int(fewer[:, graph.num_leaf_regions :].max()) == 2


def test_fewer_rows_than_clusters_and_constant_features_are_taken():
    graph = chow_liu(chain())
    few = region_clusters(torch.randn(3, 7, 1), graph, units=8, leaves=8)
    assert int(few.min()) >= 0 and int(few.max()) < 8
    constant = region_clusters(torch.ones(20, 7, 1), graph, units=4, leaves=4)
    assert bool((constant == constant[:1]).all())


def test_regions_are_counted_while_they_are_done():
    graph = chow_liu(chain())
    told = []
    region_clusters(torch.randn(30, 7, 1), graph, 2, 2, told.append)
    assert told == list(range(1, graph.num_regions + 1))


@pytest.mark.parametrize("units, leaves", [(2, 2), (3, 4), (2, 5), (6, 6)])
@pytest.mark.parametrize("tie", ["none", "shape"])
def test_counts_are_those_that_em_expects_where_leaves_say_all(units, leaves, tie):
    # weights that pass each unit on to one unit of each part, so that data have but one tree
    graph = chow_liu(chain(), arity=3)
    circuit = Circuit(graph, units, leaves, weights="cp", tie=tie)
    layer = circuit.layers[0]
    with torch.no_grad():
        for logits in layer.unit_logits:
            passed = torch.rand(logits.shape[0], 1, logits.shape[-1]).argsort(-1)[:, 0, :units]  # each to another
            logits.copy_(80.0 * torch.nn.functional.one_hot(passed, logits.shape[-1]))
    factors = [factor.argmax(-1) for factor in layer.log_factors()]  # [edge, sum]
    root = torch.randint(units, (40,))
    assigned = torch.zeros(40, graph.num_regions, dtype=torch.int64)
    assigned[:, graph.root] = root
    leaf_edges = len(layer.edge_child_0)
    for place in reversed(range(layer.num_regions)):
        region = layer.inner[place]
        for edge in layer.slots[place, 0].tolist():
            if edge < 0:
                continue
            kind, own = (0, edge) if edge < leaf_edges else (1, edge - leaf_edges)
            first = int(getattr(layer, f"edge_first_{kind}")[own])
            inner = layer.inner[(first - layer.start) // units] if kind else first // leaves
            assigned[:, inner] = factors[kind][own, assigned[:, region]]
    leaf = torch.nn.functional.one_hot(assigned[:, : graph.num_leaf_regions], leaves).flatten(1)
    _, _, expected = expected_counts(circuit, 400.0 * (leaf - 1))
    actual = assigned_counts(circuit, assigned)
    for one, other in zip(actual, expected, strict=True):
        for own, wanted in zip(one, other, strict=True):
            assert own.shape == wanted.shape
            torch.testing.assert_close(own, wanted, atol=1e-9, rtol=0)


@pytest.mark.parametrize("weights", ["full", "cp"])
def test_every_partition_is_counted_where_there_are_several(weights):
    graph = poon_domingos((2, 2), 1)
    circuit = Circuit(graph, 3, 2, weights=weights)
    assigned = torch.stack(
        [torch.randint(2 if graph.is_leaf(region) else 3, (50,)) for region in range(graph.num_regions)], dim=1
    )
    for layer, counts in zip(circuit.layers, assigned_counts(circuit, assigned), strict=True):
        for own, factor in zip(counts, layer.log_factors(), strict=True):
            assert own.shape == factor.shape
    layer, counts = circuit.layers[0], assigned_counts(circuit, assigned)[0]
    if weights == "full":  # sums of regions of two leaf regions, products of two leaves
        (group,) = layer.groups()
        for place, region in enumerate(group.regions):
            for unit in range(group.sums):
                for product, (left, right) in enumerate(group.children[place].tolist()):
                    data = (assigned[:, region] == unit) & (assigned[:, left // 2] == left % 2)
                    data &= assigned[:, right // 2] == right % 2
                    assert counts[0][place, unit, product] == data.sum()
    else:
        root = torch.bincount(assigned[:, graph.root], minlength=3)
        several = [own for own in counts if own.shape[1:] == (2, 3)][-1]
        torch.testing.assert_close(several[-1], (root / 2).expand(2, 3))  # two partitions, with half of the data each


def test_edges_of_regions_of_several_partitions_are_counted_by_their_own_regions():
    graph = poon_domingos((3, 3), 1)
    circuit = Circuit(graph, 3, 2, weights="cp")
    layer = circuit.layers[0]
    assigned = torch.stack(
        [torch.randint(2 if graph.is_leaf(region) else 3, (80,)) for region in range(graph.num_regions)], dim=1
    )
    of_leaves, of_inner, *_ = assigned_counts(circuit, assigned)[0]
    for place, region in enumerate(layer.inner):
        counted = {}  # by part: parts of different partitions differ
        for edge in layer.slots[place].flatten().tolist():
            if edge < 0:
                continue
            kind, own = (0, edge) if edge < len(of_leaves) else (1, edge - len(of_leaves))
            first = int(getattr(layer, f"edge_first_{kind}")[own])
            counted[layer.inner[(first - layer.start) // 3] if kind else first // 2] = (of_leaves, of_inner)[kind][own]
        assert sorted(counted) == sorted(part for own in graph.region_partitions[region] for part in own.parts)
        for part, found in counted.items():
            for unit, other in torch.cartesian_prod(*map(torch.arange, found.shape)).tolist():
                assert found[unit, other] == ((assigned[:, region] == unit) & (assigned[:, part] == other)).sum()

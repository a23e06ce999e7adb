# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Sum-product networks by plain recursion and by listing every induced tree: slow, obvious, differentiable."""

from __future__ import annotations

import functools
from itertools import compress
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from pyro_spvae.circuits import Circuit

# log-weights and children of the products of a sum; a node is (region, unit)
Node = tuple[int, int]
Products = tuple[Tensor, list[tuple[Node, ...]]]


class Trees(NamedTuple):
    """Every induced tree: log-weight in nats (differentiable), leaves, and products in the order of the weights."""

    log_weight: Tensor  # [tree]
    leaves: Tensor  # bool [tree, leaf]
    products: Tensor  # bool [tree, weight]


def sum_nodes(circuit: Circuit) -> dict[Node, Products]:
    """Each sum node's products, read off the circuit's layers."""
    nodes: list[Node] = [(cell, i) for cell in range(circuit.num_leaf_regions) for i in range(circuit.leaves)]
    sums: dict[Node, Products] = {}
    for group, log_weights in zip(circuit.groups(), circuit.log_weights(), strict=True):
        assert group.start == len(nodes)
        for place, region in enumerate(group.regions):
            rows = group.children[place].tolist()
            children = [tuple(nodes[row] for row in chosen if row >= 0) for chosen in rows]
            for unit in range(group.sums):
                # the root that mixes its own leaves or sums is unit -1
                node = (region, -1) if len(rows[0]) == 1 else (region, unit)
                sums[node] = log_weights[place, unit], children
                nodes.append(node)
    return sums


class Used(NamedTuple):
    """Which weights a product of a circuit with ``weights="cp"`` is made of: for each of the layer's factors, by its
    number, the place without the axis of sums."""

    factors: list[tuple[int, tuple[int, ...]]]
    group: int
    place: int
    product: int


def factors_of_products(circuit: Circuit) -> list[Used]:
    """For each product of each region the edges' weights that it multiplies, and that of its partition."""
    layer = cast(Any, circuit.layers[0])
    edges = [
        (kind, number)
        for kind, logits in enumerate(layer.unit_logits)
        for number in range(len(getattr(layer, f"edge_first_{kind}")))
    ]
    first_rows = [
        row for kind in range(len(layer.unit_logits)) for row in getattr(layer, f"edge_first_{kind}").tolist()
    ]
    by_partitions: dict[int, list[int]] = {}  # of inner regions, those of equally many partitions
    for number, region in enumerate(layer.inner):
        by_partitions.setdefault(len(circuit.regions.region_partitions[region]), []).append(number)
    kinds = sorted(count for count in by_partitions if count > 1)
    found = []
    for number, group in enumerate(circuit.groups()[: -1 if circuit.units > 1 else None]):
        for place, region in enumerate(group.regions):
            inner = layer.inner.index(region)
            own = [[slot for slot in slots if slot >= 0] for slots in layer.slots[inner].tolist()]
            own = own[: len(circuit.regions.region_partitions[region])]
            for product, children in enumerate(group.children[place].tolist()):
                rows = [row for row in children if row >= 0]
                for partition, slots in enumerate(own):  # noqa: B007
                    units = [row - first_rows[slot] for row, slot in zip(rows, slots, strict=False)]
                    sizes = [layer.edge_units[edges[slot][0]] for slot in slots]
                    fits = all(0 <= unit < size for unit, size in zip(units, sizes, strict=False))
                    if len(rows) == len(slots) and fits:
                        break
                else:
                    raise AssertionError(f"product {product} of region {region} is of no partition")
                used = [(edges[slot][0], (edges[slot][1], unit)) for slot, unit in zip(slots, units, strict=True)]
                if len(own) > 1:
                    table = by_partitions[len(own)]
                    used.append((len(layer.unit_logits) + kinds.index(len(own)), (table.index(inner), partition)))
                found.append(Used(used, number, place, product))
    return found


def recursive_log_prob(circuit: Circuit, leaf: Tensor) -> Tensor:
    """Value of the root, ``[..]``, by recursion over the nodes.

    :param Circuit circuit: the circuit.
    :param Tensor leaf: leaf log-densities in nats, ``[.., leaf]``.
    """
    sums = sum_nodes(circuit)
    known = {divmod(place, circuit.leaves): value for place, value in enumerate(leaf.unbind(-1))}

    def value(node: Node) -> Tensor:
        if node not in known:
            log_weights, children = sums[node]
            products = torch.stack([torch.stack(list(map(value, own))).sum(0) for own in children], -1)
            known[node] = torch.logsumexp(log_weights + products, -1)
        return known[node]

    return value(root_node(circuit))


def list_trees(circuit: Circuit) -> Trees:
    """Every induced tree.

    :param Circuit circuit: a small circuit.
    """
    sums = sum_nodes(circuit)
    sizes = [len(children) for _, children in sums.values()]
    every = torch.eye(sum(sizes), dtype=torch.bool)
    taken = dict(zip(sums, every.split(sizes), strict=True))  # [product, weight]
    none = torch.zeros(1, sum(sizes), dtype=torch.bool)
    ends = torch.eye(circuit.num_leaves, dtype=torch.bool).unsqueeze(1)
    known = {divmod(place, circuit.leaves): Trees(torch.zeros(1), end, none) for place, end in enumerate(ends)}

    def trees(node: Node) -> Trees:
        if node not in known:
            products = []
            for log_weight, children, choice in zip(*sums[node], taken[node], strict=True):
                own = functools.reduce(_pairs, [trees(child) for child in children])
                products.append(Trees(log_weight + own.log_weight, own.leaves, own.products | choice))
            known[node] = Trees(*map(torch.cat, zip(*products, strict=True)))
        return known[node]

    return trees(root_node(circuit))


def _pairs(one: Trees, other: Trees) -> Trees:
    """Every tree of one part with every tree of another."""
    return Trees(
        (one.log_weight.unsqueeze(1) + other.log_weight).flatten(),
        (one.leaves.unsqueeze(1) | other.leaves).flatten(0, 1),
        (one.products.unsqueeze(1) | other.products).flatten(0, 1),
    )


def enumerate_induced_trees(circuit: Circuit) -> list[tuple[Tensor, frozenset[int]]]:
    """Log-weight (differentiable, nats) and leaves of every induced tree.

    :param Circuit circuit: a small circuit.
    """
    log_weight, leaves, _ = list_trees(circuit)
    ends = [frozenset(compress(range(circuit.num_leaves), own)) for own in leaves.tolist()]
    return list(zip(log_weight, ends, strict=True))


def root_node(circuit: Circuit) -> Node:
    """The node whose value is the circuit's."""
    last = circuit.groups()[-1:]
    return (circuit.regions.root, -1 if last and last[0].children.shape[-1] == 1 else 0)


def selection_log_probs(trees: Trees, leaf: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Each set of leaves that trees end in, ``bool [set, leaf]``, and its log-probability (differentiable, nats).

    :param Trees trees: all of a circuit.
    :param Tensor leaf: leaf log-densities in nats, ``[leaf]``, of what is known; ``None``: nothing is.
    """
    joint = trees.log_weight if leaf is None else trees.log_weight + trees.leaves.to(leaf.dtype) @ leaf
    selections, number = trees.leaves.unique(dim=0, return_inverse=True)
    own = number == torch.arange(len(selections)).unsqueeze(1)  # [set, tree]
    totals = joint.masked_fill(~own, -torch.inf).logsumexp(-1)
    return selections, totals - totals.logsumexp(0)

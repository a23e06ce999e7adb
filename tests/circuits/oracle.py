# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Sum-product networks by plain recursion and by listing every induced tree: slow, obvious, differentiable."""

from __future__ import annotations

import itertools
from typing import cast

import torch
from torch import Tensor

from pyro_spvae.circuits import Circuit
from pyro_spvae.circuits.layer import SumLayer

# (log-weight, children) of each product of a sum; a node is (region, unit)
Node = tuple[int, int]
Products = list[tuple[Tensor, tuple[Node, ...]]]


def sum_nodes(circuit: Circuit) -> dict[Node, Products]:
    """Each sum node's products, read off the circuit's layers."""
    nodes: list[Node] = [(cell, i) for cell in range(circuit.num_leaf_regions) for i in range(circuit.leaves)]
    sums: dict[Node, Products] = {}
    layers = [cast(SumLayer, layer) for layer in circuit.layers]
    for layer, log_weights in zip(layers, circuit.log_weights(), strict=True):
        left = layer.left.view(layer.num_regions, -1).tolist()
        right = None if layer.right is None else layer.right.view(layer.num_regions, -1).tolist()
        for place, region in enumerate(layer.regions):
            for unit in range(layer.num_sums):
                # the root of a graph of one region is also its leaf region; as a sum it is unit -1
                node = (region, -1) if right is None else (region, unit)
                rows = [left[place]] if right is None else [left[place], right[place]]
                children = [tuple(nodes[row] for row in chosen) for chosen in zip(*rows, strict=True)]
                sums[node] = list(zip(log_weights[place, unit], children, strict=True))
                nodes.append(node)
    return sums


def recursive_log_prob(circuit: Circuit, leaf: Tensor) -> Tensor:
    """Value of the root, ``[..]``, by recursion over the nodes.

    :param Circuit circuit: the circuit.
    :param Tensor leaf: leaf log-densities in nats, ``[.., leaf]``.
    """
    sums = sum_nodes(circuit)
    known: dict[Node, Tensor] = {}

    def value(node: Node) -> Tensor:
        if node not in sums:
            return leaf[..., node[0] * circuit.leaves + node[1]]
        if node not in known:
            terms = [weight + sum(value(child) for child in children) for weight, children in sums[node]]
            known[node] = torch.logsumexp(torch.stack(terms), dim=0)
        return known[node]

    return value(root_node(circuit))


def enumerate_induced_trees(circuit: Circuit) -> list[tuple[Tensor, frozenset[int]]]:
    """Log-weight (differentiable, nats) and leaves of every induced tree.

    :param Circuit circuit: a small circuit.
    """
    return [(log_weight, leaves) for log_weight, leaves, _ in enumerate_choices(circuit)]


def enumerate_choices(circuit: Circuit) -> list[tuple[Tensor, frozenset[int], frozenset[tuple[Node, int]]]]:
    """Log-weight, leaves, and the sums with the place of the product taken, of every induced tree.

    :param Circuit circuit: a small circuit.
    """
    sums = sum_nodes(circuit)
    Tree = tuple[Tensor, frozenset[int], frozenset[tuple[Node, int]]]

    def trees(node: Node) -> list[Tree]:
        if node not in sums:
            return [(torch.zeros(()), frozenset([node[0] * circuit.leaves + node[1]]), frozenset())]
        found: list[Tree] = []
        for place, (weight, children) in enumerate(sums[node]):
            for chosen in itertools.product(*(trees(child) for child in children)):
                log_weight = weight + sum(one for one, _, _ in chosen)
                leaves = frozenset().union(*(leaves for _, leaves, _ in chosen))
                choices = frozenset([(node, place)]).union(*(choices for _, _, choices in chosen))
                found.append((log_weight, leaves, choices))
        return found

    return trees(root_node(circuit))


def root_node(circuit: Circuit) -> Node:
    """The node whose value is the circuit's."""
    return (circuit.regions.root, -1 if circuit.layers and not circuit.regions.partitions else 0)


def selection_probabilities(circuit: Circuit, leaf: Tensor | None = None) -> dict[tuple[bool, ...], Tensor]:
    """Probability of each set of leaves, by enumeration, given one vector of leaf log-densities or not.

    :param Circuit circuit: a small circuit.
    :param Tensor leaf: leaf log-densities in nats, ``[leaf]``.
    """
    weights: dict[tuple[bool, ...], list[Tensor]] = {}
    for log_weight, leaves in enumerate_induced_trees(circuit):
        selected = tuple(place in leaves for place in range(circuit.num_leaves))
        total = log_weight if leaf is None else log_weight + leaf[list(leaves)].sum()
        weights.setdefault(selected, []).append(total)
    joint = torch.stack([torch.logsumexp(torch.stack(terms), dim=0) for terms in weights.values()])
    return dict(zip(weights, torch.softmax(joint, dim=0), strict=True))

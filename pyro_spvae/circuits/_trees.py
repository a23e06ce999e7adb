# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Trees over variables: a spanning one of most weight, its centre, and connected pieces of bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

#: the neighbours of each node of a tree, whose nodes are 0, 1, ..
Neighbours = list[set[int]]


def spanning_tree(weights: Tensor, nodes: Sequence[int]) -> list[tuple[int, int]]:
    """
    Edges of a tree over some of the nodes of a complete graph, with the largest sum of weights (Prim 1957).

    Ties fall to nodes of smaller number.

    :param Tensor weights: ``[D, D]``, symmetric, of any sign.
    """
    if not nodes:
        return []
    best = weights[nodes[0]].clone()  # of the edges from each node outside to the tree
    near = torch.full((len(weights),), nodes[0], dtype=torch.int64, device=weights.device)
    outside = torch.zeros(len(weights), dtype=torch.bool, device=weights.device)
    outside[list(nodes)] = True
    outside[nodes[0]] = False
    edges = []
    for _ in range(len(nodes) - 1):
        candidates = best.masked_fill(~outside, -torch.inf)
        node = int((candidates == candidates.max()).nonzero()[0])
        edges.append((int(near[node]), node))
        outside[node] = False
        closer = weights[node] > best
        best, near = torch.where(closer, weights[node], best), torch.where(closer, node, near)
    return edges


def linked(number: int, edges: Iterable[tuple[int, int]]) -> Neighbours:
    """The neighbours of each of so many nodes."""
    tree: Neighbours = [set() for _ in range(number)]
    for one, other in edges:
        tree[one].add(other)
        tree[other].add(one)
    return tree


def rooted(tree: Neighbours, root: int) -> dict[int, int]:
    """The parent of each node that can be reached, that of the root being itself; parents come before children."""
    parents = {root: root}
    waiting = [root]
    while waiting:
        node = waiting.pop()
        for child in sorted(tree[node] - parents.keys()):
            parents[child] = node
            waiting.append(child)
    return parents


def centres(tree: Neighbours, sizes: Sequence[int], strengths: Sequence[float], start: int = 0) -> list[int]:
    """
    The one or two middle nodes of a longest path of a tree, then those whose branches are all at most half of it.

    :param sizes: variables of each node.
    :param strengths: of each node; the stronger of two comes first.
    :param int start: any node of the tree; others need not be in it.
    """
    end = _farthest(tree, start)
    other = _farthest(tree, end)
    parents = rooted(tree, end)
    path = [other]
    while path[-1] != end:
        path.append(parents[path[-1]])
    middle = {path[(len(path) - 1) // 2], path[len(path) // 2]}
    below = {node: sizes[node] for node in parents}
    for node in reversed(parents):
        if node != end:
            below[parents[node]] += below[node]
    total = below[end]
    balanced = {
        node
        for node, parent in parents.items()
        if 2 * max([total - below[node], *(below[child] for child in tree[node] if child != parent)]) <= total
    }

    def order(node: int) -> tuple[float, int]:
        return -strengths[node], node

    return sorted(middle, key=order) + sorted(balanced - middle, key=order)


def _farthest(tree: Neighbours, start: int) -> int:
    """The node most edges away, the first of these."""
    far: dict[int, int] = {}
    for node, parent in rooted(tree, start).items():
        far[node] = 0 if node == parent else far[parent] + 1
    return min(far, key=lambda node: (-far[node], node))


def pieces(tree: Neighbours, root: int, weights: Tensor, size: int) -> tuple[list[list[int]], Neighbours]:
    """
    As few connected pieces of a tree as there can be with at most so many nodes each (Kundu and Misra 1977).

    From the leaves up each node keeps what its children have kept, and while this is too much parts from the largest;
    of equally large ones from that which depends on it least.

    :returns: the nodes of each piece, and the tree of the pieces.
    """
    parents = rooted(tree, root)
    kept = dict.fromkeys(parents, 1)
    parted = {root}
    for node in reversed(parents):
        children = tree[node] - {parents[node]}
        kept[node] += sum(kept[child] for child in children)
        for child in sorted(children, key=lambda child: (-kept[child], float(weights[node, child]), -child)):
            if kept[node] > size:
                kept[node] -= kept[child]
                parted.add(child)
    number: dict[int, int] = {}
    found: list[list[int]] = []
    edges = []
    for node, parent in parents.items():
        if node in parted:
            number[node] = len(found)
            found.append([])
            edges += [(number[parent], number[node])] if node != root else []
        else:
            number[node] = number[parent]
        found[number[node]].append(node)
    return found, linked(len(found), edges)


def merged(groups: list[list[int]], tree: Neighbours, size: int) -> tuple[list[list[int]], Neighbours]:
    """
    A tree of groups in which those that have one neighbour, the same one, are put together where they fit.

    The largest first, each into the first that has room.

    :returns: the groups and their tree.
    """
    into = list(range(len(groups)))
    room = [size - len(group) for group in groups]
    for around in tree:
        ends = sorted(
            (node for node in around if len(tree[node]) == 1 and len(around) > 1),
            key=lambda node: (-len(groups[node]), min(groups[node])),
        )
        for place, node in enumerate(ends):
            for other in ends[:place]:
                if into[other] == other and room[other] >= len(groups[node]):
                    into[node], room[other] = other, room[other] - len(groups[node])
                    break
    left = [node for node in range(len(groups)) if into[node] == node]
    number = {node: place for place, node in enumerate(left)}
    found: list[list[int]] = [[] for _ in left]
    for node, group in enumerate(groups):
        found[number[into[node]]] += group
    edges = ((number[node], number[into[other]]) for node in left for other in tree[node])
    return found, linked(len(left), edges)

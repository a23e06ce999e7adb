# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Choosing induced trees from the root downwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .layer import Layer

# scores computed at a time, which bounds memory to a few times 64 MiB whatever the number of trees
MAX_SCORES = 1 << 24


def select_trees(
    layers: Sequence[Layer],
    factors: Sequence[Sequence[Tensor]],
    num_leaves: int,
    num_trees: int,
    rows: Tensor | None,
    noise: bool,
    device: torch.device,
) -> Tensor:
    """Walk down from the root, choosing one product at each sum that is reached, and mark the leaves that are reached.

    Only the (sum, tree) pairs on a tree are visited.

    :param layers: the layers of the circuit.
    :param factors: what :meth:`Layer.log_factors` of each returned.
    :param int num_leaves: number of leaves.
    :param int num_trees: number of trees ``N``.
    :param Tensor rows: values of leaves and sums given the leaf log-densities, ``[row, batch]``, tree ``n`` being for
        member ``n mod batch``; None for choices by the weights alone.
    :param bool noise: draw a product by its score (Gumbel-max), or take the best one.
    :param device: of the circuit.
    :return: bool, ``[N, leaf]``.
    """
    node = torch.full((num_trees,), layers[-1].stop - 1 if layers else 0, device=device)
    tree = torch.arange(num_trees, device=device)
    # pairs (node, tree) that were reached, the nodes being rows below the current layer
    for layer, own in zip(reversed(layers), reversed(factors), strict=True):
        here = node >= layer.start
        below, theirs = layer.choose(node[here], tree[here], own, rows, noise)
        node, tree = torch.cat([node[~here], below]), torch.cat([tree[~here], theirs])
    selected = torch.zeros(num_trees, num_leaves, dtype=torch.bool, device=device)
    selected[tree, node] = True
    return selected


def parts_of(scores: int, *visited: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """So much of what is visited at a time as has few enough scores.

    :param int scores: of one visit.
    """
    size = max(1, MAX_SCORES // scores)
    yield from zip(*(one.split(size) for one in visited), strict=True)


def drawn(scores: Tensor, noise: bool) -> Tensor:
    """The place of one score of each row, ``[V, C]``: by its exponential (Gumbel-max), or the largest."""
    if noise:
        # -log of an exponential variable is a Gumbel variable
        scores = scores - torch.empty_like(scores).exponential_().log_()
    return scores.argmax(dim=-1)

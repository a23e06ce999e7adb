# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Choosing induced trees from the root downwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .layer import Layer
from .numerics import exp_

# scores computed at a time, which bounds memory to a few times 64 MiB whatever the number of trees
MAX_SCORES = 1 << 24

_FEW_SCORES = 8  # of a choice, for which random numbers of each are cheap beside the visit


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
    """The place of one score of each row, ``[V, C]``: by its exponential, or the largest."""
    if not noise:
        return scores.argmax(dim=-1)
    if scores.shape[-1] <= _FEW_SCORES:
        # -log of an exponential variable is a Gumbel variable, and the largest of the sums is where it is (Gumbel-max)
        return (scores - torch.empty_like(scores).exponential_().log_()).argmax(dim=-1)
    table = exp_(scores - scores.amax(dim=-1, keepdim=True)).cumsum(dim=-1)
    total = table[:, -1:]
    # below the total, also after rounding, so that none of weight 0 is met
    place = torch.minimum(torch.rand_like(total) * total, total * (1 - torch.finfo(table.dtype).eps))
    return (table <= place).sum(dim=-1)

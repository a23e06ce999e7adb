# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Choosing induced trees from the root downwards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .layer import SumLayer

# scores computed at a time, which bounds memory to a few times 64 MiB whatever the number of trees
MAX_SCORES = 1 << 24


def select_trees(
    layers: Sequence[SumLayer],
    log_weights: Sequence[Tensor],
    num_leaves: int,
    num_trees: int,
    rows: Tensor | None,
    noise: bool,
    device: torch.device,
) -> Tensor:
    """Walk down from the root, choosing one product at each sum that is reached, and mark the leaves that are reached.

    Only the (sum, tree) pairs on a tree are visited.

    :param layers: the layers of the circuit.
    :param log_weights: normalised log-weights of each layer, ``[R, O, C]``.
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
    for layer, log_weight in zip(reversed(layers), reversed(log_weights), strict=True):
        here = node >= layer.start
        chosen = _choose(layer, log_weight, node[here] - layer.start, tree[here], rows, noise)
        children = [layer.left[chosen]] if layer.right is None else [layer.left[chosen], layer.right[chosen]]
        node, tree = torch.cat([node[~here], *children]), torch.cat([tree[~here], *[tree[here]] * len(children)])
    selected = torch.zeros(num_trees, num_leaves, dtype=torch.bool, device=device)
    selected[tree, node] = True
    return selected


def _choose(
    layer: SumLayer, log_weight: Tensor, sums: Tensor, trees: Tensor, rows: Tensor | None, noise: bool
) -> Tensor:
    """A product for each pair of a sum and a tree, as its place in ``layer.left``."""
    size = max(1, MAX_SCORES // layer.num_products)
    places = []
    for own_sums, own_trees in zip(sums.split(size), trees.split(size), strict=True):
        region = own_sums // layer.num_sums
        scores = log_weight.flatten(0, 1)[own_sums]  # [V, C]
        if rows is not None:
            member = (own_trees % rows.shape[1]).unsqueeze(-1)
            scores = scores + rows[layer.left.view(layer.num_regions, -1)[region], member]
            if layer.right is not None:
                scores = scores + rows[layer.right.view(layer.num_regions, -1)[region], member]
        if noise:
            # -log of an exponential variable is a Gumbel variable
            scores = scores - torch.empty_like(scores).exponential_().log_()
        places.append(region * layer.num_products + scores.argmax(dim=-1))
    return torch.cat(places)

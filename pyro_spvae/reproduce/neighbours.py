# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Nearest neighbours in a latent space: how well classes that no model has seen lie apart in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_spvae.checks import positive_integer

NEIGHBOURS = (3, 5, 10)


def neighbour_errors(
    points: Tensor, labels: Tensor, asked: Tensor, asked_labels: Tensor, neighbours: Sequence[int] = NEIGHBOURS
) -> dict[int, float]:
    """
    Test errors of k-nearest-neighbour classifiers, by Euclidean distance and majority (of equal votes the smallest
    label).

    :param Tensor points: what is known, ``[point, dimension]``.
    :param Tensor labels: its labels, ``[point]``.
    :param Tensor asked: what is classified, ``[row, dimension]``.
    :param Tensor asked_labels: its labels, ``[row]``.
    :param Sequence[int] neighbours: numbers of neighbours, k.
    :returns: part of the rows that are wrong, by k.
    :raises ValueError: for labels of another length, or more neighbours than points.
    """
    from sklearn.neighbors import NearestNeighbors  # takes a second

    for name, values, rows in (("labels", labels, points), ("asked_labels", asked_labels, asked)):
        if values.shape != rows.shape[:1]:
            raise ValueError(f"{name} has shape {list(values.shape)}; one for each of the {len(rows)} rows is needed")
    for k in neighbours:
        if positive_integer("neighbours", k) > len(points):
            raise ValueError(f"neighbours is {k}, but there are {len(points)} points; at most so many are accepted")
    search = NearestNeighbors(n_neighbors=max(neighbours), algorithm="brute").fit(points.cpu().numpy())
    nearest = labels.cpu()[torch.from_numpy(search.kneighbors(asked.cpu().numpy(), return_distance=False))]
    kinds, number = nearest.unique(return_inverse=True)
    votes = torch.nn.functional.one_hot(number, len(kinds))  # [row, neighbour, label]
    found = {}
    for k in neighbours:
        counts = votes[:, :k].sum(1).numpy()
        winners = kinds[torch.from_numpy(counts.argmax(1))]  # NumPy's is the first of several
        found[int(k)] = float((winners != asked_labels.cpu()).double().mean())
    return found

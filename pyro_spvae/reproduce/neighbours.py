# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Nearest neighbours in a latent space: how well classes that no model has seen lie apart in it."""

from __future__ import annotations

from collections.abc import Sequence

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
    from sklearn.neighbors import KNeighborsClassifier  # takes a second

    for name, values, rows in (("labels", labels, points), ("asked_labels", asked_labels, asked)):
        if values.shape != rows.shape[:1]:
            raise ValueError(f"{name} has shape {list(values.shape)}; one for each of the {len(rows)} rows is needed")
    found = {}
    for k in neighbours:
        if positive_integer("neighbours", k) > len(points):
            raise ValueError(f"neighbours is {k}, but there are {len(points)} points; at most so many are accepted")
        classifier = KNeighborsClassifier(k, algorithm="brute").fit(points.cpu().numpy(), labels.cpu().numpy())
        found[int(k)] = float(1 - classifier.score(asked.cpu().numpy(), asked_labels.cpu().numpy()))
    return found

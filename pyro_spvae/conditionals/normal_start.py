# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Where mixtures of jointly Normal leaves start: clusters of the training rows of each region."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_STEPS = 20  # of k-means
_RUNS = 5  # of it, of which the best is taken


@dataclass(frozen=True, eq=False)
class Clusters:
    """
    Clusters of rows.

    :ivar Tensor means: ``[cluster, pixel]``.
    :ivar Tensor covariance: within clusters, shrunk, ``[pixel, pixel]``.
    """

    means: Tensor
    covariance: Tensor


def clusters(z: Tensor, seen: Tensor, number: int, shrunk: float) -> Clusters:
    r"""
    Clusters of rows by k-means++ and steps of k-means, in columns divided by their deviations; a missing entry is where
    its cluster's mean is.

    :param Tensor z: ``[row, pixel]``, finite.
    :param Tensor seen: ``bool`` of the same shape.
    :param int number: of clusters, at most as many as rows.
    :param float shrunk: part of the covariance that goes to its diagonal.
    """
    weight = seen.to(z.dtype)
    count = weight.sum(0)
    mean = (z * weight).sum(0) / count.clamp(min=1)
    variance = ((z - mean).square() * weight).sum(0) / count.clamp(min=1)
    scale = torch.where(variance > 0, variance, 1.0).sqrt()
    u = torch.where(seen, (z - mean) / scale, 0.0)
    runs = [_k_means(u, weight, number) for _ in range(_RUNS if number > 1 else 1)]
    _, found, centres = min(runs, key=lambda run: run[0])
    rest = (u - centres[found]) * weight
    within = rest.T @ rest / (weight.T @ weight).clamp(min=1)
    within = (1 - shrunk) * within + shrunk * within.diagonal().diag()
    # pairs that are seen together need not make one covariance, and clusters of one row have none
    lowest = float(torch.linalg.eigvalsh(within)[0])
    floor = 1e-2 + max(0.0, -2 * lowest)
    within = within + floor * torch.eye(len(within), dtype=u.dtype, device=u.device)
    return Clusters(mean + scale * centres, within * scale.unsqueeze(-1) * scale)


def _k_means(u: Tensor, weight: Tensor, number: int) -> tuple[float, Tensor, Tensor]:
    """Squared distances from centres in all, the number of each row's cluster, and the centres ``[cluster, pixel]``."""
    centres = u[torch.randint(len(u), (1,), device=u.device)]
    for _ in range(number - 1):
        distance = _distances(u, weight, centres).amin(1)
        # of rows that are all at centres any may be taken
        further = torch.multinomial(distance + 1e-12 * (1 + distance.sum()), 1)
        centres = torch.cat([centres, u[further]])
    for _ in range(_STEPS if number > 1 else 1):
        found = _distances(u, weight, centres).argmin(1)
        share = torch.nn.functional.one_hot(found, number).to(u.dtype)  # [N, K]
        seen_by = share.T @ weight
        centres = torch.where(seen_by > 0, share.T @ (u * weight) / seen_by.clamp(min=1), centres)
    distance, found = _distances(u, weight, centres).min(1)
    return float(distance.sum()), found, centres


def _distances(u: Tensor, weight: Tensor, centres: Tensor) -> Tensor:
    """Squared distances ``[row, centre]`` in what is seen."""
    return ((u.unsqueeze(1) - centres).square() * weight.unsqueeze(1)).sum(-1)


def regions_of(scopes: Sequence[Sequence[int | None]] | None, leaves: int) -> list[tuple[int, int]]:
    """First and last leaf, the latter left out, of each region: leaves side by side that see the same."""
    if scopes is None:
        return [(0, leaves)]
    starts = [leaf for leaf in range(leaves) if not leaf or scopes[leaf] != scopes[leaf - 1]]
    return list(zip(starts, [*starts[1:], leaves], strict=True))

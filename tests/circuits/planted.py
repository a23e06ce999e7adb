# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Data whose dependence is known."""

from __future__ import annotations

import torch


def normals(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def block(kind, rows, size, seed):
    """Columns that all depend on one hidden variable, ``[rows, size]``."""
    hidden, noise = normals(rows, 1, seed=seed), normals(rows, size, seed=seed + 1)
    if kind == "normal":
        return hidden + 0.7 * noise
    if kind == "binary":
        return (hidden > 0) ^ (noise > 1)
    if kind == "squared":  # of one normal column; no column is correlated with the first
        return torch.cat([hidden, hidden**2 + 0.3 * noise[:, 1:]], 1)
    if kind == "counts":
        return (hidden + noise).exp().floor().long()
    return (0.2 * noise + hidden).exp() * noise.sign()  # "scaled": signs are independent, sizes are not


KINDS = ("normal", "binary", "squared", "counts", "scaled")


def planted(kind, seed, sizes=(4, 3, 5), rows=800):
    """Independent blocks with their columns mixed: the data, and the columns of each block."""
    columns = torch.cat([block(kind, rows, size, 1000 * seed + 10 * n) for n, size in enumerate(sizes)], 1)
    order = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(seed))
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))[order]
    return columns[:, order], [tuple((labels == n).nonzero().flatten().tolist()) for n in range(len(sizes))]


def field(rows, seed, side=8, length=2.0):
    """Gaussian random fields on a grid, whose correlation falls with distance; ``[rows, side, side]``."""
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).double()
    root = torch.linalg.cholesky(torch.exp(-torch.cdist(places, places) / length))
    return (normals(rows, side * side, seed=seed) @ root.T).reshape(rows, side, side)

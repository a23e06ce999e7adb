# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Seeded splits of rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def shuffled_split(num_rows: int, sizes: Sequence[int], seed: int) -> list[Tensor]:
    """Disjoint random sets of row numbers, one of each size, from a generator of its own.

    :param int num_rows: number of rows to draw from.
    :param sizes: how many rows go into each set; they must add up to ``num_rows``.
    :param int seed: the same seed gives the same sets on every machine; torch's global generator is left alone.
    :returns: one int64 tensor `[size]` for each size.
    :raises ValueError: if the sizes do not add up to ``num_rows``.
    """
    if sum(sizes) != num_rows or min(sizes) < 0:
        raise ValueError(
            f"sizes is {list(sizes)}, but non-negative sizes that add up to num_rows={num_rows} are needed."
        )
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(int(seed)), device="cpu")
    return list(order.split(list(sizes)))

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Which leaves belong to which kind, where regions hold several kinds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_spvae.nn.part import is_positive


def check_counts(counts: Sequence[Any] | None, parts: int) -> tuple[int, ...]:
    """
    Leaves of each kind in a turn: ``counts``, by default one each.

    :param int parts: number of kinds.
    :raises ValueError: unless there are kinds, and a positive count for each.
    """
    if not parts:
        raise ValueError("parts is empty; at least one leaf program is needed")
    if counts is None:
        return (1,) * parts
    if len(counts) != parts or not all(map(is_positive, counts)):
        raise ValueError(f"counts is {tuple(counts)!r}; a positive integer for each of the {parts} parts is needed")
    return tuple(counts)


def leaf_index(counts: Sequence[int], leaves: int) -> list[Tensor]:
    """
    The numbers of the leaves of each kind, kinds taking turns by ``counts``.

    :param counts: leaves of each kind in a turn, see :func:`check_counts`.
    :param int leaves: number of all leaves.
    :returns: int64 ``[n]`` for each kind.
    :raises ValueError: unless turns fill the leaves.
    """
    turn = sum(counts)
    if leaves % turn:
        raise ValueError(f"counts is {tuple(counts)!r}; their sum must divide the number of leaves, {leaves}")
    kinds = torch.tensor([kind for kind, count in enumerate(counts) for _ in range(count)]).repeat(leaves // turn)
    return [(kinds == kind).nonzero().flatten() for kind in range(len(counts))]

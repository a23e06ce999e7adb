# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The variables of data that a structure is learned from, and the shape of their region graph."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from ._structure import check_shape


def columns_of(x: Tensor, shape: int | Iterable[int] | None) -> tuple[Tensor, tuple[int, ...]]:
    """
    The data as ``[N, C, D]`` on the CPU, and the shape of the region graph.

    :param Tensor x: ``[N, D]``, ``[N, H, W]`` or ``[N, C, H, W]``, or ``[N, *shape]`` or ``[N, C, *shape]``.
    :raises TypeError: if ``x`` is not a tensor.
    :raises ValueError: if it is complex, has another shape, fewer than two rows or no columns.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor, but is a {type(x).__name__}.")
    if x.is_complex():
        raise ValueError(f"x must be real, but is {x.dtype}.")
    given = tuple(x.shape)
    if shape is not None:
        sizes = check_shape(shape)
        if given[1:] != sizes and given[2:] != sizes:
            raise ValueError(f"x must be [N, *shape] or [N, C, *shape] with shape {sizes}, but has shape {given}.")
    elif len(given) in (2, 3, 4):
        sizes = given[2:] if len(given) == 4 else given[1:]
    else:
        raise ValueError(f"x must be [N, D], [N, H, W] or [N, C, H, W] where no shape is given, but has shape {given}.")
    if len(x) < 2:
        raise ValueError(f"x must have at least 2 rows, but has {len(x)}.")
    if not x.numel():
        raise ValueError(f"x must have at least one column, but has shape {given}.")
    channels = 1 if given[1:] == sizes else given[1]
    return x.detach().cpu().reshape(len(x), channels, -1), sizes

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The unit of a column, from the values of training rows."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from pyro_spvae.data.column import Column

_CONSTANT = 1e-9  # deviation of values that are one, in units of their size, which rounding leaves


def learned(column: Column, values: Tensor) -> Column:
    """
    The column with ``location``, ``scale``, ``frequencies``, ``low`` and ``high`` of values that are seen in training
    rows.

    The scale of a column whose values are all the same is 1.

    :param Column column: its kind, family and categories.
    :param Tensor values: those that are seen, of its kind, ``[row]``; NaN, for missing ones, is left out.
    :raises ValueError: if there are none, or they are of another kind.

    Example::

        >>> from pyro_spvae.data import Column, learned
        >>> column = learned(Column("height", "real"), torch.tensor([150.0, 170.0, 190.0, torch.nan]))
        >>> column.location, round(column.scale, 3), column.low, column.high
        (170.0, 16.33, 150.0, 190.0)
    """
    seen = values.detach().to("cpu", torch.float64).flatten()
    if bool(seen.sum().isnan()):
        seen = seen[~seen.isnan()]
    if not len(seen):
        raise ValueError(f"the column {column.name!r} has no value in the training rows, all are missing; drop it")
    if column.is_coded:
        number = len(column.categories)
        outside = (seen < 0) | (seen >= number) | (seen != seen.round())
        if bool(outside.any()):
            raise ValueError(
                f"the {column.kind} column {column.name!r} holds the value {float(seen[outside][0]):g}; the numbers 0 "
                f"to {number - 1} of its categories are needed"
            )
        counts = torch.bincount(seen.long(), minlength=number).double()
        return replace(column, location=0.0, scale=1.0, frequencies=tuple((counts / len(seen)).tolist()))
    low, high = (float(end) for end in seen.aminmax())
    if column.family == "log-normal":
        if bool((seen <= 0).any()):
            raise ValueError(f"the log-normal column {column.name!r} holds {float(seen.min()):g}; above 0 is needed")
        seen = seen.log()
    location = float(seen.mean())
    centred = seen - location
    scale = math.sqrt(float(centred @ centred) / len(seen))
    if not math.isfinite(scale):
        raise ValueError(
            f"the {column.kind} column {column.name!r} holds values that are not finite, or not of its kind"
        )
    scale = scale if scale > _CONSTANT * max(abs(location), 1e-300) else 1.0
    return replace(column, location=location, scale=scale, low=low, high=high)


def learned_from(columns: tuple[Column, ...], values: Tensor) -> tuple[Column, ...]:
    """Each of the columns :func:`learned` from a table ``[N, D]``."""
    return tuple(learned(column, values[:, place]) for place, column in enumerate(columns))

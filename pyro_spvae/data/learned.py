# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a column learns from its training rows: location, scale and frequencies."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from pyro_spvae.data.column import Column


def learned(column: Column, values: Tensor) -> Column:
    r"""
    The same column with what its training rows are: mean and standard deviation of seen values, :math:`m` and
    :math:`s`, of a log-normal column those of logarithms; of categories their frequencies. A column that varies not at
    all has the scale 1.

    :param Column column: its name, kind and categories.
    :param Tensor values: of the training rows, ``[N]`` in the table's unit; NaN is missing.
    :raises ValueError: if none is seen, or a value is none of the kind's.
    """
    seen = values.detach().to("cpu", torch.float64)
    if bool(seen.sum().isnan()):
        seen = seen[~seen.isnan()]
    if not len(seen):
        raise ValueError(f"the column {column.name!r} has no value in the training rows, all are missing; drop it")
    if column.is_coded:
        number = len(column.categories)
        if not bool(((seen >= 0) & (seen < number) & (seen == seen.floor())).all()):
            raise ValueError(f"the column {column.name!r} holds numbers other than those of its {number} categories")
        counts = torch.bincount(seen.long(), minlength=number).double()
        return replace(column, location=0.0, scale=1.0, frequencies=tuple((counts / counts.sum()).tolist()))
    if column.family == "log-normal":
        if bool((seen <= 0).any()):
            raise ValueError(f"the log-normal column {column.name!r} holds {float(seen.min()):g}; above 0 is needed")
        seen = seen.log()
    location = float(seen.mean())
    centred = seen - location
    scale = math.sqrt(float(centred @ centred) / len(seen))
    return replace(column, location=location, scale=scale if scale > 0 else 1.0)


def learned_from(columns: tuple[Column, ...], values: Tensor) -> tuple[Column, ...]:
    """Each of the columns :func:`learned` from a table ``[N, D]``."""
    return tuple(learned(column, values[:, place]) for place, column in enumerate(columns))

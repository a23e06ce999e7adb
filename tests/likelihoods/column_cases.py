# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Columns of every family, in units far from 0 and 1, with values that follow them."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_spvae.data import Column

COLUMNS = (
    Column("income", "real", location=1e4, scale=300.0),
    Column("return", "real", "student-t", location=-40.0, scale=0.02),
    Column("price", "positive", location=7.0, scale=0.5),
    Column("length", "positive", "gamma", location=5e3, scale=900.0),
    Column("share", "proportion", location=0.2, scale=0.1),
    Column("visits", "count", location=30.0, scale=12.0),
    Column("calls", "count", "poisson", location=4.0, scale=1.5),
    Column("sex", "binary", categories=("f", "m"), frequencies=(0.3, 0.7)),
    Column("town", "categorical", categories=("A", "B", "C", "D"), frequencies=(0.1, 0.2, 0.3, 0.4)),
    Column("grade", "ordinal", categories=("low", "mid", "high"), frequencies=(0.5, 0.2, 0.3)),
)
BY_FAMILY = {str(column.family): column for column in COLUMNS}


def draw(column: Column, rows: int) -> Tensor:
    """Values of a column's own distribution, roughly."""
    location, scale = column.location, column.scale
    if column.is_coded:
        return torch.multinomial(torch.tensor(column.frequencies), rows, replacement=True).to(torch.get_default_dtype())
    if column.kind == "count":
        return torch.poisson(torch.full((rows,), location))
    if column.kind == "proportion":
        return torch.distributions.Beta(3.0, 12.0).sample((rows,)).clamp(1e-3, 0.999)
    normal = location + scale * torch.randn(rows)
    return normal.exp() if column.family == "log-normal" else normal


def table(columns: tuple[Column, ...], rows: int) -> Tensor:
    """``[rows, column]``."""
    return torch.stack([draw(column, rows) for column in columns], -1)

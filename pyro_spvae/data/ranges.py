# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Whether the values of a table lie where those of the training rows did, column by column."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

from torch import Tensor

from pyro_spvae.data.column import Column


def check_ranges(columns: Sequence[Column], x: Tensor, observed: Tensor | None = None) -> None:
    """
    Warns of values that lie farther outside of those of the training rows than these are apart, and names the columns:
    they may have been measured in another unit. Of a log-normal column distances are those of logarithms.

    :param columns: what the columns are; those whose ``low`` and ``high`` are not known are not looked at.
    :param Tensor x: finite values ``[N, D]``.
    :param Tensor observed: ``bool``, broadcastable to ``x``, True = looked at.
    """
    known = [place for place, column in enumerate(columns) if column.low is not None]
    if not known:
        return
    limits = x.new_tensor([_limits(columns[place]) for place in known])
    own = x[:, known]
    far = (own < limits[:, 0]) | (own > limits[:, 1])
    if observed is not None:
        far = far & observed.expand(x.shape)[:, known]
    if not bool(far.any()):
        return
    row, first = far.nonzero()[0].tolist()
    column = columns[known[first]]
    others = [columns[known[place]].name for place in far.any(0).nonzero().flatten().tolist() if place != first]
    more = f" (others in {', '.join(map(repr, others[:5]))}{', ..' if len(others) > 5 else ''})" if others else ""
    warnings.warn(
        f"x holds {own[row, first]:.4g} in row {row}, column {column.name!r}{more}, far outside of the "
        f"{column.low:.4g} to {column.high:.4g} that the model was trained on; check the unit of x",
        stacklevel=4,
    )


def _limits(column: Column) -> tuple[float, float]:
    """Beyond which values are far from those of the training rows."""
    assert column.low is not None and column.high is not None
    if column.family == "log-normal":
        width = math.log(column.high) - math.log(column.low)
        return column.low * math.exp(-width), column.high * math.exp(min(width, 700.0))
    width = column.high - column.low
    return column.low - width, column.high + width

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The unit of a column, from the values of training rows."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from pyro_spvae.data import Column, learned


@pytest.mark.parametrize(
    "column",
    [Column("c", "real"), Column("c", "positive", "gamma"), Column("c", "count"), Column("c", "real", "student-t")],
    ids=lambda column: str(column.family),
)
def test_mean_and_deviation_of_what_is_seen(column):
    values = torch.tensor([3.0, 1.0, math.nan, 8.0, 4.0])
    found = learned(column, values)
    assert (found.location, found.scale) == pytest.approx((4.0, np.std([3.0, 1.0, 8.0, 4.0])))
    assert (found.name, found.kind, found.family) == (column.name, column.kind, column.family)


def test_of_log_normal_columns_those_of_logarithms():
    values = torch.tensor([1.0, math.e**2, math.e**4, math.nan])
    found = learned(Column("c", "positive"), values)
    assert (found.location, found.scale) == pytest.approx((2.0, math.sqrt(8 / 3)))


def test_frequencies_of_categories():
    column = Column("c", "ordinal", categories=("a", "b", "c", "d"))
    found = learned(column, torch.tensor([0.0, 1.0, 1.0, 3.0, math.nan]))
    assert found.frequencies == (0.25, 0.5, 0.0, 0.25) and (found.location, found.scale) == (0.0, 1.0)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e9, -3.7])
def test_a_column_of_one_value_has_a_scale_of_one(value):
    found = learned(Column("c", "real"), torch.full((7,), value))
    assert found.scale == 1.0 and found.location == pytest.approx(value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_is_computed_in_double_precision(dtype):
    values = torch.arange(1_000_001) + 10**6
    found = learned(Column("c", "real"), values.to(dtype))
    assert found.location == 1.5e6


REFUSED = [
    (Column("age", "count"), [math.nan], "the column 'age' has no value in the training rows, all are missing; drop"),
    (
        Column("sex", "binary", categories=("f", "m")),
        [0.0, 2.0],
        "the binary column 'sex' holds the value 2; the numbers 0 to 1 of its categories are needed",
    ),
    (Column("c", "real"), [0.0, math.inf], "the real column 'c' holds values that are not finite, or not of its kind"),
    (Column("c", "positive"), [0.0, 1.0], "the log-normal column 'c' holds 0; above 0 is needed"),
]


@pytest.mark.parametrize(("column", "values", "message"), REFUSED)
def test_refusals(column, values, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        learned(column, torch.tensor(values))

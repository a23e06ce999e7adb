# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Values of a table far outside of those of its training rows, column by column."""

from __future__ import annotations

import warnings

import pytest
import torch

from pyro_spvae.circuits import random_binary_tree
from pyro_spvae.data import Column
from pyro_spvae.data.learned import learned_from
from pyro_spvae.data.ranges import check_ranges
from pyro_spvae.data.values import Values
from pyro_spvae.likelihoods import Columns
from pyro_spvae.models import SPN

COLUMNS = (
    Column("age", "count"),
    Column("income", "positive"),
    Column("town", "categorical", categories=("Bonn", "Ulm", "Rom")),
    Column("change", "real"),
)
ROWS = torch.tensor([[20, 1e3, 0, 0.5], [60, 1e5, 2, -0.5], [40, 1e4, 1, torch.nan]], dtype=torch.float64)
LEARNED = learned_from(COLUMNS, ROWS)


def test_the_smallest_and_the_largest_of_training_rows_are_kept():
    assert [(column.low, column.high) for column in LEARNED] == [(20, 60), (1e3, 1e5), (None, None), (-0.5, 0.5)]
    assert [Column.from_dict(column.to_dict()) for column in LEARNED] == list(LEARNED)
    with pytest.raises(ValueError, match="^low and high of the column 'a' are 2 and 1; both in order, or neither"):
        Column("a", "real", low=2, high=1)
    with pytest.raises(ValueError, match="^low and high of the column 'a' are 2 and None"):
        Column("a", "real", low=2)


@pytest.mark.parametrize(
    ("place", "inside", "outside"),
    [(0, 100, 101), (1, 0.99e7, 1.01e7), (1, 10.1, 9.9), (3, 1.5, 1.6), (3, -1.5, -1.6)],  # logarithms of the second
)
def test_each_column_has_a_range_of_its_own(place, inside, outside):
    x = ROWS.nan_to_num(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x[1, place] = inside
        check_ranges(LEARNED, x)
        check_ranges(COLUMNS, x * 100)  # of these nothing is known
        x[1, place] = outside
        seen = torch.ones(4, dtype=torch.bool)
        seen[place] = False
        check_ranges(LEARNED, x, seen)
    with pytest.warns(UserWarning, match=f"in row 1, column '{COLUMNS[place].name}', far outside of the ") as said:
        check_ranges(LEARNED, x)
    column = LEARNED[place]
    assert f"x holds {outside:.4g} in" in str(said[0].message)
    assert f"the {column.low:.4g} to {column.high:.4g} that the model was trained on" in str(said[0].message)


def test_further_columns_are_named():
    x = ROWS.nan_to_num(0)
    x[2, 0], x[1, 3], x[2, 1] = 500, 9, 1e9
    with pytest.warns(UserWarning, match="holds 9 in row 1, column 'change' .others in 'age', 'income'., far"):
        check_ranges(LEARNED, x)


def test_models_of_tables_ask_by_column():
    """A value may be usual for one column and far outside for another."""
    spn = SPN(random_binary_tree((4,), 1, 2), 2, likelihood=Columns(LEARNED)).double()
    spn.values = Values(low=-0.5, high=1e5, bounded=False)
    x = ROWS.nan_to_num(0)
    x[0, 0] = 1000
    with pytest.warns(UserWarning, match="holds 1000 in row 0, column 'age', far outside of the 20 to 60"):
        found = spn.log_likelihood(x)
    assert bool(found.isfinite().all())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spn.log_likelihood(ROWS)
    with pytest.raises(ValueError, match="^x holds 1 NaN or infinite value, in row 2, column 'change'; finite"):
        spn.log_likelihood(torch.cat([ROWS[:2], ROWS[2:].nan_to_num(torch.inf)]))


def test_tables_have_no_grey_levels():
    binary, mixed = Values.grey_levels(2), Values(low=-0.5, high=1e5, bounded=False)
    assert binary.described() == str(binary) == "grey levels 0 to 1"
    assert binary.described(False) == "whole numbers 0 to 1" and "1e+05" in mixed.described(False)
    assert mixed.described(False, COLUMNS) == "4 columns"

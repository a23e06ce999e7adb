# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Kinds of columns: chosen by a rule, given and checked; and what a column learns from its rows."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import scipy.stats
import torch

from pyro_spvae.data import Column, describe_columns
from pyro_spvae.data.column_summary import ColumnSummary, Moments
from pyro_spvae.data.learned import learned
from tests.data.cases import refused

RANDOM = np.random.default_rng(0)
N = 400

CHOSEN = {
    "two codes": (RANDOM.integers(0, 2, N), "binary"),
    "codes": (np.arange(N) % 7, "ordinal"),
    "ten codes": (np.arange(N) % 10, "ordinal"),
    "eleven codes": (np.arange(N) % 11, "count"),
    "codes that occur four times": (np.arange(40) % 10, "count"),
    "numbers that do not start at 0": (np.arange(N) % 7 + 1, "count"),
    "numbers with a gap": (2 * (np.arange(N) % 3), "count"),
    "counts": (RANDOM.poisson(30, N), "count"),
    "negative whole numbers": (RANDOM.integers(-40, 40, N), "real"),
    "proportions": (RANDOM.beta(2, 3, N), "proportion"),
    "a small part of (0, 1)": (0.3 + 0.4 * RANDOM.random(N), "real"),
    "0 is no proportion": (np.append(RANDOM.beta(2, 3, N), 0.0), "real"),
    "skewed": (RANDOM.lognormal(3, 1, N), "positive"),
    "skewed to the other side": (100 - RANDOM.lognormal(0, 0.5, N), "real"),
    "skewed and negative": (RANDOM.lognormal(3, 1, N) - 5, "real"),
    "positive and not skewed": (RANDOM.normal(50, 5, N), "real"),
}


@pytest.mark.parametrize(("values", "kind"), CHOSEN.values(), ids=CHOSEN)
@pytest.mark.parametrize("holes", [False, True])
def test_kinds_that_are_chosen(values, kind, holes):
    x = torch.tensor(values, dtype=torch.float64)
    if holes:
        x = torch.stack([x, torch.full_like(x, math.nan)], 1).flatten()
    (column,) = describe_columns(x[:, None], ["x"])
    assert column.kind == kind and column.name == "x"


def test_names_of_categories():
    x = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 2, 1]]).repeat(5, 1)
    columns = describe_columns(x, "abc", categories={"a": ["no", "yes"], "b": ["l", "m", "s"]})
    assert [column.kind for column in columns] == ["binary", "categorical", "binary"]
    assert [column.categories for column in columns] == [("no", "yes"), ("l", "m", "s"), ("0", "1")]
    (ordered,) = describe_columns(x[:, 1:2], ["b"], {"b": "ordinal"}, {"b": ["s", "m", "l", "xl"]})
    assert ordered.kind == "ordinal" and ordered.frequencies == pytest.approx((1 / 3, 1 / 3, 1 / 3, 0))


@pytest.mark.parametrize(
    ("word", "kind", "family"),
    [
        ("real", "real", "normal"),
        ("student-t", "real", "student-t"),
        ("gamma", "positive", "gamma"),
        ("positive", "positive", "log-normal"),
        ("poisson", "count", "poisson"),
        ("count", "count", "negative-binomial"),
        ("categorical", "categorical", "categorical"),
        ("ordinal", "ordinal", "ordinal"),
    ],
)
def test_kinds_and_families_that_are_given(word, kind, family):
    (column,) = describe_columns(torch.arange(1.0, 60)[:, None], ["x"], {"x": word})
    assert (column.kind, column.family) == (kind, family)


REFUSED = [
    ([[math.nan], [math.nan]], {}, "^all 2 entries of the column 'x' are missing; drop it$"),
    ([[math.inf], [1.0]], {}, "^the column 'x' holds 1 infinite values, as inf in row 0; all"),
    ([[1.0], [0.5]], {"x": "count"}, "^the column 'x' is said to be count, but holds other numbers than whole ones"),
    (
        [[-1.0], [3]],
        {"x": "poisson"},
        "said to be count, but holds values from -1 to 3, as -1 in row 0; whole numbers from 0",
    ),
    (
        [[0.0], [3]],
        {"x": "positive"},
        "said to be positive, but holds values from 0 to 3, as 0 in row 0; numbers above 0",
    ),
    (
        [[0.5], [1]],
        {"x": "beta"},
        "said to be proportion, but holds values from 0.5 to 1, as 1 in row 1; numbers between 0 and 1",
    ),
    ([[0.0], [2]], {"x": "binary"}, "said to be binary, but holds values from 0 to 2, as 2 in row 1; 0 and 1 are"),
    ([[0.5], [2]], {"x": "binary"}, "said to be binary, but holds values from 0.5 to 2"),
    ([[0.0], [500]], {"x": "categorical"}, "the categorical column 'x' has 501 categories; at most 100"),
    ([[0.0], [2]], {"x": "normals"}, "^the kind of the column 'x' is 'normals'; known are real, .* families normal"),
    ([[0.0], [2]], {"y": "real"}, "^kinds names the column 'y', but the columns are x$"),
    ([[1e9 + 1], [1e9 + 2.5]], {}, r"^the column 'x' holds values up to 1e\+09 .* 32-bit floats hold to"),
]


@pytest.mark.parametrize(("values", "kinds", "message"), REFUSED)
def test_refusals(values, kinds, message):
    with refused(message):
        describe_columns(torch.tensor(values, dtype=torch.float64), ["x"], kinds)


def test_refusals_of_names():
    x = torch.rand(20, 2)
    with refused("^two columns have the name 'a'"):
        describe_columns(x, ["a", "a"])
    with refused("^names has 1 names, but the table has 2 columns$"):
        describe_columns(x, ["a"])
    with refused("^categories names the column 'c'"):
        describe_columns(x, ["a", "b"], categories={"c": ["u", "v"]})
    with refused("^the column 'a' is said to be real, but holds text, such as 'u'$"):
        describe_columns(x.round(), ["a", "b"], {"a": "real"}, {"a": ["u", "v"]})


def test_large_numbers_that_vary_much_are_taken():
    x = 1.6e9 + 3e7 * torch.randn(100, dtype=torch.float64)
    (column,) = describe_columns(x[:, None], ["time"])
    assert column.location == pytest.approx(float(x.mean()), rel=1e-9)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.7] * 30, "^the real column 'x' has the one value 0.7, on which its density grows without limit; drop it$"),
        ([0.7, -1.5, 2.25] * 10, "^the real column 'x' has 3 distinct values alone, .* ordinal or categorical$"),
    ],
)
def test_warnings_of_densities_that_grow_without_limit(values, message):
    with pytest.warns(UserWarning, match=message):
        (column,) = describe_columns(torch.tensor(values, dtype=torch.float64)[:, None], ["x"])
    assert column.kind == "real" and column.scale > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        describe_columns(torch.tensor([0.7, -1.5, 2.25])[:, None], ["x"])  # three values of three are not few


class TestLearned:
    X = torch.tensor(RANDOM.gamma(2.0, 3.0, N))

    @pytest.mark.parametrize("family", ["normal", "student-t", "gamma"])
    def test_mean_and_deviation_of_what_is_seen(self, family):
        kind = "positive" if family == "gamma" else "real"
        found = learned(Column("x", kind, family), torch.cat([self.X, torch.tensor([math.nan])]))
        assert (found.location, found.scale) == pytest.approx((self.X.mean().item(), self.X.numpy().std()), rel=1e-12)

    def test_those_of_logarithms(self):
        found = learned(Column("x", "positive"), self.X)
        logs = np.log(self.X.numpy())
        assert (found.location, found.scale) == pytest.approx((logs.mean(), logs.std()), rel=1e-12)

    def test_frequencies(self):
        x = torch.tensor([0.0, 2, 2, math.nan, 1, 2])
        found = learned(Column("x", "categorical", categories=("a", "b", "c", "d")), x)
        assert found.frequencies == pytest.approx((0.2, 0.2, 0.6, 0.0)) and (found.location, found.scale) == (0, 1)

    def test_a_column_that_does_not_vary(self):
        assert learned(Column("x", "real"), torch.full((5,), 3.0)).scale == 1

    @pytest.mark.parametrize(
        ("column", "values", "message"),
        [
            (Column("x", "real"), [math.nan], "has no value in the training rows"),
            (Column("x", "positive"), [1.0, 0.0], "the log-normal column 'x' holds 0; above 0 is needed"),
            (
                Column("x", "binary", categories=("a", "b")),
                [2.0],
                "holds the value 2; the numbers 0 to 1 of its categories are needed",
            ),
        ],
    )
    def test_refusals(self, column, values, message):
        with refused(message):
            learned(column, torch.tensor(values))


class TestSummary:
    def test_moments_of_blocks_are_those_of_all(self):
        x = RANDOM.gamma(1.5, 2, 1000) + 1e3
        moments = Moments()
        for block in np.split(x, [1, 10, 500]):
            moments.look(block)
        assert moments.mean == pytest.approx(x.mean(), rel=1e-13)
        assert moments.deviation == pytest.approx(x.std(), rel=1e-10)
        assert moments.skewness == pytest.approx(scipy.stats.skew(x), rel=1e-8)

    def test_distinct_values(self):
        x = torch.tensor(np.repeat(RANDOM.permutation(100) - 7.5, 30))
        assert ColumnSummary().look(x[:1500]).look(x[1500:]).distinct == sorted(set(x.tolist()))
        assert ColumnSummary().look(torch.arange(101.0)).distinct is None
        late = torch.cat([torch.zeros(5000), torch.arange(200.0)])
        assert ColumnSummary().look(late).distinct is None

    def test_what_is_seen(self):
        found = ColumnSummary().look(torch.tensor([1.0, math.nan, -2.5])).look(torch.tensor([math.inf, 7.0]))
        assert (found.entries, found.seen, found.infinite) == (5, 3, 1)
        assert (found.low, found.high, found.whole, found.distinct) == (-2.5, 7, False, [-2.5, 1, 7])
        large = 2.0**24 + torch.tensor([0.0, 1.0, 3.5], dtype=torch.float64)
        assert ColumnSummary().look(large).loss == 1, "32-bit floats hold even numbers there"

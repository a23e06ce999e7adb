# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""One category has one name, in every file and at any time; numbers are numbers, whatever holds them."""

from __future__ import annotations

import decimal

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_spvae.data import load_data

N = 60


def written(path, **columns):
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def known(data):
    return [(column.name, column.kind, column.categories) for column in data.columns]


@pytest.mark.parametrize(
    "texts", [("TRUE", "FALSE"), ("True", "False"), ("true", "false"), ("yes", "no"), ("TRUE", "FALSE", "")]
)
def test_truth_values_keep_their_texts(tmp_path, texts):
    cells = [texts[row % len(texts)] for row in range(N)]
    path = written(tmp_path / "a.csv", age=np.arange(N) * 0.5, smoker=cells)
    data = load_data(path, undivided=True)
    assert known(data)[1] == ("smoker", "binary", tuple(sorted(texts[:2])))
    again = load_data(path, columns=data.columns, undivided=True)
    assert torch.equal(again.train[:].nan_to_num(-1), data.train[:].nan_to_num(-1))
    assert data.train[:][:, 1].isnan().tolist() == [cell == "" for cell in cells]


@pytest.mark.filterwarnings("ignore:the column 'n' holds")
def test_splits_of_which_one_holds_texts_alone(tmp_path):
    """01 and 02 are numbers in a file of nothing else, but codes beside x."""
    size = np.arange(N) * 0.5
    paths = [
        written(tmp_path / f"{name}.csv", size=size, code=[codes[row % len(codes)] for row in range(N)], n=ns)
        for name, codes, ns in (
            ("train", ["01", "02", "x"], ["1", "2", "n/a"] * 20),
            ("validation", ["01", "02"], ["1", "2", ""] * 20),
            ("test", ["01", "02", "x"], ["1", "2", "1"] * 20),
        )
    ]
    data = load_data(paths[0], validation=paths[1], test=paths[2])
    assert known(data)[1:] == [("code", "categorical", ("01", "02", "x")), ("n", "categorical", ("1", "2", "n/a"))]
    again = load_data(paths[0], validation=paths[1], test=paths[2], columns=data.columns)
    for split in ("train", "validation", "test"):
        rows, same = getattr(data, split)[:], getattr(again, split)[:]
        assert torch.equal(rows.nan_to_num(-1), same.nan_to_num(-1))
    told = load_data(paths[0], validation=paths[1], test=paths[2], na=["n/a"])
    assert told.columns[2].categories == ("1", "2")


@pytest.mark.filterwarnings("ignore:the column 'b' holds")
def test_frames_of_which_one_holds_texts_alone():
    frames = [pd.DataFrame({"a": np.arange(N) * 0.5, "b": b}) for b in (["1", "2", "x"] * 20, [1, 2] * 30, [1.5] * N)]
    data = load_data(frames[0], validation=frames[1], test=frames[2])
    assert data.columns[1].categories == ("1", "1.5", "2", "x")


def as_objects(values):
    return pd.Series(values, dtype=object)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([*range(20, 79), None], "count"),
        ([0.5 * row for row in range(59)] + [np.nan], "real"),
        ([decimal.Decimal(row) / 4 - 3 for row in range(60)], "real"),
        ([1, 2.5, decimal.Decimal("3.25"), np.float32(4), np.int64(7), None] * 10, "real"),
    ],
)
def test_numbers_in_objects_are_numbers(values, kind):
    frame = pd.DataFrame({"a": np.arange(N) * 0.5, "b": as_objects(values)})
    data = load_data(frame, undivided=True)
    assert data.columns[1].kind == kind and not data.columns[1].is_coded
    wanted = torch.tensor([float("nan") if value is None else float(value) for value in values])
    torch.testing.assert_close(data.train[:][:, 1], wanted.float(), equal_nan=True)
    again = load_data(frame.iloc[::-1], columns=data.columns, undivided=True)
    torch.testing.assert_close(again.train[:][:, 1].flip(0), wanted.float(), equal_nan=True)


def test_truth_values_and_texts_in_objects_are_categories():
    frame = pd.DataFrame({"a": as_objects([True, False, None] * 20), "b": as_objects(["1", 2, None] * 20)})
    data = load_data(frame, undivided=True)
    assert [column.categories for column in data.columns] == [("False", "True"), ("1", "2")]


@pytest.mark.parametrize("dtype", [object, "category", "string"])
def test_texts_without_a_letter_are_missing(dtype):
    frame = pd.DataFrame({"a": np.arange(N) * 0.5, "b": pd.Series(["", "f", "m"] * 20).astype(dtype)})
    data = load_data(frame, undivided=True)
    assert data.columns[1].categories == ("f", "m")
    for rows in (data, load_data(frame, columns=data.columns, undivided=True)):
        assert rows.train[:][:, 1].isnan().tolist() == [True, False, False] * 20


@pytest.mark.parametrize(
    ("texts", "order"),
    [
        (["10", "11", "12", "8", "9"], ("8", "9", "10", "11", "12")),
        (["12+", "1", "10", "2", "9"], ("1", "2", "9", "10", "12+")),
        (["-1", "-10", "2.5", "2"], ("-10", "-1", "2", "2.5")),
        (["grade 10", "grade 9"], ("grade 9", "grade 10")),
        (["10-19", "0-9", "100+"], ("0-9", "10-19", "100+")),
        (["low", "high", "middle"], ("high", "low", "middle")),
    ],
)
def test_ordinal_texts_are_in_the_order_of_their_numbers(texts, order, recwarn):
    frame = pd.DataFrame({"a": np.arange(N) * 0.5, "b": [texts[row % len(texts)] for row in range(N)]})
    data = load_data(frame, kinds={"b": "ordinal"}, undivided=True)
    assert data.columns[1].categories == order
    assert [order[int(code)] for code in data.train[:][:, 1]] == frame["b"].tolist()
    told = [str(warning.message) for warning in recwarn if "in the order" in str(warning.message)]
    sure = all(text.lstrip("-").replace(".", "").isdigit() for text in texts)
    assert len(told) == (not sure) and all(", ".join(order) in line for line in told)
    own = pd.Categorical(frame["b"], categories=texts, ordered=True)
    assert load_data(frame.assign(b=own), undivided=True).columns[1].categories == tuple(texts)


class TestSinglePrecision:
    """What is chosen and taken are values as models hold them."""

    def column(self, *values):
        spread = np.random.default_rng(0).random(N - len(values)) * 0.9 + 0.05
        return np.concatenate([values, spread])

    @pytest.mark.parametrize("value", [0.999999999, 1e-60])
    def test_proportions_that_would_be_ends_are_none(self, value):
        x = self.column(value)
        assert load_data(pd.DataFrame({"a": x, "b": np.arange(N) * 0.5})).columns[0].kind == "real"
        end = round(value)
        message = (
            r"^the column 'a' is said to be proportion, but holds values from .*, as \S+ in row 0 of the DataFrame, "
            rf"which 32-bit floats take for {end}; give the logarithm of x / \(1 - x\), which is real$"
        )
        with pytest.raises(ValueError, match=message):
            load_data(pd.DataFrame({"a": x, "b": np.arange(N) * 0.5}), kinds={"a": "proportion"})

    def test_numbers_next_to_0_are_not_positive(self):
        x = 10.0 ** -np.linspace(1, 60, N)
        frame = pd.DataFrame({"p": x, "b": np.arange(N) * 0.5})
        assert load_data(frame).columns[0].kind == "real"
        with pytest.raises(ValueError, match="take for 0; give its logarithm, which is real$"):
            load_data(frame, kinds={"p": "positive"})
        assert load_data(frame.assign(p=x * 1e30), kinds={"p": "gamma"}).columns[0].kind == "positive"

    def test_numbers_beyond_the_largest_are_refused(self):
        frame = pd.DataFrame({"a": [1.0, 2.0, 1e39] * 20, "b": np.arange(N) * 0.5})
        with pytest.raises(ValueError, match="^the column 'a' holds values from 1 to 1e\\+39, as 1e\\+39 in row 2 of"):
            load_data(frame)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Texts among numbers: told of, or said to mean that an entry is missing."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_spvae.data import load_data
from pyro_spvae.data.columns_table import columns_table
from pyro_spvae.data.mixed_texts import is_number, odd_texts
from pyro_spvae.likelihoods import Columns
from tests.data.cases import refused, together

N = 60
ODD = {4: "n/a", 9: "?", 20: "n/a"}


def ages():
    return np.random.default_rng(0).integers(20, 60, N)


def frame():
    """Numbers with three texts among them, and numbers with none."""
    cells = [ODD.get(row, str(age)) for row, age in enumerate(ages())]
    return pd.DataFrame({"age": cells, "size": np.random.default_rng(1).normal(size=N).round(3)})


@pytest.fixture(params=["table.csv", "table.tsv.gz", "table.parquet", "frame"])
def table(request, tmp_path):
    if request.param == "frame":
        return frame()
    path = tmp_path / request.param
    if path.suffix == ".parquet":
        frame().to_parquet(path)
    else:
        frame().to_csv(path, index=False, sep="\t" if "tsv" in path.name else ",")
    return path


NOTE = (
    "the column 'age' holds 57 numbers and the texts '?', 'n/a', so that it is taken for categorical; if they mean "
    "that an entry is missing, say so by --na '?,n/a', na=['?', 'n/a'] in Python"
)


def test_a_column_of_numbers_with_a_few_texts_is_told_of(table):
    with pytest.warns(UserWarning) as said:
        data = load_data(table)
    assert [str(one.message) for one in said] == [NOTE] and data.columns[0].kind == "categorical"
    assert columns_table(data)[-1] == f"note        {NOTE}" and not columns_table(data, ["age"])[-1].startswith("note")
    told = []
    load_data(table, undivided=True, report=told.append)
    assert told == [NOTE], "each entry counts once"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_data(table, kinds={"age": "categorical"})
        load_data(table, columns=data.columns)


def test_of_data_frames_likelihoods_tell_too():
    with pytest.warns(UserWarning, match="^the column 'age' holds 57 numbers and the texts"):
        Columns.from_rows(frame())


def test_texts_that_are_said_to_mean_missing(table):
    data = load_data(table, na=["n/a", "?"], undivided=True)
    wanted = np.where(np.isin(np.arange(N), list(ODD)), np.nan, ages())
    assert np.array_equal(data.train[:][:, 0], wanted, equal_nan=True) and data.columns[0].kind == "count"
    assert np.array_equal(data.train[:][:, 1], frame()["size"].astype(np.float32))
    again = load_data(table, na=["n/a", "?"], columns=data.columns, undivided=True)
    torch.testing.assert_close(together(again), together(data), equal_nan=True, rtol=0, atol=0)
    with pytest.warns(UserWarning, match="57 numbers and the text 'n/a', so that .* if that means .* by --na 'n/a', "):
        load_data(table, na="?")


@pytest.mark.parametrize("kind", ["csv", "frame"])
def test_numbers_and_categories_may_mean_missing(kind, tmp_path):
    rows = pd.DataFrame({"year": [1990.5, -9, 2001.25, 1970] * 10, "town": ["Ulm", "unknown", "Bonn", "a, b"] * 10})
    table = rows
    if kind == "csv":
        rows.to_csv(tmp_path / "a.csv", index=False)
        table = tmp_path / "a.csv"
    data = load_data(table, na=["-9", "unknown", "a, b"], undivided=True)
    x = data.train[:]
    assert data.columns[1].categories == ("Bonn", "Ulm")
    assert torch.equal(x.isnan(), torch.tensor([[False, False], [True, True], [False, False], [False, True]] * 10))


def test_what_is_a_number_among_texts():
    assert [is_number(text) for text in ("1", "-2.5e3", "0", "0.5", "007", "inf", "nan", "", "1,5")] == [True] * 4 + [
        False
    ] * 5
    assert odd_texts(["1", "2", "x"]) == ["x"] and odd_texts(["1", "x"]) == odd_texts(["x", "y", "z"]) == []
    many = [*map(str, range(30)), *(f"t{i}" for i in range(11))]
    assert odd_texts(many) == [] and len(odd_texts(many[:-1])) == 10


@pytest.mark.filterwarnings("error")
def test_columns_of_texts_with_a_few_numbers_are_none(tmp_path):
    cells = ["1", "2"] * 9 + ["many"] * 21
    pd.DataFrame({"a": cells, "b": np.arange(39) / 7}).to_csv(tmp_path / "a.csv", index=False)
    assert load_data(tmp_path / "a.csv").columns[0].categories == ("1", "2", "many")


REFUSED = [
    ({"kinds": {"age": "count"}}, "'age' is said to be count, but holds text, such as 'n/a' in row 4; .* by --na"),
    ({"na": [1]}, r"^na is \[1\]; a list of texts is needed"),
    ({"na": 3}, "^na is 3; a list of texts is needed"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=str)
def test_options_that_are_refused(table, options, message):
    with refused(message):
        load_data(table, **options)


def test_other_refusals(tmp_path):
    x = np.random.default_rng(0).normal(size=(400, 2)).round(6)
    rows = pd.DataFrame(x, columns=["a", "b"]).astype({"a": object})
    rows.loc[7, "a"] = "NULL"
    with refused("^the column 'a' holds 399 different numbers, and the text 'NULL'; if that means .* by --na 'NULL', "):
        load_data(rows)
    columns = load_data(rows, na="NULL").columns
    with refused(
        "^the real column 'a' of .* holds the text 'NULL' in row 7; if that .* missing, leave its cell empty$"
    ):
        load_data(rows, columns=columns)
    np.save(tmp_path / "x.npy", x)
    with refused("^na is .'NULL'., texts of a table, but x.npy holds no texts"):
        load_data(tmp_path / "x.npy", na="NULL")
    with refused("^na is given, but digits is no file"):
        load_data("digits", na="NULL")

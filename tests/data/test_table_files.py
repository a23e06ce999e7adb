# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Tables of text and Parquet files: names, categories, holes, splits, and a sentence for whatever does not fit."""

from __future__ import annotations

import gzip
import math
import re
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_spvae.data import Values, load_data
from pyro_spvae.data.columns_table import columns_table
from pyro_spvae.data.hints import grey_hint
from pyro_spvae.data.rows import Rows
from pyro_spvae.data.table_files import read_frame
from tests.data.cases import lengths, refused, together

N = 60


def mixed():
    """A table with columns of several kinds; an integer, a category and a number are missing."""
    random = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "age": random.poisson(30, N).astype(float),
            "sex": random.choice(["m", "f"], N),
            "rooms": np.arange(N) % 5 + 1,
            "income": random.lognormal(3, 1, N).round(3),
            "town": random.choice(["Ulm", "Köln", "Bonn"], N),
        }
    )
    frame.loc[3, "age"] = frame.loc[5, "income"] = math.nan
    frame.loc[4, "town"] = None
    return frame


@pytest.fixture
def path(tmp_path):
    mixed().to_csv(tmp_path / "mixed.csv", index=False)
    return tmp_path / "mixed.csv"


class TestReading:
    def test_columns_and_values(self, path):
        data, frame = load_data(path, undivided=True), mixed()
        assert [(column.name, column.kind) for column in data.columns] == [
            ("age", "count"), ("sex", "binary"), ("rooms", "ordinal"), ("income", "positive"), ("town", "categorical")
        ]  # fmt: skip
        assert [column.categories for column in data.columns] == [
            (), ("f", "m"), ("1", "2", "3", "4", "5"), (), ("Bonn", "Köln", "Ulm")
        ]  # fmt: skip
        x = data.train[:].numpy()
        assert np.array_equal(x[:, 0], frame["age"], equal_nan=True)
        assert [("f", "m")[int(code)] for code in x[:, 1]] == list(frame["sex"])
        assert np.array_equal(x[:, 2], frame["rooms"] - 1)
        assert np.array_equal(x[:, 3], frame["income"].astype(np.float32), equal_nan=True)
        towns = [None if math.isnan(code) else data.columns[4].categories[int(code)] for code in x[:, 4]]
        assert towns == [None if pd.isna(town) else town for town in frame["town"]]
        assert data.missing == "nan" and data.train.missing and data.values.levels is None

    def test_splits_and_what_is_learned_from_training_rows(self, path):
        data = load_data(path, seed=3)
        assert lengths(data) == [48, 6, 6]
        whole = load_data(path, undivided=True).train[:]
        for split in ("train", "validation", "test"):
            rows = getattr(data, split)
            torch.testing.assert_close(rows[:], whole[rows.numbers], equal_nan=True, rtol=0, atol=0)
        age, _, rooms = (data.train[:][:, place].double() for place in range(3))
        assert data.columns[0].location == pytest.approx(float(age[~age.isnan()].mean()))
        assert data.columns[0].location != pytest.approx(float(whole[:, 0].double().nanmean()))
        assert data.columns[2].frequencies == pytest.approx(
            [float((rooms == code).double().mean()) for code in range(5)]
        )

    @pytest.mark.parametrize("name", ["mixed.csv.gz", "mixed.tsv", "mixed.parquet"])
    def test_other_files_hold_the_same(self, path, tmp_path, name):
        frame = mixed()
        if name.endswith("parquet"):
            frame.to_parquet(tmp_path / name)
        else:
            frame.to_csv(tmp_path / name, index=False, sep="\t" if "tsv" in name else ",")
        self.same(load_data(tmp_path / name), load_data(path))

    def test_data_frames(self, path):
        found = load_data(mixed(), seed=0)
        self.same(found, load_data(path))
        assert found.name == "DataFrame"

    def same(self, found, wanted):
        torch.testing.assert_close(together(found), together(wanted), equal_nan=True, rtol=0, atol=0)
        assert found.columns == wanted.columns

    def test_a_header_is_detected(self, tmp_path):
        (tmp_path / "a.csv").write_text("1,2.5\n" + "0,-1\n" * 10)
        assert read_frame(tmp_path / "a.csv").shape == (11, 2)
        assert list(read_frame(tmp_path / "a.csv").columns) == ["column 1", "column 2"]
        (tmp_path / "a.csv").write_text(',"a, b"\n' + "0,-1\n\n" * 10)
        frame = read_frame(tmp_path / "a.csv")
        assert list(frame.columns) == ["column 1", "a, b"] and len(frame) == 10
        (tmp_path / "a.data").write_text("x,2\n" * 10)
        assert list(read_frame(tmp_path / "a.data").columns) == ["column 1", "column 2"]
        (tmp_path / "a.csv").write_text("NA,1\n" + "0,-1\n" * 10)
        assert len(read_frame(tmp_path / "a.csv")) == 11

    def test_cells_that_are_missing(self, tmp_path):
        (tmp_path / "a.csv").write_text("a,b\n,None\nNA,x\nNaN, y\n1,x\n")
        frame = read_frame(tmp_path / "a.csv")
        assert frame["a"].isna().tolist() == [True, True, True, False]
        assert frame["b"].tolist() == ["None", "x", "y", "x"]

    def test_a_byte_order_mark_is_no_letter(self, tmp_path):
        (tmp_path / "a.csv").write_text("\ufeffa,b\n1,2\n", encoding="utf-8")
        assert list(read_frame(tmp_path / "a.csv").columns) == ["a", "b"]

    def test_the_binary_benchmarks(self, tmp_path):
        random = np.random.default_rng(0)
        for split, rows in (("train", 30), ("valid", 7), ("test", 9)):
            np.savetxt(tmp_path / f"own.{split}.data", random.integers(0, 2, (rows, 4)), fmt="%d", delimiter=",")
        data = load_data(
            tmp_path / "own.train.data", validation=tmp_path / "own.valid.data", test=tmp_path / "own.test.data"
        )
        assert lengths(data) == [30, 7, 9] and data.values == Values.grey_levels(2)
        wanted = np.loadtxt(tmp_path / "own.test.data", delimiter=",")
        assert np.array_equal(data.test[:].numpy(), wanted)


class TestOptions:
    def test_kinds(self, path):
        data = load_data(path, kinds={"age": "ordinal", "income": "gamma", "rooms": "count"})
        assert [column.kind for column in data.columns[:4]] == ["ordinal", "binary", "count", "positive"]
        assert data.columns[3].family == "gamma"
        ages = sorted(set(mixed()["age"].dropna().astype(int)))
        assert data.columns[0].categories == tuple(map(str, ages))
        assert set(together(data)[:, 2].tolist()) == {1, 2, 3, 4, 5}, "counts are no codes"

    def test_drop(self, path):
        data = load_data(path, drop=["sex", "town"])
        assert [column.name for column in data.columns] == ["age", "rooms", "income"] and data.event_shape == (3,)

    def test_columns_of_arrays(self, tmp_path):
        x = np.random.default_rng(0).normal(size=(40, 3))
        x[:, 1] = np.arange(40) % 3
        np.save(tmp_path / "x.npy", x)
        data = load_data(tmp_path / "x.npy", kinds={"column 3": "student-t"}, drop=["column 1"])
        assert [(column.name, column.family) for column in data.columns] == [
            ("column 2", "ordinal"), ("column 3", "student-t")
        ]  # fmt: skip
        np.testing.assert_array_equal(np.sort(together(data)[:, 1]), np.sort(x[:, 2].astype(np.float32)))

    def test_columns_that_are_known(self, path, tmp_path):
        wanted = load_data(path)
        frame = mixed().iloc[:3, ::-1].assign(note="other")
        frame.to_csv(tmp_path / "few.csv", index=False)
        found = load_data(tmp_path / "few.csv", columns=wanted.columns, drop=["note"], undivided=True)
        whole = load_data(path, undivided=True).train[:3]
        torch.testing.assert_close(found.test[:], whole, equal_nan=True, rtol=0, atol=0)
        assert found.columns == wanted.columns

    def test_texts_that_look_like_numbers_stay_texts(self, tmp_path):
        codes = ["01", "02", "x"] * 10
        pd.DataFrame({"code": codes, "y": np.arange(30) / 7}).to_csv(tmp_path / "a.csv", index=False)
        columns = load_data(tmp_path / "a.csv").columns
        assert columns[0].categories == ("01", "02", "x")
        pd.DataFrame({"code": ["02", "01"], "y": [0.5, 1]}).to_csv(tmp_path / "b.csv", index=False)
        found = load_data(tmp_path / "b.csv", columns=columns, undivided=True).test[:]
        assert found[:, 0].tolist() == [1, 0]

    @pytest.mark.parametrize("name", ["a.csv", "a.npy"])
    def test_flat_images(self, tmp_path, name):
        x = np.random.default_rng(0).integers(0, 256, (20, 6))
        if name.endswith("csv"):
            np.savetxt(tmp_path / name, x, fmt="%d", delimiter=",")
        else:
            np.save(tmp_path / name, x.astype(np.uint8))
        data = load_data(tmp_path / name, shape=(3, 2), undivided=True)
        assert data.event_shape == (1, 3, 2) and data.values == Values.grey_levels(256) and data.columns is None
        assert np.array_equal(data.train[:].numpy(), x.reshape(20, 1, 3, 2))

    def test_all_rows_in_the_order_of_the_file(self, path):
        data, whole = load_data(path), load_data(path, undivided=True)
        torch.testing.assert_close(data.undivided().test[:], whole.test[:], equal_nan=True, rtol=0, atol=0)
        assert data.undivided().test.numbers.tolist() == list(range(N))

    def test_rows_keep_their_noise_among_all(self, tmp_path):
        np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 9, (30, 2, 2), dtype=np.uint8))
        data = load_data(tmp_path / "x.npy")
        parts, whole = data.preprocessed("dequantize", 3), data.undivided().preprocessed("dequantize", 3)
        for split in ("train", "validation", "test"):
            rows = getattr(parts, split)
            assert torch.equal(whole.test[:][rows.numbers], rows[:])


LINES = "a,b\n" + "1,2\n" * 20
REFUSED = [
    (
        "a;b\n1;2\n",
        "one field, and 2 if semicolons separate them; save it with commas, or give the DataFrame of pandas",
    ),
    (b"", "is empty"),
    (b"a,b\n", "has a header and no rows"),
    (LINES + "1,2,3\n", "different lengths: line 22 has 3 fields, the first line 2"),
    (LINES + "1\n", "different lengths: line 22 has 1 field, the first line 2"),
    ('a,b\n"x\ny",1\n' * 1 + "1,2\n" * 12 + "7\n", "different lengths: line 16 has 1 field"),
    ("a,a\n" + "1,2\n" * 20, "two columns have the name 'a'"),
    ("a,b\n" + "1,\n" * 20, "all 20 entries of the column 'b' are missing"),
    ("a,b\n" + "1,inf\n2,1\n" * 20, "NaN or infinite|infinite values"),
    (b"a,b\n" + b"\xff,1\n" * 20, "is no text in UTF-8 .byte 0xff."),
    (
        "a,b\n" + "".join(f"n{i},{i / 7}\n" for i in range(200)),
        "200 different texts, such as 'n0', more than 100; .*--drop",
    ),
    (
        "a,b\n" + "".join(f"n{i},{i / 7}\n" for i in range(20)),
        "20 different texts, .* nearly as many as its 20 entries",
    ),
    ("a,b\n" + "x,1\n" * 20, "holds the text 'x' alone"),
    ("a,b,c\n" + "1.5,,\n2.5,,\n3,,5\n" * 8 + "1,2,3\n", "has more holes than values: 40 of its 75"),
    ("a,b\n" + "1.5,2\n" * 5, "5 rows to draw"),
]


@pytest.mark.parametrize(("content", "message"), REFUSED, ids=[message[:30] for _, message in REFUSED])
@pytest.mark.parametrize("packed", [False, True])
def test_files_that_are_refused(tmp_path, content, message, packed):
    content = content.encode() if isinstance(content, str) else content
    path = tmp_path / ("own.csv.gz" if packed else "own.csv")
    path.write_bytes(gzip.compress(content) if packed else content)
    with refused(message):
        load_data(path)


OPTIONS = [
    ({"kinds": {"b": "count"}}, "^kinds names the column 'b', but the columns are age, sex, rooms, income, town$"),
    ({"kinds": {"sex": "count"}}, "'sex' is said to be count, but holds text, such as 'f'"),
    ({"kinds": {"income": "count"}}, "'income' is said to be count, but holds other numbers than whole ones"),
    ({"kinds": {"town": "binary"}}, "'town' is said to be binary, but has the 3 categories Bonn, Köln, Ulm; two"),
    ({"kinds": {"age": 3}}, "^kinds is .*; a dict from names of columns to kinds"),
    ({"drop": ["size"]}, "drop names the column 'size', but the columns are age, sex"),
    ({"drop": 3}, "^drop is 3; a list of names of columns"),
    ({"drop": ["age", "sex", "rooms", "income", "town"]}, "drop names all of the columns"),
    ({"shape": (2, 2)}, "'sex' of the data file .* holds other things than numbers"),
    ({"missing": "none"}, "NaN or infinite value.*leave out --missing none"),
]


@pytest.mark.parametrize(("options", "message"), OPTIONS, ids=str)
def test_options_that_are_refused(path, options, message):
    with refused(message):
        load_data(path, **options)


def test_refused_values_are_told_by_row_and_column(path):
    """Rows are those of the file, whichever splits they came to."""
    holes = {"age": 3, "income": 5, "town": 4}
    with pytest.raises(ValueError, match="in row .*, column '") as caught:
        load_data(path, missing="none")
    row, name = re.search(r"row (\d+) of the table\), column '(\w+)'", str(caught.value)).groups()
    assert holes[name] == int(row)
    frame = mixed().fillna({"town": "Ulm", "age": 1, "income": 1})
    for column, value, kind, text in (
        ("income", -2.5, "positive", "-2.5 in row 7"),
        ("age", 1.5, "count", "1.5 in row 7"),
        ("income", 0.0, "proportion", "46.045 in row 0"),
        ("income", math.inf, "real", "inf in row 7"),
    ):
        changed = frame.astype({column: float})
        changed.loc[7, column] = value
        with refused(f"the column '{column}' .*, as ({text}) of the DataFrame; "):
            load_data(changed, kinds={column: kind})
    changed.to_csv(path.parent / "test.csv", index=False)
    with refused("'income' holds 1 infinite values, as inf in row 7 of the data file .*test.csv; all must be finite"):
        load_data(path, test=path.parent / "test.csv")
    columns = load_data(path).columns
    with refused("^test of .* in row 7, column 'income', but all must be finite"):
        load_data(path, test=path.parent / "test.csv", columns=columns)


def test_other_refusals(path, tmp_path, monkeypatch):
    frame, columns = mixed(), load_data(path).columns
    for changed, message in (
        (frame.drop(columns="age"), "lacks the column 'age'; the columns age, sex, rooms, income, town are needed"),
        (frame.assign(other=1), "has the unknown column 'other'"),
        (frame.assign(sex="x"), "the binary column 'sex' of .* holds 'x' in row 0; its categories are f, m"),
        (
            frame.assign(rooms=7),
            "the ordinal column 'rooms' of .* holds '7' in row 0; its categories are 1, 2, 3, 4, 5",
        ),
        (frame.assign(age="old"), "the count column 'age' of .* holds the text 'old' in row 0"),
        (frame.assign(age=pd.Timestamp("2020-01-01")), "holds dates or times|holds the text"),
    ):
        changed.to_csv(tmp_path / "other.csv", index=False)
        with refused(message, "other.csv" if "dates" not in message else ""):
            load_data(tmp_path / "other.csv", columns=columns, undivided=True)
    with refused("other.csv has the columns age, rooms, .* but that of train has age, sex"):
        frame.drop(columns="sex").to_csv(tmp_path / "other.csv", index=False)
        load_data(path, test=tmp_path / "other.csv")
    np.save(tmp_path / "x.npy", np.zeros((20, 3)))
    with refused("files of one kind are needed"):
        load_data(path, test=tmp_path / "x.npy")
    with refused(r"shape is \[2, 2\], 4 entries, but rows of the data file .*x.npy have the shape \[3\]"):
        load_data(tmp_path / "x.npy", shape=(2, 2))
    for option, value in (("kinds", {"a": "real"}), ("drop", ["a"]), ("shape", (8, 8)), ("validation", path)):
        with refused(f"^{option} is given, but digits is no file of one's own"):
            load_data("digits", **{option: value})
    frame.to_parquet(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with refused(r"needs pyarrow to be read: pip install pyro-spvae\[parquet\]"):
        load_data(tmp_path / "a.parquet")


def test_the_table_of_columns(path):
    lines = columns_table(load_data(path))
    assert lines[0].split() == ["columns", "kind", "family", "seen", "range", "or", "categories"]
    assert lines[1].split() == ["age", "count", "negative-binomial", "59", *lines[1].split()[4:]]
    low, high = mixed()["age"].min(), mixed()["age"].max()
    assert lines[1].endswith(f"  {low:g} to {high:g}") and lines[5].endswith("  59  Bonn, Köln, Ulm")
    few = pd.DataFrame({"a": [0.5, -1.5, 7] * 10, "b": np.arange(30) / 7})
    assert "note        the real column 'a' has 3 distinct values alone" in columns_table(load_data(few))[-1]


def test_the_table_of_many_columns_names_no_file_that_is_not_written():
    data = load_data(pd.DataFrame(np.random.default_rng(0).normal(size=(30, 103))))
    for kept, last in ((True, ".. 3 more, see data.json"), (False, ".. 3 more")):
        lines = columns_table(data, kept=kept)
        assert len(lines) == 1 + 100 + 1 and lines[-1] == last


def test_hints_at_grey_levels():
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (20, 1, 8, 8))).double()
    assert "whole numbers up to 255 in floats" in str(grey_hint(Rows(x)))
    assert "multiples of 1/255" in str(grey_hint(Rows((x / 255).float())))
    assert "may be flat images; give --shape" in str(grey_hint(Rows(x.flatten(1))))
    for other in (x.to(torch.uint8), x / 254.5, x + 0.5, x - 1, x[..., :4], (x > 99).double()):
        assert grey_hint(Rows(other)) is None

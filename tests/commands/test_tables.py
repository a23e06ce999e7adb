# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Commands on a table with columns of several kinds, in the file's own names."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_spvae.commands import evaluate, impute, reconstruct, sample
from pyro_spvae.data import Column, load_data
from pyro_spvae.training.run import open_run
from pyro_spvae.training.train import resume
from tests.cli_cases import QUICK, refused, train

N = 80


def people():
    random = np.random.default_rng(2)
    frame = pd.DataFrame(
        {
            "id": [f"p{i}" for i in range(N)],
            "age": random.integers(18, 80, N),
            "sex": random.choice(["f", "m"], N),
            "income": random.normal(0, 1, N).round(3),
            "town": random.choice(["Ulm", "Köln", "Bonn"], N),
        }
    )
    frame["income"] = frame["income"].where(np.arange(N) % 5 != 1)
    frame["town"] = frame["town"].where(np.arange(N) % 7 != 3)
    return frame


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a table, of which one column was left out; beside it what training printed, and the file."""
    folder = tmp_path_factory.mktemp("tables")
    people().to_csv(folder / "people.csv", index=False)
    options = ("--drop", "id", "--kinds", "age=poisson", "--seed", 5, "--device", "cpu", "--fraction", 0.5)
    printed = train(folder / "people.csv", "--out", folder / "run", *QUICK, *options)
    (folder / "printed.txt").write_text(printed.output)
    return folder / "run"


@pytest.fixture
def few(tmp_path):
    """A file of seven rows, with its columns in another order."""
    people().iloc[:7, ::-1].to_csv(tmp_path / "few.csv", index=False)
    return tmp_path / "few.csv"


def test_training_tells_and_keeps_the_columns(run):
    printed = (run.parent / "printed.txt").read_text()
    assert "columns  kind         family" in printed and "town     categorical  categorical" in printed
    record, config = (json.loads((run / name).read_text()) for name in ("data.json", "config.json"))
    columns = [Column.from_dict(column) for column in record["columns"]]
    assert [(column.name, column.family) for column in columns] == [
        ("age", "poisson"), ("sex", "bernoulli"), ("income", "normal"), ("town", "categorical")
    ]  # fmt: skip
    assert columns[1].categories == ("f", "m") and columns[3].categories == ("Bonn", "Köln", "Ulm")
    wanted = ("columns", "nan", "none", "id", "age=poisson")
    assert tuple(config[name] for name in ("likelihood", "missing", "preprocess", "drop", "kinds")) == wanted
    assert record["rows"] == {"train": 32, "validation": 4, "test": 8}, "both are thinned"
    ages = people()["age"].to_numpy()[open_run(run).data().train.numbers.numpy()]
    assert columns[0].location == pytest.approx(ages.mean()) and len(ages) == 32


def test_a_file_is_answered_whole_and_by_names(run, few, tmp_path):
    results = evaluate(run, data=str(few), samples=50, out=tmp_path / "out")
    assert results["rows"] == 7 and results["split"] == "all"
    found = pd.read_csv(tmp_path / "out" / "log_likelihoods-few-all-samples-50.csv")
    assert found["row"].tolist() == list(range(7))
    assert found["log_likelihood"].mean() == pytest.approx(results["log_likelihood"])
    people().iloc[:7].drop(columns="id").to_csv(tmp_path / "again.csv", index=False)
    again = evaluate(run, data=str(tmp_path / "again.csv"), samples=50, out=tmp_path / "out")
    assert again["log_likelihood"] == results["log_likelihood"]


def test_splits_of_ones_own_data(run, tmp_path):
    of_test = evaluate(run, samples=20, out=tmp_path / "test")
    rows = pd.read_csv(tmp_path / "test" / "log_likelihoods-test-samples-20.csv")["row"]
    assert of_test["split"] == "test" and rows.tolist() == open_run(run).data().test.numbers.tolist()
    whole = evaluate(run, samples=20, split="all", out=tmp_path / "all")
    assert whole["rows"] == N, "also those that were left out of training"
    original = reconstruct(run, split="all", num=N, out=tmp_path / "all")["original"]
    assert np.array_equal(original[:, 0], people()["age"])
    path = str(run.parent / "people.csv")
    named = evaluate(run, data=path, samples=20, out=tmp_path / "own")  # a file that is named is asked about whole
    assert (named["rows"], named["log_likelihood"]) == (N, whole["log_likelihood"])
    test = evaluate(run, data=path, split="test", samples=20, out=tmp_path / "own")
    assert test["log_likelihood"] == of_test["log_likelihood"]


def test_masks_of_the_files_own_length(run, few, tmp_path):
    mask = np.ones((7, 4), dtype=bool)
    mask[2, 0] = False
    np.save(tmp_path / "mask.npy", mask)
    arrays = impute(run, data=str(few), observed=str(tmp_path / "mask.npy"), completions=1, out=tmp_path / "out")
    holes = people().iloc[:7, 1:].isna().to_numpy()
    assert np.array_equal(arrays["observed"], mask & ~holes)
    text = pd.read_csv(tmp_path / "out" / "imputed-few-all-mask-npy.csv")
    assert np.array_equal(text["sex"], people()["sex"][:7]) and not text.isna().any().any()
    kept = [row for row in range(7) if row != 2]
    assert np.array_equal(text["age"][kept], people()["age"][kept])


def test_imputed_rows_are_those_of_the_file(run, few, tmp_path):
    arrays = impute(run, data=str(few), completions=2, out=tmp_path / "out")
    given = few.read_text().splitlines()
    for place, name in enumerate(("imputed-few-all-missing.csv", "imputed-few-all-missing-2.csv")):
        found = (tmp_path / "out" / name).read_text().splitlines()
        assert found[0] == given[0] == "town,income,sex,age,id" and len(found) == len(given)
        columns = open_run(run).columns
        for row, (line, wanted) in enumerate(zip(found[1:], given[1:], strict=True)):
            for cell, own, name in zip(line.split(","), wanted.split(","), found[0].split(","), strict=True):
                if own:
                    assert cell == own
                    continue
                number = [column.name for column in columns].index(name)
                drawn = arrays["imputed"][place, row, number]
                if name == "town":
                    assert cell == columns[number].categories[int(np.clip(np.rint(drawn), 0, 2))]
                else:
                    assert float(cell) == pytest.approx(drawn, rel=1e-6)


def test_samples_have_the_names_of_columns_and_categories(run, tmp_path):
    arrays = sample(run, num=9, out=tmp_path)
    found = pd.read_csv(tmp_path / "samples.csv", keep_default_na=False)
    assert list(found.columns) == ["age", "sex", "income", "town"] and len(found) == 9
    assert set(found["sex"]) <= {"f", "m"} and set(found["town"]) <= {"Bonn", "Köln", "Ulm"}
    np.testing.assert_allclose(found["income"], arrays["samples"][:, 2], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="age"), "lacks the column 'age'; the columns age, sex, income, town"),
        (lambda frame: frame.assign(size=1), "has the unknown column 'size'"),
        (lambda frame: frame.assign(town="Rom"), "the categorical column 'town' of .* holds 'Rom'"),
    ],
)
def test_files_that_do_not_fit(run, few, tmp_path, change, message):
    change(pd.read_csv(few)).to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(ValueError, match=message):
        evaluate(run, data=str(tmp_path / "other.csv"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--kinds", "age"), "kinds is 'age'; name=kind is needed"),
        (("--kinds", "age=count,age=real"), "which names the column 'age' twice"),
        (("--drop", "id", "--kinds", "age=number"), "the kind of the column 'age' is 'number'; known are real"),
        (("--drop", "id", "--kinds", "height=count"), "kinds names the column 'height', but the columns are age, sex"),
        (("--drop", "id,,age"), "drop is 'id,,age'; names of columns are needed"),
        (("--drop", "name"), "drop names the column 'name', but the columns are id, age"),
        (
            (),
            "the column 'id' holds 80 different texts, such as 'p0', nearly as many as its 80 entries; leave it out by",
        ),
        (("--drop", "id", "--shape", "2"), "shape is 2; height and width are needed"),
        (("--drop", "id", "--missing", "none"), "of the table), column 'income', but all must be finite (leave out"),
        (("--drop", "id", "--na", "?,"), "na is '?,'; texts are needed, separated by commas, as in n/a,NULL,?"),
        (("--drop", "id", "--kinds", '"age=count'), "kinds names the column '\"age', but the columns are age"),
        (("--drop", "id", "--missing", "some"), "'some' is not one of 'auto', 'none', 'nan'"),
        (("--drop", "id", "--likelihood", "bernoulli"), "likelihood is 'bernoulli', but"),
    ],
)
def test_options_that_are_refused(run, tmp_path, options, message):
    assert message in refused("train", run.parent / "people.csv", "--out", tmp_path / "run", *options)
    assert not list(tmp_path.iterdir())


def test_no_range_is_stated_over_all_columns(run):
    printed = (run.parent / "printed.txt").read_text()
    assert "4 columns, missing='nan'" in printed and "likelihood  columns\n" in printed
    assert "values from" not in printed and "grey" not in printed
    assert "density of 4 columns" in repr(open_run(run).spvae)


def test_unnamed_tables_of_bits_have_no_grey_levels(tmp_path):
    np.save(tmp_path / "bits.npy", np.random.default_rng(0).integers(0, 2, (60, 4)))
    printed = train(tmp_path / "bits.npy", "--out", tmp_path / "run", *QUICK, "--device", "cpu").output
    assert "whole numbers 0 to 1" in printed and "bernoulli of values from 0 to 1" in printed and "grey" not in printed
    assert "grey" not in repr(open_run(tmp_path / "run").spvae)
    np.save(tmp_path / "more.npy", np.full((3, 4), 5))
    with pytest.raises(ValueError, match="more.npy, with whole numbers 0 to 5; .* trained on whole numbers 0 to 1"):
        evaluate(tmp_path / "run", data=str(tmp_path / "more.npy"), out=tmp_path / "out")


def test_texts_that_mean_missing_are_those_of_the_run(tmp_path):
    frame = people()
    cells = (frame["age"] // 3).astype(str).where(np.arange(N) % 6 != 2, "n/a")
    frame.assign(age=cells).to_csv(tmp_path / "people.csv", index=False)
    options = ("--drop", "id", *QUICK, "--device", "cpu")
    printed = train(tmp_path / "people.csv", "--out", tmp_path / "told", *options).output
    assert "note        the column 'age' holds 67 numbers and the text 'n/a', so that it is taken for cat" in printed
    chosen = train(tmp_path / "people.csv", "--kinds", "age=categorical", "--out", tmp_path / "chosen", *options).output
    assert "the column 'age' holds" not in chosen
    train(tmp_path / "people.csv", "--na", "n/a,?", "--out", tmp_path / "run", *options)
    assert open_run(tmp_path / "run").columns[0].kind == "count"
    new = frame[:20].assign(age=cells[:20].where(np.arange(20) != 5, "?"), town="?")
    new.to_csv(tmp_path / "new.csv", index=False)
    arrays = impute(tmp_path / "run", data=str(tmp_path / "new.csv"), completions=1, out=tmp_path / "out")
    holes = np.arange(20) % 6 == 2
    assert np.array_equal(arrays["observed"][:, 0], ~holes & (np.arange(20) != 5))
    assert not arrays["observed"][:, 3].any()
    filled = pd.read_csv(tmp_path / "out" / "imputed-new-all-missing.csv", keep_default_na=False)
    assert (filled["age"].astype(float) >= 0).all() and set(filled["town"]) <= {"Ulm", "Bonn", "Köln"}
    assert resume(tmp_path / "run", {"epochs": 3})["rows"] == 8


def test_names_with_commas_are_quoted_alike(tmp_path):
    names = {"age": "age, years", "id": "name, id", "income": 'in "k", net'}
    people().rename(columns=names).to_csv(tmp_path / "people.csv", index=False)
    kinds = '"age, years"=poisson,town=categorical,"in ""k"", net"=student-t'
    options = ("--drop", '"name, id",sex', "--kinds", kinds, *QUICK, "--device", "cpu")
    train(tmp_path / "people.csv", "--out", tmp_path / "run", *options)
    assert [(column.name, column.family) for column in open_run(tmp_path / "run").columns] == [
        ("age, years", "poisson"), ('in "k", net', "student-t"), ("town", "categorical")
    ]  # fmt: skip


def test_columns_that_changed_are_other_data(run, tmp_path):
    path = tmp_path / "people.csv"
    path.write_text((run.parent / "people.csv").read_text())
    train(path, "--out", tmp_path / "run", *QUICK, "--drop", "id", "--device", "cpu")
    (tmp_path / "run" / "results.json").unlink()
    path.write_text(path.read_text().replace("Ulm", "Zug"))  # the same numbers
    with pytest.raises(ValueError, match="their content changed"):
        resume(tmp_path / "run")


def test_files_of_one_split_each(tmp_path):
    frame = people().drop(columns="id")
    for name, rows in (("a", frame[:50]), ("b", frame[50:60]), ("c", frame[60:])):
        rows.to_csv(tmp_path / f"{name}.csv", index=False)
    own = ("--validation-data", tmp_path / "b.csv", "--test-data", tmp_path / "c.csv")
    train(tmp_path / "a.csv", *own, "--out", tmp_path / "run", *QUICK, "--device", "cpu")
    run = open_run(tmp_path / "run")
    assert run.record["rows"] == {"train": 50, "validation": 10, "test": 20}
    assert np.array_equal(run.data().test[:][:, 0], frame["age"][60:])
    assert np.array_equal(run.data(undivided=True).test[:][:, 0], frame["age"])
    assert evaluate(tmp_path / "run", split="validation", samples=5, out=tmp_path / "out")["rows"] == 10


def test_flat_images(tmp_path):
    x = np.random.default_rng(0).integers(0, 17, (60, 20))
    np.savetxt(tmp_path / "x.csv", x, fmt="%d", delimiter=",")
    train(tmp_path / "x.csv", "--shape", "5,4", "--out", tmp_path / "run", *QUICK, "--device", "cpu")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["likelihood"], config["shape"], config["structure"]) == ("binomial", [5, 4], "poon-domingos")
    whole = reconstruct(tmp_path / "run", split="all", num=60, out=tmp_path / "out")["original"]
    assert np.array_equal(whole, x.reshape(60, 1, 5, 4))
    np.savetxt(tmp_path / "y.csv", x[:3], fmt="%d", delimiter=",")
    load = load_data(tmp_path / "y.csv", shape=(5, 4), undivided=True)
    assert load.event_shape == (1, 5, 4)


def test_whole_numbers_of_a_table_are_not_divided(tmp_path):
    x = np.random.default_rng(0).poisson(20, (60, 3))
    np.save(tmp_path / "x.npy", x)
    for likelihood in ("auto", "normal"):
        train(tmp_path / "x.npy", "--likelihood", likelihood, "--out", tmp_path / likelihood, *QUICK, "--device", "cpu")
        data = open_run(tmp_path / likelihood).data(undivided=True)
        assert np.array_equal(data.test[:], x) and data.values.levels is None
    config = json.loads((tmp_path / "auto" / "config.json").read_text())
    assert (config["likelihood"], config["preprocess"]) == ("columns", "none")
    np.save(tmp_path / "y.npy", x[:4] + 7)  # larger ones than those of training
    assert evaluate(tmp_path / "auto", data=str(tmp_path / "y.npy"), samples=5, out=tmp_path / "out")["rows"] == 4


@pytest.mark.parametrize("values", [(0, 1), ("no", "yes"), (1.5, 3.0)], ids=str)
def test_columns_of_two_values_keep_their_names(tmp_path, values):
    """Taken by place, a table in another order would be another one, and nobody would say so."""
    random = np.random.default_rng(4)
    frame = pd.DataFrame({name: random.random(N) < part for name, part in (("rare", 0.1), ("often", 0.9))})
    frame = frame.apply(lambda column: np.where(column, values[1], values[0]))
    frame.to_csv(tmp_path / "two.csv", index=False)
    printed = train(tmp_path / "two.csv", "--out", tmp_path / "run", *QUICK, "--device", "cpu").output
    assert "rare     binary  bernoulli" in printed
    spvae = open_run(tmp_path / "run").spvae
    found = []
    for x in (frame, frame[["often", "rare"]]):
        torch.manual_seed(0)
        found.append(spvae.log_likelihood(x, num_samples=5))
    assert bool((found[0] == found[1]).all())
    with pytest.raises(ValueError, match="x lacks the column 'rare'"):
        spvae.log_likelihood(frame.rename(columns={"rare": "other"}))


def test_rows_are_those_of_the_file_that_holds_the_split(tmp_path):
    parts = {"train": people().iloc[:50], "validation": people().iloc[50:65], "test": people().iloc[:64:-1]}
    paths = {split: tmp_path / f"{split}.csv" for split in parts}
    for split, frame in parts.items():
        frame.to_csv(paths[split], index=False)
    of_splits = ("--validation-data", paths["validation"], "--test-data", paths["test"])
    train(paths["train"], *of_splits, "--drop", "id", "--out", tmp_path / "run", *QUICK, "--device", "cpu")
    for split, frame in parts.items():
        impute(tmp_path / "run", split=split, out=tmp_path / split)
        of_split = "" if split == "test" else f"-{split}-missing"
        filled = pd.read_csv(tmp_path / split / f"imputed{of_split}.csv")
        assert filled.columns.tolist() == frame.columns.tolist() and filled["id"].tolist() == frame["id"].tolist()
        held = frame.reset_index(drop=True)["income"]
        assert not filled.isna().any(axis=None) and (filled["income"][held.notna()] == held[held.notna()]).all()
        evaluate(tmp_path / "run", split=split, samples=2, out=tmp_path / split)
        values = pd.read_csv(tmp_path / split / f"log_likelihoods-{split}-samples-2.csv")
        assert values["row"].tolist() == list(range(len(frame)))


@pytest.mark.parametrize(("verb", "option"), [("evaluate", "split"), ("impute", "missing"), ("train", "missing")])
def test_unknown_words_are_refused_in_the_words_of_the_option(run, verb, option):
    message = refused(verb, run, f"--{option}", "foo")
    assert message.startswith(f"Invalid value for '--{option}': 'foo' is not one of ")


@pytest.mark.parametrize("header", [True, False])
def test_a_file_without_a_header_is_told_of(tmp_path, header):
    frame = pd.DataFrame(np.random.default_rng(5).normal(size=(N, 3)), columns=["2019", "2020", "2021"])
    frame = frame.rename(columns={"2019": "first"}) if header else frame
    frame.to_csv(tmp_path / "years.csv", index=False)
    printed = train(tmp_path / "years.csv", "--dry-run").output
    assert ("note        the file has no header" in printed) == (not header)


def test_answers_to_other_questions_are_kept(run, few, tmp_path):
    """What is asked again is replaced, with further completions of the earlier answer."""
    impute(run, out=tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").glob("*.csv")} == {"imputed.csv", "imputed-2.csv", "imputed-3.csv"}
    kept = (tmp_path / "out" / "imputed.csv").read_text()
    impute(run, data=str(few), completions=2, out=tmp_path / "out")
    impute(run, means=True, out=tmp_path / "out")
    others = {"imputed-few-all-missing.csv", "imputed-few-all-missing-2.csv", "imputed-test-missing-means.csv"}
    found = {path.name for path in (tmp_path / "out").glob("*.csv")}
    assert found == others | {"imputed.csv", "imputed-2.csv", "imputed-3.csv"}
    assert (tmp_path / "out" / "imputed.csv").read_text() == kept
    impute(run, completions=2, out=tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").glob("*.csv")} == others | {"imputed.csv", "imputed-2.csv"}


def test_cells_of_columns_that_the_model_has_not_stay(run, tmp_path):
    """Texts that mean that an entry is missing where the model looks are texts elsewhere."""
    ids = ["NA", "nan", "", 'a "b", c', "NaN", "007", "1e5"]
    people().iloc[:7].assign(id=ids).to_csv(tmp_path / "coded.csv", index=False)
    impute(run, data=str(tmp_path / "coded.csv"), completions=1, out=tmp_path / "out")
    filled = pd.read_csv(tmp_path / "out" / "imputed-coded-all-missing.csv", keep_default_na=False, dtype=str)
    assert filled["id"].tolist() == ids and (filled[["age", "sex", "income", "town"]] != "").all(axis=None)


@pytest.mark.parametrize("texts", [("TRUE", "FALSE"), ("true", "false", "")])
def test_truth_values_of_a_file_are_found_again(tmp_path, texts):
    cells = [texts[row % len(texts)] for row in range(N)]
    people().assign(smoker=cells).to_csv(tmp_path / "people.csv", index=False)
    train(tmp_path / "people.csv", "--drop", "id", "--out", tmp_path / "run", *QUICK, "--device", "cpu")
    assert open_run(tmp_path / "run").columns[-1].categories == tuple(sorted(texts[:2]))
    assert np.isfinite(evaluate(tmp_path / "run", samples=2)["log_likelihood"])
    impute(tmp_path / "run", split="all", completions=1, out=tmp_path / "out")
    filled = pd.read_csv(tmp_path / "out" / "imputed-all-missing.csv", dtype=str)["smoker"]
    assert set(filled) == set(texts[:2]) and all(own in ("", cell) for own, cell in zip(cells, filled, strict=True))

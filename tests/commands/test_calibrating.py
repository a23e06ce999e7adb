# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""``evaluate --holdout``, and what of a table's log-likelihood is a density, on a table of several kinds."""

from __future__ import annotations

import json

import numpy as np
import pandas
import pytest
import torch

from pyro_spvae.commands import evaluate
from pyro_spvae.commands.calibrating import calibration_lines
from pyro_spvae.training.run import open_run
from tests.cli_cases import QUICK, refused, train
from tests.commands.cases import assert_picture, load, names, rows


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A run on a table of a real, a discrete and a categorical column with holes, and what it printed."""
    folder = tmp_path_factory.mktemp("calibrating")
    generator = np.random.default_rng(0)
    colour = generator.choice(["red", "green", "blue"], 120)
    frame = pandas.DataFrame({"height": 170 + 10 * generator.normal(size=120) + 20 * (colour == "red")})
    frame["visits"] = generator.poisson(20, 120)
    frame["colour"] = colour
    frame.loc[::10, "visits"] = np.nan
    frame.to_csv(folder / "people.csv", index=False)
    options = ("--seed", 5, "--device", "cpu", "--precision", "float64")
    printed = train(folder / "people.csv", "--out", folder / "run", *QUICK, *options)
    return folder / "run", printed


@pytest.fixture(scope="module")
def answer(mixed, tmp_path_factory):
    out, lines = tmp_path_factory.mktemp("answer"), []
    options = {"split": "all", "holdout": 0.2, "draws": 20}
    return out, evaluate(mixed[0], **options, out=out, report=lines.append), lines


def test_files_hold_what_python_finds(mixed, answer):
    out, results, lines = answer
    name = "all-holdout-0.2-draws-20"
    assert {f"{name}.json", f"{name}.npz", f"{name}.png", f"calibration-{name}.csv", "all.json"} <= set(names(out))
    run, x = open_run(mixed[0]), run_rows(mixed[0])
    wanted = run.spvae.calibration(x, holdout=0.2, draws=20, seed=5, training=rows(mixed[0], "train"))
    written = json.loads((out / f"{name}.json").read_text())
    assert written == json.loads(json.dumps(wanted.to_dict()))
    assert results["calibration"] == wanted.options | wanted.overall
    assert json.loads((out / "all.json").read_text())["calibration"] == results["calibration"]
    arrays = load(out / f"{name}.npz")
    assert np.array_equal(arrays["mean"], wanted.entries.mean.numpy())
    assert np.array_equal(arrays["log_likelihood_joint"], wanted.log_likelihood_joint.numpy())
    table = pandas.read_csv(out / f"calibration-{name}.csv")
    assert list(table["column"]) == ["height", "visits", "colour"]
    assert np.allclose(table["log_likelihood"], wanted.frame()["log_likelihood"])
    assert_picture(out / f"{name}.png")
    shown = calibration_lines(wanted)
    start = lines.index(shown[0])
    assert lines[start : start + len(shown)] == shown


def run_rows(path):
    """All rows of a run's data, as its model takes them."""
    data = open_run(path).data(undivided=True)
    return data.test[:].to(torch.float64)


def test_the_table_is_aligned(answer):
    _, results, lines = answer
    overall = results["calibration"]
    start = next(place for place, line in enumerate(lines) if line.startswith("holdout 0.2: "))
    assert lines[start].startswith(f"holdout 0.2: {overall['hidden']} seen entries of {overall['rows']} rows hidden")
    head, *columns = lines[start + 1 : start + 5]
    assert head.split("  ")[0] == "column" and head.endswith("in 50 %  in 90 %")
    assert [line.split()[0] for line in columns] == ["height", "visits", "colour"]
    assert columns[0].endswith("%") and not columns[2].endswith("%"), "categories have no order"
    ends = {line.index(")") for line in columns if "(" in line}
    assert head.index("RMSE") + 3 in ends, "numbers end where their heads end"
    joint = next(line for line in lines if line.startswith("  jointly"))
    assert f"{overall['log_likelihood_joint']:.2f}  nats a row" in joint


def test_both_masks_meet(mixed, tmp_path):
    results = evaluate(mixed[0], split="all", holdout=0.5, draws=2, observed="left", out=tmp_path)
    table = pandas.read_csv(tmp_path / "calibration-all-left-holdout-0.5-draws-2.csv").set_index("column")
    assert table["hidden"]["height"] > 30 and table["hidden"]["visits"] == table["hidden"]["colour"] == 0
    assert results["calibration"]["hidden"] == table["hidden"]["height"]
    assert "all-left-holdout-0.5-draws-2.json" in names(tmp_path)


def test_images_have_no_list_of_columns(digits, tmp_path):
    lines = []
    results = evaluate(digits, split="validation", holdout=0.1, draws=3, samples=2, out=tmp_path, report=lines.append)
    assert not any(name.endswith(".csv") for name in names(tmp_path))
    assert results["calibration"]["log_likelihood"] is None and results["calibration"]["rmse"] > 0
    assert any(line.startswith("RMSE") and line.endswith("the unit of the entries") for line in lines)
    assert_picture(tmp_path / "validation-samples-2-holdout-0.1-draws-3.png")


def test_without_training_rows_a_line_says_so(mixed, tmp_path):
    own = mixed[0].parent / "people.csv"
    other, lines, kept = tmp_path / "other.csv", [], own.read_text()
    other.write_text(kept)
    own.write_text(kept.replace("red", "green"))
    try:
        evaluate(mixed[0], data=str(other), holdout=0.3, draws=2, out=tmp_path / "out", report=lines.append)
    finally:
        own.write_text(kept)
    assert (
        sum(line.startswith("baselines are of the rows asked about, less what is hidden, as ") for line in lines) == 1
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--holdout", "1.5"), "holdout is 1.5; a part of the seen entries, above 0 and below 1, is needed"),
        (("--holdout", "0"), "holdout is 0.0; a part of the seen entries"),
        (("--holdout", "1e-9"), "holdout is 1e-09, which hides none of the 36 seen entries; give a larger one"),
        (("--holdout", "0.1", "--draws", "1"), "--draws': Input should be greater than or equal to 2"),
    ],
)
def test_refused_before_anything_is_written(mixed, tmp_path, options, message):
    assert message in refused("evaluate", mixed[0], *options, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_least_likely_rows_are_named_by_their_numbers_in_the_file(mixed, tmp_path):
    lines = []
    results = evaluate(mixed[0], split="validation", out=tmp_path, report=lines.append)
    values = pandas.read_csv(tmp_path / "log_likelihoods-validation.csv").sort_values("log_likelihood")[:3]
    wanted = [{"row": int(row), "log_likelihood": value} for row, value in values.itertuples(index=False)]
    assert results["least_likely"] == [pytest.approx(found) for found in wanted]
    line = next(line for line in lines if line.startswith("least likely"))
    assert line.endswith(", ".join(f"row {found['row']} ({found['log_likelihood']:.2f})" for found in wanted) + " nats")


class TestDensityAndProbability:
    def test_they_add_up_and_training_says_the_same(self, mixed, tmp_path):
        run, printed = mixed
        trained, lines = json.loads((run / "results.json").read_text()), []
        results = evaluate(run, out=tmp_path, report=lines.append)
        parts = ("log_likelihood_is", "log_probability_discrete", "log_density_real", "log_likelihood")
        assert {name: results[name] for name in parts} == {name: trained[name] for name in parts}
        assert results["log_likelihood_is"] == "both"
        both = results["log_probability_discrete"] + results["log_density_real"]
        assert both == pytest.approx(results["log_likelihood"], abs=1e-12)
        assert "nats, a probability times a density" in lines[1]
        assert lines[2].split()[:2] == ["discrete", f"{results['log_probability_discrete']:.2f}"]
        assert lines[3].split()[:2] == ["real", f"{results['log_density_real']:.2f}"]
        assert "a probability of the discrete columns" in printed.stdout
        assert "a probability times a density" in printed.stdout

    @pytest.mark.parametrize("observed", [None, "right"])
    def test_the_probability_is_that_of_the_discrete_columns_alone(self, mixed, tmp_path, observed):
        run = mixed[0]
        results = evaluate(run, out=tmp_path, observed=observed)
        mask = np.array([False, True, True])
        np.save(tmp_path / "discrete.npy", mask)
        alone = evaluate(run, out=tmp_path, observed=str(tmp_path / "discrete.npy"))
        assert results["log_probability_discrete"] == pytest.approx(alone["log_likelihood"], abs=1e-12)
        if observed == "right":  # columns 1 and 2
            assert results["log_density_real"] == pytest.approx(0, abs=1e-12)

    def test_arrays_without_columns_say_nothing(self, digits, tmp_path):
        assert "log_likelihood_is" not in evaluate(digits, samples=2, out=tmp_path)

    def test_of_one_kind_it_is_said_which(self, table, tmp_path):
        lines = []
        assert evaluate(table, out=tmp_path, report=lines.append)["log_likelihood_is"] == "density"
        assert "  nats, a density in the units of the columns" in lines[1] and "discrete" not in lines[2]

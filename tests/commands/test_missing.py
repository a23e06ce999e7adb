# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Commands on data of which entries are missing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pyro_spvae.commands import embed, evaluate, impute, interpolate, reconstruct, sample
from tests.cli_cases import QUICK, invoke, refused, train
from tests.commands.cases import asked, assert_picture, names, rows, same


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on small images with holes."""
    folder = tmp_path_factory.mktemp("missing")
    generator = np.random.default_rng(0)
    x = generator.random((60, 4, 4)).astype(np.float32)
    x[generator.random(x.shape) < 0.25] = np.nan
    np.save(folder / "holes.npy", x)
    train(folder / "holes.npy", "--missing", "nan", "--out", folder / "run", *QUICK, "--seed", 5, "--device", "cpu")
    return folder / "run"


@pytest.fixture(scope="module")
def seen(run):
    mask = ~rows(run).isnan()
    assert not bool(mask.all())
    return mask


def test_training_says_how_to_take_nan_as_missing(run, tmp_path):
    path = run.parent / "holes.npy"
    message = refused("train", path, "--out", tmp_path / "run")
    assert "train of the data set 'holes.npy' holds " in message and "(give --missing nan to take NaN as" in message
    assert "of the array) at [0, " in message and not list(tmp_path.iterdir())
    assert "'no' is not one of 'auto', 'none', 'nan'" in refused(
        "train", path, "--missing", "no", "--out", tmp_path / "run"
    )


def test_evaluation_is_that_of_training(run, tmp_path):
    lines = []
    results, trained = evaluate(run, out=tmp_path, report=lines.append), json.loads((run / "results.json").read_text())
    shared = results.keys() & trained.keys() - {"seconds", "data"}
    assert {key: results[key] for key in shared} == {key: trained[key] for key in shared}
    assert {"missing", "seen_entries", "nats_per_seen_entry", "log_likelihood"} <= shared
    assert lines[0].startswith("test of holes.npy, NaN missing: 6 rows")


def test_evaluation_of_a_mask(run, seen, tmp_path):
    left = torch.tensor([True, True, False, False])
    results = evaluate(run, observed="left", samples=4, out=tmp_path)
    both = seen & left
    assert results["seen_entries"] == int(both.sum()) / len(seen)
    np.save(tmp_path / "both.npy", both[:, 0].numpy())
    again = evaluate(run, observed=str(tmp_path / "both.npy"), samples=4, out=tmp_path)
    assert again["log_likelihood"] == results["log_likelihood"]


def test_imputation_fills_the_holes_and_nothing_else(run, seen, tmp_path):
    arrays, x = impute(run, num=6, out=tmp_path), rows(run)[:6]
    assert names(tmp_path) == ["test-missing.npz", "test-missing.png"]
    assert_picture(tmp_path / "test-missing.png")
    assert np.array_equal(arrays["observed"], seen[:6].numpy())
    assert np.array_equal(arrays["original"], x.numpy(), equal_nan=True)
    assert same(arrays["imputed"], asked(run, 5, lambda spvae: spvae.impute(x, seen[:6], 3)))
    assert np.isfinite(arrays["imputed"]).all()
    assert all(np.array_equal(drawn[seen[:6]], x[seen[:6]]) for drawn in arrays["imputed"])


def test_imputation_of_a_mask(run, seen, tmp_path):
    arrays = impute(run, observed="left", num=4, out=tmp_path)
    left = torch.tensor([True, True, False, False])
    assert np.array_equal(arrays["observed"], (seen[:4] & left).numpy()) and np.isfinite(arrays["imputed"]).all()


def test_whole_rows_have_nothing_to_impute(digits, tmp_path):
    with pytest.raises(
        ValueError, match=r"^observed is not given, but no entry of the split test of digits is missing"
    ):
        impute(digits, out=tmp_path)


def test_embedding_and_reconstruction_see_what_is_there(run, seen, tmp_path):
    x = rows(run)
    embedding = asked(run, 5, lambda spvae: spvae.embed(x, seen))
    arrays = embed(run, out=tmp_path)
    assert same(arrays["latent_z"], embedding.latents["z"]) and same(arrays["leaf_posterior"], embedding.leaf_posterior)
    arrays = reconstruct(run, out=tmp_path)
    assert same(arrays["reconstruction"], asked(run, 5, lambda spvae: spvae.reconstruct(x, seen)))
    assert {path.suffix for path in tmp_path.iterdir()} == {".npz", ".png"}


def test_samples_are_whole(run, tmp_path):
    assert np.isfinite(sample(run, num=3, out=tmp_path)["samples"]).all()


def test_paths_need_whole_rows(run, tmp_path):
    with pytest.raises(ValueError, match="^entries of the first 6 rows of the split test of holes.npy are missing"):
        interpolate(run, out=tmp_path)


def test_other_data(run, table, tmp_path):
    x = np.random.default_rng(1).normal(size=(30, 5))
    x[::2, 3] = np.nan
    np.save(tmp_path / "x.npy", x)
    options = {"data": str(tmp_path / "x.npy"), "samples": 3, "out": tmp_path / "out"}
    with pytest.raises(ValueError, match="NaN or infinite values, the first .*leave out --missing none"):
        evaluate(table, **options, missing="none")
    results = evaluate(table, **options)
    assert results["seen_entries"] == 4.5 and results["missing"] == "nan" and results["rows"] == 30
    with pytest.raises(ValueError, match="NaN or infinite values, the first .*--missing nan"):
        evaluate(run, out=tmp_path / "out", missing="none")


@pytest.mark.parametrize("verb", ["train", "evaluate", "reconstruct", "impute", "embed", "interpolate"])
def test_help_has_the_option(verb):
    text = " ".join(invoke(verb, "--help").output.replace("│", " ").split())
    assert "--missing" in text and "Entries of a file that are missing" in text

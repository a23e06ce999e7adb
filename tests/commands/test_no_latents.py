# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Every verb on a run whose leaves have no latent variables: exact where it can be, and a sentence where it cannot."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pyro_spvae.commands import embed, impute, info, interpolate, reconstruct, sample
from pyro_spvae.commands.evaluation import evaluate, table
from pyro_spvae.models import SPN
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.run import open_run
from pyro_spvae.training.train import train
from tests.commands.cases import assert_picture, names, rows


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two epochs on images of 17 grey levels, a cell for every four pixels."""
    path = tmp_path_factory.mktemp("spn") / "digits"
    lines = []
    train(TrainConfig(leaf="factorized", delta=2, units=2, epochs=2, seed=5, device="cpu"), path, report=lines.append)
    assert any("32 leaves without latent variables" in line for line in lines)
    assert any("250 rows, exact" in line for line in lines)
    return path


def test_the_run(run):
    config = json.loads((run / "config.json").read_text())
    assert (config["leaf"], config["guide"]) == ("factorized", "none")
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert metrics[1]["val_elbo"] > metrics[0]["val_elbo"]
    assert all(line["val_latent_kl"] == 0 and line["val_elbo"] == line["val_leaf_elbo"] for line in metrics)
    assert {"samples.png", "reconstructions.png", "means.png"} <= set(names(run / "figures"))


def test_evaluate(run, tmp_path):
    results = evaluate(run, out=tmp_path)
    exact = SPN.load(run).log_prob(rows(run)).detach().double()
    assert results["log_likelihood"] == pytest.approx(exact.mean().item(), rel=1e-6)
    assert results["log_likelihood"] == pytest.approx(results["elbo"], rel=1e-6)
    assert (results["samples"], results["active_units"], results["latent_kl"]) == (0, {}, 0)
    assert results["kl"] == results["entropy"] == results["cross_entropy"] == {}
    assert table(results)[0] == "test of digits: 250 rows, exact"
    figures = json.loads((run / "results.json").read_text())
    assert figures["log_likelihood"] == results["log_likelihood"] and figures["samples"] == 0


def test_evaluate_what_is_seen(run, tmp_path):
    results = evaluate(run, observed="left", out=tmp_path)
    observed = np.arange(8) < 4
    x = rows(run)
    exact = SPN.load(run).log_prob(x, x.new_tensor(observed).bool()).detach().double().mean().item()
    assert results["log_likelihood"] == pytest.approx(exact, rel=1e-6)


def test_embed(run, tmp_path):
    lines = []
    arrays = embed(run, out=tmp_path, report=lines.append)
    assert lines[0] == "note        the leaves have no latent variables, so there is no picture of latent spaces"
    assert names(tmp_path) == ["test.npz"]
    assert not any(name.startswith("latent_") for name in arrays)
    exact = open_run(run).spvae.embed(rows(run))
    assert np.allclose(arrays["leaf_posterior"], exact.leaf_posterior.numpy(), atol=1e-5)
    assert arrays["leaf_posterior"].shape == (250, 32)


@pytest.mark.parametrize(
    ("verb", "options", "name"),
    [
        (sample, {"num": 4}, "samples"),
        (reconstruct, {"num": 3}, "test"),
        (impute, {"num": 3, "observed": "left"}, "test-left"),
        (interpolate, {"num": 2, "steps": 3}, "test"),
    ],
)
def test_pictured(run, verb, options, name, tmp_path):
    arrays = verb(run, out=tmp_path, **options)
    assert names(tmp_path) == [f"{name}.npz", f"{name}.png"]
    assert_picture(tmp_path / f"{name}.png")
    assert all(np.isfinite(array).all() for array in arrays.values())


def test_info(run):
    (row,) = info([run])
    assert row["model"] == "poon-domingos 2 2x2, factorized" and row["samples"] == 0

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Whole runs from Python: results, reproducibility, the demonstration."""

from __future__ import annotations

import dataclasses
import functools
import json
import math

import numpy as np
import pyro
import pytest
import torch

from pyro_spvae.data import load_data
from pyro_spvae.training import demo as demo_module
from pyro_spvae.training.build import build_model, modelled, resolve
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.train import active_units, evaluate_test, summary, train, with_parameters_of
from tests.training.cases import TINY, images, table


@pytest.fixture
def file(tmp_path):
    """A data file with room for outliers in each split."""
    x = np.random.default_rng(0).normal(size=(30, 3))

    def write(**scale):
        path = tmp_path / f"data{len(list(tmp_path.iterdir()))}.npz"
        np.savez(path, **{split: x * scale.get(split, 1.0) for split in ("train", "validation", "test")})
        return str(path)

    return write


def _fitted(data, **options):
    config = resolve(dataclasses.replace(TINY, **options), data)
    with pyro.settings.context(module_local_params=True):
        return build_model(config, data), modelled(config, data), config


def test_test_results_are_means_over_rows():
    spvae, data, config = _fitted(images(), samples=50, seed=3)
    results = evaluate_test(spvae, data, config)
    pyro.set_rng_seed(3)
    per_datum = spvae.log_likelihood(data.test, num_samples=50, chunk_size=config.chunk_size)
    assert results["log_likelihood"] == pytest.approx(per_datum.mean().item(), rel=1e-6)
    assert results["standard_error"] == pytest.approx(np.std(per_datum.numpy(), ddof=1) / math.sqrt(10), rel=1e-5)
    assert (results["rows"], results["samples"], results["seed"], results["split"]) == (10, 50, 3, "test")
    assert results["bits_per_dim"] == pytest.approx(-results["log_likelihood"] / 16 / math.log(2))
    parts = results["reconstruction"] - results["latent_kl"] - results["tree_kl"]
    assert results["leaf_elbo"] == pytest.approx(parts, abs=1e-3)
    assert results["leaf_elbo"] <= results["elbo"] < results["log_likelihood"]


def test_a_test_split_of_one_row_has_no_spread():
    spvae, data, config = _fitted(images())
    results = evaluate_test(spvae, dataclasses.replace(data, test=data.test[:1]), config)
    assert results["rows"] == 1 and math.isfinite(results["log_likelihood"])
    assert results["standard_error"] is None and results["active_units"] is None


def test_active_units_are_the_latent_dimensions_that_follow_the_data():
    spvae, data, _ = _fitted(images())
    encoder = spvae.leaf_guide.encoder
    with torch.no_grad():
        for weight in encoder.stacks[0].weights:
            weight.zero_()
    assert active_units(spvae, data.test) == 0
    with torch.no_grad():  # the first latent dimension of the first leaf becomes a function of its patch
        for weight in encoder.stacks[0].weights[:-1]:
            weight[0] = torch.randn_like(weight[0])
        encoder.stacks[0].weights[-1][0, :, 0] = 3.0
    assert active_units(spvae, data.test) == 1


def test_bits_per_dim_of_dequantised_and_of_continuous_values():
    spvae, data, config = _fitted(images(levels=256))
    results = evaluate_test(spvae, data, config)
    assert results["bits_per_dim"] == pytest.approx(-results["log_likelihood"] / 16 / math.log(2) + 8)
    spvae, data, config = _fitted(table())
    results = evaluate_test(spvae, data, config)
    assert results["bits_per_dim"] is None
    assert "bits" not in summary(results)


def test_the_summary_has_number_error_and_units():
    results = {"log_likelihood": -12.345, "standard_error": 0.678, "rows": 1200, "samples": 5000, "bits_per_dim": 1.5}
    line = "test        log-likelihood -12.35 +- 0.68 nats (1,200 rows, 5,000 samples)"
    assert summary(results) == line + ", 1.500 bits/dim"
    assert summary(results | {"standard_error": None, "bits_per_dim": None}) == line.replace(" +- 0.68", "")


def test_the_plain_vae_is_the_smallest_with_enough_parameters():
    data = images()

    def size(config):
        return sum(parameter.numel() for parameter in build_model(config, data).parameters())

    spvae = resolve(dataclasses.replace(TINY, units=2, hidden=(8, 8)), data)
    plain = with_parameters_of(spvae, data, size(spvae))
    (width, _) = plain.hidden
    assert plain == dataclasses.replace(spvae, structure="whole", delta=None, units=1, leaves=1, hidden=(width, width))
    assert size(plain) >= size(spvae) > size(dataclasses.replace(plain, hidden=(width - 1, width - 1)))
    assert build_model(plain, data).num_leaves == 1
    assert resolve(plain, data) == plain


def test_what_is_refused_is_refused_before_the_folder_is_made(tmp_path, file):
    out = tmp_path / "run"
    for config, message in (
        (dataclasses.replace(TINY, data="nosuch"), "'nosuch' is no known data set; give one of digits, mnist"),
        (dataclasses.replace(TINY, data=file(validation=math.nan)), "validation of .* NaN"),
        (dataclasses.replace(TINY, data=file(), depth=7), "depth"),
        (dataclasses.replace(TINY, delta=9), "delta .*8.* 9"),
    ):
        with pytest.raises(ValueError, match=message):
            train(config, out)
        assert not out.exists()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_run_that_fails_in_its_first_epoch_leaves_nothing(tmp_path, file, split):
    with pytest.raises(ValueError, match="became .* at step [12]; nothing was kept; try .* or data scaled to about"):
        train(dataclasses.replace(TINY, data=file(**{split: 1e25})), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_test_split_out_of_range_is_said_and_the_checkpoints_stay(tmp_path, file):
    with pytest.raises(ValueError, match="^the mean log-likelihood of the test split is -inf, .* best.pt"):
        train(dataclasses.replace(TINY, data=file(test=1e25)), tmp_path / "run")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"config.json", "metrics.jsonl", "last.pt", "best.pt", "figures"}


def test_an_interrupted_run_keeps_its_checkpoints(tmp_path, monkeypatch):
    append = RunFolder.append_metrics

    def interrupt(folder, values):
        if values["epoch"] == 2:
            raise KeyboardInterrupt
        append(folder, values)

    monkeypatch.setattr(RunFolder, "append_metrics", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(TINY, tmp_path / "run")
    assert RunFolder(tmp_path / "run").load("last.pt")["epoch"] == 1


def test_training_leaves_pyros_global_state_alone(tmp_path, file):
    train(dataclasses.replace(TINY, data=file()), tmp_path / "run")
    assert not list(pyro.get_param_store().keys())
    assert not pyro.settings.get("module_local_params")


def test_best_checkpoint_is_what_was_evaluated(tmp_path, file):
    results = train(dataclasses.replace(TINY, data=file(), epochs=4), tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert json.loads((folder.path / "results.json").read_text()) == results
    config = TrainConfig(**json.loads((folder.path / "config.json").read_text()))
    data = load_data(config.data, seed=config.seed)
    spvae = build_model(config, data)
    spvae.load_state_dict(folder.load("best.pt")["model"])
    again = evaluate_test(spvae, modelled(config, data), config)
    assert again == {key: results[key] for key in again}
    best = max(folder.read_metrics(), key=lambda line: line["val_elbo"])
    assert results["best_epoch"] == best["epoch"] == folder.load("best.pt")["epoch"]


def test_demo_compares_with_a_plain_vae_of_no_fewer_parameters(tmp_path, monkeypatch):
    small = functools.partial(TrainConfig, epochs=1, samples=5, units=1, hidden=(4,), latent_dim=2)
    monkeypatch.setattr(demo_module, "TrainConfig", small)
    lines = []
    out = tmp_path / "demo"
    out.mkdir()
    results = demo_module.demo(out, seed=1, report=lines.append)
    assert list(results) == ["SPVAE", "VAE"]
    assert results["VAE"]["parameters"] >= results["SPVAE"]["parameters"]
    assert {result["seed"] for result in results.values()} == {1}
    assert not list(out.iterdir()), "a folder that exists is not written to"
    for name in ("spvae", "vae"):
        assert (tmp_path / "demo-2" / name / "figures" / "samples.png").stat().st_size > 1000
    text = "\n".join(lines)
    for result in results.values():
        assert f"{result['log_likelihood']:.2f} +- {result['standard_error']:.2f}" in text
        assert f"{result['bits_per_dim']:.3f}" in text and f"{result['parameters']:,}" in text
    assert str(tmp_path / "demo-2") in text and "nats" in text


def test_demo_table_is_aligned():
    result = {
        "log_likelihood": -1.0,
        "standard_error": 0.5,
        "bits_per_dim": 2.0,
        "parameters": 12345,
        "train_seconds": 7.4,
    }
    rows = demo_module.table({"SPVAE": result, "VAE": result | {"log_likelihood": -1000.0}}).splitlines()
    assert len(rows) == 3 and len({len(row) for row in rows}) == 1
    assert rows[1].split() == ["SPVAE", "-1.00", "+-", "0.50", "2.000", "12,345", "7"]


def test_the_seed_is_all_that_decides(tmp_path, file):
    def run(name, seed):
        torch.rand(3)  # what happened before does not matter
        train(dataclasses.replace(TINY, data=file(), seed=seed), tmp_path / name)
        folder = RunFolder(tmp_path / name)
        metrics = [
            {key: value for key, value in line.items() if key not in ("seconds", "images_per_second")}
            for line in folder.read_metrics()
        ]
        return metrics, folder.load("last.pt")

    (metrics, state), (same_metrics, same_state), (other_metrics, other_state) = run("a", 0), run("b", 0), run("c", 1)
    assert metrics == same_metrics != other_metrics
    for key, value in state["model"].items():
        assert torch.equal(value, same_state["model"][key])
    for key in ("random", "order"):
        assert torch.equal(state[key], same_state[key])
    assert any(not torch.equal(value, other_state["model"][key]) for key, value in state["model"].items())

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Whole runs from Python: results, reproducibility, the demonstration."""

from __future__ import annotations

import dataclasses
import functools
import sys

import numpy as np
import pyro
import pytest
import torch

from pyro_spvae.training import demo as demo_module
from pyro_spvae.training.build import build_model
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.demo import with_parameters_of
from pyro_spvae.training.resolve import resolve
from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.train import plan, summary, train
from tests.cli_cases import FILES
from tests.training.cases import TINY, assert_same_outcome, images, likelihood_again, outcome, same


@pytest.fixture
def file(tmp_path):
    """A data file with room for outliers in each split."""
    x = np.random.default_rng(0).normal(size=(30, 3))

    def write(**scale):
        path = tmp_path / f"data{len(list(tmp_path.iterdir()))}.npz"
        np.savez(path, **{split: x * scale.get(split, 1.0) for split in ("train", "validation", "test")})
        return str(path)

    return write


def test_the_summary_has_number_error_and_units():
    results = {"log_likelihood": -12.345, "standard_error": 0.678, "rows": 1200, "samples": 5000, "bits_per_dim": 1.5}
    results["split"] = "test"
    line = "test        log-likelihood -12.35 +- 0.68 nats (1,200 rows, 5,000 samples)"
    assert summary(results) == line + ", 1.500 bits/dim"
    assert summary(results | {"standard_error": None, "bits_per_dim": None}) == line.replace(" +- 0.68", "")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"structure": "whole"}, "1 leaf VAE, "),
        ({"structure": "whole", "units": 2}, "2 leaf VAEs, "),
        ({"structure": "whole", "leaf": "factorized", "latent_dim": None}, "1 leaf without latent variables, "),
        ({"structure": "whole", "leaf": "factorized", "latent_dim": None, "units": 2}, "2 leaves without latent var"),
    ],
)
def test_one_is_not_called_several(options, said, tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_spvae.training.train._write_pictures", lambda *args: None)
    np.save(tmp_path / "grey.npy", np.random.default_rng(0).integers(0, 9, (40, 2, 2), dtype=np.uint8))
    lines = []
    config = dataclasses.replace(TINY, data=str(tmp_path / "grey.npy"), epochs=1 + (options.get("units") == 2))
    train(dataclasses.replace(config, **options), tmp_path / "run", report=lines.append)
    assert any(line.startswith(f"model       {said}") for line in lines)
    (trained,) = (line for line in lines if line.startswith("trained"))
    assert trained.startswith(f"trained     {'2 epochs' if 'units' in options else '1 epoch'}, best")


def test_the_plain_vae_is_the_smallest_with_enough_parameters():
    data = images()

    def size(config):
        return sum(parameter.numel() for parameter in build_model(config, data).parameters())

    spvae = resolve(dataclasses.replace(TINY, units=2, hidden=(8, 8)), data)
    plain = with_parameters_of(spvae, data, size(spvae))
    width, _ = plain.hidden
    same = dataclasses.replace(spvae, structure="whole", delta=None, units=1, leaves=1, weights="full")
    assert plain == dataclasses.replace(same, hidden=(width, width))
    assert size(plain) >= size(spvae) > size(dataclasses.replace(plain, hidden=(width - 1, width - 1)))
    assert build_model(plain, data).num_leaves == 1
    assert resolve(plain, data) == plain


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_run_that_fails_in_its_first_epoch_leaves_nothing(tmp_path, file, split):
    with pytest.raises(ValueError, match="became .* at step [12].*; nothing was kept; try .* or data scaled to about"):
        train(dataclasses.replace(TINY, data=file(**{split: 1e25}), likelihood="normal"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_test_split_out_of_range_is_said_and_the_checkpoints_stay(tmp_path, file):
    refused = pytest.raises(ValueError, match="^the mean log-likelihood is -inf; look for values far from those")
    with pytest.warns(UserWarning, match="^x holds .* in row 0, column 'column 1' .*, far outside of the "), refused:
        train(dataclasses.replace(TINY, data=file(test=1e25)), tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES - {"results.json"}


def test_an_interrupted_run_keeps_its_checkpoints(tmp_path, file, monkeypatch):
    append = RunFolder.append_metrics

    def interrupt(folder, values):
        if values["epoch"] == 2:
            raise KeyboardInterrupt
        append(folder, values)

    monkeypatch.setattr(RunFolder, "append_metrics", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(dataclasses.replace(TINY, data=file()), tmp_path / "run")
    assert RunFolder(tmp_path / "run").load("last.pt")["epoch"] == 1


def test_best_checkpoint_is_what_was_evaluated(tmp_path, file):
    results = train(dataclasses.replace(TINY, data=file(), epochs=4), tmp_path / "run")
    assert not list(pyro.get_param_store().keys()) and not pyro.settings.get("module_local_params")
    folder = RunFolder(tmp_path / "run")
    assert folder.read_json("results.json") == results
    assert likelihood_again(folder.path) == results["log_likelihood"]
    best = max(folder.read_metrics(), key=lambda line: line["val_elbo"])
    assert results["best_epoch"] == best["epoch"] == folder.load("best.pt")["epoch"]


def test_demo_compares_with_a_plain_vae_of_no_fewer_parameters(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_module, "SAMPLES", 5)
    small = functools.partial(TrainConfig, epochs=1, units=1, hidden=(4,), latent_dim=2)
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
    result = {"log_likelihood": -1.0, "standard_error": 0.5, "bits_per_dim": 2.0, "parameters": 12345}
    result["train_seconds"] = 7.4
    rows = demo_module.table({"SPVAE": result, "VAE": result | {"log_likelihood": -1000.0}}).splitlines()
    assert len(rows) == 3 and len({len(row) for row in rows}) == 1
    assert rows[1].split() == ["SPVAE", "-1.00", "+-", "0.50", "2.000", "12,345", "7"]


def test_the_seed_is_all_that_decides(tmp_path, monkeypatch):
    """Of parameters and of every kind of noise."""
    monkeypatch.setattr("pyro_spvae.training.train._write_pictures", lambda *args: None)
    np.save(tmp_path / "grey.npy", np.random.default_rng(0).integers(0, 256, (40, 4, 4), dtype=np.uint8))
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.rand(3)  # what happened before does not matter
        train(dataclasses.replace(TINY, data=str(tmp_path / "grey.npy"), seed=seed), tmp_path / name)
    assert_same_outcome(tmp_path / "a", tmp_path / "b")
    (best, last, *figures), (other_best, other_last, *other_figures) = (outcome(tmp_path / name) for name in "ac")
    assert all(one != other for one, other in zip(figures, other_figures, strict=True))
    assert not same(best, other_best) and not same(last["model"], other_last["model"])


class TestOverwriting:
    """A run that is replaced is lost to nothing but another one."""

    @pytest.fixture
    def run(self, tmp_path, file, monkeypatch):
        """A finished run, its configuration, and the bytes of its files."""
        monkeypatch.setattr("pyro_spvae.training.train._write_pictures", lambda *args: None)
        config = dataclasses.replace(TINY, data=file(), leaf="vae")
        train(config, tmp_path / "run")
        return tmp_path / "run", config, self.content(tmp_path)

    @staticmethod
    def content(folder):
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"prior": "vamp(components=500,init=data)"}, "^components is 500, but there are "),
            ({"lr": 1e30, "schedule": "constant"}, "became (nan|-?inf) at step .*; nothing was kept"),
        ],
    )
    def test_by_one_that_is_refused_or_fails(self, run, tmp_path, options, message):
        path, config, before = run
        with pytest.raises(ValueError, match=message):
            train(dataclasses.replace(config, **options), path, overwrite=True)
        assert self.content(tmp_path) == before

    def test_by_one_that_is_stopped_before_its_first_step(self, run, tmp_path, monkeypatch):
        path, config, before = run

        def stop(*args):
            raise KeyboardInterrupt

        monkeypatch.setattr("pyro_spvae.training.train.describe", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config, path, overwrite=True)
        assert self.content(tmp_path) == before

    def test_by_one_that_is_trained(self, run, tmp_path):
        path, config, _ = run
        train(dataclasses.replace(config, seed=1), path, overwrite=True)
        assert RunFolder(path).read_json("config.json")["seed"] == 1
        assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["run"]


def test_tensorboard_is_looked_for_before_there_is_a_folder(tmp_path, file, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="^tensorboard is asked for, but it is not installed; pip install 'pyro-spvae"):
        train(dataclasses.replace(TINY, data=file(), tensorboard=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()


class TestRefusedRows:
    @pytest.fixture
    def config(self, tmp_path):
        """Of a table of numbers between 0 and 1, but for one in its row 44."""
        x = np.random.default_rng(0).uniform(0.1, 0.9, size=(120, 3))
        x[44, 1] = 5.0
        np.save(tmp_path / "x.npy", x)
        return dataclasses.replace(TINY, data=str(tmp_path / "x.npy"), race="none")

    def test_are_told_of_by_their_number_in_the_table(self, config, tmp_path):
        with pytest.raises(
            ValueError, match=r"^x holds the value 5 in row \d+ \(row 44 of the array\); the likelihood"
        ):
            train(dataclasses.replace(config, likelihood="beta"), tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_of_several_files_by_that_in_their_own(self, tmp_path, file):
        with pytest.raises(ValueError, match=r"^x holds the value .* in row 0 \(\d+ such rows\); the likelihood"):
            train(dataclasses.replace(TINY, data=file(), likelihood="beta"), tmp_path / "run")

    @pytest.mark.parametrize(("fraction", "left"), [(0.001, 0), (0.01, 1)])
    def test_too_few_are_the_fractions_fault(self, config, tmp_path, fraction, left):
        message = rf"^fraction is {fraction}, which leaves {left} of \d+ training rows; at least 2 are needed$"
        with pytest.raises(ValueError, match=message):
            train(dataclasses.replace(config, fraction=fraction), tmp_path / "run")

    def test_a_plan_names_no_file_that_is_not_written(self, tmp_path):
        np.savetxt(tmp_path / "x.csv", np.random.default_rng(0).normal(size=(30, 103)), delimiter=",")
        lines = []
        plan(dataclasses.replace(TINY, data=str(tmp_path / "x.csv"), structure="whole", units=1), lines.append)
        assert ".. 3 more" in lines

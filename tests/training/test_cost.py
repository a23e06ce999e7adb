# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What the final evaluation costs is said before, and its samples are as many as a tenth of training pays."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import numpy as np
import pytest
import torch

from pyro_spvae import distributed
from pyro_spvae.commands.evaluation import evaluate
from pyro_spvae.training import cost
from pyro_spvae.training.cost import affordable_samples, evaluation_seconds, in_words, sample_seconds
from pyro_spvae.training.run import open_run
from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.train import resume, train
from tests.cli_cases import Forked
from tests.training.cases import TINY, built, images

ROUND = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


def test_as_many_samples_as_a_tenth_of_training_pays():
    """By trying all of them, at costs that are far from the limits and at those that hit them."""
    for rows in (1, 250, 10_000):
        for training in (0.0, 1.0, 60.0, 3600.0):
            for per_sample in (1e-9, 3.3e-6, 1e-5, 1e-3, 1.0):
                found = affordable_samples(per_sample, rows, training)
                fitting = [number for number in ROUND if rows * number * per_sample <= training / 10]
                assert found == max(fitting, default=10)
    assert affordable_samples(0.125, 4, 500.0) == 100 and affordable_samples(0.126, 4, 500.0) == 50


def test_processes_share_the_rows(monkeypatch):
    monkeypatch.setattr(distributed, "world", lambda: 4)
    assert evaluation_seconds(0.001, 100, 50) == pytest.approx(1.25)
    assert affordable_samples(0.125, 16, 500.0) == 100


def test_words():
    assert [in_words(seconds) for seconds in (0.01, 1.4, 119, 120, 7199, 7200)] == [
        *("1 s", "1 s", "119 s", "2 min", "120 min", "2 h"),
    ]


class Counted:
    """A clock that moves by what a model draws, a second a pair of row and sample, and a tenth for each call."""

    def __init__(self, monkeypatch, spvae, late=()):
        self.now, self.calls, self.late = 0.0, [], list(late)
        monkeypatch.setattr(cost, "clock", lambda: self.now)
        answer = spvae.log_likelihood

        def counted(x, seen, num_samples, chunk_size):
            self.calls.append((len(x), num_samples))
            self.now += len(x) * num_samples + (self.late.pop(0) if self.late else 0.0)
            return answer(x, seen, num_samples=num_samples, chunk_size=chunk_size)

        spvae.log_likelihood = counted


class TestMeasured:
    def test_on_a_full_chunk_of_few_rows_after_a_first_call(self, monkeypatch):
        spvae, data, _ = built(images(rows=80))
        counted = Counted(monkeypatch, spvae, late=[500.0])
        before = torch.get_rng_state()
        assert sample_seconds(spvae, data.test, 320) == 1.0
        assert counted.calls == [(16, 1), (16, 20)], "one measurement took long enough"
        assert torch.equal(torch.get_rng_state(), before) and spvae.training

    def test_the_least_of_several(self, monkeypatch):
        spvae, data, _ = built(images(rows=80))
        counted = Counted(monkeypatch, spvae, late=[0.0, 30.0, 10.0, 40.0, 0.0, 20.0])
        monkeypatch.setattr(cost, "_ENOUGH", math.inf)
        assert sample_seconds(spvae, data.test, 320) == 1.0
        assert len(counted.calls) == 6

    @pytest.mark.parametrize(("chunk", "samples", "drawn"), [(320, 3, 3), (320, 100, 20), (4, None, 1)])
    def test_never_more_than_are_asked_for(self, monkeypatch, chunk, samples, drawn):
        spvae, data, _ = built(images(rows=80))
        counted = Counted(monkeypatch, spvae)
        assert sample_seconds(spvae, data.test, chunk, samples) == 1.0
        assert counted.calls[-1] == (16, drawn)

    def test_fewer_rows(self, monkeypatch):
        spvae, data, _ = built(images(rows=20))
        counted = Counted(monkeypatch, spvae)
        assert sample_seconds(spvae, data.test, 100) == 1.0 and counted.calls[-1] == (5, 20)

    def test_without_latent_variables(self, monkeypatch):
        spvae, data, _ = built(images(levels=2, rows=80), leaf="factorized", latent_dim=None)
        counted = Counted(monkeypatch, spvae)
        assert sample_seconds(spvae, data.test, 320) == 1.0 and counted.calls[-1] == (16, 1)


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file of 60 rows; runs on it are without pictures, and a pair of row and sample costs a known time."""
    monkeypatch.setattr("pyro_spvae.training.train._write_pictures", lambda *args: None)
    np.save(tmp_path / "data.npy", np.random.default_rng(0).normal(size=(60, 3)))
    return tmp_path / "data.npy"


def costing(monkeypatch, seconds, training=100.0):
    """A sample of a row takes so long, and training took so long, whatever it really took, which is returned."""
    taken, affordable = [], cost.affordable_samples

    def chosen(per_sample, rows, really):
        taken.append(really)
        return affordable(per_sample, rows, training)

    monkeypatch.setattr(cost, "sample_seconds", lambda *args: seconds)
    monkeypatch.setattr(cost, "affordable_samples", chosen)
    return taken


CONFIG = dataclasses.replace(TINY, samples=None, epochs=2)


class TestRuns:
    def test_the_number_is_chosen_said_and_kept(self, file, tmp_path, monkeypatch):
        lines = []
        run = tmp_path / "run"
        rows = rows_of(file, tmp_path)
        taken = costing(monkeypatch, 10.0 / (rows * 150))
        results = train(dataclasses.replace(CONFIG, data=str(file)), run, report=lines.append)
        assert results["samples"] == 100 and json.loads((run / "results.json").read_text())["samples"] == 100
        assert json.loads((run / "config.json").read_text())["samples"] is None
        assert taken == [pytest.approx(results["train_seconds"], abs=1e-3)]
        assert f"evaluating  {rows} rows with 100 samples, about 7 s" in lines
        order = {line.split()[0]: place for place, line in enumerate(lines)}
        assert order["trained"] < order["evaluating"] < order["test"] < order["note"]
        assert f"({rows} rows, 100 samples)" in lines[order["test"]]
        (note,) = (line for line in lines if line.startswith("note        samples"))
        assert "more give a higher bound" in note and note.endswith(f"pyro-spvae evaluate {run} --samples 1000")

    def test_bounds_and_variances_are_counted(self, file, tmp_path, monkeypatch):
        """As a forecast counts them."""
        lines = []
        costing(monkeypatch, 1e-12)
        monkeypatch.setattr("pyro_spvae.training.train.figures_seconds", lambda *args: 40.0)
        train(dataclasses.replace(CONFIG, data=str(file)), tmp_path / "run", report=lines.append)
        (said,) = (line for line in lines if line.startswith("evaluating"))
        assert said.endswith("about 40 s")

    def test_evaluate_draws_as_many(self, file, tmp_path, monkeypatch):
        costing(monkeypatch, 1e-3, 60 * 20 * 1e-2)
        results = train(dataclasses.replace(CONFIG, data=str(file)), tmp_path / "run")
        assert results["samples"] > 10
        again = evaluate(tmp_path / "run", out=tmp_path / "out")
        names = ("samples", "log_likelihood", "standard_error", "elbo")
        assert {name: again[name] for name in names} == {name: results[name] for name in names}
        assert again["of_run"] is None and (tmp_path / "out" / "test.json").exists()

    def test_what_is_given_wins(self, file, tmp_path, monkeypatch):
        lines = []
        costing(monkeypatch, 1e3)
        results = train(dataclasses.replace(CONFIG, data=str(file), samples=7), tmp_path / "run", report=lines.append)
        assert results["samples"] == 7 and not any(line.startswith("note        samples") for line in lines)
        (said,) = (line for line in lines if line.startswith("evaluating"))
        assert re.fullmatch(r"evaluating  \d+ rows with 7 samples, about \d+ min|.* h", said)

    @pytest.mark.parametrize(("seconds", "samples", "note"), [(1e-12, 5000, 0), (1e9, 10, 1)])
    def test_the_most_and_the_least(self, file, tmp_path, monkeypatch, seconds, samples, note):
        lines = []
        costing(monkeypatch, seconds)
        results = train(dataclasses.replace(CONFIG, data=str(file)), tmp_path / "run", report=lines.append)
        assert results["samples"] == samples and sum(line.startswith("note        samples") for line in lines) == note

    def test_leaves_without_latent_variables_are_exact(self, file, tmp_path, monkeypatch):
        lines = []
        costing(monkeypatch, 1e9)
        config = dataclasses.replace(CONFIG, data=str(file), leaf="factorized", latent_dim=None)
        results = train(config, tmp_path / "run", report=lines.append)
        assert results["samples"] == 0 and not any(line.startswith("note        samples") for line in lines)
        (said,) = (line for line in lines if line.startswith("evaluating"))
        assert re.fullmatch(r"evaluating  \d+ rows exactly, about [\d]+ h", said)

    def test_measured_for_real(self, file, tmp_path):
        results = train(dataclasses.replace(CONFIG, data=str(file)), tmp_path / "run")
        assert results["samples"] in ROUND
        assert open_run(tmp_path / "run").samples == results["samples"]

    def test_a_resumed_evaluation_takes_other_samples(self, file, tmp_path, monkeypatch):
        """Of what took too long; the configuration says so from then on."""
        config = dataclasses.replace(CONFIG, data=str(file), samples=9)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("pyro_spvae.training.train._results", interrupted)
            train(config, tmp_path / "run")
        assert open_run(tmp_path / "run").samples == 9
        assert resume(tmp_path / "run", {"samples": 4})["samples"] == 4
        assert RunFolder(tmp_path / "run").read_json("config.json")["samples"] == 4
        with pytest.raises(ValueError, match="is finished, there is nothing to resume"):
            resume(tmp_path / "run", {"samples": 5})


def interrupted(*args):
    raise KeyboardInterrupt


def rows_of(file, folder):
    """How many rows of a file are tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyro_spvae.training.train._write_pictures", lambda *args: None)
        return train(dataclasses.replace(TINY, data=str(file), epochs=1), folder / "rows")["rows"]


def of_each(file, folder):
    """What each of several processes ends with, if each by itself had measured another cost."""
    import pyro_spvae.training.train as train_module

    train_module._write_pictures = lambda *args: None
    cost.sample_seconds = lambda *args: 1e-12 if distributed.is_main() else 1e9
    results = train(dataclasses.replace(CONFIG, data=str(file), chunk_size=4096, epochs=1), folder / "run")
    (folder / f"{results['samples']}-{len(list(folder.glob('*-*')))}").touch()


def test_processes_agree(tmp_path):
    np.save(tmp_path / "data.npy", np.random.default_rng(0).normal(size=(40, 3)))
    (tmp_path / "out").mkdir()
    Forked(of_each, tmp_path / "data.npy", tmp_path / "out", number=2).succeed()
    assert {path.name.split("-")[0] for path in (tmp_path / "out").glob("*-*")} == {"5000"}
    assert json.loads((tmp_path / "out" / "run" / "results.json").read_text())["samples"] == 5000

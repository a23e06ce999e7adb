# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The budgets of experiments: what the smallest one cuts, everywhere alike, and that tables say so."""

from __future__ import annotations

import json
import math
import re

import pytest

from pyro_spvae.data import published_sets
from pyro_spvae.registry import parse
from pyro_spvae.reproduce.budget import TRAINING, fraction_of, remarks
from pyro_spvae.reproduce.poster import PosterExperiment
from pyro_spvae.reproduce.report import beside_paper, write_report
from tests.cli_cases import invoke
from tests.reproduce.cases import experiments, finished


def test_rows_are_those_of_the_data_sets():
    for name, (rows, *_) in published_sets.SIZES.items():
        assert TRAINING[name] == rows
    # a sixth, a tenth and a fifth of the training images are held out for validation
    assert (TRAINING["mnist"], TRAINING["svhn"], TRAINING["cifar10"]) == (50_000, 73_257 - 7_325, 50_000 - 10_000)


def test_the_part_that_is_trained_on():
    """1,500 images, or all."""
    wanted = {"mnist": 0.03, "omniglot_burda": 1500 / 23_000, "frey_faces": 1500 / 1565}
    assert {data: fraction_of("tiny", data) for data in wanted} == wanted
    assert {fraction_of(budget, data) for budget in ("paper", "small") for data in TRAINING} == {1.0}


def data_of(one):
    return getattr(one, "data", "mnist")


class TestTiny:
    def test_every_experiment_has_few_steps_samples_and_rows(self):
        for one in experiments("tiny"):
            config = one.configuration()
            part = getattr(one, "fraction", 1.0)
            assert config.fraction == pytest.approx(part * fraction_of("tiny", data_of(one))), one
            batches = math.ceil(config.fraction * TRAINING[data_of(one)] / (config.batch_size or 128))
            assert 1 < config.epochs * batches <= 120, one
            assert config.samples <= 10 and config.test_rows == 1000, one
            assert config.validate_every is None or config.validate_every <= 24, one
            assert "budget-tiny" in one.name

    def test_no_other_budget_leaves_rows_out(self):
        for budget in ("paper", "small"):
            for one in experiments(budget):
                config = one.configuration()
                assert config.test_rows is None and config.fraction == getattr(one, "fraction", 1.0), one

    def test_priors_of_training_images_have_images_enough(self):
        of_images = [one for one in experiments("tiny") if getattr(one, "prior", "") == "vamp-data"]
        assert len({one.data for one in of_images}) == 6
        for one in of_images:
            config = one.configuration()
            components = int(parse("prior", config.prior)[1]["components"])
            assert components <= config.fraction * TRAINING[one.data], one

    def test_an_unknown_one_is_refused(self):
        with pytest.raises(ValueError, match="^budget is 'large'; known are paper, small, tiny$"):
            PosterExperiment("vae", "large")


def test_tables_say_of_few_steps(tmp_path):
    paths = {}
    for number, budget in enumerate(("paper", "small", "tiny")):
        cell = PosterExperiment("vae", budget)
        paths[budget] = tmp_path / "poster" / cell.name
        finished(paths[budget], cell, -80.0 - number)
    text = write_report(tmp_path).read_text()
    small, tiny = remarks(["paper", "small", "tiny"])
    assert small.startswith("Budget small: of fewer steps") and "at most about a hundred steps" in tiny
    assert text.count(small) == text.count(tiny) == 1 and remarks(["paper"]) == []
    for budget, notes in (("paper", []), ("small", [small]), ("tiny", [tiny])):
        lines = list(beside_paper(paths[budget]))
        assert [line[28:] for line in lines if line.startswith("note ")] == notes


def test_a_tiny_run_is_scored_on_the_first_test_rows(tiny_mnist, tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_spvae.training.train._write_pictures", lambda *args: None)
    monkeypatch.setattr("pyro_spvae.reproduce.dlgmm.TEST_ROWS", {"tiny": 7})
    monkeypatch.setattr("pyro_spvae.reproduce.dlgmm._HIDDEN", 5)
    words = ("--table", "kNN", "--model", "gauss-vae", "--budget", "tiny", "--data-dir", tiny_mnist, "--out", tmp_path)
    result = invoke("reproduce", "dlgmm", *words)
    assert result.exit_code == 2 and "neighbours is 5, but there are 3 points" in result.output
    folder = tmp_path / "dlgmm" / "mnist-gauss-vae-budget-tiny"
    results = json.loads((folder / "results.json").read_text())
    assert (results["rows"], results["samples"]) == (7, 10)
    assert re.search(r"evaluating  7 rows with 10 samples", result.output)
    rows = json.loads((folder / "data.json").read_text())["rows"]
    assert rows == {"train": 3, "validation": 1, "test": 20}

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Entries of the data that are missing are left out of training, validation and evaluation, whatever they hold."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from pyro_spvae import chow_liu, learn_regions, whole
from pyro_spvae.data import DataSet, Rows, Values, load_data
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import SPVAE
from pyro_spvae.priors import VampPrior
from pyro_spvae.training.build import build_regions
from pyro_spvae.training.evaluation import log_likelihoods
from pyro_spvae.training.fit import fit
from pyro_spvae.training.resolve import resolve
from pyro_spvae.training.run import open_run
from pyro_spvae.training.train import resume, train
from tests.training.cases import TINY, assert_same_outcome, built, same, stopped_after, trainer_of, untimed

CONFIG = dataclasses.replace(TINY, missing="nan", seed=3, device="cpu")


def holes(*shape, seed=0):
    """Values in [0, 1], a quarter of them NaN."""
    generator = np.random.default_rng(seed)
    x = generator.random(shape).astype(np.float32)
    x[generator.random(shape) < 0.25] = np.nan
    return x


@pytest.fixture(scope="module", params=[(80, 4), (80, 4, 4)], ids=["table", "images"])
def trained(request, tmp_path_factory):
    """A run on data with holes: its configuration, its folder and what training returned."""
    folder = tmp_path_factory.mktemp("missing")
    np.save(folder / "holes.npy", holes(*request.param))
    config = dataclasses.replace(CONFIG, data=str(folder / "holes.npy"))
    return config, folder / "run", train(config, folder / "run")


def filled(rows):
    """All rows with something in the place of what is missing, and the mask."""
    x = rows[:]
    return x.nan_to_num(0.5), ~x.isnan()


class TestTrain:
    def test_is_that_of_filled_rows_and_their_mask(self, trained):
        config, path, _ = trained
        spvae, data, config = built(load_data(config.data, seed=3, missing="nan"), seed=3, device="cpu")
        (x, observed), (watched, of_watched) = filled(data.train), filled(data.validation)
        assert data.train.missing and not bool(observed.all()) and not bool(of_watched.all())
        rows = data._with(train=x, validation=watched)
        trainer = trainer_of(spvae, rows, config, observed=observed, validation_observed=of_watched)
        metrics = trainer.run()
        run = open_run(path)
        assert same(run.spvae.state_dict(), spvae.state_dict())
        assert [untimed(line) for line in metrics] == [untimed(line) for line in run.folder.read_metrics()]

    def test_results_are_those_of_the_seen_entries(self, trained):
        config, path, results = trained
        run = open_run(path)
        x, observed = filled(run.data().test)
        options = {"samples": config.samples, "chunk_size": config.chunk_size, "seed": config.seed}
        mean = float(log_likelihoods(run.spvae, x, observed=observed, **options).mean())
        seen = int(observed.sum()) / len(x)
        assert results["log_likelihood"] == pytest.approx(mean, rel=1e-6) and seen < x[0].numel()
        assert results["missing"] == "nan" and results["bits_per_dim"] is None
        assert results["seen_entries"] == seen and results["nats_per_seen_entry"] == pytest.approx(mean / seen)
        assert json.loads((path / "results.json").read_text()) == results
        assert json.loads((path / "config.json").read_text())["missing"] == "nan"

    def test_stopped_and_resumed(self, trained, tmp_path):
        config, path, _ = trained
        with stopped_after(3):
            train(config, tmp_path / "run")
        with pytest.raises(ValueError, match="^missing is 'none', but the run .* was started with 'nan'"):
            resume(tmp_path / "run", {"missing": "none"})
        resume(tmp_path / "run")
        assert_same_outcome(tmp_path / "run", path)

    @pytest.mark.parametrize("preprocess", ["paper", "paper-discrete"])
    def test_scales_of_whole_rows_are_refused_before_anything_is_written(self, trained, tmp_path, preprocess):
        config = dataclasses.replace(trained[0], preprocess=preprocess)
        with pytest.raises(ValueError, match=f"^preprocess is '{preprocess}', which scales each row"):
            train(config, tmp_path / "run")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        "options",
        [
            {"preprocess": "binarize"},
            {"leaf": "factorized", "latent_dim": None, "optimiser": "em", "likelihood": "normal"},
            {"structure": "whole", "objective": "trace-mean-field-elbo"},
            {"prior": "vamp(components=3,init=data)"},
        ],
        ids=str,
    )
    def test_other_options(self, trained, tmp_path, options):
        results = train(dataclasses.replace(trained[0], epochs=1, **options), tmp_path / "run")
        assert math.isfinite(results["log_likelihood"]) and results["seen_entries"] == trained[2]["seen_entries"]


def table():
    train, validation, test = torch.from_numpy(holes(60, 4)).split([40, 10, 10])
    return DataSet("holes", train, validation, test, Values(low=0, high=1), missing="nan")


class TestFit:
    def make(self):
        torch.manual_seed(0)
        return SPVAE(whole(4), latent_dim=2, hidden_dims=(3,)).float()

    def test_data_sets(self):
        data, one, other = table(), self.make(), self.make()
        (x, observed), (watched, of_watched) = filled(data.train), filled(data.validation)
        found = fit(one, data, epochs=2)
        wanted = fit(other, x, watched, observed=observed, validation_observed=of_watched, epochs=2)
        assert [untimed(line) for line in found] == [untimed(line) for line in wanted]
        assert same(one.state_dict(), other.state_dict())

    def test_rows_of_which_some_are_held_out_and_a_mask_of_ones_own(self):
        data, one, other = table(), self.make(), self.make()
        x, observed = filled(data.train)
        own = torch.tensor([True, True, False, True])
        found = fit(one, data.train, observed=own, epochs=2)
        wanted = fit(other, x, observed=observed & own, epochs=2)
        assert [untimed(line) for line in found] == [untimed(line) for line in wanted]

    def test_the_range_is_that_of_seen_values(self, tmp_path):
        data = table()
        seen = data.train[:][~data.train[:].isnan()]
        for name, given, ends in (
            ("rows", (data.train, data.validation), (float(seen.min()), float(seen.max()))),
            ("data", (data,), (data.values.low, data.values.high)),  # what the data set states
        ):
            fit(self.make(), *given, epochs=1, out=tmp_path / name)
            values = json.loads((tmp_path / name / "data.json").read_text())["values"]
            assert (values["low"], values["high"]) == ends

    def test_rows_that_are_not_finite_are_counted_over_all_of_them(self):
        x = torch.zeros(5000, 4, dtype=torch.float32)
        x[4500, 2], x[4998, 0], x[4999, 1] = math.nan, math.inf, -math.inf
        message = r"^x holds 2 NaN or infinite values, the first in row 4998 at \[0\]; .*DataSet\(.., missing='nan'\)"
        with pytest.raises(ValueError, match=message):
            fit(self.make(), Rows(x), epochs=1)


def test_a_structure_is_learned_from_pairs_that_are_both_seen():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 4, generator=generator, dtype=torch.float32)
    x[:, 2:] = x[:, :2] + 0.1 * x[:, 2:]
    x[torch.rand(x.shape, generator=generator) < 0.3] = math.nan
    data = DataSet("holes", x, x, x, Values(low=-9, high=9), missing="nan")
    config = resolve(dataclasses.replace(CONFIG, structure="learned", leaf_size=2), data)
    regions = build_regions(config, data)
    assert regions == learn_regions(x, 2, repetitions=2, seed=3) and regions.leaf_scopes == ((0, 2), (1, 3))
    config = resolve(dataclasses.replace(CONFIG, structure="chow-liu", block=2), data)
    assert build_regions(config, data) == chow_liu(x, 2) and build_regions(config, data).leaf_scopes == ((0, 2), (1, 3))


def test_pseudo_inputs_are_rows_as_the_encoder_sees_them():
    x = torch.from_numpy(holes(6, 4)).gt(0.5).float().where(torch.from_numpy(~np.isnan(holes(6, 4))), torch.nan)
    data = DataSet("holes", x, x, x, Values.grey_levels(2), missing="nan")
    prior = VampPrior(6, init="data", frozen=True)
    spvae = SPVAE(whole(4), 1, likelihood=Bernoulli(), latent_dim=2, hidden_dims=(3,), prior=prior).float()
    fit(spvae, data, epochs=1)
    found, wanted = prior.pseudo_inputs[0], spvae.leaf.features(x.nan_to_num(0))
    assert sorted(found.tolist()) == sorted(wanted.tolist())

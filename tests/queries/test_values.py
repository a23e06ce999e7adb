# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A model knows what values it is a density of, keeps that, and refuses others."""

from __future__ import annotations

import dataclasses
import math
import warnings

import pytest
import torch

from pyro_spvae import poon_domingos
from pyro_spvae.data import Values
from pyro_spvae.data.preprocessing import preprocessing
from pyro_spvae.likelihoods import Bernoulli, Normal
from pyro_spvae.models import SPN, SPVAE
from pyro_spvae.training.run import open_run
from pyro_spvae.training.train import train
from tests.helpers import small_spvae
from tests.training.cases import TINY, images

GRID = poon_domingos((4, 4), delta=2)
BYTES = torch.randint(256, (6, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
QUERIES = {
    "log_likelihood": lambda spvae, x, **options: spvae.log_likelihood(x, num_samples=2, **options),
    "posterior": lambda spvae, x, **options: spvae.posterior(x, num_particles=2, **options),
    "reconstruct": lambda spvae, x, **options: spvae.reconstruct(x, num_particles=2, **options),
    "impute": lambda spvae, x, **options: spvae.impute(x, options.get("observed", x > 0)),
    "embed": lambda spvae, x, **options: spvae.embed(x, num_particles=2, **options),
    "log_prob": lambda spvae, x, **options: spvae.log_prob(x, **options),
    "mpe": lambda spvae, x, **options: spvae.mpe(x, **options),
}


def of(name, levels=256, **options):
    """A model of values that were preprocessed so."""
    spvae = SPN(GRID, likelihood=Normal(mean="sigmoid"), **options)
    spvae.values = preprocessing(name, Values.grey_levels(levels)).values
    return spvae


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_refuses_raw_grey_levels_and_takes_prepared_ones(query):
    spvae = of("dequantize")
    x = spvae.preprocess(BYTES)
    QUERIES[query](spvae, x)
    message = (
        "^x runs from .* to 2[0-9][0-9], but the model is a density of values from 0 to 1, made of grey levels 0 to "
        r"255 by 'dequantize'; make them of grey levels 0 to 255 by spvae.preprocess\(x\)$"
    )
    with pytest.raises(ValueError, match=message):
        QUERIES[query](spvae, BYTES.to(x.dtype))
    observed = torch.ones(16, dtype=torch.bool).reshape(4, 4)
    observed[0, 0] = False
    x[:, :, 0, 0] = 200  # which nobody looks at
    QUERIES[query](spvae, x, observed=observed)


def test_interpolate_says_which_end():
    spvae = small_spvae(GRID)
    spvae.values = Values(low=0, high=1)
    x = torch.rand(2, 1, 4, 4)
    with pytest.raises(ValueError, match="^end: x runs from .*; give such values$"):
        spvae.interpolate(x, 255 * x)


def test_a_model_of_grey_levels_refuses_scaled_ones():
    spvae = small_spvae(GRID)
    spvae.values = Values.grey_levels(256)
    spvae.log_likelihood(BYTES.to(torch.get_default_dtype()), num_samples=2)
    with pytest.raises(ValueError, match="^x holds other values than whole numbers, but .* grey levels 0 to 255; give"):
        spvae.log_likelihood(BYTES / 255, num_samples=2)


def test_values_far_outside_of_those_that_occurred_get_a_warning():
    spvae = small_spvae(GRID)
    x = torch.rand(9, 1, 4, 4)
    spvae.fit(x, epochs=1)
    assert (spvae.values.low, spvae.values.high, spvae.values.bounded) == (float(x.min()), float(x.max()), False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spvae.log_likelihood(x + 0.5, num_samples=2)
    with pytest.warns(UserWarning, match="^x runs from .* to .*, but the model is a density of values from .* to .*, "):
        spvae.log_likelihood(255 * x, num_samples=2)


class TestPreprocess:
    @pytest.mark.parametrize("name", ["dequantize", "binarize", "binarize-static", "paper", "paper-discrete"])
    def test_is_that_of_the_data_set(self, name):
        spvae = of(name)
        x = spvae.preprocess(BYTES, seed=3)
        assert spvae.values.fault(x) is None and x.dtype == torch.get_default_dtype()
        assert torch.equal(x, spvae.preprocess(BYTES, seed=3))
        assert torch.equal(x, spvae.preprocess(BYTES.float(), seed=3)), "of any type"
        assert torch.equal(x[:3], spvae.preprocess(BYTES[:3], seed=3)), "noise of a row depends on the row"
        if name == "dequantize":
            assert torch.equal((256 * x).floor(), BYTES.to(x.dtype)) and not torch.equal(x, spvae.preprocess(BYTES))

    def test_of_values_as_they_are(self):
        spvae = small_spvae(GRID)
        spvae.values = Values.grey_levels(256)
        assert torch.equal(spvae.preprocess(BYTES), BYTES.to(torch.get_default_dtype()))

    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (BYTES[:, 0], r"^x is of shape \[6, 4, 4\]; a tensor \[data, 1, 4, 4\] is needed$"),
            (BYTES.tolist(), "^x is a list; a tensor"),
            (
                BYTES / 255,
                "^x holds other values than whole numbers; raw values of this model are grey levels 0 to 2",
            ),
            (BYTES - 300.0, "^x runs from .*; raw values of this model are grey levels 0 to 255$"),
            (BYTES + math.inf, "^x runs from inf to inf; raw values"),
        ],
    )
    def test_refuses_what_is_not_raw(self, x, message):
        with pytest.raises(ValueError, match=message):
            of("dequantize").preprocess(x)

    def test_missing_entries_stay_missing(self):
        x = BYTES.double()
        x[0, 0, 1, 2] = math.nan
        found, whole = of("dequantize").preprocess(x), of("dequantize").preprocess(BYTES)
        assert torch.equal(found.isnan(), x.isnan()) and torch.equal(found[~x.isnan()], whole[~x.isnan()])
        with pytest.raises(ValueError, match="^x holds NaN, but 'paper' scales each row by its smallest and largest"):
            of("paper").preprocess(x)

    def test_needs_values(self):
        with pytest.raises(ValueError, match="^the model has not been told what values it is a density of"):
            small_spvae(GRID).preprocess(BYTES)


class TestKept:
    def test_in_a_file(self, tmp_path):
        spvae = of("dequantize")
        spvae.save(tmp_path)
        loaded = SPVAE.load(tmp_path)
        assert loaded.values == spvae.values and loaded.values.raw == Values.grey_levels(256)
        assert loaded.values.preprocess == "dequantize" and loaded.architecture() == spvae.architecture()
        assert str(loaded.values) in repr(loaded)
        small_spvae(GRID).save(tmp_path)
        assert SPVAE.load(tmp_path).values is None

    def test_by_training_and_in_a_run(self, tmp_path):
        """A model that is loaded answers as results.json says, and refuses what it was not trained on."""
        raw = images(256)
        torch.save({"train": raw.train[:].byte(), "test": raw.test[:].byte()}, tmp_path / "x.pt")
        config = dataclasses.replace(TINY, data=str(tmp_path / "x.pt"), preprocess="dequantize")
        results = train(config, tmp_path / "run")
        loaded, run = SPVAE.load(tmp_path / "run"), open_run(tmp_path / "run")
        assert loaded.values == run.values == Values(0, 1, scaled_from=256) and loaded.values.preprocess == "dequantize"
        x = raw.test[:]
        with pytest.raises(ValueError, match="by 'dequantize'; make them of grey levels 0 to 255 by spvae.prepr"):
            loaded.log_likelihood(x)
        mine = float(loaded.log_likelihood(loaded.preprocess(x), num_samples=50).mean())
        assert abs(mine - results["log_likelihood"]) < 2.0, "up to noise, not by orders of magnitude"

    @pytest.mark.parametrize("of_data", [True, False])
    def test_by_fit(self, of_data, tmp_path):
        data = images(256).preprocessed("binarize-static")
        spvae = SPVAE(GRID, likelihood=Bernoulli(), hidden_dims=(3,))
        spvae.fit(data if of_data else data.train, epochs=1, out=tmp_path / "run")
        assert spvae.values == Values.grey_levels(2) and spvae.values.raw == Values.grey_levels(256)
        with pytest.raises(ValueError, match="make them of grey levels 0 to 255 by spvae.preprocess"):
            spvae.log_likelihood(images(256).test[:].to(torch.get_default_dtype()))
        run = open_run(tmp_path / "run")
        torch.save(images(256).train[:].byte(), tmp_path / "raw.pt")
        torch.save(data.train[:], tmp_path / "binary.pt")
        for name in ("raw.pt", "binary.pt"):
            found = run.data(str(tmp_path / name))
            assert found.values == spvae.values
            run.spvae.log_likelihood(found.test[:].to(torch.get_default_dtype()), num_samples=2)

    def test_another_fit_learns_another_kind(self):
        spvae = small_spvae(GRID)
        spvae.values = preprocessing("dequantize", Values.grey_levels(256)).values
        x = 5 * torch.randn(12, 1, 4, 4)
        with pytest.warns(
            UserWarning, match="^the model was a density of values from 0 to 1, made of grey levels .* by"
        ):
            spvae.fit(x, epochs=1)
        assert spvae.values.low == float(x.min()) and not spvae.values.bounded
        spvae.fit(x + 1, epochs=1)  # of which no limits are known
        data = images(256)
        spvae.fit(data.preprocessed("dequantize"), epochs=1)
        with pytest.warns(
            UserWarning, match="by 'dequantize', and training makes it one of grey levels 0 to 255; if these"
        ):
            spvae.fit(data, epochs=1)
        spn = SPN(GRID, likelihood=Bernoulli())
        spn.values = Values.grey_levels(256)
        spn.fit_em((x > 0).to(x.dtype), epochs=2)
        assert spn.values.levels == 256, "of which 0 and 1 are"
        spn = of("dequantize")
        with pytest.warns(UserWarning, match="and training makes it one of values from .*; if") as said:
            spn.fit_em(BYTES.to(torch.get_default_dtype()), epochs=2)
        assert not spn.values.bounded and said[0].filename == __file__

    def test_rows_of_the_same_kind_stay_it(self):
        """A model that is trained further on rows that it prepared knows as much of them as before."""
        spvae = of("dequantize")
        known = spvae.values
        spvae.fit(spvae.preprocess(BYTES), epochs=1)
        spvae.fit_em(spvae.preprocess(BYTES), epochs=2)
        assert spvae.values is known
        with pytest.warns(UserWarning, match="if these rows are raw, give spvae.preprocess") as said:
            spvae.fit(BYTES.to(torch.get_default_dtype()), epochs=1)
        assert said[0].filename == __file__

    @pytest.mark.parametrize("values", [3, {}, {"low": 0}, {"low": "0", "high": 1}, {"low": 0, "high": 1, "more": 2}])
    def test_what_is_damaged_is_refused(self, values):
        with pytest.raises(ValueError, match="^values is .*; a dict with low, high and what else Values have"):
            SPVAE.from_architecture(small_spvae(GRID).architecture() | {"values": values})


@pytest.mark.parametrize("query", [name for name in QUERIES if name != "posterior"])
def test_refused_rows_are_counted_among_all(query):
    """However few rows are looked at together."""
    spvae = SPN(GRID, likelihood=Bernoulli())
    x = torch.zeros(700, 1, 4, 4)
    x[299, 0, 0, 0] = x[680, 0, 1, 2] = 0.5
    with pytest.raises(ValueError, match=r"the value 0.5 in row 299 \(2 such rows\)"):
        QUERIES[query](spvae, x)

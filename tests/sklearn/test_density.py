# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Log-likelihoods and draws of the estimator, against those of its model and of scipy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pyro_spvae.sklearn import SPVAEDensity
from tests.sklearn.cases import QUICK, RHO, SMALL, correlated, exact, holey, mixed, own


def _normal() -> stats.rv_continuous:
    scale = np.array([10, 0.1])
    return stats.multivariate_normal([100, -1], [[1, RHO], [RHO, 1]] * np.outer(scale, scale))


@pytest.fixture(scope="module")
def fitted() -> SPVAEDensity:
    return SPVAEDensity(**SMALL | {"epochs": 60}).fit(holey(600))


def test_log_likelihoods_are_those_of_the_truth_in_its_own_units(fitted) -> None:
    x = correlated(200, seed=1)
    truth = _normal().logpdf(x)
    found = fitted.score_samples(x)
    assert found.dtype == np.float64 and found.shape == (200,)
    assert fitted.score(x[:9]) == found[:9].mean()
    independent = stats.norm(100, 10).logpdf(x[:, 0]) + stats.norm(-1, 0.1).logpdf(x[:, 1])
    assert truth.mean() - 0.05 < found.mean() < truth.mean() + 0.01  # mutual information: 0.83 nats
    assert independent.mean() < truth.mean() - 0.7
    assert np.corrcoef(found, truth)[0, 1] > 0.97


def test_marginals_of_what_is_seen(fitted) -> None:
    x = correlated(200, seed=1)
    x[:, 1] = np.nan
    x[0, 0] = np.nan
    found = fitted.score_samples(x)
    assert found[0] == 0
    truth = stats.norm(100, 10).logpdf(x[1:, 0])
    assert abs(found[1:].mean() - truth.mean()) < 0.05


def test_draws_have_the_moments_of_the_truth_and_follow_the_seed(fitted) -> None:
    x = fitted.sample(4000)
    assert x.shape == (4000, 2) and x.dtype == np.float64
    deviation = np.array([10, 0.1])
    assert np.all(np.abs(x.mean(0) - [100, -1]) < 0.1 * deviation)
    assert np.all(np.abs(x.std(0) / deviation - 1) < 0.1)
    assert abs(np.corrcoef(x.T)[0, 1] - RHO) < 0.05
    assert np.array_equal(x, fitted.sample(4000)) and np.array_equal(x, fitted.sample(4000, random_state=0))
    assert not np.array_equal(x[:9], fitted.sample(9, random_state=1))
    state = np.random.RandomState(0)
    assert np.array_equal(x, fitted.sample(4000, random_state=state))
    assert not np.array_equal(x, fitted.sample(4000, random_state=state))


def test_a_row_has_the_same_number_in_any_company(fitted) -> None:
    x = correlated(12, seed=2)
    x[3, 1] = x[5, 0] = np.nan
    found = fitted.score_samples(x)
    assert np.array_equal(found[::-1], fitted.score_samples(x[::-1]))
    assert np.array_equal(found[3:6], fitted.score_samples(x[3:6]))


def test_noise_of_rows_differs(fitted) -> None:
    """Errors of few samples cancel in the mean of many rows, as those of one noise for all do not."""
    x = correlated(120, seed=3)
    best = fitted.model_.log_likelihood(torch.tensor(x, dtype=torch.float32), num_samples=2000).numpy()
    rough = clone(fitted).set_params(samples=20)
    rough.__setstate__(fitted.__getstate__() | {"samples": 20})
    errors = rough.score_samples(x) - best
    near = np.argsort(x[:, 0])
    assert errors.std() > 0.02
    assert abs(np.corrcoef(errors[near][1:], errors[near][:-1])[0, 1]) < 0.25


def test_numbers_are_those_of_the_model() -> None:
    """Of one without latent variables, whose answers are exact: in nats, with holes, of every kind of column."""
    x = mixed(120)
    x.loc[3, "kind"] = x.loc[4, "size"] = None
    density = SPVAEDensity(**QUICK | {"structure": "auto", "units": None, "latent_dim": None, "hidden": None})
    density.set_params(model=exact).fit(x)
    numbers = torch.tensor(
        np.stack(
            [
                x["size"],
                x["kind"].map({"large": 0, "middle": 1, "small": 2}),
                x["grade"].map({10.0: 0, 20.0: 1}),
                x["visits"],
                x["flag"].astype(int),
            ],
            1,
        ).astype(np.float64)
    )
    assert [column.kind for column in density.columns_] == ["real", "categorical", "binary", "count", "binary"]
    expected = density.model_.log_prob(numbers).detach()
    np.testing.assert_allclose(density.score_samples(x), expected, rtol=1e-12)
    assert density.score(x) == pytest.approx(float(expected.mean()), rel=1e-12)


def test_draws_of_a_frame_are_one_of_its_own_values() -> None:
    x = mixed(120)
    density = SPVAEDensity(**QUICK | {"epochs": 15}).fit(x)
    drawn = density.sample(500)
    assert isinstance(drawn, pd.DataFrame) and list(drawn.columns) == list(x.columns) == list(density.feature_names_in_)
    assert set(drawn["kind"]) == {"small", "middle", "large"}
    assert set(drawn["grade"]) == {10.0, 20.0} and set(drawn["flag"]) == {True, False}
    assert drawn["visits"].dtype == np.int64 and abs(drawn["visits"].mean() - 20) < 2
    assert np.isfinite(density.score_samples(drawn)).all()


@pytest.mark.parametrize("given, kind", [({"visits": "gamma"}, "positive"), (None, "count")])
def test_kinds_may_be_given(given, kind) -> None:
    density = SPVAEDensity(**QUICK, kinds=given).fit(mixed(40))
    assert density.columns_[3].kind == kind
    x = correlated(40)
    assert SPVAEDensity(**QUICK, kinds={"x0": "log-normal"}).fit(x).columns_[0].family == "log-normal"


def test_grid_search_and_pipeline() -> None:
    """The search finds what explains a dependence; a scaler's change of variables is not in the score."""
    x = correlated(80)
    estimator = SPVAEDensity(**QUICK | {"epochs": 8, "batch_size": 10})
    search = GridSearchCV(estimator, {"latent_dim": [1, 2], "lr": [1e-6, 0.03]}, cv=2).fit(x)
    assert search.best_params_["lr"] == 0.03
    assert search.best_score_ == search.cv_results_["mean_test_score"].max()
    assert search.best_estimator_.model_.latents["z"].event_shape == (search.best_params_["latent_dim"],)
    piped = make_pipeline(StandardScaler(), SPVAEDensity(**QUICK)).fit(x)
    scaled = piped[0].transform(x)
    assert piped.score(x) == piped[1].score(scaled)
    assert abs(scaled.std() - 1) < 1e-9 and abs(piped.score_samples(x).mean()) < 4


def test_own_model() -> None:
    options = {"epochs": 2, "samples": 5, "random_state": 0}
    density = SPVAEDensity(model=own, **options).fit(correlated(30))
    assert density.model_.latents["z"].event_shape == (3,)
    again = SPVAEDensity(model=own, **options).fit(correlated(30))
    for one, other in zip(density.model_.parameters(), again.model_.parameters(), strict=True):
        assert torch.equal(one, other)


def test_categories_that_a_part_of_the_rows_lacks() -> None:
    x = mixed(60)
    part = x[x["kind"] != "middle"]
    with pytest.raises(
        ValueError, match="the binary column 'kind' of X holds 'middle' in row 1; its categories are large, sma"
    ):
        SPVAEDensity(**QUICK).fit(part).score(x)
    stated = x.assign(kind=x["kind"].astype("category"))
    assert np.isfinite(SPVAEDensity(**QUICK).fit(stated[stated["kind"] != "middle"]).score(stated))

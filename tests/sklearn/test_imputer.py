# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Imputations against the truth, against exact conditionals, and in the table's own values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pyro_spvae.sklearn import SPVAEDensity, SPVAEImputer
from tests.sklearn.cases import QUICK, RHO, SMALL, correlated, exact, holey, mixed


@pytest.fixture(scope="module")
def fitted() -> SPVAEImputer:
    return SPVAEImputer(**SMALL | {"epochs": 60}).fit(holey(600))


def _holes(x: np.ndarray) -> np.ndarray:
    """The second column is missing from the first half of the rows."""
    holes = np.zeros(x.shape, dtype=bool)
    holes[: len(x) // 2, 1] = True
    return holes


def test_a_dependence_beats_the_mean(fitted) -> None:
    x = correlated(400, seed=1)
    holes = _holes(x)
    filled = fitted.transform(np.where(holes, np.nan, x))
    assert np.array_equal(filled[~holes], x[~holes])  # not even rounded
    truth = -1 + 0.1 * RHO * (x[:, 0] - 100) / 10
    error, ideal, of_mean = (
        np.sqrt(np.mean((x[holes] - guess) ** 2)) for guess in (filled[holes], truth[:200], x[:, 1].mean())
    )
    assert ideal < error < 1.1 * ideal < 0.6 * of_mean
    assert np.sqrt(np.mean((filled[holes] - truth[:200]) ** 2)) < 0.3 * ideal


def test_spread_of_draws_is_that_of_the_truth(fitted) -> None:
    """Given the other column a value has the deviation sqrt(1 - rho^2), and intervals hold it as often as they say."""
    x = correlated(600, seed=2)
    holes = _holes(x)
    drawn = fitted.transform_draws(np.where(holes, np.nan, x), 200)
    assert drawn.shape == (200, 600, 2)
    assert np.array_equal(drawn[:, ~holes], np.broadcast_to(x[~holes], (200, (~holes).sum())))
    own = drawn[:, holes]
    assert abs(own.std(0).mean() / (0.1 * np.sqrt(1 - RHO**2)) - 1) < 0.1
    for level in (0.5, 0.9):
        low, high = np.quantile(own, [(1 - level) / 2, (1 + level) / 2], axis=0)
        held = int(((low <= x[holes]) & (x[holes] <= high)).sum())
        assert stats.binomtest(held, 300, level).pvalue > 1e-3, (level, held / 300)


def test_draws_follow_the_seed_and_means_the_fit(fitted) -> None:
    x = np.where(_holes(x := correlated(20, seed=3)), np.nan, x)
    assert np.array_equal(fitted.transform(x), fitted.transform(x))
    assert np.array_equal(fitted.transform_draws(x, 3), fitted.transform_draws(x, 3, random_state=0))
    assert not np.array_equal(fitted.transform_draws(x, 3), fitted.transform_draws(x, 3, random_state=1))
    one, two, _ = fitted.transform_draws(x, 3)
    assert not np.array_equal(one, two)


def test_a_row_is_filled_alike_in_any_company() -> None:
    """Though leaves have latent variables, which are averaged over draws."""
    random = np.random.default_rng(5)
    x = random.normal(size=(30, 3))
    x[random.random(x.shape) < 0.3] = np.nan
    imputer = SPVAEImputer(units=1, latent_dim=2, hidden=(4,), epochs=2, samples=7, random_state=0).fit(x)
    assert imputer.model_.latents
    found = imputer.transform(x)
    assert np.array_equal(imputer.transform(x[::-1])[::-1], found)
    some = np.isnan(x).any(1)
    assert np.array_equal(imputer.transform(x[some]), found[some])
    assert np.array_equal(np.concatenate([imputer.transform(row[None]) for row in x]), found)
    other = SPVAEImputer(units=1, latent_dim=2, hidden=(4,), epochs=2, samples=7, random_state=0).fit(x)
    other._seed += 1
    assert not np.array_equal(other.transform(x), found)


def test_against_exact_conditionals() -> None:
    """Of a mixture of factorised leaves: the mean by quadrature, and the most probable category."""
    x = mixed(200)
    options = {"epochs": 40, "lr": 0.1, "samples": 500, "random_state": 0, "kinds": {"visits": "real"}}
    imputer = SPVAEImputer(model=exact, **options).fit(x)
    hidden = x.head(8).copy()
    hidden[["size", "kind"]] = None
    filled = imputer.set_output(transform="pandas").transform(hidden)
    rows, seen = torch.zeros(8, 5), torch.tensor([False, False, True, True, True])
    rows[:, 2:] = torch.tensor(np.stack([x["grade"] == 20, x["visits"], x["flag"]], 1)[:8].astype(float))
    own, log_prob = torch.arange(5), imputer.model_.log_prob
    by_kind = torch.stack([log_prob(torch.where(own == 1, code, rows), seen | (own == 1)) for code in (0.0, 1.0, 2.0)])
    wanted = np.array(["large", "middle", "small"])[by_kind.argmax(0).numpy()]
    assert (filled["kind"].to_numpy() == wanted).all() and len(set(wanted)) > 1
    grid = torch.linspace(-12, 12, 481)
    for row in range(4):
        truth = float(log_prob(rows[row : row + 1], seen).detach().exp())
        densities = log_prob(torch.where(own == 0, grid.unsqueeze(1), rows[row]), seen | (own == 0)).exp().detach()
        assert float(densities.sum()) * 0.05 == pytest.approx(truth, rel=1e-3)
        mean = float((densities * grid).sum() / densities.sum())
        assert filled["size"].iloc[row] == pytest.approx(mean, abs=1e-3)


def test_the_most_probable_category_lies_on_no_side_of_the_mean() -> None:
    """A or c, whose mean is b, is no b."""
    u = np.arange(200) % 2
    texts = np.where(u == 1, "b", np.where(np.arange(200) % 10 < 6, "a", "c"))
    x = pd.DataFrame({"u": 3.0 * u + np.random.default_rng(0).normal(size=200) * 0.3, "letter": texts})
    imputer = SPVAEImputer(model=exact, epochs=40, lr=0.1, samples=300, random_state=0).fit(x)
    hidden = x.head(20).assign(letter=None)
    assert list(imputer.transform(hidden)[:, 1]) == ["a", "b"] * 10


def test_frames_keep_their_values_types_and_order() -> None:
    x = mixed(200).sample(frac=1, random_state=0)
    x["code"] = pd.array(np.where(x["kind"] == "large", 7, 3), dtype="Int64")
    x["level"] = pd.Categorical(x["kind"], categories=["small", "middle", "large"], ordered=True)
    x["visits"] = x["visits"].astype("Int64")
    x["flag"] = x["flag"].astype("boolean")
    whole = x.copy()
    for place in range(x.shape[1]):
        x.iloc[10 * place : 10 * place + 5, place] = None
    imputer = SPVAEImputer(**SMALL | {"epochs": 30}).fit(x)
    kinds = [column.kind for column in imputer.columns_]
    assert kinds == ["real", "categorical", "binary", "count", "binary", "binary", "ordinal"]
    plain = imputer.transform(x)
    assert isinstance(plain, np.ndarray) and plain.dtype == object and not pd.isna(plain).any()
    filled = imputer.set_output(transform="pandas").transform(x)
    assert list(filled.columns) == list(x.columns) and filled.index.equals(x.index)
    assert not filled.isna().to_numpy().any()
    seen = ~x.isna()
    for name in x.columns:
        assert (filled[name][seen[name]] == whole[name][seen[name]]).all()
    assert filled["level"].dtype == x["level"].dtype and filled["code"].dtype == "Int64"
    for name in ("kind", "level", "code", "grade"):  # which follow one another
        missing = ~seen[name]
        assert (filled[name][missing] == whole[name][missing]).mean() >= 0.8, name
        assert set(filled[name]) <= set(whole[name])
    assert (plain == filled.to_numpy(dtype=object)).all()
    drawn = imputer.transform_draws(x, 2)
    assert drawn.shape == (2, *x.shape) and set(drawn[:, :, 1].ravel()) == set(whole["kind"])
    assert list(imputer.get_feature_names_out()) == list(x.columns)


def test_numbers_in_a_frame_stay_numbers() -> None:
    x = pd.DataFrame(correlated(40), columns=["a", "b"])
    x.iloc[2, 1] = np.nan
    imputer = SPVAEImputer(**QUICK).fit(x)
    filled = imputer.transform(x)
    assert filled.dtype == np.float64 and np.array_equal(filled[0], x.iloc[0])
    assert imputer.transform_draws(x, 2).dtype == np.float64


def test_a_row_of_which_nothing_is_seen_has_the_mean_of_the_model(fitted) -> None:
    filled = fitted.transform(np.full((1, 2), np.nan))
    assert np.all(np.abs(filled - [[100, -1]]) < [[6, 0.06]])  # of 50 draws of deviation 9 and 0.09


def test_before_a_classifier() -> None:
    x = correlated(200)
    y = x[:, 1] > -1
    x[::3, 1] = np.nan
    piped = make_pipeline(SPVAEImputer(**SMALL | {"epochs": 20}), LogisticRegression(C=1e3)).fit(x, y)
    assert piped.score(x, y) > 0.9


def _towns() -> pd.DataFrame:
    return mixed(100).assign(town=pd.Categorical(np.array(["a", "b", "c"])[np.arange(100) % 3]))


@pytest.fixture(scope="module")
def of_towns() -> SPVAEImputer:
    return SPVAEImputer(**QUICK).set_output(transform="pandas").fit(_towns())


@pytest.fixture(scope="module")
def grades() -> pd.DataFrame:
    grade = np.arange(200) % 5 + 1
    return pd.DataFrame({"grade": grade, "v": grade + np.random.default_rng(0).normal(size=200) * 0.2})


class TestFramesOfOtherTypes:
    """Entries that are filled need not fit into the column that holds the holes."""

    @pytest.mark.parametrize("name", ["kind", "flag", "town", "grade"])
    def test_a_column_of_nothing(self, of_towns, name) -> None:
        x = _towns()
        for nothing in (np.nan, None, pd.NA, pd.Categorical([None] * 4), pd.Series([None] * 4, dtype="string")):
            filled = of_towns.transform(x.head(4).assign(**{name: nothing}))
            assert set(filled[name]) <= set(x[name]) and list(filled.columns) == list(x.columns)

    def test_a_part_of_the_categories(self, of_towns) -> None:
        x = _towns()
        some = x[x["town"] != "c"].head(8).copy()
        some["town"] = some["town"].astype(str).astype("category")
        some["flag"] = some["flag"].astype(object)
        some.loc[some.index[:4], ["town", "kind", "flag"]] = np.nan
        for _ in range(3):
            filled = of_towns.transform(some)
            assert set(filled["town"]) <= {"a", "b", "c"} and set(filled["flag"]) <= {True, False}
        assert filled["town"].iloc[4:].tolist() == some["town"].iloc[4:].tolist()
        drawn = of_towns.transform_draws(some, 30)
        assert set(drawn[:, :4, 5].ravel()) == {"a", "b", "c"}, "also the one that the column does not know"

    def test_texts_without_a_letter_are_holes(self, of_towns) -> None:
        x = _towns().head(4)
        x["kind"] = ["", "small", "", "large"]
        filled = of_towns.transform(x)
        assert set(filled["kind"]) <= {"small", "middle", "large"} and list(filled["kind"][1::2]) == ["small", "large"]

    def test_what_was_filled_can_be_fitted(self, of_towns) -> None:
        x = _towns()
        x.loc[::7, ["size", "kind"]] = np.nan
        again = pd.DataFrame(of_towns.set_output(transform="default").transform(x), columns=x.columns)
        of_towns.set_output(transform="pandas")
        assert again["size"].dtype == object
        kinds = [column.kind for column in SPVAEImputer(**QUICK).fit(again).columns_]
        assert kinds == [column.kind for column in of_towns.columns_]


class TestArraysForFrames:
    """An array of numbers holds what the DataFrame held that was fitted, and is answered in the same units."""

    def test_are_filled_alike(self, grades) -> None:
        imputer = SPVAEImputer(model=exact, epochs=40, lr=0.1, samples=50, random_state=0).fit(grades)
        assert imputer.columns_[0].categories == ("1", "2", "3", "4", "5")
        holes = grades.head(30).astype(float)
        holes.loc[::2, "grade"] = np.nan
        with pytest.warns(UserWarning, match="X does not have valid feature names"):
            found, drawn = imputer.transform(holes.to_numpy()), imputer.transform_draws(holes.to_numpy(), 5)
        assert np.array_equal(found, imputer.transform(holes)) and set(found[:, 0]) <= {1, 2, 3, 4, 5}
        assert np.array_equal(drawn, imputer.transform_draws(holes, 5).astype(float))

    def test_have_the_same_log_likelihoods(self, grades) -> None:
        density = SPVAEDensity(model=exact, epochs=2, random_state=0).fit(grades)
        with pytest.warns(UserWarning, match="X does not have valid feature names"):
            found = density.score_samples(grades.to_numpy())
            with pytest.raises(ValueError, match="column 'grade' of X holds '0' in row 0; its categories are 1, 2, 3"):
                density.score_samples([[0.0, 1.0]])
        assert np.array_equal(found, density.score_samples(grades))

    def test_of_texts_are_refused(self) -> None:
        density = SPVAEDensity(**QUICK).fit(mixed(60)[["size", "kind"]])
        message = (
            "^X is an array, but the column 'kind' has the categories large, middle, small, which an array of numbers"
        )
        with pytest.warns(UserWarning), pytest.raises(ValueError, match=message):
            density.score_samples(np.zeros((2, 2)))


@pytest.mark.filterwarnings("ignore:X has feature names")
def test_columns_that_are_called_by_numbers_are_found_by_name() -> None:
    x = pd.DataFrame(correlated(60), columns=[0, 1])
    imputer = SPVAEImputer(**QUICK).fit(x)
    density = SPVAEDensity(**QUICK).fit(x)
    assert np.array_equal(density.score_samples(x), density.score_samples(x[[1, 0]]))
    assert np.array_equal(density.score_samples(x), density.score_samples(x.set_axis(["a", "b"], axis=1)))
    x.iloc[:5, 1] = np.nan
    assert np.array_equal(imputer.transform(x), imputer.transform(x[[1, 0]])[:, ::-1])

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What both estimators share: options, seeds, pickles, refusals."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from pyro_spvae.sklearn import SPVAEDensity, SPVAEImputer
from pyro_spvae.training.config import TrainConfig
from tests.sklearn.cases import QUICK, correlated, mixed, own

RACED = {"epochs": 2, "samples": 5, "random_state": 0}
BOTH = pytest.mark.parametrize("kind", [SPVAEDensity, SPVAEImputer])


def _answer(estimator, x):
    return estimator.score_samples(x) if hasattr(estimator, "score_samples") else estimator.transform(x)


def _holey(rows: int = 30) -> np.ndarray:
    x = correlated(rows)
    x[1, 1] = x[2, 0] = np.nan
    return x


@BOTH
@pytest.mark.parametrize("options", [QUICK, RACED], ids=["given", "raced"])
@pytest.mark.parametrize("state", [3, np.random.RandomState(3), None], ids=["int", "state", "none"])
def test_generators_are_left_as_they_were(kind, state, options) -> None:
    x = _holey()
    torch.manual_seed(5)
    np.random.seed(5)
    before = pyro.util.get_rng_state()
    estimator = kind(**options | {"random_state": state}).fit(x)
    _answer(estimator, x)
    estimator.sample(2) if kind is SPVAEDensity else estimator.transform_draws(x, 2)
    after = pyro.util.get_rng_state()
    assert torch.equal(before["torch"], after["torch"]) and before["random"] == after["random"]
    assert all(np.array_equal(one, other) for one, other in zip(before["numpy"], after["numpy"], strict=True)) or (
        state is None  # which is NumPy's own generator, by scikit-learn's rule
    )
    assert len(pyro.get_param_store()) == 0


@BOTH
@pytest.mark.parametrize("options", [QUICK, RACED], ids=["given", "raced"])
def test_the_seed_decides_and_the_generators_do_not(kind, options) -> None:
    x = _holey()
    torch.manual_seed(1)
    one = _answer(kind(**options).fit(x), x)
    torch.manual_seed(2)
    two = _answer(kind(**options).fit(x), x)
    three = _answer(kind(**options | {"random_state": 1}).fit(x), x)
    assert np.array_equal(one, two) and not np.array_equal(one, three)


@BOTH
def test_options_are_those_of_the_command(kind) -> None:
    signature = inspect.signature(kind)
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in signature.parameters.values())
    for name in (
        "structure",
        "units",
        "latent_dim",
        "hidden",
        "race",
        "epochs",
        "patience",
        "lr",
        "batch_size",
        "device",
    ):
        assert signature.parameters[name].default == getattr(TrainConfig(), name)
    estimator = kind(**QUICK)
    assert estimator.get_params()["hidden"] == (8,) and clone(estimator).get_params() == estimator.get_params()
    fitted = kind(structure="random-binary-tree", units=2, latent_dim=3, epochs=1, samples=2).fit(correlated(12))
    assert fitted.model_.circuit.regions.counts(2)["leaf_regions"] == 2 and fitted.model_.circuit.units == 2
    assert fitted.model_.latents["z"].event_shape == (3,)
    assert len(fitted.history_) == 1 and fitted.history_[0]["val_elbo"] < 0
    in_batches = kind(**QUICK | {"epochs": 2, "batch_size": 4}).fit(correlated(12))
    assert in_batches.history_[-1]["step"] == 2 * 3  # of 11 rows, one is watched
    impatient = kind(**QUICK | {"epochs": 50, "patience": 1, "lr": 1e-9}).fit(correlated(12))
    assert len(impatient.history_) < 10


@BOTH
@pytest.mark.parametrize("options", [QUICK, RACED], ids=["given", "raced"])
@pytest.mark.parametrize("x", [_holey(), mixed(30)], ids=["array", "frame"])
def test_pickles_answer_alike(kind, x, tmp_path, options) -> None:
    fitted = kind(**options).fit(x)
    expected = _answer(fitted, x)
    content = pickle.dumps(fitted)
    assert b"torch.nn" not in content and b"pyro_spvae.models" not in content  # the model is no pickle
    joblib.dump(fitted, tmp_path / "fitted.joblib")
    for other in (pickle.loads(content), joblib.load(tmp_path / "fitted.joblib"), copy.deepcopy(fitted)):
        assert np.array_equal(_answer(other, x), expected)
        assert other.model_ is not fitted.model_ and other.columns_ == fitted.columns_
        assert other.race_ == fitted.race_ and bool(other.race_) == (options is RACED)
    assert pickle.loads(pickle.dumps(kind(**QUICK))).get_params() == kind(**QUICK).get_params()
    assert not hasattr(clone(fitted), "model_")


@BOTH
@pytest.mark.parametrize(
    "x",
    [
        np.arange(10.0).reshape(-1, 1),
        np.ones((10, 3)),
        np.arange(20).reshape(10, 2),
        np.array([[0, 1], [1, 0], [1, 1]]),
        np.column_stack([correlated(10), np.zeros(10)]),
        correlated(2),
    ],
    ids=["one column", "constant", "integers", "three rows of bits", "one constant", "two rows"],
)
@pytest.mark.parametrize("options", [{"hidden": (2,), "units": 1}, {}], ids=["given", "raced"])
@pytest.mark.filterwarnings("ignore:x is constant in x:UserWarning")
def test_small_tables(kind, x, options) -> None:
    fitted = kind(epochs=1, samples=2, random_state=0, **options).fit(x)
    answer = _answer(fitted, x)
    assert len(answer) == len(x) and np.isfinite(answer).all()


@BOTH
def test_rows_of_which_nothing_is_seen_are_not_held_out(kind) -> None:
    x = np.vstack([np.full((2, 2), np.nan), correlated(3)])
    for seed in range(6):
        fitted = kind(**QUICK | {"random_state": seed}).fit(x)
        assert np.isfinite(fitted.history_[0]["val_elbo"]) and fitted.history_[0]["val_elbo"] != 0


@BOTH
@pytest.mark.parametrize("x", [_holey(90), mixed(90)], ids=["array", "frame"])
def test_the_best_of_a_race_is_fitted(kind, x, capsys) -> None:
    """Of so few epochs a candidate has all in the race already, so that the fit ends with its bound."""
    fitted = kind(**RACED, verbose=True).fit(x)
    best = max((line for line in fitted.race_ if "bound" in line), key=lambda line: line["bound"])
    assert fitted.history_[-1]["val_elbo"] <= best["bound"] == max(line["val_elbo"] for line in fitted.history_)
    assert sum(parameter.numel() for parameter in fitted.model_.parameters()) == best["parameters"]
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"race        of {len(fitted.race_)} candidates, judged by 9 validation rows"
    assert all(line["candidate"] in text for line, text in zip(fitted.race_, said[1:], strict=False))
    assert said[-1] == f"best        {best['candidate']}" and len(said) == len(fitted.race_) + 2
    quiet = kind(**RACED).fit(x)
    assert not capsys.readouterr().out and np.array_equal(_answer(quiet, x), _answer(fitted, x))


@BOTH
@pytest.mark.parametrize(
    ("options", "structure"),
    [({"race": "none"}, "chow-liu"), ({"units": 2}, ""), ({"hidden": (2,)}, ""), ({"structure": "whole"}, "whole")],
    ids=["none", "units", "hidden", "structure"],
)
def test_without_a_race(kind, options, structure) -> None:
    fitted = kind(**RACED | options).fit(correlated(60))
    assert fitted.race_ == [] and bool(fitted.model_.latents) == (structure != "chow-liu")
    rate = 0.03 / 2 if structure == "chow-liu" else 0.005  # the first of two epochs, over which that of a tree falls
    assert fitted.history_[0]["lr"] == pytest.approx(rate, rel=1e-12)
    assert len(fitted.model_.circuit.regions.partitions) == (0 if structure == "whole" else fitted.n_features_in_ - 1)


def _frame(**columns) -> pd.DataFrame:
    return pd.DataFrame({"a": np.linspace(0.1, 5.3, 12), "b": list("xyxyxyxyxyxy"), **columns})


REFUSALS = {
    "kinds": ({"kinds": "count"}, correlated(9), "kinds is 'count'; a dict from names of columns"),
    "unknown kind": ({"kinds": {"x0": "length"}}, correlated(9), "the kind of the column 'x0' is 'length'; known are"),
    "unknown name": ({"kinds": {"age": "count"}}, correlated(9), "kinds names the column 'age', but the columns are"),
    "contradiction": ({"kinds": {"x1": "positive"}}, correlated(9), "'x1' is said to be positive, but holds"),
    "structure": ({"structure": "tree"}, correlated(9), "structure is 'tree'; known are auto,"),
    "latent_dim": ({"latent_dim": 0}, correlated(9), "latent_dim is 0; a positive integer is needed"),
    "epochs": ({"epochs": 1.5}, correlated(9), "epochs is 1.5; a positive integer is needed"),
    "samples": ({"samples": 0}, correlated(9), "samples is 0; a positive integer is needed"),
    "hidden": ({"hidden": "32"}, correlated(9), "hidden is '32'; positive integers are needed"),
    "device": ({"device": "tpu"}, correlated(9), "device is 'tpu'; accepted are auto"),
    "both": ({"model": own, "units": 3}, correlated(9), "units is 3, but model makes the model; leave one of them out"),
    "no function": ({"model": 3}, correlated(9), "model is a int; a function from columns to an SPVAE is needed"),
    "no model": ({"model": len}, correlated(9), "what model returns is a int; an instance of SPVAE is needed"),
    "other rows": (
        {"model": lambda columns: own(columns[:1])},
        correlated(9),
        r"what model returns is of rows of shape \[1\]; \[2\] is needed",
    ),
    "nothing seen": ({}, np.full((5, 2), np.nan), "all 5 entries of the column 'x0' are missing"),
    "one row seen": ({}, np.array([[1.0], [np.nan], [np.nan]]), "more holes than values|X has 1 rows with an entry"),
    "one row": ({}, _frame().head(1), "X is a DataFrame of 1 rows; at least 2 are needed"),
    "infinity": ({}, np.array([[1.0], [np.inf]]), "infinity"),
    "dates": ({}, _frame(c=pd.Timestamp(0)), "the column 'c' holds dates or times"),
    "twice": ({}, _frame().set_axis(["a", "a"], axis=1), "two columns have the name 'a'"),
}


@BOTH
@pytest.mark.parametrize("options, x, match", REFUSALS.values(), ids=REFUSALS)
def test_refusals_of_a_fit(kind, options, x, match) -> None:
    estimator = kind(**{"epochs": 1, **options})
    with pytest.raises((ValueError, TypeError), match=match) as error:
        estimator.fit(x)
    assert "\n" not in str(error.value) and not hasattr(estimator, "model_")


@BOTH
def test_refusals_of_a_question(kind) -> None:
    with pytest.raises(NotFittedError):
        _answer(kind(), correlated(3))
    fitted = kind(**QUICK).fit(_frame(n=np.arange(12) * 3 % 7))
    for changes, match in (
        ({"b": "z"}, "the binary column 'b' of X holds 'z' in row 0; its categories are x, y"),
        ({"a": "q"}, "the real column 'a' of X holds the text 'q'"),
        ({"n": -1}, "x holds the value -1 in row 0 .*column 'n'; a count takes"),
        ({"a": np.inf}, "infinite|finite"),
    ):
        with pytest.raises(ValueError, match=match):
            _answer(fitted, _frame(n=1).assign(**changes))
    with pytest.raises(ValueError, match="feature names"):
        _answer(fitted, _frame())
    if kind is SPVAEDensity:
        with pytest.raises(ValueError, match="n_samples is 0; a positive integer is needed"):
            fitted.sample(0)
    else:
        with pytest.raises(ValueError, match="draws is 0; a positive integer is needed"):
            fitted.transform_draws(_frame(n=1), 0)


def test_the_package_does_not_load_scikit_learn_with_its_models() -> None:
    code = "import sys, pyro_spvae, pyro_spvae.models; sys.exit('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Models of tables are asked in arrays and DataFrames, and about rows with holes."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_spvae import CircuitELBO, random_binary_tree, whole
from pyro_spvae.data import Column, DataSet, Rows, Values
from pyro_spvae.data.frames import decoded
from pyro_spvae.infer import log_likelihood
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import SPN, SPVAE

COLUMNS = (
    Column("size", "real"),
    Column("town", "categorical", categories=("Bonn", "Köln", "Ulm")),
    Column("rooms", "ordinal", categories=("1", "2", "4")),
    Column("new", "binary", categories=("False", "True")),
)


class Named(Normal):
    """Normal values in columns with names."""

    columns = COLUMNS


FRAME = pd.DataFrame(
    {
        "new": [True, False, True],
        "rooms": [4, 1, 2],
        "town": ["Ulm", "Bonn", "Ulm"],
        "size": [0.5, math.nan, -1.25],
    }
)
X = torch.tensor([[0.5, 2, 2, 1], [math.nan, 0, 0, 0], [-1.25, 2, 1, 1]], dtype=torch.float64)
SEEN = ~X.isnan()


@pytest.fixture
def spn():
    return SPN(random_binary_tree((4,), 1, 2), 2, likelihood=Named())


def spvae():
    return SPVAE(whole(4), likelihood=Named(), latent_dim=2, hidden_dims=(3,))


def test_data_frames_arrays_and_holes_are_tensors_and_masks(spn):
    wanted = spn.log_prob(X.nan_to_num(0), SEEN).detach()
    for x in (FRAME, FRAME[["town", "size", "new", "rooms"]], X, X.numpy(), X.numpy().astype(np.float32)):
        torch.testing.assert_close(spn.log_prob(x).detach(), wanted, rtol=1e-12, atol=0)
        torch.testing.assert_close(spn.log_likelihood(x), wanted, rtol=1e-12, atol=0)
    own = torch.tensor([True, True, False, True])
    both = spn.log_prob(X.nan_to_num(0), SEEN & own).detach()
    for mask in (own, own.numpy(), pd.DataFrame([own.tolist()] * 3, columns=[column.name for column in COLUMNS])):
        torch.testing.assert_close(spn.log_prob(FRAME, mask).detach(), both, rtol=1e-12, atol=0)
    assert float((both - wanted).abs().min()) > 1e-3


@pytest.mark.parametrize(
    "ask",
    [
        lambda spvae, *given: spvae.log_likelihood(*given, num_samples=3),
        lambda spvae, *given: log_likelihood(
            spvae.model, spvae.guide, given[0], observed=given[1] if given[1:] else None, num_samples=3
        ),
        lambda spvae, *given: spvae.reconstruct(*given),
        lambda spvae, *given: spvae.embed(*given).leaf_posterior,
        lambda spvae, *given: spvae.embed(*given).latents["z"],
        lambda spvae, *given: spvae.draw_latents(*given)["z"],
        lambda spvae, *given: spvae.prepare(*given).patches,
        lambda spvae, *given: CircuitELBO(3).differentiable_loss(spvae.model, spvae.guide, *given),
        lambda spvae, *given: spvae.check(*given).features,
    ],
)
def test_every_question_takes_them(ask):
    model, answers = spvae(), []
    for given in ((X.nan_to_num(7), SEEN), (X,), (X.numpy(),), (FRAME,)):
        torch.manual_seed(1)
        answers.append(ask(model, *given))
    assert bool(answers[0].isfinite().all())
    for answer in answers[1:]:
        torch.testing.assert_close(answer, answers[0], rtol=0, atol=0)


def test_imputation_fills_holes_alone():
    model = spvae()
    torch.manual_seed(1)
    wanted = model.impute(X.nan_to_num(0), SEEN, 2)
    torch.manual_seed(1)
    found = model.impute(FRAME, num_samples=2)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert bool(found.isfinite().all()) and bool((found[:, SEEN] == X[SEEN]).all())
    with pytest.raises(TypeError, match="^observed is a NoneType"):
        model.impute(X.nan_to_num(0))


def test_fit_takes_them():
    random = np.random.default_rng(0)
    x = np.column_stack([random.normal(size=40), *(random.integers(0, k, 40) for k in (3, 3, 2))])
    x[::4, 0] = np.nan
    states = []
    for given in (x, torch.tensor(x), decoded(torch.tensor(x), COLUMNS).iloc[:, ::-1], Rows(torch.tensor(x))):
        torch.manual_seed(0)
        model = spvae()
        model.fit(given, epochs=2)
        states.append(model.state_dict())
    mask = torch.tensor(~np.isnan(x))
    torch.manual_seed(0)
    model = spvae()
    model.fit(torch.tensor(x).nan_to_num(3), observed=mask, epochs=2)
    for state in states:
        for name, value in model.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-6)


def test_a_data_set_of_other_columns():
    rows = X.nan_to_num(0).repeat(5, 1)
    others = (Column("width", "real"), *COLUMNS[1:])
    data = DataSet("own", rows, rows, rows, Values(low=-2, high=2), columns=others)
    with pytest.raises(ValueError, match="^x has the column 'width', real, where the model has 'size', real"):
        spvae().fit(data, epochs=1)


def test_decoding_is_the_inverse(spn):
    frame = decoded(X, COLUMNS)
    assert list(frame.columns) == ["size", "town", "rooms", "new"]
    assert frame["town"].tolist() == ["Ulm", "Bonn", "Ulm"] and frame["rooms"].tolist() == ["4", "1", "2"]
    torch.testing.assert_close(spn.taken(frame)[0], X, equal_nan=True, rtol=0, atol=0)
    holes = decoded(torch.full((1, 4), math.nan), COLUMNS)
    assert holes.isna().all().all()


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (
            FRAME.drop(columns="town"),
            ValueError,
            "^x lacks the column 'town'; the columns size, town, rooms, new are",
        ),
        (FRAME.assign(age=3), ValueError, "^x has the unknown column 'age'; the columns are size, town, rooms, new$"),
        (
            FRAME.assign(town="Rom"),
            ValueError,
            "^the categorical column 'town' of x holds 'Rom' in row 0; its categories are B",
        ),
        (
            FRAME.assign(rooms=3),
            ValueError,
            "^the ordinal column 'rooms' of x holds '3' in row 0; its categories are 1, 2, 4$",
        ),
        (FRAME.assign(size="big"), ValueError, "^the real column 'size' of x holds the text 'big' in row 0$"),
        (FRAME.to_numpy(dtype=object), TypeError, "^x is an array of type object; booleans, integers or floats"),
        (np.zeros((3, 5)), ValueError, r"^x has shape \[3, 5\]"),
        (np.full((3, 4), np.inf), ValueError, "^x holds 12 NaN or infinite values"),
    ],
)
def test_refusals(spn, x, error, message):
    with pytest.raises(error, match=message):
        spn.log_prob(x)


def test_masks_that_do_not_fit(spn):
    with pytest.raises(ValueError, match="^observed has other columns than the model, size, town, rooms, new$"):
        spn.log_prob(FRAME, pd.DataFrame({"town": [True]}))
    for mask in (torch.ones(3, dtype=torch.bool), np.ones(3, dtype=bool)):
        with pytest.raises(ValueError, match=r"^observed has shape \[3\]"):
            spn.log_prob(X, mask)
    with pytest.raises(ValueError, match="^start: x holds NaN, missing entries, and paths need whole rows$"):
        spn.interpolate(X, X.nan_to_num(0))


def test_images_with_holes_need_a_mask():
    spn = SPN(whole((2, 2)), 2, likelihood=Normal())
    with pytest.raises(ValueError, match="^x holds 1 NaN or infinite value, .*mark missing entries by observed"):
        spn.log_prob(torch.tensor([[[[0.0, 1.0], [math.nan, 0.5]]]]))


def test_frames_without_columns_of_the_model():
    spn = SPN(whole(2), 2, likelihood=Normal())
    frame = pd.DataFrame({"a": [0.5, math.nan], "b": [1, 2]})
    wanted = torch.tensor(frame.to_numpy())
    torch.testing.assert_close(spn.log_prob(frame), spn.log_prob(wanted), rtol=0, atol=0)
    with pytest.raises(ValueError, match="column 'b', which holds other things than numbers"):
        spn.log_prob(frame.assign(b="x"))

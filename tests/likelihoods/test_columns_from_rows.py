# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Columns of training rows."""

from __future__ import annotations

import math

import numpy as np
import pandas
import pytest
import torch

from pyro_spvae import SPVAE, whole
from pyro_spvae.distributions.autoregressive import pixel_summaries
from pyro_spvae.likelihoods import Columns
from pyro_spvae.models import VAE, FactorizedLeaf, MixedLeaf

FRAME = pandas.DataFrame(
    {
        "sex": ["m", "f", None, "f"] * 5,
        "age": [40.0, 23.0, 61.0, math.nan] * 5,
        "change": np.linspace(-3.0, 5.0, 20),
    }
)


def test_of_a_frame():
    columns = Columns.from_rows(FRAME, kinds={"age": "count"}).columns
    assert [(column.name, column.kind) for column in columns] == [
        ("sex", "binary"), ("age", "count"), ("change", "real"),
    ]  # fmt: skip
    sex, age, change = columns
    assert sex.categories == ("f", "m") and sex.frequencies == pytest.approx((2 / 3, 1 / 3))
    assert age.location == pytest.approx((40 + 23 + 61) / 3)
    assert change.location == pytest.approx(1.0) and change.scale == pytest.approx(np.linspace(-3, 5, 20).std())


@pytest.mark.parametrize(
    ("numbers", "kind"),
    [([1, 2, 3], "ordinal"), ([2007, 2008, 2009], "ordinal"), ([1, 2, 3, 5], "count"), ([0, 10, 20], "count")],
)
def test_few_numbers_of_a_frame_are_categories_if_none_is_left_out(numbers, kind):
    (column,) = Columns.from_rows(pandas.DataFrame({"x": numbers * 20})).columns
    assert column.kind == kind and column.categories == (tuple(map(str, numbers)) if kind == "ordinal" else ())


@pytest.mark.parametrize("kind", [torch.tensor, np.array])
def test_of_numbers(kind):
    columns = Columns.from_rows(kind([[0.0, 1.5], [1.0, -2.0], [1.0, math.nan]]), names=["sex", "change"]).columns
    assert [(column.name, column.kind) for column in columns] == [("sex", "binary"), ("change", "real")]
    assert columns[1].location == pytest.approx(-0.25) and columns[0].frequencies == pytest.approx((1 / 3, 2 / 3))
    unnamed = Columns.from_rows(
        kind([[0.0, 1.5], [1.0, -2.0], [1.0, math.nan]]), kinds={"column 2": "student-t"}
    ).columns
    assert [column.name for column in unnamed] == ["column 1", "column 2"] and unnamed[1].family == "student-t"


def test_four_lines_from_a_frame_to_an_answer():
    columns = Columns.from_rows(FRAME, kinds={"age": "count"})
    torch.manual_seed(0)
    spvae = SPVAE(whole(3), 1, likelihood=columns, latent_dim=2)
    spvae.fit(FRAME, FRAME, epochs=2)
    filled = spvae.impute(FRAME)
    assert bool(torch.isfinite(spvae.log_likelihood(FRAME, num_samples=5)).all())
    assert len(filled) and spvae.sample(3).shape == (3, 3)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Columns.from_rows(torch.ones(3)), r"x has shape \[3\]; a table \[N, D\] is needed"),
        (
            lambda: Columns.from_rows(FRAME, names=["a"]),
            r"names is \['a'\], but a DataFrame has names of its own; leave them",
        ),
        (
            lambda: Columns.from_rows(FRAME, kinds={"size": "count"}),
            "kinds names the column 'size', but the columns are sex",
        ),
    ],
)
def test_refused(act, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        act()


def test_means_of_names_are_the_most_probable_ones():
    """The mean of the numbers of the first and the last name is that of one between them."""
    frame = pandas.DataFrame({"town": ["Aalen", "Bonn", "Celle"] + 9 * ["Aalen", "Celle"], "x": np.arange(21.0)})
    for kept in (frame, frame[["town"]]):
        columns = Columns.from_rows(kept).bind(leaves=1, pixels=kept.shape[1])
        law = columns(tuple(torch.zeros(1, head) for head in columns.heads))
        drawn = law.sample()
        assert 0.9 < float(law.mean[0, 0]) < 1.1 and float(pixel_summaries(law, drawn)[0, 0]) == 0
        if kept.shape[1] == 2:
            assert float(pixel_summaries(law, drawn)[0, 1]) == float(law.mean[0, 1])


@pytest.mark.parametrize("mixed", [False, True])
def test_imputations_by_means_are_names(mixed):
    frame = pandas.DataFrame({"town": ["Aalen", "Bonn", "Celle"] + 9 * ["Aalen", "Celle"], "x": np.arange(21.0)})
    torch.manual_seed(0)
    leaf = VAE(Columns.from_rows(frame), 2, (3,))
    leaf = MixedLeaf([leaf, FactorizedLeaf(Columns.from_rows(frame))]) if mixed else leaf
    spvae = SPVAE(whole(2), 2, leaf=leaf)
    filled = spvae.impute(frame.assign(town=None), means=True)
    assert bool(torch.isin(filled[..., 0], torch.tensor([0.0, 2.0])).all())
    assert bool((spvae.sample(5, means=True)[:, 0] % 1 == 0).all())

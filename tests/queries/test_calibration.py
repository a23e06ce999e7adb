# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Imputations of hidden entries: a right model is calibrated, a wrong one is found out, and nobody peeps."""

from __future__ import annotations

import math

import pyro
import pytest
import scipy.stats
import torch

from pyro_spvae import random_binary_tree, whole
from pyro_spvae.data import Rows
from pyro_spvae.likelihoods import Bernoulli, Binomial, Columns, Normal
from pyro_spvae.models import SPN, SPVAE, VAE
from pyro_spvae.nn import PixelCNN
from pyro_spvae.queries.calibration import calibrate, hidden_entries
from pyro_spvae.queries.scores import inside
from tests.queries.test_predictive import COLUMNS
from tests.queries.test_scores import normal_crps

KINDS = {column.name: column.kind for column in COLUMNS}


@pytest.fixture(scope="module")
def truth():
    """A circuit over columns of five kinds, whose leaves differ, data of it, and their calibration."""
    torch.manual_seed(2)
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    spn = SPN(random_binary_tree(5, 2, 2), 2, likelihood=Columns(COLUMNS))
    x = spn.sample(3000)
    x[torch.rand(x.shape) < 0.05] = torch.nan
    found = spn.calibration(x, holdout=0.2, draws=60, seed=1, training=spn.sample(2000))
    torch.set_default_dtype(dtype)
    return spn, x, found


class TestARightModel:
    def test_intervals_hold_the_truth_as_often_as_they_say(self, truth):
        found = truth[2]
        by_column = {str(figures["column"]): figures for figures in found.by_column}
        ordered = [figures for name, figures in by_column.items() if KINDS[name] != "categorical"]
        assert by_column["colour"]["inside_50"] is None and len(ordered) == 4
        number = sum(figures["hidden"] for figures in ordered)
        for figures, count in [*((figures, figures["hidden"]) for figures in ordered), (found.overall, number)]:
            assert count > 400
            for level in (0.5, 0.9):
                bound = 4 * (level * (1 - level) / count) ** 0.5
                assert abs(figures[f"inside_{100 * level:.0f}"] - level) < bound

    def test_pit_is_uniform(self, truth):
        entries, ordered = truth[2].entries, truth[2].has_pit
        assert scipy.stats.kstest(entries.pit[ordered].numpy(), "uniform").pvalue > 1e-3
        for number, column in enumerate(COLUMNS):
            of = entries.column == number
            assert bool(ordered[of].all()) == (column.kind != "categorical") == bool(ordered[of].any())
            if column.kind != "categorical":
                assert scipy.stats.kstest(entries.pit[of].numpy(), "uniform").pvalue > 1e-3

    def test_log_likelihoods_are_exact_conditionals(self, truth):
        spn, x, found = truth
        entries, seen = found.entries, ~x.isnan()
        given = seen.clone()
        given[entries.row, entries.column] = False
        below = spn.log_likelihood(x, given)
        torch.testing.assert_close(found.log_likelihood_joint, spn.log_likelihood(x, seen) - below)
        for number in range(5):
            only = given.clone()
            only[:, number] = True
            of = entries.column == number
            rows = entries.row[of]
            wanted = spn.log_likelihood(x[rows], only[rows]) - below[rows]
            torch.testing.assert_close(entries.log_likelihood[of], wanted)

    def test_it_is_better_than_the_marginals(self, truth):
        overall = truth[2].overall
        assert overall["log_likelihood"] > overall["log_likelihood_baseline"]
        assert overall["crps_relative"] < overall["crps_relative_baseline"]
        assert overall["rmse_relative"] < overall["rmse_relative_baseline"]

    def test_the_most_probable_category(self, truth):
        spn, x, found = truth
        entries = found.entries
        given = ~x.isnan()
        given[entries.row, entries.column] = False
        for number, column in enumerate(COLUMNS):
            if not column.is_coded:
                continue
            of = (entries.column == number).nonzero().flatten()[:40]
            rows = entries.row[of]
            each = []
            for category in range(len(column.categories)):
                values, seen = x[rows].clone(), given[rows].clone()
                values[:, number], seen[:, number] = category, True
                each.append(spn.log_likelihood(values, seen))
            assert torch.equal(entries.best[of], torch.stack(each).argmax(0).double())

    def test_figures_by_hand(self, truth):
        _, x, found = truth
        entries = found.entries
        assert torch.equal(entries.value, x[entries.row, entries.column])
        for number, figures in enumerate(found.by_column):
            of = entries.column == number
            kind = COLUMNS[number].kind
            assert figures["column"] == COLUMNS[number].name and figures["kind"] == kind
            assert figures["hidden"] == int(of.sum())
            error = entries.mean[of] - entries.value[of]
            if kind in ("real", "count"):
                assert figures["rmse"] == pytest.approx(float(error.square().mean().sqrt()))
                assert figures["accuracy"] is None
            else:
                assert figures["accuracy"] == pytest.approx(float((entries.best == entries.value)[of].double().mean()))
                assert figures["rmse"] is None
            if kind == "categorical":
                assert figures["crps"] is None
            else:
                assert figures["crps"] == pytest.approx(float(entries.crps[of].mean()))
                assert figures["inside_90"] == pytest.approx(float(inside(entries.pit[of], 0.9).double().mean()))
            assert figures["log_likelihood"] == pytest.approx(float(entries.log_likelihood[of].mean()))
        overall = found.overall
        joint = found.log_likelihood_joint[entries.row.unique()]
        assert overall["rows"] == len(joint) and overall["log_likelihood_joint"] == pytest.approx(float(joint.mean()))
        assert overall["standard_error"] == pytest.approx(float(joint.std()) / len(joint) ** 0.5)
        assert overall["rmse"] is None and overall["crps"] is None, "columns have units of their own"

    def test_baselines_are_those_of_training_rows(self, truth):
        spn, x, found = truth
        training = spn.sample(50)
        training[torch.rand(training.shape) < 0.3] = torch.nan
        again = spn.calibration(x, holdout=0.2, draws=2, seed=1, training=training)
        entries = again.entries
        squares = []
        for number, figures in enumerate(again.by_column):
            values = training[:, number][~training[:, number].isnan()]
            value = entries.value[entries.column == number]
            if COLUMNS[number].is_coded:
                mode = values.unique(return_counts=True)
                mode = mode[0][mode[1].argmax()]
                assert figures["accuracy_baseline"] == pytest.approx(float((value == mode).double().mean()))
                continue
            errors = (values.mean() - value).square()
            squares.append(errors / values.var(correction=0))
            assert figures["rmse_baseline"] == pytest.approx(float(errors.mean().sqrt()))
            relative = figures["rmse"] / float(values.std(correction=0))
            assert figures["rmse_relative"] == pytest.approx(relative)
        wanted = float(torch.cat(squares).mean().sqrt())
        assert again.overall["rmse_relative_baseline"] == pytest.approx(wanted)

    def test_the_frame_and_the_dict(self, truth):
        found = truth[2]
        frame = found.frame()
        assert list(frame["column"]) == list(KINDS) and list(frame["hidden"]) == [f["hidden"] for f in found.by_column]
        plain = found.to_dict()
        assert plain["holdout"] == 0.2 and plain["draws"] == 60 and plain["by_column"] == found.by_column
        assert repr(found).startswith("Calibration(holdout=0.2, draws=60, seed=1, hidden=")


def normal(scale=1.0):
    """Three independent standard normal entries, times a scale."""
    spn = SPN(whole((3,)), 1, likelihood=Normal())
    with torch.no_grad():
        mean, raw = spn.leaf.pixels.outputs
        mean.copy_(torch.tensor([[-1.0, 0.0, 2.0]]))
        raw.fill_(math.log(math.expm1(scale - 1e-3)))
    return spn


def test_crps_of_a_normal_is_the_closed_form():
    spn = normal()
    x = spn.sample(2000)
    entries = spn.calibration(x, holdout=0.3, draws=40).entries
    wanted = normal_crps(torch.tensor([-1.0, 0.0, 2.0])[entries.column].numpy(), 1.0, entries.value.numpy())
    difference = entries.crps.numpy() - wanted
    assert abs(difference.mean()) < 4 * difference.std() / len(difference) ** 0.5
    assert wanted.mean() == pytest.approx(1 / math.sqrt(math.pi), rel=0.05), "its expectation under the truth"


@pytest.mark.parametrize(("scale", "level", "share"), [(3.0, 90, 0.4165), (0.25, 50, 0.9930)])
def test_a_wrong_scale_is_found_out(scale, level, share):
    """Of a normal that is s times as wide the central interval holds 2 F(z / s) - 1."""
    quantile = scipy.stats.norm.ppf(0.5 + level / 200)
    assert share == pytest.approx(2 * scipy.stats.norm.cdf(quantile / scale) - 1, abs=1e-4)
    x = normal(scale).sample(3000)
    found = normal().calibration(x, holdout=0.3, draws=200)
    bound = 4 * (share * (1 - share) / found.overall["hidden"]) ** 0.5 + 0.02  # of finitely many draws
    assert abs(found.overall[f"inside_{level}"] - share) < bound
    assert scipy.stats.kstest(found.entries.pit.numpy(), "uniform").pvalue < 1e-6


class TestHidden:
    @pytest.mark.parametrize("latent", [False, True])
    def test_is_not_looked_at(self, latent):
        spvae = (SPVAE if latent else SPN)(random_binary_tree(5, 1), 2, likelihood=Columns(COLUMNS))
        x = spvae.sample(150)
        first = spvae.calibration(x, draws=3, training=x)
        place = (first.entries.row, first.entries.column)
        other = x.clone()
        other[place] = x.flip(0)[(place[0], place[1])]
        second = spvae.calibration(other, draws=3, training=x)
        assert not torch.equal(first.entries.value, second.entries.value)
        assert torch.equal(first.entries.mean, second.entries.mean)
        assert torch.equal(first.entries.best, second.entries.best)
        assert torch.equal(first.entries.row, second.entries.row)

    def test_is_not_in_baselines_either(self):
        spn = normal()
        x = spn.sample(40)
        place = spn.calibration(x, draws=2).entries
        other = x.clone()
        other[place.row, place.column] += 1000
        first, second = (spn.calibration(values, draws=2).by_column for values in (x, other))
        for one, two in zip(first, second, strict=True):
            assert two["rmse_baseline"] - one["rmse_baseline"] == pytest.approx(1000, abs=10), "of the same mean"

    def test_follows_from_the_seed_and_the_row_alone(self):
        x = torch.zeros(50, 7)
        hidden = hidden_entries(x, None, 0.3, seed=4)
        assert torch.equal(hidden_entries(x[:20], None, 0.3, seed=4), hidden[:20])
        assert not torch.equal(hidden_entries(x, None, 0.3, seed=5), hidden)
        assert abs(float(hidden.double().mean()) - 0.3) < 4 * (0.21 / 350) ** 0.5

    def test_is_among_the_seen(self):
        spn = normal()
        x = spn.sample(200)
        x[::2, 0] = torch.nan
        observed = torch.tensor([True, False, True])
        entries = spn.calibration(x, observed, holdout=0.5, draws=2).entries
        assert set(entries.column.tolist()) == {0, 2} and not bool(entries.value.isnan().any())
        assert bool((entries.row[entries.column == 0] % 2 == 1).all())
        hidden = hidden_entries(x, ~x.isnan() & observed, 0.5, seed=0)
        assert torch.equal(hidden.nonzero(), torch.stack([entries.row, entries.column], 1))

    def test_channels_of_a_pixel_are_hidden_together(self):
        hidden = hidden_entries(torch.zeros(9, 3, 4, 5), None, 0.4, seed=0, channels=True)
        assert hidden.any() and torch.equal(hidden.any(1), hidden.all(1))


class TestOtherData:
    def test_rows_are_read_as_data_sets_have_them(self):
        spn = normal()
        x = spn.sample(120)
        x[0, 0] = torch.nan
        rows = Rows(torch.cat([x, x]), torch.arange(120), missing=True)
        found = calibrate(spn, rows, draws=5, training=rows)
        wanted = spn.calibration(x.float().double(), draws=5, training=x.float().double())
        assert torch.equal(found.entries.mean, wanted.entries.mean)
        assert found.overall == wanted.overall

    def test_tables_without_columns_have_numbers(self):
        spn = SPN(random_binary_tree(4, 1), 2, likelihood=Bernoulli())
        found = spn.calibration(spn.sample(300), draws=10)
        assert [figures["column"] for figures in found.by_column] == [f"column {number}" for number in (1, 2, 3, 4)]
        assert {figures["kind"] for figures in found.by_column} == {"binary"}
        assert found.overall["accuracy"] is not None and found.overall["log_likelihood_baseline"] < 0
        counted = SPN(random_binary_tree(4, 1), 2, likelihood=Binomial(5))
        found = counted.calibration(counted.sample(300), draws=10)
        assert {figures["kind"] for figures in found.by_column} == {"count"}
        assert found.overall["log_likelihood_baseline"] is None and found.overall["rmse_relative"] is not None

    def test_images_are_reported_over_all_pixels(self):
        spn = SPN(whole((2, 3)), 1, likelihood=Normal(), channels=3)
        x = spn.sample(60)
        found = spn.calibration(x, draws=5)
        assert found.by_column == [] and found.frame().empty
        entries = found.entries
        error = entries.mean - entries.value
        assert found.overall["rmse"] == pytest.approx(float(error.square().mean().sqrt()))
        assert found.overall["log_likelihood"] is None and found.overall["log_likelihood_joint"] < 0
        assert torch.equal(entries.value, x.flatten(1)[entries.row, entries.column])

    def test_arrays_and_frames(self):
        pandas = pytest.importorskip("pandas")
        spn = SPN(random_binary_tree(2, 1), 2, likelihood=Columns(COLUMNS[:2]))
        x = spn.sample(80)
        wanted = spn.calibration(x, draws=3)
        assert torch.equal(spn.calibration(x.numpy(), draws=3).entries.mean, wanted.entries.mean)
        named = pandas.DataFrame({"sex": ["fm"[int(code)] for code in x[:, 1]], "age": x[:, 0].numpy()})
        assert spn.calibration(named, draws=3).by_column == wanted.by_column


def test_the_seed_decides_and_generators_are_left_alone():
    spvae = SPVAE(random_binary_tree(5, 1), 2, likelihood=Columns(COLUMNS))
    x = spvae.sample(100)
    state = torch.get_rng_state()
    first = spvae.calibration(x, draws=3)
    assert torch.equal(state, torch.get_rng_state())
    pyro.set_rng_seed(9)
    second, other = spvae.calibration(x, draws=3), spvae.calibration(x, draws=3, seed=1)
    assert torch.equal(first.entries.mean, second.entries.mean) and first.overall == second.overall
    assert len(other.entries.row) != len(first.entries.row) or not torch.equal(other.entries.row, first.entries.row)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"holdout": 0}, "holdout is 0; a part of the seen entries, above 0 and below 1, is needed"),
        ({"holdout": 1.0}, r"holdout is 1\.0; a part of the seen entries, above 0 and below 1, is needed"),
        ({"holdout": -0.1}, r"holdout is -0\.1; .*"),
        ({"holdout": math.nan}, "holdout is nan; .*"),
        ({"holdout": "0.1"}, r"holdout is '0\.1'; .*"),
        (
            {"holdout": 1e-9},
            "holdout is 1e-09, which hides none of the 30 seen entries; give a larger one, or more rows",
        ),
        ({"observed": torch.zeros(3, dtype=torch.bool)}, "holdout is 0.1, which hides none of the 0 seen entries; .*"),
        ({"draws": 1}, "draws is 1; an integer of at least 2 is needed, since draws are compared"),
        ({"draws": 2.5}, r"draws is 2\.5; a positive integer is needed"),
        ({"num_particles": 0}, "num_particles is 0; a positive integer is needed"),
        ({"seed": 1.5}, r"seed is 1\.5; an integer from 0 to 2\^63 - 1 is needed"),
        ({"seed": -1}, r"seed is -1; an integer from 0 .*"),
        ({"training": torch.zeros(9, 5)}, r"training does not fit: x has shape \[9, 5\]; .*"),
        ({"training": torch.zeros(9, 2, 2)}, r"training does not fit: x has shape \[9, 2, 2\]; .*"),
        ({"training": torch.zeros(0, 3)}, r"training does not fit: x holds no data; .*"),
        (
            {"training": torch.full((9, 3), math.inf).double()},
            r"training does not fit: x holds 27 NaN or infinite values.*",
        ),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        normal().calibration(torch.zeros(10, 3), **arguments)


def test_what_is_left_of_rows_must_fit_the_model():
    """An autoregressive decoder draws whole patches; a part of one is refused, as :meth:`impute` does."""
    spvae = SPVAE(whole((2, 3)), 1, leaf=VAE(Bernoulli(), 1, decoder=PixelCNN(2, layers=2)))
    x = (torch.rand(20, 1, 2, 3) < 0.5).to(torch.get_default_dtype())
    with pytest.raises(ValueError, match="^holdout hides single entries, but then mask shows a part of a patch"):
        spvae.calibration(x, holdout=0.3, draws=2)


def test_rows_are_numbered_from_the_first():
    """Also those of a later block."""
    spn = normal()
    x = torch.zeros(600, 3)
    x[500] = 1e200
    rows = torch.ones(600, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="row 500 of the data has density 0 under the model"):
        spn.calibration(x, rows, holdout=0.5, draws=2)

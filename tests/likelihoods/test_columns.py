# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The likelihood of columns of several kinds: densities in the columns' own units, features, layouts, refusals."""

from __future__ import annotations

import copy
import math
import re

import pytest
import scipy.integrate
import torch
from torch.testing import assert_close

from pyro_spvae import testing
from pyro_spvae.data import Column
from pyro_spvae.distributions import LeafCategorical, LeafColumns, LeafNormal
from pyro_spvae.likelihoods import Columns, Normal
from pyro_spvae.registry import build, describe, make, written
from pyro_spvae.testing.block_tests import PIXELS, ROWS
from tests.likelihoods.column_cases import BY_FAMILY, COLUMNS, draw, table

FAMILIES = tuple(BY_FAMILY)


class ColumnsTests(testing.LikelihoodTests):
    names: tuple[str, ...]

    def make(self):
        return Columns([BY_FAMILY[name] for name in self.names])

    def outputs(self, part, rows=ROWS):
        return tuple(0.3 * output for output in super().outputs(part, rows))

    def test_refuses_other_values(self, part):
        x = part(self.outputs(part)).sample()
        everything = torch.ones_like(x, dtype=torch.bool)
        for value in self.outside:
            wrong = x.clone()
            wrong[-2:, :, 0] = value
            with pytest.raises(ValueError) as error:
                part.check(wrong, everything)
            start = f"x holds the value {value:g} in row {ROWS - 2} (2 such rows), column {part.columns[0].name!r}; a "
            assert str(error.value).startswith(start)
            hidden = everything.clone()
            hidden[..., 0] = False
            part.check(wrong, hidden)


class TestRealColumns(ColumnsTests):
    reach = (-5e3, 3e4)
    names = ("normal",)

    def make(self):
        columns = [Column(f"c{i}", "real", location=1e4 * (i == 0), scale=300.0) for i in range(PIXELS)]
        return Columns(columns)

    def test_is_the_lean_normal(self, part):
        assert isinstance(part(self.outputs(part)), LeafNormal)


class TestAlikeCategories(ColumnsTests):
    values = torch.arange(4.0)
    outside = (4.0, -1.0, 0.5, math.nan)

    def make(self):
        return Columns([Column(f"c{i}", "categorical", categories=tuple("wxyz")) for i in range(PIXELS)])

    def test_is_the_lean_categorical(self, part):
        assert isinstance(part(self.outputs(part)), LeafCategorical)


class TestMixedColumns(ColumnsTests):
    values = torch.arange(400.0)
    names = ("negative-binomial", "normal", "categorical", "gamma")
    outside = (-1.0, 0.5, math.nan, math.inf)

    def test_has_no_differentiable_draws(self, part):
        law = part(self.outputs(part))
        assert isinstance(law, LeafColumns) and not law.has_rsample
        with pytest.raises(NotImplementedError, match="^rsample of LeafColumns needs families of real values alone"):
            law.rsample()


class TestMixedDensities(ColumnsTests):
    reach = (1e-4, 1 - 1e-4)
    names = ("beta", "log-normal", "student-t", "normal")
    outside = (0.0, 1.0, -0.1, math.nan)

    def test_draws_are_differentiable(self, part):
        outputs = tuple(output.requires_grad_() for output in self.outputs(part))
        law = part(outputs)
        (grad,) = torch.autograd.grad(law.rsample((3,)).sum(), outputs)
        assert law.has_rsample and bool(grad.isfinite().all()) and float(grad.abs().max()) > 0


def one(name, leaves=1):
    return Columns([BY_FAMILY[name]]).bind(leaves=leaves, pixels=1)


@pytest.mark.parametrize("scale", [0.0, 0.7])
@pytest.mark.parametrize("name", FAMILIES)
def test_densities_are_those_of_values_in_the_unit_of_the_table(name, scale):
    """They integrate, or add up, to 1 over the values themselves."""
    column, part = BY_FAMILY[name], one(name)
    outputs = (scale * torch.randn(1, *part.heads),)
    law = part(outputs)

    def density(x):
        return float(law.log_prob(torch.tensor([[x]])).exp())

    if column.is_density:
        mean, deviation = float(law.mean), float(law.variance.sqrt())
        low, high = {"real": (-math.inf, math.inf), "positive": (0, math.inf), "proportion": (0, 1)}[column.kind]
        ends = [low, *sorted({min(max(mean + k * deviation, low), high) for k in (-9, -3, 0, 3, 9, 40)}), high]
        pieces = [(a, b) for a, b in zip(ends, ends[1:], strict=False) if a < b]
        total = sum(scipy.integrate.quad(density, a, b, epsabs=1e-11, epsrel=1e-9)[0] for a, b in pieces)
        assert total == pytest.approx(1, abs=1e-6)
    else:
        number = len(column.categories) or 2000
        x = torch.arange(float(number)).reshape(-1, 1, 1)
        assert float(law.log_prob(x).exp().sum()) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
def test_outputs_of_zero_are_the_distribution_of_the_training_rows(name):
    column, part = BY_FAMILY[name], one(name)
    law = part((torch.zeros(1, *part.heads),))
    if column.is_coded:
        masses = law.log_prob(torch.arange(float(len(column.categories))).reshape(-1, 1, 1)).exp().flatten()
        assert_close(masses, torch.tensor(column.frequencies), rtol=1e-9, atol=0)
        return
    mean, deviation = float(law.mean), float(law.variance.sqrt())
    if name == "log-normal":
        mean = math.exp(column.location + column.scale**2 / 2)
        deviation = mean * math.sqrt(math.expm1(column.scale**2))
    assert float(law.mean) == pytest.approx(mean, rel=1e-9) and float(law.variance.sqrt()) == pytest.approx(deviation)
    if name not in ("log-normal", "poisson"):
        assert mean == pytest.approx(column.location, rel=1e-2)
        assert deviation == pytest.approx(column.scale, rel=1e-2)
    if name == "poisson":
        assert float(law.mean) == pytest.approx(column.location)


@pytest.mark.parametrize("name", [name for name in FAMILIES if not BY_FAMILY[name].is_coded])
def test_an_output_of_one_is_about_a_deviation(name):
    """The mean, or that of logarithms, moves by one deviation for each 1 of the first output."""
    part = one(name)
    first = torch.zeros(1, *part.heads)
    first[..., 0] = 1e-4
    moved, still = (part((outputs,)).mean for outputs in (first, torch.zeros_like(first)))
    slope = float((moved - still) / 1e-4)
    scale = BY_FAMILY[name].scale * (float(still) if name == "log-normal" else 1)
    assert slope == pytest.approx(scale, rel=2e-2)


@pytest.mark.parametrize("name", FAMILIES)
def test_everything_is_finite_for_outputs_of_twenty_in_single_precision(name):
    for column in (BY_FAMILY[name], Column("c", BY_FAMILY[name].kind, name, BY_FAMILY[name].categories)):
        part = Columns([column]).bind(leaves=1, pixels=1).float()
        corners = torch.cartesian_prod(*[torch.tensor([-20.0, 0.0, 20.0])] * part.heads[0]).reshape(-1, 1, *part.heads)
        outputs = corners.float().requires_grad_()
        law = part((outputs,))
        x = draw(BY_FAMILY[name], 1).float().reshape(1, 1, 1)
        log_prob = law.log_prob(x)
        assert log_prob.dtype == torch.float32
        (grad,) = torch.autograd.grad(log_prob.sum(), outputs)
        moments = (law.mean, law.variance, law.mode, law.log_prob(law.mode), log_prob, grad)
        assert all(bool(value.isfinite().all()) for value in moments)
        drawn = law.sample((20,))
        assert bool(part.supports(drawn).all()) and bool(law.log_prob(drawn).isfinite().all())


def test_features():
    part = Columns(COLUMNS).bind(leaves=2, pixels=len(COLUMNS))
    assert part.count_features(len(COLUMNS)) == 7 + 1 + 4 + 2
    x = table(COLUMNS, 4000).unsqueeze(1).expand(-1, 2, -1)
    features = part.features(x)
    assert_close(features[..., 0], (x[..., 0] - 1e4) / 300)
    assert_close(features[..., 2], (x[..., 2].log() - 7) / 0.5)
    for place in range(7):  # standardised, or logarithms
        assert features[..., place].mean().abs() < 0.4 and 0.3 < features[..., place].std() < 1.6
    assert_close(features[..., 7], x[..., 7])
    assert_close(features[..., 8:12], torch.nn.functional.one_hot(x[..., 8].long(), 4).to(x))
    assert_close(features[..., 12:], (x[..., 9:] > torch.tensor([0.0, 1.0])).to(x))


SCOPES = ((0, 8, 5, 9), (1, 2, None, None), (7, 8, 6, None), (3, 4, None, None))


def ragged():
    return Columns(COLUMNS).bind(leaves=4, pixels=4, scopes=SCOPES)


def test_leaves_of_different_columns_are_those_of_each_alone():
    """Densities, moments and features of every leaf, whose columns may be others, against one family at a time."""
    part = ragged()
    (head,) = part.heads
    assert head == 2 + 4 + 2 + 2 and part.count_features(4, SCOPES) == 8
    outputs = 0.5 * torch.randn(3, 4, head)
    rows = table(COLUMNS, 3)
    x = torch.stack([torch.stack([rows[:, v] if v is not None else rows[:, 0] * 0 for v in s], -1) for s in SCOPES], 1)
    law = part((outputs,))
    total, features = torch.zeros(3, 4), part.features(x)
    # the order of outputs: first ones of all columns, then second ones of those that have them
    kinds = {0: 2, 1: 3, 2: 2, 3: 2, 4: 2, 5: 2, 6: 1, 7: 1, 8: 4, 9: 2}
    for leaf, scope in enumerate(SCOPES):
        own = [variable for variable in scope if variable is not None]
        order = sorted((number, place) for place, variable in enumerate(own) for number in range(kinds[variable]))
        start = 0
        for place, variable in enumerate(own):
            alone = Columns([COLUMNS[variable]]).bind(leaves=1, pixels=1)
            index = [i for i, (_, other) in enumerate(order) if other == place]
            of_one = alone((outputs[:, leaf : leaf + 1, index],))
            value = x[:, leaf : leaf + 1, place : place + 1]
            total[:, leaf] += of_one.log_prob(value).squeeze(-1)
            for name in ("mean", "mode", "variance"):
                assert_close(getattr(law, name)[:, leaf, place], getattr(of_one, name).flatten())
            width = alone.count_features(1)
            assert_close(features[:, leaf, start : start + width], alone.features(value).squeeze(1))
            start += width
        assert (features[:, leaf, start:] == 0).all() and (law.mean[:, leaf, len(own) :] == 0).all()
    assert_close(law.log_prob(x), total)
    assert law.batch_shape == (3, 4) and law.event_shape == (4,)
    assert_close(law.expand((5, 3, 4)).log_prob(x), total.expand(5, 3, 4))
    drawn = law.expand((20_000, 3, 4)).sample()
    rest = (drawn - law.mean).mean(0)
    assert (rest.abs() <= 5 * drawn.std(0) / math.sqrt(len(drawn)) + 1e-12).all()
    assert_close(law.detach().log_prob(x), total)


def test_what_is_masked_counts_for_nothing_whatever_fills_it():
    part, outputs = ragged(), 0.5 * torch.randn(5, 4, 10)
    x = part((outputs,)).sample()
    mask = torch.rand(5, 4, 4) < 0.5
    results = []
    for filler in (0.0, -7.5, 1e30, math.nan, math.inf):
        raw = outputs.clone().requires_grad_()
        log_prob = part((raw,), mask).log_prob(torch.where(mask, x, filler))
        results.append((log_prob, *torch.autograd.grad(log_prob.sum(), raw)))
        assert all(bool(value.isfinite().all()) for value in results[-1])
    for other in results[1:]:
        assert_close(other, results[0], rtol=0, atol=0)
    whole = part((outputs,)).log_prob(x)
    assert_close(part((outputs,), mask).log_prob(x) + part((outputs,), ~mask).log_prob(x), whole)
    assert (part((outputs,), torch.zeros(1, dtype=torch.bool)).log_prob(x) == 0).all()


def test_validation_looks_at_each_column():
    part, outputs = ragged(), torch.zeros(4, 10)
    law = part((outputs,))
    x = law.sample()
    assert law.support.check(x).all() and not law.support.is_discrete
    for leaf, place, bad in ((0, 1, 4.0), (1, 1, -1.0), (2, 2, 0.5), (3, 1, 1.5)):
        wrong = x.clone()
        wrong[leaf, place] = bad
        assert law.support.check(wrong).tolist() == [other != leaf for other in range(4)]
        with pytest.raises(ValueError, match="support"):
            law.log_prob(wrong)
        mask = torch.ones(4, 4, dtype=torch.bool)
        mask[leaf, place] = False
        assert part((outputs,), mask).log_prob(wrong).isfinite().all()


def test_masks_of_features_follow_those_of_values():
    part = ragged()
    real = part.feature_mask(None)
    assert real.sum(-1).tolist() == [1 + 4 + 1 + 2, 2, 1 + 4 + 1, 2]
    mask = torch.ones(2, 4, 4, dtype=torch.bool)
    mask[1, 0, 1] = False  # the four features of a category
    found = part.feature_mask(mask)
    assert torch.equal(found[0], real)
    assert found[1, 0].tolist() == [True, False, False, False, False, True, True, True]
    alike = Columns([Column(f"c{i}", "real") for i in range(3)]).bind(leaves=1, pixels=3)
    assert alike.feature_mask(None) is None and alike.feature_mask(mask[..., :3]).shape == (2, 4, 3)


def test_columns_that_are_alike_are_as_if_they_were_not():
    """Slices of equal parts give what gathers give."""
    alike = [Column(f"c{i}", "real", location=10.0 * i, scale=1.0 + i) for i in range(4)]
    scopes = ((0, 1, 2), (3, 1, None))
    part = Columns(alike).bind(leaves=2, pixels=3, scopes=scopes)
    mixed = Columns([*alike, Column("other", "count")]).bind(leaves=3, pixels=3, scopes=(*scopes, (4, None, None)))
    outputs = torch.randn(5, 2, 6)
    wide = torch.zeros(5, 3, 6)
    wide[:, 0], wide[:, 1, :4] = outputs[:, 0], outputs[:, 1, [0, 1, 3, 4]]
    x = part((outputs,)).sample()
    x3 = torch.cat([x, torch.ones(5, 1, 3)], 1)
    assert_close(part((outputs,)).log_prob(x), mixed((wide,)).log_prob(x3)[:, :2])
    real = torch.tensor([[True] * 3, [True, True, False]])
    assert_close(part((outputs,), real).log_prob(x), part((outputs,)).log_prob(x))
    assert_close(part.features(x)[real.expand(5, 2, 3)], mixed.features(x3)[:, :2][real.expand(5, 2, 3)])


def test_twenty_normal_columns_are_the_normal_likelihood():
    part = Columns([Column("a", "real"), Column("b", "real")]).bind(leaves=3, pixels=2)
    outputs, x = torch.randn(5, 3, 4), torch.randn(5, 3, 2)
    law = part((outputs,))
    factor = 1e-3 + (1 - 1e-3) * torch.log2(1 + 2 ** outputs[..., 2:])
    assert_close(law.log_prob(x), LeafNormal(outputs[..., :2], factor).log_prob(x))
    assert Normal().bind(leaves=3, pixels=2).count_features(2) == part.count_features(2) == 2


def test_units_keep_double_precision():
    part = ragged()
    exact = part.groups[0].units.location
    single = copy.deepcopy(part).float()
    assert single.groups[0].units.location.dtype == torch.float64
    assert torch.equal(single.double().groups[0].units.location, exact)
    assert part.to("meta").groups[0].units.location.is_meta and not part.state_dict()


def test_is_described_by_plain_values():
    part = Columns(COLUMNS)
    description = describe(part)
    again = build("likelihood", description)
    assert again.columns == part.columns == copy.deepcopy(part).columns and describe(again) == description
    assert written(part) == "columns" and make("likelihood", "columns", columns=COLUMNS).columns == COLUMNS


REFUSED = [
    (lambda: Columns([]), "columns is []; a Column for each entry of a row is needed"),
    (lambda: Columns("age"), "columns is 'age'; a Column for each entry of a row is needed"),
    (lambda: Columns([{"name": "a"}]), "a column is {'name': 'a'}; a dict with name, kind and what else a Column has"),
    (lambda: Columns([COLUMNS[0]] * 2), "columns has 2 of the name 'income'; one of each name is needed"),
    (
        lambda: Columns(COLUMNS).bind(leaves=1, pixels=3),
        "columns are 10, but leaves see 3 entries, and nobody says which",
    ),
    (
        lambda: Columns(COLUMNS[:2]).bind(leaves=1, pixels=3, scopes=((0, 1, 2),)),
        "columns are 2, but rows have 3 entries; one for each is needed",
    ),
    (
        lambda: Columns(COLUMNS[:3]).bind(leaves=1, pixels=2, scopes=((0, 1),)),
        "columns are 3, but rows have 2 entries; one for each is needed",
    ),
    (lambda: Columns(COLUMNS).heads, "this Columns has no sizes yet"),
]


@pytest.mark.parametrize(("make_one", "message"), REFUSED)
def test_refusals(make_one, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        make_one()


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (5, -1.0, "column 'visits'; a count takes 0, 1, 2, .."),
        (4, 1.0, "column 'share'; a proportion takes numbers between 0 and 1, these two left out"),
        (3, 0.0, "column 'length'; a positive column takes finite numbers above 0"),
        (0, math.inf, "column 'income'; a real column takes finite numbers"),
        (7, 2.0, "column 'sex'; a binary column takes 0 and 1 (0 for 'f', 1 for 'm')"),
        (8, 0.5, "column 'town'; a categorical column takes the numbers 0, 1, .. of its categories (0 for 'A', 1 for "),
        (9, 3.0, "column 'grade'; an ordinal column takes the numbers 0, 1, .. of its categories (0 for 'low', 1 for "),
    ],
)
def test_values_that_are_not_of_their_kind_are_refused_by_name(variable, value, message):
    part = Columns(COLUMNS).bind(leaves=1, pixels=len(COLUMNS))
    x = table(COLUMNS, 5).unsqueeze(1)
    x[3, 0, variable] = value
    with pytest.raises(ValueError, match=f"^{re.escape(f'x holds the value {value:g} in row 3, {message}')}"):
        part.check(x, torch.ones_like(x, dtype=torch.bool))

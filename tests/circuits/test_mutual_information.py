# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Estimates of mutual information: exact where columns have few values, lower bounds else, and without bias."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.stats import truncnorm

from pyro_spvae.circuits import _mutual_information
from pyro_spvae.circuits._mutual_information import _coded, mutual_information
from tests.circuits.planted import normals


def information(x, *args):
    """Of the first two columns."""
    return mutual_information(x.unsqueeze(1), *args).information[0, 1].item()


def rows_of(joint):
    """Rows in which each cell of a table of counts occurs so often, mixed."""
    cells = torch.cartesian_prod(*(torch.arange(size) for size in joint.shape))
    x = cells.repeat_interleave(joint.flatten(), 0)
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]


def exact(joint):
    p = joint.double() / joint.sum()
    product = p.sum(1, keepdim=True) * p.sum(0)
    return torch.xlogy(p, p / product).sum().item()


def chance(joint):
    return (joint.shape[0] - 1) * (joint.shape[1] - 1) / (2 * int(joint.sum()))


def normal_pair(rho, rows=20_000, seed=0):
    z = normals(rows, 2, seed=seed)
    return torch.stack([z[:, 0], rho * z[:, 0] + math.sqrt(1 - rho**2) * z[:, 1]], 1)


class TestDiscreteColumns:
    @pytest.mark.parametrize("shape", [(2, 2), (3, 5), (1, 4), (16, 2)])
    @pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int64])
    def test_have_that_of_their_counts_less_what_chance_adds(self, shape, dtype):
        joint = torch.randint(1, 40, shape, generator=torch.Generator().manual_seed(1))
        x = rows_of(joint).to(dtype)
        expected = exact(joint) - chance(joint)
        assert information(x) == pytest.approx(expected, abs=1e-12)
        assert information(x, [True, True]) == pytest.approx(expected, abs=1e-12)
        names = torch.randperm(max(shape), generator=torch.Generator().manual_seed(2))[x.long()]
        assert information(3 * names - 7) == pytest.approx(expected, abs=1e-12), "values are names"

    def test_are_those_of_few_whole_numbers_where_nothing_is_said(self):
        place = torch.arange(96.0)
        missing = torch.where(place > 90, math.nan, place % 16)
        x = torch.stack([place % 16, place % 17, place % 16 / 2, missing, place % 4 / 2], 1)
        assert _coded(x, None, 4).binned.tolist() == [False, True, True, False, False]
        said = torch.tensor([False, True, True, False, False])
        assert _coded(x, said, 4).binned.tolist() == [True, False, False, True, False]

    def test_may_be_boolean(self):
        joint = torch.tensor([[30, 10], [5, 55]])
        assert information(rows_of(joint).bool()) == pytest.approx(exact(joint) - chance(joint), abs=1e-12)

    def test_of_many_names_are_counted_by_name_if_said(self):
        """Of 20 whole numbers in a row bins see what is monotone; of names everything."""
        a = torch.arange(2000) % 20
        x = torch.stack([a, (7 * a) % 20], 1)
        names = information(x, [True, True])
        assert names == pytest.approx(math.log(20) - 19**2 / 4000, abs=1e-12)
        assert information(x) == information(x, [False, False]) < 0.6 * names

    def test_of_very_many_names_the_rarest_are_one(self):
        frequent = torch.arange(40).repeat_interleave(40 - torch.arange(40)).repeat(10)
        other = (frequent * 7 + torch.arange(len(frequent)) % 3) % 5
        pooled = frequent.clamp(max=31)
        shuffled = torch.randperm(40, generator=torch.Generator().manual_seed(0))[frequent]
        found = information(torch.stack([shuffled, other], 1), [True, True])
        assert found == pytest.approx(information(torch.stack([pooled, other], 1), [True, True]), abs=1e-12)

    def test_that_are_independent_have_none_on_average(self):
        found = []
        for seed in range(200):
            x = torch.randint(0, 8, (400, 2), generator=torch.Generator().manual_seed(seed))
            found.append(information(x))
        mean = torch.tensor(found).mean().item()
        assert abs(mean) < 0.006  # chance adds 0.061; the standard error is 0.001


class TestContinuousColumns:
    @pytest.mark.parametrize("rho", [0.0, 0.3, -0.8, 0.95])
    def test_of_normal_columns_it_is_that_of_their_correlation(self, rho):
        assert information(normal_pair(rho)) == pytest.approx(-math.log(1 - rho**2) / 2, abs=0.015)

    def test_of_few_rows_it_is_that_of_the_scores_less_what_chance_adds(self):
        x = torch.tensor([3.0, 1.0, 2.5, 9.0, 4.0, 7.0, 0.0, 5.0, 6.0, 8.0])
        y = torch.tensor([3.0, 2.0, 1.5, 9.0, 5.0, 6.0, 0.0, 4.0, 8.0, 7.0])
        ends = torch.distributions.Normal(0.0, 1.0).icdf(torch.linspace(0, 1, 11, dtype=torch.float64)).tolist()
        score = torch.tensor([truncnorm.mean(*pair) for pair in itertools.pairwise(ends)])
        r = (score[x.argsort().argsort()] * score[y.argsort().argsort()]).mean().item()
        found = information(torch.stack([x, y], 1), [False, False])
        assert found == pytest.approx(-math.log(1 - r**2) / 2 - 1 / 20, abs=1e-9)

    def test_no_increasing_map_changes_it(self):
        x = normal_pair(0.6, rows=500)
        x[:, 1] = x[:, 1].round(decimals=1)  # ties
        before = information(x)
        for mapped in (x.exp(), x**3, torch.stack([x[:, 0].sinh(), 5 * x[:, 1] - 2], 1)):
            assert information(mapped) == before

    @pytest.mark.parametrize("kinds", ["real, real", "real, names"])
    def test_dependence_that_is_not_monotone_is_found_by_bins(self, kinds):
        x = normals(4000, 1, seed=3)
        other = x**2 if kinds == "real, real" else (x.abs() > 0.7).double()
        found = information(torch.cat([x, other], 1))
        assert found > 0.45
        if kinds == "real, names":  # x decides the name, of which 0.48 are one
            assert found < 0.7

    def test_ties_leave_a_lower_bound(self):
        """A column of which values below a threshold are one has less than the normal one has."""
        x = normal_pair(0.9)
        censored = x.clamp(min=0.5)
        codes = (x[:, :1] > 0.5).long()
        assert information(x) > information(censored) > information(torch.cat([codes, x[:, 1:] > 0.5], 1)) + 0.05

    def test_scores_are_means_between_the_quantiles_of_a_value(self):
        x = torch.tensor([[0.0, 5.0], [0.0, 4.0], [1.0, math.nan], [0.0, 3.0], [2.0, 3.0]])
        scores = _coded(x, None, 2).scores

        def mean(low, high):
            found = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor([low, high], dtype=torch.float64))
            return truncnorm.mean(*found.tolist())

        expected = [[mean(0, 0.6)] * 2 + [mean(0.6, 0.8), mean(0, 0.6), mean(0.8, 1)]]
        expected += [[mean(0.75, 1), mean(0.5, 0.75), 0.0] + [mean(0, 0.5)] * 2]
        torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64))

    def test_bins_share_the_rows_and_equal_values_stay_together(self):
        x = normals(1000, 3, seed=0)
        x[:, 1] = x[:, 1].clamp(min=0.5)  # seven tenths are one value
        x[:, 2] = x[:, 2].round()
        coded = _coded(x, torch.zeros(3, dtype=torch.bool), 4)
        assert coded.codes[0].bincount().tolist() == [250] * 4
        lowest = int((x[:, 1] == 0.5).sum())
        share = (1000 - lowest) / 3
        censored = coded.codes[1].bincount()
        assert censored[0] == lowest and all(abs(count - share) <= 1 for count in censored[1:].tolist())
        assert len(coded.codes[2].unique()) == 4
        for value in x[:, 2].unique():
            assert len(coded.codes[2][x[:, 2] == value].unique()) == 1
        assert bool((coded.codes[:, x[:, 0].argsort()][0].diff() >= 0).all())


class TestMissingEntries:
    def test_pairs_have_what_their_rows_show(self):
        joint = torch.randint(1, 40, (3, 4), generator=torch.Generator().manual_seed(1))
        seen = rows_of(joint).double()
        alone = torch.tensor([[0.0, math.nan], [math.nan, 3.0], [math.nan, math.nan]])
        x = torch.cat([seen, alone.double().repeat(20, 1)])
        found = mutual_information(x.unsqueeze(1))
        assert found.information[0, 1].item() == pytest.approx(exact(joint) - chance(joint), abs=1e-12)
        assert found.rows[0, 1] == found.rows[1, 0] == len(seen)

    def test_of_real_columns_leave_it_as_it_is(self):
        x = normal_pair(0.8)
        x[torch.rand(x.shape, generator=torch.Generator().manual_seed(9)) < 0.3] = math.nan
        assert information(x) == pytest.approx(-math.log(1 - 0.64) / 2, abs=0.03)

    def test_few_rows_in_common_are_finite(self):
        x = torch.full((40, 2), math.nan)
        x[:2] = torch.tensor([[0.3, 0.5], [0.7, 0.9]])
        x[2:20, 0], x[20:, 1] = torch.rand(18), torch.rand(20)
        assert math.isfinite(information(x, [False, False]))


def test_of_channels_it_is_the_largest():
    a, b = normal_pair(0.9, rows=500), normal_pair(0.5, rows=500, seed=1)
    x = torch.stack([b, a], 1)  # [N, C, D]
    found = mutual_information(x).information[0, 1].item()
    assert found == information(a) > information(b)
    crossed = torch.stack([torch.stack([a[:, 0], b[:, 0]], 1), torch.stack([b[:, 1], a[:, 1]], 1)], 1)
    assert mutual_information(crossed).information[0, 1].item() == information(a)


def test_constant_variables_are_told():
    x = torch.stack(
        [torch.zeros(9), torch.arange(9.0), torch.full((9,), math.nan), torch.tensor([1.0, math.nan] * 4 + [1])]
    )
    assert mutual_information(x.T.unsqueeze(1)).constant.tolist() == [True, False, True, True]
    assert mutual_information(x[[0, 1, 0, 3]].T.reshape(9, 2, 2)).constant.tolist() == [True, False]


def test_work_in_blocks_changes_nothing(monkeypatch):
    x = torch.cat([normals(300, 4, seed=0), torch.randint(0, 5, (300, 5)), normals(300, 3, seed=1).round()], 1)
    x[::7, ::3] = math.nan
    whole = mutual_information(x.unsqueeze(1))
    for name, value in (("_BLOCK", 9), ("_ROWS", 37), ("_COLUMNS", 5)):
        monkeypatch.setattr(_mutual_information, name, value)
    parts = mutual_information(x.unsqueeze(1))
    torch.testing.assert_close(parts.information, whole.information, rtol=0, atol=1e-12)
    assert torch.equal(parts.rows, whole.rows) and torch.equal(parts.information, parts.information.T)

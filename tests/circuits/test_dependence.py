# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Pairwise dependence is what the mathematics says, and nothing where there is none."""

from __future__ import annotations

import pytest
import torch

from pyro_spvae.circuits._dependence import _features, dependence
from tests.circuits.planted import block, field, normals, planted


class TestDependence:
    @pytest.mark.parametrize("levels", [2, 3, 4])
    def test_is_mean_square_contingency_for_few_values(self, levels):
        generator = torch.Generator().manual_seed(levels)
        table = torch.rand(levels, levels, generator=generator)
        x = torch.multinomial(table.flatten(), 500, True, generator=generator)
        x = torch.stack([x // levels, x % levels], 1)
        counts = torch.zeros(levels, levels).index_put((x[:, 0], x[:, 1]), torch.ones(500), accumulate=True)
        expected = torch.outer(counts.sum(1), counts.sum(0)) / 500
        chi_squared = ((counts - expected) ** 2 / expected).sum()
        features, _ = _features(x)
        r = torch.einsum("knc, mnd -> kmcd", features, features) / 500
        assert r[..., 0, 1].square().sum().item() == pytest.approx(chi_squared.item() / 500, rel=1e-9)
        # orthonormal, and as many as a column's values have degrees of freedom
        expected = torch.diag((torch.arange(3) < levels - 1).double())
        torch.testing.assert_close(r[..., 0, 0], expected)

    def test_of_binary_columns_is_phi_squared_less_its_expectation(self):
        first = torch.rand(400, generator=torch.Generator().manual_seed(0)) < 0.3
        second = first ^ (torch.rand(400, generator=torch.Generator().manual_seed(1)) < 0.1)
        x = torch.stack([first, second], 1)
        phi = torch.corrcoef(x.double().T)[0, 1]
        found = dependence(x.unsqueeze(1))
        torch.testing.assert_close(found, (phi**2 - 1 / 400) * (1 - torch.eye(2)))

    def test_is_the_sum_over_all_pairs_of_features(self):
        x = block("squared", 5000, 2, seed=0)
        features, _ = _features(x)
        terms = [torch.corrcoef(torch.stack([f[:, 0], g[:, 1]]))[0, 1] ** 2 for f in features for g in features]
        large = [term - 1 / 5000 for term in terms if term > 0.02]
        assert max(term for term in terms if term <= 0.02) < 0.002 and terms[3] > 0.5, "of the square and the line"
        torch.testing.assert_close(dependence(x.unsqueeze(1))[0, 1], torch.stack(large).sum())

    def test_does_not_change_under_increasing_maps(self):
        x = planted("normal", 0)[0]
        mapped = torch.where(torch.arange(12) % 2 == 0, x.exp(), x**3)
        torch.testing.assert_close(dependence(mapped.unsqueeze(1)), dependence(x.unsqueeze(1)), rtol=0, atol=0)
        for given in (x, planted("counts", 0)[0]):  # nor under decreasing ones, also where there are ties
            torch.testing.assert_close(dependence(-given.unsqueeze(1)), dependence(given.unsqueeze(1)))

    @pytest.mark.parametrize("rows", [40, 1000])
    def test_of_independent_columns_is_zero(self, rows):
        """In 19 of 20 data sets, also where rare values meet in a row by chance."""
        false = 0
        for seed in range(20):
            x, other = normals(2, rows, 30, seed=seed)
            rare = other > 2.9  # one or two of 1000
            gaps = x.masked_fill(other > 0.5, torch.nan)
            for columns in (x, x > 0.5, rare, x.round(), x**5, gaps):
                false += bool(dependence(columns.unsqueeze(1)).any())
        assert false <= 3  # of 120, where 6 is what the bound allows

    def test_counts_only_rows_in_which_both_are_seen(self):
        x = block("normal", 900, 3, seed=0)
        x[:300, 0], x[300:600, 1] = torch.nan, torch.nan
        both = dependence(x[600:, :2].unsqueeze(1))[0, 1]
        assert dependence(x.unsqueeze(1))[0, 1].item() == pytest.approx(both.item(), rel=0.15)
        x[600:, 2] = torch.nan
        x[:600, 0] = torch.nan
        assert dependence(x.unsqueeze(1))[0, 2] == 0, "never seen together"

    def test_is_symmetric(self):
        found = dependence(field(300, 0, side=4).reshape(300, 2, 8))
        assert torch.equal(found, found.T) and not found.diagonal().any() and bool((found >= 0).all())

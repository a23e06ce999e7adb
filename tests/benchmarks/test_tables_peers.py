# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Peers of the benchmark of tables: densities that integrate to one in the table's units, and encodings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from benchmarks.tables_densities import DENSITIES, log_density
from benchmarks.tables_imputers import IMPUTERS, Encoding
from benchmarks.tables_scores import hidden, with_holes
from benchmarks.tables_spflow import SPFLOW, evaluated, fit
from tests.benchmarks.cases import binary_table, mixed_table, real_table, split_of


@pytest.mark.parametrize("peer", DENSITIES, ids=lambda peer: peer.name)
def test_densities_are_of_the_tables_own_units(peer, tmp_path):
    split = split_of(real_table(), tmp_path)
    peer.candidates = peer.candidates[:: max(1, len(peer.candidates) // 4)]
    estimator, _ = peer.chosen(split)
    location, scale = split.units()
    axes = [np.linspace(m - 8 * s, m + 8 * s, 401) for m, s in zip(location, scale, strict=True)]
    grid = np.stack([own.ravel() for own in np.meshgrid(*axes, indexing="ij")], 1)
    density = np.exp(log_density(estimator, split, grid)).reshape(401, 401)
    mass = np.trapezoid(np.trapezoid(density, axes[1], axis=1), axes[0])
    assert abs(mass - 1) < 1e-3


def test_the_single_gaussian_is_scipys_with_a_ridge_of_standardised_units(tmp_path):
    split = split_of(real_table(), tmp_path)
    (peer,) = (peer for peer in DENSITIES if peer.name == "gaussian")
    outcome = peer.run(split, 1.0)
    ridge = float(outcome.chosen.rsplit(" ", 1)[1])
    x = split.train
    covariance = np.cov(x.T, ddof=0) + ridge * np.diag(x.var(0))
    expected = stats.multivariate_normal(x.mean(0), covariance).logpdf(split.test)
    np.testing.assert_allclose(outcome.nats, expected, atol=1e-6)
    expected = stats.multivariate_normal(x.mean(0), covariance).logpdf(split.validation)
    np.testing.assert_allclose(outcome.validation, expected, atol=1e-6)
    assert outcome.parameters == 5


def test_options_are_those_that_validation_rows_prefer(tmp_path):
    split = split_of(real_table(), tmp_path)
    for peer in DENSITIES:
        if peer.name != "mixture":
            _, chosen = peer.chosen(split)
            found = []
            for options in peer.candidates:
                location, scale = split.units()
                estimator = peer.make(options, 0).fit((split.train - location) / scale)
                found.append(log_density(estimator, split, split.validation).mean())
            assert chosen == peer.candidates[int(np.argmax(found))]


def test_densities_do_not_apply_to_holes_and_categories(tmp_path):
    mixed, binary = split_of(mixed_table(), tmp_path), split_of(binary_table(), tmp_path, levels=2)
    for peer in DENSITIES:
        assert not peer.applies(mixed) and not peer.applies(binary)
        assert peer.applies(split_of(real_table(), tmp_path))
    for circuit in SPFLOW:
        assert circuit.applies(binary) and not circuit.applies(mixed)


def test_encoding_is_inverted(tmp_path):
    split = split_of(mixed_table(), tmp_path)
    encoding, x = Encoding(split), split.train
    encoded = encoding.encode(x)
    assert encoded.shape == (len(x), 1 + 3 + 1)
    np.testing.assert_array_equal(np.isnan(encoded).all(1), np.isnan(x).all(1))
    np.testing.assert_array_equal(np.isnan(encoded)[:, 1:4].all(1), np.isnan(x[:, 1]))
    np.testing.assert_allclose([np.nanmean(encoded[:, 0]), np.nanstd(encoded[:, 0])], [0, 1], atol=1e-12)
    whole = ~np.isnan(x).any(1)
    np.testing.assert_allclose(encoding.decode(encoded[whole]), x[whole], atol=1e-12)
    guess = encoding.decode(np.array([[1.0, 0.2, 0.7, 0.1, 0.4]]))
    np.testing.assert_allclose(guess, [[split.units()[0][0] + split.units()[1][0], 1.0, 0.0]])


def test_imputers_keep_what_they_see(tmp_path):
    split = split_of(mixed_table(), tmp_path)
    seen = with_holes(split)
    for peer in IMPUTERS:
        filled = peer.run(split, 1.0).filled
        assert filled is not None and np.isfinite(filled).all()
        np.testing.assert_array_equal(filled[~np.isnan(seen)], seen[~np.isnan(seen)])
        assert set(np.unique(filled[:, 1])) <= {0.0, 1.0, 2.0}


def test_the_mean_and_the_most_frequent_category(tmp_path):
    split = split_of(mixed_table(), tmp_path)
    filled = IMPUTERS[0].run(split, 1.0).filled
    mask = hidden(split)[1]
    assert mask[:, 0].any() and mask[:, 1].any()
    np.testing.assert_allclose(filled[mask[:, 0], 0], np.nanmean(split.train[:, 0]))
    codes = split.train[:, 1]
    np.testing.assert_array_equal(filled[mask[:, 1], 1], np.bincount(codes[~np.isnan(codes)].astype(int)).argmax())


class Bits(nn.Module):
    """Independent bits."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(columns))

    def log_likelihood(self, x):
        return torch.distributions.Bernoulli(logits=self.logits).log_prob(x.to(self.logits)).sum(1).reshape(-1, 1, 1)


def test_the_loop_keeps_the_best_by_validation(tmp_path):
    split = split_of(binary_table(), tmp_path, levels=2)
    fitted = fit(Bits(4), split, 0.3)
    seconds, validation, test = map(np.array, zip(*fitted["curve"], strict=True))
    assert (np.diff(seconds) > 0).all() and fitted["cpu"] == seconds[-1]
    assert fitted["nats"].mean() == pytest.approx(test[validation.argmax()], abs=1e-9)
    assert fitted["validation"].mean() == pytest.approx(validation.max(), abs=1e-9)
    best = split.train.mean(0)
    exact = (split.train * np.log(best) + (1 - split.train) * np.log(1 - best)).sum(1).mean()
    model = Bits(4)
    fit(model, split, 0.3)
    assert exact - 0.02 < evaluated(model, torch.from_numpy(split.train)).mean() <= exact + 1e-9


@pytest.mark.parametrize("peer", SPFLOW, ids=lambda peer: peer.name)
def test_spflow_is_a_distribution(peer, tmp_path):
    pytest.importorskip("spflow")
    torch.set_default_dtype(torch.float32)
    split = split_of(binary_table(), tmp_path, levels=2)
    torch.manual_seed(0)
    model = peer.make(split)
    before = evaluated(model, torch.from_numpy(split.train).float()).mean()
    fit(model, split, 0.5)
    everything = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)))
    assert np.exp(evaluated(model, everything)).sum() == pytest.approx(1, abs=1e-5)
    assert evaluated(model, torch.from_numpy(split.train).float()).mean() > before

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Figures of a split."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pyro_spvae.data import Rows
from pyro_spvae.data.seeds import noise_seed
from pyro_spvae.infer import CircuitELBO
from pyro_spvae.training import evaluation
from pyro_spvae.training.evaluation import (
    active_units,
    evaluate_rows,
    log_likelihoods,
    mean_bounds,
    mean_variances,
    seen_per_row,
)
from tests.training.cases import built, images, table


def _evaluate(spvae, rows, config, **options):
    return evaluate_rows(
        spvae,
        rows,
        elbo=CircuitELBO(config.particles),
        samples=config.samples,
        chunk_size=config.chunk_size,
        seed=config.seed,
        **options,
    )


def test_results_are_means_over_rows():
    spvae, data, config = built(images(), samples=2000, seed=3, chunk_size=4096)
    results, per_datum, _ = _evaluate(spvae, data.test, config)
    assert per_datum.dtype == torch.float64 and per_datum.shape == (10,)
    torch.manual_seed(noise_seed(3, 0, stream=3))  # ten rows are one block
    expected = spvae.log_likelihood(data.test[:], num_samples=2000, chunk_size=config.chunk_size)
    assert torch.equal(per_datum, expected.double())
    assert results["log_likelihood"] == pytest.approx(per_datum.mean().item(), rel=1e-12)
    assert results["standard_error"] == pytest.approx(np.std(per_datum.numpy(), ddof=1) / math.sqrt(10), rel=1e-9)
    assert (results["rows"], results["samples"], results["seed"]) == (10, 2000, 3)
    parts = results["reconstruction"] - results["latent_kl"] - results["tree_kl"]
    assert results["leaf_elbo"] == pytest.approx(parts, abs=1e-3)
    assert results["leaf_elbo"] < results["elbo"]


@pytest.mark.parametrize("structure", ["poon-domingos", "whole"])
def test_bounds_and_their_parts(structure):
    options = {"delta": 2} if structure == "poon-domingos" else {}
    spvae, data, _ = built(images(), structure=structure, units=2, **options)
    elbo = mean_bounds(spvae, CircuitELBO(2, alpha=1.0), data.test, 0)
    assert elbo["elbo"] == pytest.approx(elbo["reconstruction"] - elbo["latent_kl"] - elbo["tree_kl"], abs=1e-4)
    assert elbo["tree_kl"] >= 0
    weighted = mean_bounds(spvae, CircuitELBO(2, alpha=0.0), data.test, 0)
    assert weighted["elbo"] > elbo["elbo"] + 1e-3, "the same noise, hence Jensen's inequality holds exactly"
    assert {**weighted, "elbo": 0} == {**elbo, "elbo": 0}


@pytest.mark.parametrize("size", [256, 4])
def test_latent_sites(size, monkeypatch):
    """Divergences are what the bound has, and its dimensions add up to them, whatever the blocks."""
    spvae, data, config = built(images(), leaf="hvae", units=2, particles=200)
    monkeypatch.setattr(evaluation, "_BOUND_ROWS", size)
    results, _, dimensions = _evaluate(spvae, data.test, config)
    assert results["kl"].keys() == results["active_units"].keys() == {"z2", "z1"}
    for site, kl in results["kl"].items():
        assert kl == pytest.approx(results["cross_entropy"][site] - results["entropy"][site], abs=1e-12)
    assert results["latent_kl"] == pytest.approx(sum(results["kl"].values()), abs=1e-4)
    assert dimensions.keys() == {"mean_variance_z2", "mean_variance_z1", "dimension_kl_z2"}
    assert dimensions["dimension_kl_z2"].shape == (spvae.num_leaves, 2) and (dimensions["dimension_kl_z2"] > 0).all()
    assert float(dimensions["dimension_kl_z2"].sum()) == pytest.approx(results["kl"]["z2"], rel=0.2)


def test_the_noise_is_the_same_each_time_and_that_of_others_is_left_alone():
    spvae, data, _ = built(images())
    elbo = CircuitELBO(2)
    state = torch.get_rng_state()
    first = mean_bounds(spvae, elbo, data.test, 0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert mean_bounds(spvae, elbo, data.test, 0) == first != mean_bounds(spvae, elbo, data.test, 1)


def test_blocks_cover_every_row_once(monkeypatch):
    spvae, data, _ = built(images())
    elbo = CircuitELBO(2)
    blocks = []
    bound = elbo.bound
    monkeypatch.setattr(elbo, "bound", lambda m, g, x: blocks.append(bound(m, g, x)) or blocks[-1])
    monkeypatch.setattr(evaluation, "_BOUND_ROWS", 4)
    value = mean_bounds(spvae, elbo, data.test, 0)["elbo"]
    assert [len(part) for part in blocks] == [4, 4, 2]
    assert value == pytest.approx(float(torch.cat(blocks).double().mean()), rel=1e-12)


def test_a_row_has_the_same_log_likelihood_whatever_comes_after_it():
    spvae, data, _ = built(images(rows=80), samples=5)
    rows = data.train[:]
    some = log_likelihoods(spvae, rows[:32], samples=5, chunk_size=4, seed=0)
    assert torch.equal(log_likelihoods(spvae, rows, samples=5, chunk_size=4, seed=0)[:32], some)


def test_marginals_of_what_was_seen():
    spvae, data, config = built(images())
    seen = torch.ones(1, 4, 4, dtype=torch.bool)
    everything, same = (_evaluate(spvae, data.test, config, observed=mask) for mask in (None, seen))
    # a mask changes the order of sums, not what they are of
    torch.testing.assert_close(everything[1], same[1], atol=1e-4, rtol=0)
    seen[..., 2:] = False
    half, _, half_dimensions = _evaluate(spvae, data.test, config, observed=seen)
    assert half["log_likelihood"] > everything[0]["log_likelihood"] + 1.0, "fewer pixels to explain"
    nothing, per_datum, _ = _evaluate(spvae, data.test, config, observed=torch.zeros(1, 4, 4, dtype=torch.bool))
    torch.testing.assert_close(per_datum, torch.zeros(10, dtype=torch.float64), atol=1e-5, rtol=0)
    # the encoder sees zeros where nothing was seen
    assert nothing["active_units"] == {"z": 0} and half["active_units"] == active_units(spvae, data.test[:] * seen)
    whole, again, of_half = (one["mean_variance_z"] for one in (everything[2], same[2], half_dimensions))
    torch.testing.assert_close(whole, again, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(of_half, mean_variances(spvae, data.test[:] * seen)["z"], rtol=1e-4, atol=1e-9)
    assert not torch.allclose(of_half, whole, rtol=0.01) and (of_half > 1e-5).all()


def test_a_split_of_one_row_has_no_spread():
    spvae, data, config = built(images())
    results, *_ = _evaluate(spvae, data.test[:1], config)
    assert results["rows"] == 1 and math.isfinite(results["log_likelihood"])
    assert results["standard_error"] is None and results["active_units"] == {"z": None}


def test_active_units_are_the_latent_dimensions_that_follow_the_data():
    spvae, data, _ = built(images())
    encoder = spvae.leaf_guide.z.network
    with torch.no_grad():
        for weight in encoder.stacks[0].weights:
            weight.zero_()
        for bias in encoder.stacks[0].biases:
            bias.fill_(100.0)  # large and constant
    assert active_units(spvae, data.test) == {"z": 0}
    with torch.no_grad():  # the first latent dimension of the first leaf becomes a function of its patch
        for weight in encoder.stacks[0].weights[:-1]:
            weight[0] = torch.randn_like(weight[0])
        for bias in encoder.stacks[0].biases:
            bias.zero_()
        encoder.stacks[0].weights[-1][0, :, 0] = 3.0
    assert active_units(spvae, data.test) == {"z": 1}


def test_bits_per_dim_of_dequantised_and_of_continuous_values():
    _, data, _ = built(images(levels=256), preprocess="dequantize")
    assert data.bits_per_dim(-30.0) == pytest.approx(30.0 / 16 / math.log(2) + 8)
    _, data, _ = built(table())
    assert data.bits_per_dim(-30.0) is None


def test_numbers_that_are_not_finite_are_refused():
    spvae, data, config = built(table())
    with pytest.raises(ValueError, match="^the mean log-likelihood is -inf; look for values"):
        _evaluate(spvae, data.test[:] * 1e25, config)


@pytest.mark.parametrize("block", [4, 100])
def test_seen_entries_are_a_mean_over_all_rows(monkeypatch, block):
    """Whether a mask, holes of the data or both say what is seen, and in blocks of any size."""
    monkeypatch.setattr(evaluation, "_READ", block)
    x, observed = torch.rand(9, 1, 2, 3, dtype=torch.float32), torch.rand(9, 1, 2, 3) < 0.5
    holes = Rows(torch.where(torch.rand(x.shape) < 0.3, torch.nan, x), missing=True)
    assert seen_per_row(x, None) is None and seen_per_row(Rows(x), observed[0]) == int(observed[0].sum())
    assert len(set(observed.flatten(1).sum(1).tolist())) > 1
    assert seen_per_row(x, observed) == seen_per_row(Rows(x), observed) == int(observed.sum()) / 9
    there = ~holes[:].isnan()
    assert seen_per_row(holes, None) == int(there.sum()) / 9
    assert seen_per_row(holes, observed) == int((there & observed).sum()) / 9

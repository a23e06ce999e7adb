# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Predictions by a column's own marginal."""

from __future__ import annotations

import pytest
import scipy.stats
import torch

from pyro_spvae.data import Column
from pyro_spvae.queries.marginals import Marginal
from pyro_spvae.queries.scores import fair_crps

REAL = Column("height", "real")


def test_moments_and_mode():
    marginal = Marginal(torch.tensor([3.0, 1.0, 1.0, 7.0]), REAL)
    assert (marginal.mean, marginal.mode) == (3.0, 1.0)
    assert marginal.scale == pytest.approx(6**0.5)
    assert Marginal(torch.tensor([2.0, 1.0, 1.0, 2.0]), REAL).mode == 1.0, "the smallest of several"


def test_crps_is_that_of_all_values_as_draws():
    torch.manual_seed(0)
    values, asked = torch.randn(30).round(decimals=1), torch.cat([torch.randn(20) * 3, torch.tensor([0.1, -9.0, 9.0])])
    wanted = fair_crps(values.unsqueeze(1).expand(-1, len(asked)), asked)
    torch.testing.assert_close(Marginal(values, REAL).crps(asked), wanted)


def test_log_prob_is_that_of_the_family_fitted_to_the_values():
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 8.0, 3.0])
    asked = torch.tensor([0.5, 3.0])
    normal = scipy.stats.norm(values.mean(), values.std(correction=0)).logpdf(asked)
    torch.testing.assert_close(Marginal(values, REAL).log_prob(asked), torch.as_tensor(normal))
    logs = values.log()
    log_normal = scipy.stats.lognorm(logs.std(correction=0), scale=logs.mean().exp()).logpdf(asked)
    torch.testing.assert_close(Marginal(values, Column("w", "positive")).log_prob(asked), torch.as_tensor(log_normal))
    coded = Marginal(torch.tensor([0.0, 0, 1, 2]), Column("c", "categorical", categories=("a", "b", "c")))
    torch.testing.assert_close(coded.log_prob(torch.tensor([0.0, 1, 2])).exp(), torch.tensor([0.5, 0.25, 0.25]))


def test_of_no_values_nothing_is_known():
    marginal = Marginal(torch.zeros(0), REAL)
    asked = torch.zeros(2)
    assert all(bool(found.isnan().all()) for found in (marginal.crps(asked), marginal.log_prob(asked)))
    assert marginal.mean != marginal.mean and marginal.mode != marginal.mode

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Probabilities kept away from 0."""

from __future__ import annotations

import torch

from pyro_spvae.distributions.simplex import away_from_zero


def test_away_from_zero_is_the_most_likely_distribution_above_the_bound():
    probabilities = torch.tensor([[0.0, 0.005, 0.295, 0.7], [0.25, 0.25, 0.25, 0.25]])
    found = away_from_zero(probabilities, 0.01)
    torch.testing.assert_close(
        found, torch.tensor([[0.01, 0.01, 0.98 * 0.295 / 0.995, 0.98 * 0.7 / 0.995], [0.25] * 4])
    )
    others = torch.distributions.Dirichlet(torch.ones(4)).sample((2000,)) * 0.96 + 0.01
    best = (probabilities * found.log()).sum(-1)
    assert ((probabilities * others.unsqueeze(1).log()).sum(-1) <= best).all()

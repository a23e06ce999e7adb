# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Mixtures of tables of levels: the Categorical distribution that they are, looked up and drawn table by table."""

from __future__ import annotations

import math
import re

import pyro.distributions as dist
import pytest
import torch
from torch.testing import assert_close

from pyro_spvae.distributions import LeafCategorical, LeafLevelMixture
from tests.distributions.leaf_cases import BATCH, SIZE, MaskedLeafDistributionTests

LEVELS, COMPONENTS = 4, 3


class TestLeafLevelMixture(MaskedLeafDistributionTests):
    bad_values = (0.5, -1.0, 4.0, float("nan"))
    pixel_dim = -2
    pixel_dims: dict[str, int | None] = {"table": None}
    has_entropy = False

    def parameters(self, *batch):
        return {
            "logits": torch.randn(*batch, SIZE, COMPONENTS),
            "table": torch.randn(*batch, LEVELS, COMPONENTS),
            "bias": torch.randn(*batch, SIZE, LEVELS),
        }

    def build(self, parameters, mask=None):
        return LeafLevelMixture(**parameters, mask=mask)

    def reference(self, parameters):
        tables = (parameters["table"].unsqueeze(-3) + parameters["bias"].unsqueeze(-1)).softmax(-2)
        return dist.Categorical(probs=torch.einsum("...r,...vr->...v", parameters["logits"].softmax(-1), tables))

    def test_moments_equal_torch(self):
        parameters = self.parameters(*BATCH)
        probs, level = self.reference(parameters).probs, torch.arange(float(LEVELS))
        d, mean = self.build(parameters), (self.reference(parameters).probs * level).sum(-1)
        assert_close(d.probs, probs)
        assert_close(d.mean, mean)
        assert_close(d.variance, (probs * level.square()).sum(-1) - mean.square())
        assert torch.equal(d.mode, probs.argmax(-1).double())

    @pytest.mark.parametrize("levels", [1, 2, 5, 8, 9])
    def test_draws_have_the_frequencies_of_all_levels(self, levels):
        """Also where tables are the same for all data, and some levels cannot be."""
        logits, table = torch.randn(2, SIZE, COMPONENTS), 2 * torch.randn(levels, COMPONENTS)
        table[1:, 0] = -math.inf
        d, n = LeafLevelMixture(logits, table, 2 * torch.randn(SIZE, levels)), 40_000
        found = torch.nn.functional.one_hot(d.sample((n,)).long(), levels).double().mean(0)
        error = (d.probs * (1 - d.probs) / n).sqrt()
        assert ((found - d.probs).abs() <= 5 * error).all() and (found[d.probs == 0] == 0).all()

    def test_diagonal_tables_are_a_categorical(self):
        logits = torch.randn(*BATCH, SIZE, LEVELS)
        x = torch.randint(LEVELS, (5, *BATCH, SIZE)).double()
        d = LeafLevelMixture(logits, torch.eye(LEVELS).log(), torch.randn(SIZE, LEVELS))
        assert_close(d.log_prob(x), LeafCategorical(logits).log_prob(x))
        assert torch.equal(d.mode, logits.argmax(-1).double())

    def test_tables_without_data_are_looked_up(self):
        """No tensor of a datum's pixels has an entry for each level, in neither direction."""
        logits = torch.randn(300, SIZE, 2).requires_grad_()
        table, bias = torch.randn(256, 2).requires_grad_(), torch.randn(SIZE, 256).requires_grad_()
        x = torch.randint(256, (300, SIZE))
        with torch.profiler.profile(profile_memory=True) as profile:
            LeafLevelMixture(logits, table, bias, validate_args=False).log_prob(x).sum().backward()
        largest = max(event.self_cpu_memory_usage for event in profile.events())
        assert largest <= 8 * 2 * max(bias.numel(), logits.numel()) < 8 * 300 * SIZE * 256


@pytest.mark.parametrize(
    ("logits", "table", "bias", "message"),
    [
        ((2, 3), (4, 2), (2, 4), "needs logits [.., pixel, component], table [.., level, component] and bias [.., "),
        ((2, 3), (4, 3), (2, 5), "the shapes are logits (2, 3), table (4, 3), bias (2, 5)."),
        ((2, 3), (4, 3), (1, 4), "the shapes are logits (2, 3), table (4, 3), bias (1, 4)."),
        ((5, 2, 3), (6, 4, 3), (2, 4), "must broadcast, but their shapes are logits (5, 2, 3), table (6, 4, 3), bias"),
        ((3,), (4, 3), (2, 4), "logits of LeafLevelMixture must have at least 2 dimension(s)"),
    ],
)
def test_refused(logits, table, bias, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        LeafLevelMixture(torch.zeros(logits), torch.zeros(table), torch.zeros(bias))


def test_an_impossible_level_at_a_pixel_that_does_not_count_has_no_gradient():
    logits = torch.zeros(2, 2, requires_grad=True)
    table = torch.tensor([[-math.inf, -math.inf], [0.0, 0.0], [0.0, 0.0]], requires_grad=True)
    law = LeafLevelMixture(logits, table, torch.zeros(2, 3), mask=torch.tensor([True, False]))
    value = law.log_prob(torch.tensor([1.0, 0.0]))
    grads = torch.autograd.grad(value, [logits, table])
    assert float(value.detach()) == pytest.approx(-math.log(2))
    torch.testing.assert_close(grads[0], torch.zeros(2, 2))
    torch.testing.assert_close(grads[1], torch.tensor([[0.0, 0.0], [0.25, 0.25], [-0.25, -0.25]]))

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Likelihoods of one family at all pixels."""

from __future__ import annotations

import math
import re

import pytest
import scipy.stats
import torch
from torch.testing import assert_close

from pyro_spvae import SPVAE, testing, whole
from pyro_spvae.data import Column
from pyro_spvae.likelihoods import (
    Beta,
    BetaBinomial,
    Columns,
    Gamma,
    LogNormal,
    NegativeBinomial,
    Poisson,
    StudentT,
)
from pyro_spvae.registry import make, written
from pyro_spvae.testing.block_tests import LEAVES, PIXELS, ROWS


class OfFamilyTests(testing.LikelihoodTests):
    heads = (PIXELS, PIXELS)
    column: Column

    def outputs(self, part, rows=ROWS):
        return tuple(0.4 * output for output in super().outputs(part, rows))

    def test_heads_follow_the_pixels(self, part):
        assert part.heads == self.heads

    def test_is_that_of_columns_of_its_unit(self, part):
        """Columns of the family are the same distributions, of outputs one behind the other."""
        alike = Columns([Column(f"c{i}", **self.column) for i in range(PIXELS)]).bind(leaves=LEAVES, pixels=PIXELS)
        outputs = self.outputs(part)
        x = part(outputs).sample()
        assert_close(alike((torch.cat(outputs, -1),)).log_prob(x), part(outputs).log_prob(x))
        assert_close(alike.features(x), part.features(x))

    def test_trains(self):
        spvae = SPVAE(whole((3,)), units=2, likelihood=self.make(), latent_dim=2, hidden_dims=(4,))
        torch.manual_seed(2)
        x = spvae.sample(40)
        history = spvae.fit(x, epochs=2)
        assert math.isfinite(history[-1]["val_elbo"]) and bool(
            spvae.leaf.pixels.likelihood.supports(spvae.sample(5)).all()
        )

    def test_is_made_by_its_name(self, part):
        text = written(self.make())
        assert type(make("likelihood", text)) is type(part)
        assert make("likelihood", text).options() == part.options()


class TestStudentT(OfFamilyTests):
    heads = (PIXELS,) * 3
    reach = (-2e4, 2e4)
    outside = (math.inf, math.nan)
    column = {"kind": "real", "family": "student-t", "location": 5.0, "scale": 20.0}

    def make(self):
        return StudentT(5.0, 20.0)

    def test_parameters(self, part):
        zeros = tuple(torch.zeros(LEAVES, PIXELS) for _ in range(3))
        known = scipy.stats.t(6.0, 5.0, 20 * math.sqrt(4 / 6)).logpdf(11.0)
        assert_close(part(zeros).log_prob(torch.full((LEAVES, PIXELS), 11.0)), torch.full((LEAVES,), PIXELS * known))


class TestLogNormal(OfFamilyTests):
    reach = (1e-3, 200.0)
    outside = (math.inf, math.nan, 0.0, -1.0)
    column = {"kind": "positive", "family": "log-normal", "location": 1.0, "scale": 0.5}

    def make(self):
        return LogNormal(1.0, 0.5)

    def test_parameters(self, part):
        zeros = tuple(torch.zeros(LEAVES, PIXELS) for _ in range(2))
        known = scipy.stats.lognorm(0.5, scale=math.e).logpdf(3.0)
        assert_close(part(zeros).log_prob(torch.full((LEAVES, PIXELS), 3.0)), torch.full((LEAVES,), PIXELS * known))


class TestGamma(OfFamilyTests):
    reach = (1e-3, 200.0)
    outside = (math.inf, math.nan, 0.0, -1.0)
    column = {"kind": "positive", "family": "gamma", "location": 8.0, "scale": 3.0}

    def make(self):
        return Gamma(8.0, 3.0)

    def test_parameters(self, part):
        zeros = tuple(torch.zeros(LEAVES, PIXELS) for _ in range(2))
        known = scipy.stats.gamma(64 / 9, scale=9 / 8).logpdf(3.0)
        expected = torch.full((LEAVES,), PIXELS * known)
        assert_close(part(zeros).log_prob(torch.full((LEAVES, PIXELS), 3.0)), expected, rtol=1e-6, atol=1e-6)


class TestBeta(OfFamilyTests):
    reach = (1e-6, 1 - 1e-6)
    outside = (math.nan, 0.0, 1.0, -1.0)
    column = {"kind": "proportion", "location": 0.4, "scale": 0.2}

    def make(self):
        return Beta(0.4, 0.2)

    def test_parameters(self, part):
        zeros = tuple(torch.zeros(LEAVES, PIXELS) for _ in range(2))
        known = scipy.stats.beta(0.4 * 5 + 1e-3, 0.6 * 5 + 1e-3).logpdf(0.3)
        expected = torch.full((LEAVES,), PIXELS * known)
        assert_close(part(zeros).log_prob(torch.full((LEAVES, PIXELS), 0.3)), expected, rtol=1e-5, atol=1e-5)


class TestPoisson(OfFamilyTests):
    heads = (PIXELS,)
    values = torch.arange(200.0)
    outside = (math.nan, math.inf, 0.5, -1.0)
    column = {"kind": "count", "family": "poisson", "location": 5.0, "scale": 2.0}

    def make(self):
        return Poisson(5.0, 2.0)

    def test_parameters(self, part):
        known = scipy.stats.poisson(5.0).logpmf(3)
        found = part((torch.zeros(LEAVES, PIXELS),)).log_prob(torch.full((LEAVES, PIXELS), 3.0))
        assert_close(found, torch.full((LEAVES,), PIXELS * known))


class TestNegativeBinomial(OfFamilyTests):
    values = torch.arange(2000.0)
    outside = (math.nan, math.inf, 0.5, -1.0)
    column = {"kind": "count", "location": 5.0, "scale": 4.0}

    def make(self):
        return NegativeBinomial(5.0, 4.0)

    def test_parameters(self, part):
        r = 25 / (16 - 5)
        known = scipy.stats.nbinom(r, r / (r + 5)).logpmf(3)
        zeros = tuple(torch.zeros(LEAVES, PIXELS) for _ in range(2))
        assert_close(part(zeros).log_prob(torch.full((LEAVES, PIXELS), 3.0)), torch.full((LEAVES,), PIXELS * known))


class TestBetaBinomial(OfFamilyTests):
    values = torch.arange(7.0)
    outside = (math.nan, math.inf, 0.5, -1.0, 7.0)
    test_is_that_of_columns_of_its_unit = None  # there are no such columns

    def make(self):
        return BetaBinomial(6)

    def test_parameters(self, part):
        a, b = (0.001 + math.log1p(math.exp(t)) for t in (0.5, -0.5))
        outputs = (torch.full((LEAVES, PIXELS), 0.5), torch.full((LEAVES, PIXELS), -0.5))
        known = scipy.stats.betabinom(6, a, b).logpmf(2)
        assert_close(part(outputs).log_prob(torch.full((LEAVES, PIXELS), 2.0)), torch.full((LEAVES,), PIXELS * known))


REFUSED = [
    (lambda: StudentT(math.nan), "location is nan; a finite number is needed"),
    (lambda: StudentT(0.0, 0.0), "scale is 0.0; a number above 0 is needed"),
    *((lambda kind=kind: kind(0.0), "location is 0.0; a number above 0 is needed")
      for kind in (Gamma, Poisson, NegativeBinomial)),
    (lambda: Beta(1.0), "location is 1.0; a number from 0.001 to 0.999 is needed"),
    (lambda: BetaBinomial(0), "total_count is 0; a positive integer is needed"),
]  # fmt: skip


@pytest.mark.parametrize(("make_one", "message"), REFUSED)
def test_refused_options(make_one, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make_one()

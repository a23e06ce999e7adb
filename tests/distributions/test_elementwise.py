# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Leaf distributions of real, positive and proportional values and of counts, against torch's and SciPy's."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch.testing import assert_close

from pyro_spvae.distributions import (
    LeafBeta,
    LeafBetaBinomial,
    LeafCategorical,
    LeafGamma,
    LeafLogNormal,
    LeafNegativeBinomial,
    LeafPoisson,
    LeafStudentT,
    ordinal_log_probs,
)
from tests.distributions.leaf_cases import BATCH, SIZE, MaskedLeafDistributionTests

INF = float("inf")


class TestLeafStudentT(MaskedLeafDistributionTests):
    def parameters(self, *batch):
        shape = (*batch, SIZE)
        return {"df": 6 + 3 * torch.rand(shape), "loc": torch.randn(shape), "scale": 0.3 + torch.rand(shape)}

    def build(self, parameters, mask=None):
        return LeafStudentT(**parameters, mask=mask)

    def reference(self, parameters):
        return dist.StudentT(**parameters)

    def test_density_is_that_of_scipy(self):
        p, x = self.parameters(*BATCH), self.values(*BATCH, SIZE)
        known = scipy.stats.t(p["df"].numpy(), p["loc"].numpy(), p["scale"].numpy()).logpdf(x.numpy())
        assert_close(self.build(p).by_pixel(x), torch.from_numpy(known), rtol=1e-12, atol=1e-12)


class TestLeafGamma(MaskedLeafDistributionTests):
    bad_values = (0.0, -1.0, math.nan)

    def parameters(self, *batch):
        return {"concentration": 1.2 + torch.rand(*batch, SIZE), "rate": 0.5 + torch.rand(*batch, SIZE)}

    def build(self, parameters, mask=None):
        return LeafGamma(**parameters, mask=mask)

    def reference(self, parameters):
        return dist.Gamma(**parameters)

    def test_many_units_of_scale_away_from_zero_in_single_precision(self):
        mean, deviation = 1e4, torch.tensor([300.0, 10.0])
        concentration = (mean / deviation).square()
        x = mean + deviation * torch.tensor([1.5, -2.0])
        found = LeafGamma(concentration, concentration / mean).by_pixel(x)
        a, b = concentration.double().numpy(), (concentration / mean).double().numpy()
        known = scipy.stats.gamma(a, scale=1 / b).logpdf(x.double().numpy())
        single = LeafGamma(concentration.float(), (concentration / mean).float()).by_pixel(x.float())
        assert_close(found.double(), torch.from_numpy(known), rtol=1e-9, atol=1e-9)
        assert_close(single.double(), torch.from_numpy(known), rtol=2e-4, atol=2e-4)

    def test_draws_and_modes_stay_inside_of_the_support(self):
        for dtype in (torch.float32, torch.float64):
            d = LeafGamma(torch.full((SIZE,), 1e-3, dtype=dtype), torch.ones(SIZE, dtype=dtype))
            assert (d.sample((1000,)) > 0).all() and (d.mode > 0).all() and d.log_prob(d.mode).isfinite()


class TestLeafLogNormal(MaskedLeafDistributionTests):
    bad_values = (0.0, -1.0, math.nan)

    def parameters(self, *batch):
        return {"loc": 0.5 * torch.randn(*batch, SIZE), "scale": 0.3 + 0.2 * torch.rand(*batch, SIZE)}

    def build(self, parameters, mask=None):
        return LeafLogNormal(**parameters, mask=mask)

    def reference(self, parameters):
        return dist.LogNormal(**parameters)

    def test_moments_beyond_the_largest_number_are_that_number(self):
        d = LeafLogNormal(torch.full((1,), 20.0).float(), torch.full((1,), 20.0).float())
        largest = torch.finfo(torch.float32).max
        assert d.mean == largest and d.variance == largest and d.sample((1000,)).isfinite().all()


class TestLeafBeta(MaskedLeafDistributionTests):
    has_meta_draws = False
    bad_values = (-0.1, 1.1, math.nan)

    def parameters(self, *batch):
        shape = (*batch, SIZE)
        return {"concentration1": 1.5 + 2 * torch.rand(shape), "concentration0": 1.5 + torch.rand(shape)}

    def build(self, parameters, mask=None):
        return LeafBeta(**parameters, mask=mask)

    def reference(self, parameters):
        return dist.Beta(**parameters)

    def test_modes_at_the_ends_lie_inside(self):
        a, b = torch.tensor([0.5, 2.0, 0.5, 1.0]), torch.tensor([2.0, 0.5, 0.4, 3.0])
        d = LeafBeta(a, b)
        assert ((d.mode < 0.5) == torch.tensor([True, False, False, True])).all()
        assert ((d.mode > 0) & (d.mode < 1)).all() and d.log_prob(d.mode).isfinite()
        small = LeafBeta(torch.full((SIZE,), 1e-3).float(), torch.full((SIZE,), 1e-3).float()).sample((1000,))
        assert ((small > 0) & (small < 1)).all()


class CountCases(MaskedLeafDistributionTests):
    has_entropy = False
    bad_values: tuple[float, ...] = (0.5, -1.0, math.nan)


class TestLeafPoisson(CountCases):
    def parameters(self, *batch):
        return {"rate": 0.5 + 3 * torch.rand(*batch, SIZE)}

    def build(self, parameters, mask=None):
        return LeafPoisson(**parameters, mask=mask)

    def reference(self, parameters):
        return dist.Poisson(**parameters)

    def test_large_counts_in_single_precision(self):
        x = torch.tensor([9800.0, 10000.0, 10300.0])
        known = scipy.stats.poisson(1e4).logpmf(x.numpy())
        found = LeafPoisson(torch.full((3,), 1e4).float()).by_pixel(x.float())
        assert_close(found.double(), torch.from_numpy(known), rtol=1e-6, atol=1e-6)


class TestLeafNegativeBinomial(CountCases):
    def parameters(self, *batch):
        return {"total_count": 1.5 + 3 * torch.rand(*batch, SIZE), "logits": 0.5 * torch.randn(*batch, SIZE)}

    def build(self, parameters, mask=None):
        return LeafNegativeBinomial(**parameters, mask=mask)

    def reference(self, parameters):
        return dist.NegativeBinomial(**parameters)

    def test_masses_are_those_of_scipy(self):
        p, x = self.parameters(*BATCH), self.values(*BATCH, SIZE)
        known = scipy.stats.nbinom(p["total_count"].numpy(), (-p["logits"]).sigmoid().numpy()).logpmf(x.numpy())
        assert_close(self.build(p).by_pixel(x), torch.from_numpy(known), rtol=1e-10, atol=1e-10)

    def test_is_a_poisson_distribution_where_it_is_not_dispersed(self):
        count, mean, x = torch.full((4,), 1e7), 1e3, torch.tensor([900.0, 1000.0, 1001.0, 1100.0])
        found = LeafNegativeBinomial(count, torch.log(mean / count)).by_pixel(x)
        assert_close(found, LeafPoisson(torch.full((4,), mean)).by_pixel(x), rtol=0, atol=1e-3)


class TestLeafBetaBinomial(CountCases):
    bad_values = (0.5, -1.0, 6.0, math.nan)

    def parameters(self, *batch):
        shape = (*batch, SIZE)
        return {"concentration1": 1.5 + 2 * torch.rand(shape), "concentration0": 1.5 + torch.rand(shape)}

    def build(self, parameters, mask=None):
        return LeafBetaBinomial(5, **parameters, mask=mask)

    def reference(self, parameters):
        return dist.BetaBinomial(*parameters.values(), total_count=5)

    def test_masses_are_those_of_scipy(self):
        p, x = self.parameters(*BATCH), self.values(*BATCH, SIZE)
        known = scipy.stats.betabinom(5, *(value.numpy() for value in p.values())).logpmf(x.numpy())
        assert_close(self.build(p).by_pixel(x), torch.from_numpy(known), rtol=1e-10, atol=1e-10)

    def test_modes_of_all_forms(self):
        a, b = torch.tensor([0.3, 0.8, 3.0, 0.5, 4.0, 1.0]), torch.tensor([0.6, 0.3, 2.5, 4.0, 0.9, 1.0])
        masses = LeafBetaBinomial(5, a, b).by_pixel(torch.arange(6.0).unsqueeze(-1))
        mode = LeafBetaBinomial(5, a, b).mode
        assert_close(masses.gather(0, mode.long().unsqueeze(0))[0], masses.amax(0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("levels", [2, 3, 6])
def test_ordered_categories_are_cuts_of_a_logistic_variable(levels):
    first, gaps = torch.randn(7, 5), 0.1 + torch.rand(7, 5, levels - 2)
    cuts = torch.cat([torch.full((7, 5, 1), -INF), first.unsqueeze(-1)], -1)
    cuts = torch.cat([cuts, first.unsqueeze(-1) + gaps.cumsum(-1), torch.full((7, 5, 1), INF)], -1)
    known = scipy.stats.logistic.cdf(cuts[..., 1:]) - scipy.stats.logistic.cdf(cuts[..., :-1])
    found = ordinal_log_probs(first, gaps)
    assert_close(found.exp(), torch.from_numpy(known), rtol=1e-12, atol=1e-12)
    assert_close(found.logsumexp(-1), torch.zeros(7, 5), rtol=0, atol=1e-12)


def test_ordered_categories_far_from_the_cuts_are_finite_in_single_precision():
    first, gaps = torch.tensor([-60.0, 60.0]), torch.full((2, 2), 1e-3)
    found = ordinal_log_probs(first.float(), gaps.float().requires_grad_())
    assert_close(found.double(), ordinal_log_probs(first, gaps), rtol=1e-5, atol=1e-5)
    assert found.isfinite().all() and torch.equal(found.argmax(-1), torch.tensor([3, 0]))
    law = LeafCategorical(found.detach())
    assert torch.equal(law.mode, torch.tensor([3.0, 0.0]).float())


REFUSED = [
    (ValueError, "parameters of LeafGamma must broadcast", lambda: LeafGamma(torch.ones(2, 4), torch.ones(3, 4))),
    *((ValueError, "total_count of LeafBetaBinomial is", lambda n=n: LeafBetaBinomial(n, torch.ones(4), torch.ones(4)))
      for n in (0, 2.5)),
]  # fmt: skip


@pytest.mark.parametrize(("error", "message", "make"), REFUSED)
def test_refusals(error, message, make):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("df", [1e4, 1e6, 1e8])
def test_many_degrees_of_freedom_in_single_precision(df):
    """Logarithms of Gamma functions cancel."""
    law = LeafStudentT(*(torch.tensor([value], dtype=torch.float32) for value in (df, 0.0, 1.0)))
    found = law.log_prob(torch.tensor([1.3], dtype=torch.float32))
    assert float(found) == pytest.approx(scipy.stats.t(df).logpdf(1.3), abs=2e-6)

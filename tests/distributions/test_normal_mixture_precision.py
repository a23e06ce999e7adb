# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Densities of mixtures of normals where expanding a square loses digits."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal
from torch.testing import assert_close

from pyro_spvae.distributions import LeafNormalMixture
from pyro_spvae.distributions import normal_mixture as module
from tests.distributions.test_normal_mixture import D, L, parameters


def direct(loc, scale, value):
    """Of one leaf and equal weights, in double precision whatever is given: ``[N]``."""
    loc, scale, value = loc.double()[:, 0], scale.double()[:, 0], value.double()[:, 0]
    terms = Normal(loc, scale).log_prob(value.unsqueeze(1)).sum(-1)
    return terms.logsumexp(-1) - math.log(len(loc))


def by_products(d, z, dtype=torch.float32):
    """Log-densities of one leaf by products of a precision ``[N]``, and the estimate of what rounding takes."""
    *matrices, squares = d._matrices(torch.Size((1,)), dtype)
    result, quadratic = module._by_products(z.transpose(0, 1), *matrices)
    return result[0], module._rounding(result, quadratic, squares)


@pytest.fixture(params=["chosen by what is lost", "double precision without a look", "recorded by a tracer"])
def arithmetic(request, monkeypatch):
    """On the CPU, on devices that would have to be waited for, and in a program for values that are not known yet."""
    if request.param != "chosen by what is lost":
        monkeypatch.setattr(module, "_rounding", None)
    if request.param == "double precision without a look":
        monkeypatch.setattr(module, "_READABLE", ())
    if request.param == "recorded by a tracer":
        monkeypatch.setattr(torch.jit, "is_tracing", lambda: True)


class TestPrecision:
    """Squares that are expanded lose digits; float32 must not show it."""

    cases = {  # distance of the means from their average, standard deviations, size
        "far": (300.0, 1.0, 4),
        "tiny": (3.0, 0.003, 4),
        "tiny and far": (100.0, 0.001, 10),
        "posteriors": (3.0, 0.05, 40),
        "one scale for each": (30.0, None, 6),
    }

    def case(self, name):
        far, scale, size = self.cases[name]
        loc = far * torch.randn(20, 1, size)
        deviation = 10 ** (4 * torch.rand(20, 1, size) - 3) if scale is None else torch.full((20, 1, size), scale)
        component = torch.randint(20, (100,))
        z = loc[component] + deviation[component] * torch.randn(100, 1, size)
        # the distribution that float32 can hold, and its own values
        return loc.float(), deviation.float(), z.float()

    @pytest.mark.parametrize("name", cases)
    def test_plain_expansion_is_off_and_known_to_be(self, name):
        loc, scale, z = self.case(name)
        d = LeafNormalMixture(loc, scale)
        naive, error = by_products(d, z)
        off = (naive.double().logsumexp(-1) - direct(loc, scale, z)).abs().max()
        assert off > 1e-3 and error > 1e-3, "the plain expansion is off"

    @pytest.mark.parametrize("name", cases)
    def test_is_right(self, name, arithmetic):
        loc, scale, z = self.case(name)
        d, expected = LeafNormalMixture(loc, scale), direct(loc, scale, z)
        found = d.log_prob(z)[:, 0]
        assert found.dtype == torch.float32
        allowed = 1e-3 + 2e-7 * expected.abs()
        assert ((found.double() - expected).abs() < allowed).all()

    @pytest.mark.parametrize("name", cases)
    def test_gradients(self, name, arithmetic):
        loc, scale, z = (value.requires_grad_() for value in self.case(name))
        ours = torch.autograd.grad(LeafNormalMixture(loc, scale).log_prob(z).sum(), (loc, scale, z))
        theirs = torch.autograd.grad(direct(loc, scale, z).sum(), (loc, scale, z))
        for one, other in zip(ours, theirs, strict=True):
            assert one.dtype == torch.float32
            assert ((one - other).abs() <= 1e-4 * other.abs().max()).all()

    def test_is_as_right_as_it_says_wherever_it_is_used(self):
        """Random scales of everything: never off by more than 0.001 nats beyond float32's own digits."""
        fell_back = []
        for _ in range(300):
            components, size = int(torch.randint(1, 30, ())), int(torch.randint(1, 60, ()))
            far, low = 10 ** (4 * torch.rand(()) - 2), 3.0 * torch.rand(())
            loc = far * torch.randn(components, 1, size)
            scale = 10 ** ((low + 0.5) * torch.rand(components, 1, size) - low)
            z = loc[torch.randint(components, (20,))]
            z = z + scale[torch.randint(components, (20,))] * torch.randn(20, 1, size)
            loc, scale, z = loc.float(), scale.float(), z.float()
            d = LeafNormalMixture(loc, scale)
            expected = direct(loc, scale, z)
            off = (d.log_prob(z)[:, 0].double() - expected).abs() - 4e-7 * expected.abs()
            assert off.max() < 1.5e-3, (components, size, far, low)
            fell_back.append(any(key[1] == torch.float64 for key in d._kept))
        assert 50 < sum(fell_back) < 290, "both ways are taken"

    def test_single_precision_is_kept_where_it_suffices(self):
        loc, scale, z = torch.randn(20, 1, 8), 0.5 + torch.rand(20, 1, 8), torch.randn(50, 1, 8)
        d = LeafNormalMixture(loc.float(), scale.float())
        found = d.log_prob(z.float())[:, 0]
        assert [key[1] for key in d._kept] == [torch.float32]
        assert_close(found.double(), direct(loc, scale, z), rtol=0, atol=1e-4)

    def test_the_likeliest_component_hidden_by_rounding_is_found(self):
        """Float32 may take the tight component, likeliest by far, for one that is out of the question."""
        missed = 0
        for place in torch.linspace(900, 1100, 41).tolist():
            loc = torch.tensor([place, -1000.0]).reshape(2, 1, 1).float()
            scale = torch.tensor([1e-3, 1000.0]).reshape(2, 1, 1).float()
            d, z = LeafNormalMixture(loc, scale), loc[:1]
            missed += int(by_products(d, z)[0][0].argmax() == 1)
            assert_close(d.log_prob(z)[:, 0].double(), direct(loc, scale, z), rtol=0, atol=1e-3)
        assert missed > 0, "the case does not come up"

    def test_double_precision_falls_back_to_differences(self):
        loc = torch.tensor([1e5, -1e5]).reshape(2, 1, 1) + 0.1
        scale = torch.full((2, 1, 1), 1e-5)
        z = (loc[0] + 2e-5).unsqueeze(0)
        d = LeafNormalMixture(loc, scale)
        naive, error = by_products(d, z, torch.float64)
        expected = direct(loc, scale, z)
        assert error > 1e-3 and (naive.logsumexp(-1) - expected).abs() > 1e-3
        assert_close(d.log_prob(z)[:, 0], expected, rtol=1e-9, atol=1e-9)

    def test_float32_whose_precisions_overflow(self, arithmetic):
        loc, scale = torch.tensor([[[0.0]], [[1e-22]]]), torch.full((2, 1, 1), 1e-22)
        z = torch.tensor([[0.0], [2e-22]]).unsqueeze(1)
        found = LeafNormalMixture(loc.float(), scale.float()).log_prob(z.float())[:, 0]
        assert_close(found.double(), direct(loc, scale, z), rtol=1e-6, atol=1e-5)

    @pytest.mark.parametrize("name", cases)
    def test_by_differences(self, name):
        loc, scale, z = self.case(name)
        log_weight = torch.full((20, 1), -math.log(20)).float()
        found = module._by_differences(z.transpose(0, 1), loc, scale, log_weight)[0].logsumexp(-1)
        expected = direct(loc, scale, z)
        assert ((found.double() - expected).abs() < 1e-3 + 4e-7 * expected.abs()).all()

    def test_by_differences_equals_by_products(self):
        loc, scale, log_weight = parameters()
        d = LeafNormalMixture(loc, scale, log_weight)
        v = torch.randn(L, 7, D)
        products, _ = module._by_products(v, *d._matrices(torch.Size((L,)), torch.float64)[:-1])
        differences = module._by_differences(v, *d._flat(torch.Size((L,))))
        assert_close(products, differences, rtol=1e-11, atol=1e-11)

    def test_estimate_of_the_error_is_of_its_size(self):
        loc, scale, z = self.case("posteriors")
        d = LeafNormalMixture(loc, scale)
        naive, error = by_products(d, z)
        off = (naive.double().logsumexp(-1) - direct(loc, scale, z)).abs().max()
        assert off / 3 < error < 10 * off
        # one component likeliest by far, where square and constant cancel: both are rounded
        d = LeafNormalMixture(
            torch.tensor([100.0, -100.0]).reshape(2, 1, 1).float(), torch.full((2, 1, 1), 0.01).float()
        )
        _, error = by_products(d, d.loc[:1])
        assert error.item() == pytest.approx(2e8 * torch.finfo(torch.float32).eps, rel=0.05)

    def test_samples_of_a_value_not_seen_are_no_reason_to_stop(self):
        d = LeafNormalMixture(*parameters(), validate_args=False)
        assert d.log_prob(torch.full((5, L, D), torch.nan)).isnan().all()
        assert (d.log_prob(torch.full((5, L, D), 1e200)) < -1e300).all()

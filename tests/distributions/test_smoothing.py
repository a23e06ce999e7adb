# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Smoothing transformations one by one, against quadrature."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import constraints
from torch.testing import assert_close

from pyro_spvae.distributions import (
    FactorialBernoulli,
    OverlappingExponentials,
    OverlappingLogistics,
    PowerFunctions,
    SmoothedBernoulli,
    SpikeAndExponential,
)
from pyro_spvae.distributions.smoothing import Smoothing
from tests.distributions.smoothing_cases import LOGITS, RHO, SmoothingTests, noise


class QuantileTests(SmoothingTests):
    """Of those whose quantile function is known."""

    def test_both_routes_have_one_gradient(self, r):
        """Autograd through the quantile function, and the implicit gradient."""
        logits = LOGITS.expand(-1, len(RHO)).clone().requires_grad_()
        zeta = r.quantile(logits, RHO)
        (slope,) = torch.autograd.grad(zeta.sum(), logits)
        value, by_hand = r.draw(LOGITS, RHO.expand(logits.shape))
        assert_close(value, zeta.detach())
        assert_close(by_hand, slope, rtol=1e-8, atol=1e-12)
        assert_close(r.implicit_slope(LOGITS, value), slope, rtol=1e-8, atol=1e-10)

    def test_routes_agree_in_single_precision(self):
        logits, rho = torch.meshgrid(torch.linspace(-20, 20, 41), torch.linspace(1e-3, 0.999, 201), indexing="ij")
        for beta in (1.0, 8.0, 40.0):
            r = self.cls(beta)
            zeta, slope = r.draw(logits.float(), rho.float())
            exact = r.draw(logits.float().double(), rho.float().double())
            assert_close(slope.double(), exact[1], rtol=0.02, atol=1e-4)
            assert float((zeta - exact[0]).abs().mean()) < 1e-4


class TestOverlappingExponentials(QuantileTests):
    cls = OverlappingExponentials

    def test_published_divergences(self):
        """KL of the marginals of q = 0.7 and p = 0.3, which approaches 0.3389, that of the bits."""
        q, p = torch.tensor([0.7]).logit(), torch.tensor([0.3]).logit()
        for beta, wanted in ((4.0, 0.214), (8.0, 0.319), (16.0, 0.3385)):
            r = self.cls(beta)
            found = self.expectation(r, q, lambda zeta: r.log_prob(q, zeta) - r.log_prob(p, zeta))  # noqa: B023
            assert float(found) == pytest.approx(wanted, abs=5e-4)

    def test_quantile_is_the_published_one(self):
        """Eq. (3) as printed, in double precision and at a temperature at which that is precise."""
        r, q, e = self.cls(3.0), LOGITS.sigmoid(), torch.tensor(-3.0).exp()
        b, c = (RHO + e * (q - RHO)) / (1 - q) - 1, -q * e / (1 - q)
        printed = -((-b + (b * b - 4 * c).sqrt()) / 2).log() / 3
        assert_close(self.draws(r, LOGITS), printed, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("beta", [200.0, 1e6])
    def test_any_inverse_temperature_is_finite(self, beta):
        logits = LOGITS.float().requires_grad_()
        zeta = self.draws(self.cls(beta), logits, RHO.float())
        assert zeta.isfinite().all() and set(zeta.round().unique().tolist()) == {0.0, 1.0}


class TestOverlappingLogistics(QuantileTests):
    cls = OverlappingLogistics

    def nodes(self, r):
        end = 40 / float(r.beta)
        zeta = torch.linspace(-end, 1 + end, 8001)
        return zeta, torch.full_like(zeta, (1 + 2 * end) / 8000)

    def test_is_a_mixture_of_logistic_distributions(self):
        r = self.cls(4.0)
        zeta = torch.linspace(-1, 2, 50)
        wanted = torch.distributions.TransformedDistribution(
            torch.distributions.Uniform(torch.zeros(2), 1.0),
            [
                torch.distributions.SigmoidTransform().inv,
                torch.distributions.AffineTransform(torch.tensor([0.0, 1.0]), 0.25),
            ],
        ).log_prob(zeta.unsqueeze(-1))
        assert_close(torch.stack(r.log_density(zeta), -1), wanted)


class TestPowerFunctions(SmoothingTests):
    cls = PowerFunctions
    betas = (1.0, 1.4, 2.0)
    quadrature_error = 1e-7

    def test_round_trip_in_single_precision(self):
        """A bit first and the variable given it: of each the part of the noise that is its own."""
        logits = torch.linspace(-3, 3, 81, dtype=torch.float32).reshape(-1, 1)
        rho = torch.linspace(1e-3, 0.99, 401, dtype=torch.float32)
        r = self.cls(1.2)
        zeta = self.draws(r, logits, rho).double()
        p = (-logits.double()).sigmoid()
        level = torch.where(rho > p, p + (1 - p) * r.cdf(zeta)[1], p * r.cdf(zeta)[0])
        assert float((level - rho)[(rho - p).abs() > 1e-6].abs().max()) <= 2e-6

    def test_components_are_mirror_images(self):
        r, zeta = self.cls(3.0), torch.linspace(0.01, 0.99, 50)
        assert_close(r.log_density(zeta)[1], r.log_density(1 - zeta)[0])
        assert_close(r.cdf(zeta)[1], 1 - r.cdf(1 - zeta)[0])
        assert_close(r.log_density(zeta)[0], torch.distributions.Beta(torch.tensor(1 / 3), 1.0).log_prob(zeta))

    def test_draws_at_the_ends_have_no_gradient(self):
        logits = torch.zeros(1, 1, dtype=torch.float32)
        zeta, slope = self.cls(40.0).draw(logits, RHO.float().unsqueeze(0))
        ends = (zeta == torch.finfo(zeta.dtype).tiny) | (zeta == 1 - torch.finfo(zeta.dtype).eps / 2)
        assert ends.any() and (~ends).any() and (slope[ends] == 0).all() and (slope[~ends] > 0).all()


class TestSpikeAndExponential(SmoothingTests):
    cls = SpikeAndExponential
    components = (1,)

    def expectation(self, r, logits, function):
        return super().expectation(r, logits, function) + self.at_the_spike(r, logits, function)

    def at_the_spike(self, r, logits, function):
        zero = torch.zeros(1)
        return (function(zero) * r.log_prob(logits, zero).exp()).sum(-1)

    def above_atoms(self, zeta):
        return zeta > 0

    def test_posterior_is_that_of_bayes(self, r):
        zeta = torch.tensor([0.0, 1e-300, 0.5, 1.0])
        assert torch.equal(r.posterior(LOGITS, zeta), torch.tensor([0.0, 1.0, 1.0, 1.0]).expand(5, 4))
        assert torch.equal((LOGITS + r.log_ratio(zeta)).sigmoid(), r.posterior(LOGITS, zeta))

    def test_draws_are_those_of_rolfe(self, r):
        q, beta = LOGITS.sigmoid(), r.beta
        printed = torch.where(RHO > 1 - q, (((RHO + q - 1) / q).clamp(min=0) * torch.expm1(beta) + 1).log() / beta, 0.0)
        assert_close(self.draws(r, LOGITS), printed, rtol=1e-9, atol=1e-9)

    def test_rounding_takes_no_one_to_the_spike(self):
        rho = 0.5 + torch.arange(1, 9, dtype=torch.float32) * 2**-24
        assert (rho > 0.5).all()
        for beta in torch.arange(1.0, 20.0, 0.37).tolist():
            r = self.cls(beta)
            assert (r.rsample(torch.zeros(8, dtype=torch.float32), rho) > 0).all()
            assert (r.conditional(torch.ones(8), torch.logspace(-9, -6, 8, dtype=torch.float32)) > 0).all()

    @pytest.mark.parametrize("logit", [-2.0, 0.3, 4.0])
    def test_derivative_by_hand_is_unbiased(self, r, logit):
        r"""The gradient of :math:`E[z\, g(\zeta)]`, where :math:`g` looks at the same variable and at others."""
        logits = torch.tensor([logit]).requires_grad_()
        function = lambda zeta: (3 * zeta).cos() + 0.4  # noqa: E731
        rho, share = noise(logits.detach())
        zeta = r.rsample(logits, rho)
        (found,) = torch.autograd.grad((share * r.posterior(logits, zeta) * function(zeta)).sum(), logits)
        nodes, weight = self.nodes(r)
        above = (function(nodes) * weight * r.log_density(nodes)[1].exp()).sum()
        q = logits.detach().sigmoid()
        assert_close(found, q * (1 - q) * above, rtol=1e-9, atol=1e-10)

    def test_posterior_has_no_gradient_in_the_variable(self):
        r, logits = self.cls(4.0), torch.randn(4).requires_grad_()
        zeta = torch.tensor([0.0, 0.0, 0.3, 1.0]).requires_grad_()
        by_logits, by_zeta = torch.autograd.grad(r.posterior(logits, zeta).sum(), (logits, zeta), allow_unused=True)
        assert by_zeta is None and torch.equal(by_logits[2:], torch.zeros(2))
        assert_close(by_logits[:2], logits.detach()[:2].sigmoid())

    def test_gradients_of_log_densities_in_draws_are_refused(self):
        """Those in the logits of a given value are right, and values are."""
        logits = torch.randn(3).requires_grad_()
        q = SmoothedBernoulli(logits, self.cls(4.0))
        zeta = q.rsample()
        log_prob = q.log_prob(zeta)
        with pytest.raises(ValueError, match='^the gradient of a log-density in a draw .* kl="analytic" is needed$'):
            log_prob.backward()
        (score,) = torch.autograd.grad(q.log_prob(zeta.detach()), logits)
        assert_close(score, (zeta > 0).double() - logits.sigmoid().detach())


class Triangles(Smoothing):
    """One of a user's own: only what must be defined, so that draws have implicit gradients."""

    def log_density(self, zeta):
        return (2 * (1 - zeta)).log(), (2 * zeta).log()

    def cdf(self, zeta):
        return 1 - (1 - zeta) ** 2, zeta**2

    def means(self):
        return torch.tensor(1 / 3), torch.tensor(2 / 3)

    def conditional(self, z, rho):
        return torch.where(z > 0, rho.sqrt(), 1 - (1 - rho).sqrt())


class TestOnesOwn(SmoothingTests):
    cls = Triangles
    single_betas = ()

    test_becomes_the_bits = None


def test_only_what_is_not_defined_is_missing():
    r, x = Smoothing(), torch.ones(1)
    for call in (lambda: r.log_density(x), lambda: r.cdf(x), r.means, lambda: r.conditional(x, x)):
        with pytest.raises(NotImplementedError, match="^Smoothing must define "):
            call()


def test_modes():
    """Smoothed in training, binary in evaluation."""
    r, law = OverlappingLogistics(), FactorialBernoulli(torch.randn(2, 3)).expand((4, 2))
    smooth = r(law)
    assert type(smooth) is SmoothedBernoulli and smooth.smoothing is r and smooth.logits is law.logits
    assert smooth.batch_shape == smooth.bits.batch_shape == (4, 2) and type(smooth.bits) is FactorialBernoulli
    assert r.eval()(law) is law
    assert smooth.limit_support is constraints.boolean and smooth.support.base_constraint is constraints.real


def test_parts_need_no_sizes():
    assert OverlappingExponentials().bind(leaves=3, pixels=2).sizes == {}
    assert list(OverlappingExponentials().parameters()) == []

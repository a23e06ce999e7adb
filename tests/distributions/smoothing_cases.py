# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What every smoothing transformation must satisfy; one subclass per transformation inherits all of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from torch import Tensor
from torch.testing import assert_close

from pyro_spvae.distributions import SmoothedBernoulli, bernoulli_divergence
from pyro_spvae.distributions.smoothing import Smoothing

LOGITS = torch.tensor([-6.0, -1.3, 0.0, 0.4, 5.0], dtype=torch.float64).unsqueeze(-1)  # [5, 1]
RHO = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000


def cdf(r: Smoothing, logits: Tensor, zeta: Tensor) -> Tensor:
    """The distribution function of the mixture, from those of its components."""
    of_zero, of_one = r.cdf(zeta)
    return (-logits).sigmoid() * of_zero + logits.sigmoid() * of_one


def noise(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights ``[.., 14400]`` of an integral over the uniform noise, on both sides of what parts the bits."""
    t = torch.arange(-36, 36, 0.01)
    u, weight = t.sigmoid(), 0.01 * t.sigmoid() * (-t).sigmoid()
    p, q = (-logits).sigmoid(), logits.sigmoid()
    return torch.cat((p * u, p + q * u), -1).clamp(1e-15, 1 - 1e-15), torch.cat((p * weight, q * weight), -1)


class SmoothingTests:
    """Subclasses say which transformation it is; where it has an atom they say what is integrated in its place."""

    cls: type[Smoothing]
    betas: tuple[float, ...] = (1.5, 4.0, 9.0)
    components: tuple[int, ...] = (0, 1)  # that have a density
    single_betas: tuple[float, ...] = (1.0, 5.0, 18.0, 40.0)  # at which single precision resolves the variable
    quadrature_error = 1e-10

    @pytest.fixture(params=(0, 1, 2))
    def r(self, request: pytest.FixtureRequest) -> Smoothing:
        return self.cls(self.betas[request.param])

    def nodes(self, r: Smoothing) -> tuple[Tensor, Tensor]:
        """Nodes and weights of an integral over the support: trapezoids of the logit."""
        t = torch.arange(-36, 36, 0.01)
        zeta = t.sigmoid()
        return zeta, 0.01 * zeta * (-t).sigmoid()

    def expectation(self, r: Smoothing, logits: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Of a function of the variable under the mixture, by quadrature."""
        zeta, weight = self.nodes(r)
        return (function(zeta) * weight * r.log_prob(logits, zeta).exp()).sum(-1)

    def draws(self, r: Smoothing, logits: Tensor, rho: Tensor = RHO) -> Tensor:
        return r.rsample(logits, rho.expand(*logits.shape[:-1], rho.shape[-1]))

    def above_atoms(self, zeta: Tensor) -> Tensor:
        """Where the mixture has a density."""
        return torch.ones_like(zeta, dtype=torch.bool)

    def test_densities_integrate_to_one(self, r):
        zeta, weight = self.nodes(r)
        for z in self.components:
            assert float((weight * r.log_density(zeta)[z].exp()).sum()) == pytest.approx(1, abs=self.quadrature_error)
        assert_close(
            self.expectation(r, LOGITS, torch.ones_like), torch.ones(len(LOGITS)), rtol=0, atol=self.quadrature_error
        )

    def test_distribution_functions_are_integrals_of_the_densities(self, r):
        zeta = self.nodes(r)[0][1000:-1000].clone().requires_grad_()
        for z in self.components:
            values = r.cdf(zeta)[z]
            (slope,) = torch.autograd.grad(values.sum(), zeta)
            assert_close(slope, r.log_density(zeta)[z].exp().detach(), rtol=1e-6, atol=1e-12)
        ends = self.nodes(r)[0][[0, -1]]
        for z in self.components:
            assert_close(r.cdf(ends)[z], torch.tensor([0.0, 1.0]), rtol=0, atol=self.quadrature_error)

    def test_means(self, r):
        zeta, weight = self.nodes(r)
        for z in self.components:
            wanted = float((zeta * weight * r.log_density(zeta)[z].exp()).sum())
            assert float(r.means()[z]) == pytest.approx(wanted, abs=self.quadrature_error)
        mean = SmoothedBernoulli(LOGITS, r).mean
        wanted = self.expectation(r, LOGITS, lambda zeta: zeta)
        assert_close(mean.squeeze(-1), wanted, rtol=0, atol=self.quadrature_error)

    def test_conditional_draws_are_quantiles(self, r):
        for z in self.components:
            zeta = r.conditional(torch.tensor(float(z)), RHO)
            assert r.support.check(zeta).all()
            assert_close(r.cdf(zeta)[z], RHO, rtol=0, atol=self.quadrature_error)

    def test_draws_have_the_distribution_function(self, r):
        """Kolmogorov and Smirnov's distance of a seeded sample, whose 1e-4 quantile is 2.23 / sqrt(n)."""
        count = 20_000
        zeta = SmoothedBernoulli(LOGITS, r).rsample((count,)).detach().squeeze(-1).T  # [5, count]
        assert r.support.check(zeta).all()
        level = torch.where(self.above_atoms(zeta), 1, torch.rand(zeta.shape)) * cdf(r, LOGITS, zeta)
        level = level.sort(-1).values
        grid = torch.arange(count + 1) / count
        distance = torch.maximum((level - grid[:-1]).abs(), (level - grid[1:]).abs()).amax(-1)
        assert (distance < 2.23 / count**0.5).all()

    def test_gradients_of_draws_are_implicit_ones(self, r):
        logits = LOGITS.clone().requires_grad_()
        zeta = self.draws(r, logits)
        fixed = zeta.detach().requires_grad_()
        wide = logits.expand(zeta.shape)
        by_logit, by_zeta = torch.autograd.grad(cdf(r, wide, fixed).sum(), (wide, fixed))
        inside = self.above_atoms(fixed)
        wanted = torch.where(inside, -by_logit / torch.where(inside, by_zeta, 1.0), 0.0)
        (slope,) = torch.autograd.grad(zeta.sum(), logits, retain_graph=True)
        assert_close(slope, wanted.sum(-1, keepdim=True), rtol=1e-6, atol=1e-12)
        assert_close(r.draw(LOGITS, RHO.expand(zeta.shape))[1], wanted, rtol=1e-5, atol=1e-9)

    def test_gradients_of_draws_are_differences_of_quantiles(self, r):
        """What has the same level of the distribution function at other logits, by bisection."""
        zeta, slope = r.draw(LOGITS, RHO[3::50].expand(len(LOGITS), -1))
        level, step = cdf(r, LOGITS, zeta), 1e-5
        low, high = self.nodes(r)[0][[0, -1]]
        quantiles = []
        for logits in (LOGITS - step, LOGITS + step):
            start, end = low.expand_as(level), high.expand_as(level)
            for _ in range(60):
                middle = (start + end) / 2
                start, end = (
                    torch.where(cdf(r, logits, middle) < level, middle, start),
                    torch.where(cdf(r, logits, middle) < level, end, middle),
                )
            quantiles.append(middle)
        differences = (quantiles[1] - quantiles[0]) / (2 * step)
        inside = self.above_atoms(zeta) & (quantiles[0] > low)
        assert inside.sum() > 80
        assert_close(slope[inside], differences[inside], rtol=1e-5, atol=1e-7)

    def test_gradients_of_expectations(self, r):
        r""":math:`\partial_\ell E f(\zeta) = q (1 - q) (E[f \mid 1] - E[f \mid 0])`, both sides by quadrature."""
        logits = LOGITS.clone().requires_grad_()
        function = lambda zeta: (2 * zeta).sin() + zeta.square() / 3  # noqa: E731
        rho, weight = noise(LOGITS)
        (slope,) = torch.autograd.grad((weight * function(r.rsample(logits, rho))).sum(), logits)
        (wanted,) = torch.autograd.grad(self.expectation(r, logits, function).sum(), logits)
        assert_close(slope, wanted, rtol=1e-6, atol=self.quadrature_error)

    def test_posterior_is_that_of_bayes(self, r):
        zeta = self.nodes(r)[0][1000:-1000:7]
        of_zero, of_one = (density.exp() for density in r.log_density(zeta))
        p, q = (-LOGITS).sigmoid(), LOGITS.sigmoid()
        assert_close(r.posterior(LOGITS, zeta), q * of_one / (p * of_zero + q * of_one), rtol=1e-9, atol=1e-12)
        mean = self.expectation(r, LOGITS, lambda zeta: r.posterior(LOGITS, zeta))
        assert_close(mean, q.squeeze(-1), rtol=0, atol=self.quadrature_error)

    def test_becomes_the_bits(self):
        r = self.cls(1e4)
        zeta = self.draws(r, LOGITS)
        bits = (RHO > (-LOGITS).sigmoid()).double()
        assert float((zeta - bits).abs().mean()) < 1e-3 and set(bits.unique().tolist()) == {0.0, 1.0}
        assert_close(torch.stack(r.means()), torch.tensor([0.0, 1.0]), rtol=0, atol=1.1e-4)

    def test_divergence_of_marginals_is_smaller_than_that_of_the_bits(self):
        q, p = torch.tensor([0.7]).logit(), torch.tensor([0.3]).logit()
        joint, found = float(bernoulli_divergence(q, p)), []
        for beta in self.betas:
            r = self.cls(beta)
            found.append(float(self.expectation(r, q, lambda zeta: r.log_prob(q, zeta) - r.log_prob(p, zeta))))  # noqa: B023
        assert joint == pytest.approx(0.4 * torch.tensor(7 / 3).log())
        assert -1e-12 < found[0] <= found[1] + 1e-7 and found[1] <= found[2] + 1e-7 and found[2] <= joint + 1e-7

    def test_single_precision_is_finite(self):
        logits = torch.linspace(-20, 20, 81, dtype=torch.float32).reshape(-1, 1).requires_grad_()
        rho = torch.cat([torch.linspace(1e-6, 1 - 1e-6, 401), torch.tensor([1e-6, 1 - 1e-6, 0.5])]).float()
        for beta in (1.0, 2.5, 5.0, 8.0, 18.0, 40.0):
            r = self.cls(beta)
            zeta = self.draws(r, logits, rho)
            value = zeta.detach().requires_grad_(self.components == (0, 1))
            log_prob = r.log_prob(logits, value)
            tensors = (logits, value) if value.requires_grad else (logits,)
            gradients = torch.autograd.grad(log_prob.sum(), tensors)
            for tensor in (zeta, log_prob, *torch.autograd.grad(zeta.sum(), logits), *gradients):
                assert tensor.dtype == torch.float32 and tensor.isfinite().all(), beta
            assert r.support.check(zeta).all()

    def test_round_trip_in_single_precision(self):
        logits = torch.linspace(-20, 20, 81, dtype=torch.float32).reshape(-1, 1)
        rho = torch.linspace(1e-5, 1 - 1e-5, 401, dtype=torch.float32)
        for beta in self.single_betas:
            r = self.cls(beta)
            zeta = self.draws(r, logits, rho)
            level = torch.where(self.above_atoms(zeta), cdf(r, logits.double(), zeta.double()), rho)
            assert float((level - rho).abs().max()) <= 2e-6, beta

    def test_noise_and_logits_broadcast(self, r):
        logits = torch.randn(2, 1, 3).requires_grad_()
        rho = torch.rand(4, 2, 5, 3)
        weight = torch.randn(rho.shape)
        wide = logits.detach().expand(rho.shape).clone().requires_grad_()
        found = torch.autograd.grad((weight * r.rsample(logits, rho)).sum(), logits)[0]
        wanted = torch.autograd.grad((weight * r.rsample(wide, rho)).sum(), wide)[0]
        assert_close(found, wanted.sum((0, 2)).unsqueeze(1))

    def test_is_recorded_by_the_tracer(self, r):
        """Where no hand-written derivative is kept, values and gradients are the same."""
        logits, rho = torch.randn(2, 3).requires_grad_(), torch.rand(2, 3)
        with pytest.warns(DeprecationWarning, match="jit.trace"):
            traced = torch.jit.trace(lambda logits, rho: r.rsample(logits, rho), (logits, rho))
        for seed in range(2):
            torch.manual_seed(seed)
            logits, rho = torch.randn(2, 3).requires_grad_(), torch.rand(2, 3)
            zeta, again = r.rsample(logits, rho), traced(logits, rho)
            assert_close(again, zeta)
            assert_close(torch.autograd.grad(again.sum(), logits), torch.autograd.grad(zeta.sum(), logits))

    def test_is_followed_by_its_provenance(self, r):
        """Of the subclass of tensors by which Pyro's TraceGraph_ELBO follows draws, values keep their gradient."""
        logits, rho = torch.randn(3).requires_grad_(), torch.rand(3)
        zeta = r.rsample(track_provenance(logits, frozenset({"a"})), rho)
        assert get_provenance(zeta) == {"a"}
        (found,) = torch.autograd.grad(detach_provenance(zeta.sum()), logits)
        assert_close(detach_provenance(found), torch.autograd.grad(r.rsample(logits, rho).sum(), logits)[0])

    def test_annealing(self):
        r = self.cls((5.0, 12.0))
        for progress in (0.0, 0.25, 1.0):
            r.advance(progress)
            assert float(r.beta) == 5 + 7 * progress
        again = self.cls((5.0, 12.0))
        again.load_state_dict(r.state_dict())
        assert float(again.beta) == 12 and list(r.state_dict()) == ["inverse_temperature"]
        fixed = self.cls(3.0)
        fixed.advance(0.5)
        assert float(fixed.beta) == 3 and "beta=3.0" in repr(fixed) and "beta=(5.0, 12.0)" in repr(r)

    def test_looks_at_no_value(self):
        with torch.device("meta"):
            r = self.cls((5.0, 12.0))
            r.advance(0.5)
            logits = torch.randn(3, 1, 4).requires_grad_()
            q = SmoothedBernoulli(logits, r, validate_args=False).expand((5, 3, 2))
            zeta = q.rsample()
            value = zeta if self.components == (0, 1) else zeta.detach()
            (q.log_prob(value).sum() + zeta.sum() + r.posterior(logits, zeta).sum() + q.mean.sum()).backward()
        assert logits.grad is not None and logits.grad.is_meta and zeta.shape == (5, 3, 2, 4)

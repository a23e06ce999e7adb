# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The Kumaraswamy distribution and its divergence against quadrature, where torch's is lost to rounding too."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pyro.distributions import Beta
from scipy import integrate
from torch.distributions import kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_spvae.distributions import Kumaraswamy, divergence
from pyro_spvae.distributions.kept import log1mexp
from pyro_spvae.distributions.kumaraswamy import _quantile

PARAMETERS = [(1.0, 1.0), (2.0, 3.0), (0.5, 0.5), (5.0, 0.5), (0.05, 0.05), (10.0, 0.1), (0.05, 50.0), (20.0, 5.0)]
PRIORS = [(1.0, 1.0), (1.0, 5.0), (2.0, 1.0), (3.0, 0.5), (1.0, 17.0)]


def law(a, b, dtype=torch.float64, **options):
    return Kumaraswamy(torch.tensor(a, dtype=dtype), torch.tensor(b, dtype=dtype), **options)


def expectation(a, b, function):
    """
    E f(log v, log(1 - v), log(1 - v^a)), by an adaptive rule over pieces of the exponential noise that a value is made
    of, in extended precision where the floating-point type has it.
    """

    def integrand(t):
        tail = np.longdouble(-t) / b
        log_value = np.log1p(-np.exp(tail)) / a if tail < -0.7 else np.log(-np.expm1(tail)) / a
        far = tail < -30
        rest = tail - np.log(np.longdouble(a)) if far else np.log(-np.expm1(log_value))
        return float(np.exp(-t) * function(log_value, rest, tail))

    ends = [0.0, *np.logspace(-40, 2.8, 260)]
    return sum(integrate.quad(integrand, start, end)[0] for start, end in zip(ends[:-1], ends[1:], strict=True))


@pytest.mark.parametrize(("a", "b"), PARAMETERS)
class TestMoments:
    def test_are_those_of_quadrature(self, a, b):
        q = law(a, b)
        found = [q.mean, q.moment(2), q.mean_log, q.mean_log_rest, -q.entropy()]
        functions = [
            lambda v, rest, tail: np.exp(v),
            lambda v, rest, tail: np.exp(2 * v),
            lambda v, rest, tail: v,
            lambda v, rest, tail: rest,
            lambda v, rest, tail: math.log(a * b) + (a - 1) * v + (b - 1) * tail,
        ]
        for value, function in zip(found, functions, strict=True):
            assert float(value) == pytest.approx(expectation(a, b, function), rel=1e-6)

    def test_in_single_precision(self, a, b):
        """The same but for rounding."""
        exact, q = law(a, b), law(a, b, torch.float32)
        for name in ("mean", "mean_log", "mean_log_rest"):
            assert float(getattr(q, name)) == pytest.approx(float(getattr(exact, name)), rel=2e-5), name
        assert float(q.entropy()) == pytest.approx(float(exact.entropy()), rel=1e-5, abs=1e-5)

    def test_draws_have_them(self, a, b):
        q = law(a, b, torch.float32)
        v = q.sample((40_000,))
        error = float((v.double().std() / 200).clamp(min=1e-4))
        assert abs(float(v.double().mean() - q.mean)) < 5 * error
        assert abs(float((v < 0.3).double().mean() - q.cdf(torch.tensor(0.3)))) < 0.015
        log_prob = q.log_prob(v).double()
        assert abs(float(-log_prob.mean() - q.entropy())) < 5 * float(log_prob.std()) / 200 + 1e-5

    @pytest.mark.parametrize(("alpha", "beta"), PRIORS)
    def test_divergence_from_a_beta(self, a, b, alpha, beta):
        p = Beta(torch.tensor(alpha), torch.tensor(beta))
        log_beta = math.lgamma(alpha) + math.lgamma(beta) - math.lgamma(alpha + beta)

        def ratio(v, rest, tail):
            log_q = math.log(a * b) + (a - 1) * v + (b - 1) * tail
            return log_q - (alpha - 1) * v - (beta - 1) * rest + log_beta

        found = kl_divergence(law(a, b), p)
        assert float(found) == pytest.approx(expectation(a, b, ratio), rel=1e-6, abs=1e-9) and found >= -1e-12
        q = law(a, b).to_event(0)
        assert torch.equal(divergence(q, p, q.sample()), found)


@pytest.mark.parametrize("a", [0.05, 0.2, 1.0, 5.0, 50.0])
@pytest.mark.parametrize("b", [0.05, 0.2, 1.0, 5.0, 50.0])
def test_values_densities_and_gradients_are_finite_in_single_precision(a, b):
    """Down to 0.05, where of torch's draws up to 42 % are 0 or 1."""
    a, b = (torch.tensor(value, dtype=torch.float32, requires_grad=True) for value in (a, b))
    q, p = Kumaraswamy(a, b, validate_args=True), Beta(torch.ones_like(a), 3 * torch.ones_like(a))
    v = q.rsample((20_000,))
    assert bool(((v > 0) & (v < 1)).all())
    terms = [v, q.log_prob(v), Kumaraswamy(a, b).log_prob(v), p.log_prob(v), q.log_prob(v.detach())]
    terms += [q.entropy(), q.mean_log, q.mean_log_rest, kl_divergence(q, p)]
    for term in terms:
        assert bool(term.isfinite().all())
        if term.requires_grad:
            grads = torch.autograd.grad(term.mean(), [a, b], retain_graph=True, allow_unused=True)
            assert all(grad is None or bool(grad.isfinite()) for grad in grads)


def test_a_draw_has_the_density_of_its_own_noise():
    """Where the value is rounded to the number below 1, its density is not."""
    q = law(5.0, 0.1, torch.float32)
    torch.manual_seed(0)
    v = q.rsample((2000,))
    noise = torch.empty(2000, dtype=torch.float32)
    torch.manual_seed(0)
    tail = -noise.exponential_().double() / 0.1
    exact = math.log(0.5) + 4 * log1mexp(tail) / 5 - 0.9 * tail
    torch.testing.assert_close(q.log_prob(v).double(), exact, rtol=1e-4, atol=1e-4)
    again = q.log_prob(v.clone()).double()
    assert float((again - exact).abs().max()) > 5 and bool((v == v.max()).sum() > 100)


def test_density_and_quantiles():
    """Integrates to 1; is the derivative of the distribution function, whose inverse gives quantiles."""
    q = law(2.0, 3.0)
    v = torch.linspace(0.01, 0.99, 99, requires_grad=True)
    (slope,) = torch.autograd.grad(q.cdf(v).sum(), v)
    torch.testing.assert_close(slope.log(), q.log_prob(v.detach()))
    torch.testing.assert_close(q.icdf(q.cdf(v)), v)
    torch.testing.assert_close(q.cdf(v), 1 - (1 - v**2) ** 3)


def test_gradients_of_draws_are_those_of_expectations():
    a, b = torch.tensor(0.7, requires_grad=True), torch.tensor(1.8, requires_grad=True)
    torch.manual_seed(0)
    q = Kumaraswamy(a, b)
    drawn = torch.autograd.grad(q.rsample((400_000,)).mean(), [a, b])
    exact = torch.autograd.grad(Kumaraswamy(a, b).mean, [a, b])
    torch.testing.assert_close(drawn, exact, rtol=0.02, atol=1e-3)


@pytest.mark.parametrize(
    ("a", "b", "mode"),
    [
        (2.0, 3.0, (1 / 5) ** 0.5),
        (5.0, 2.0, (4 / 9) ** 0.2),
        (0.5, 2.0, 0.0),
        (2.0, 0.5, 1.0),
        (1.0, 2.0, 0.0),
        (2.0, 1.0, 1.0),
        (0.5, 0.5, math.nan),
        (1.0, 1.0, math.nan),
    ],
)
def test_mode(a, b, mode):
    q = law(a, b)
    assert float(q.mode) == pytest.approx(mode, nan_ok=True)
    if 0 < mode < 1:
        grid = torch.linspace(0.001, 0.999, 1999)
        assert float(grid[q.log_prob(grid).argmax()]) == pytest.approx(mode, abs=1e-3)


class TestSeries:
    """The published series, cut off, is too small a divergence; its tail mends that where many terms are taken."""

    @pytest.mark.parametrize(
        ("a", "b", "beta", "exact", "published"),
        [(1, 1, 5, 2.391, 2.057), (5, 0.5, 5, 13.43, 8.98), (10, 0.1, 2, 20.41, 11.07), (3, 0.2, 17, 96.8, 40.9)],
    )
    def test_published_figures(self, a, b, beta, exact, published):
        q, p = law(float(a), float(b)), Beta(torch.tensor(1.0), torch.tensor(float(beta)))
        found = kl_divergence(q, p)
        cut = found + (beta - 1) * (q.mean_log_rest - q.mean_log_rest_by_series(11, tail=False))
        assert float(found) == pytest.approx(exact, rel=5e-4) and float(cut) == pytest.approx(published, rel=5e-4)
        with_tail = found + (beta - 1) * (q.mean_log_rest - q.mean_log_rest_by_series(11))
        assert abs(float(with_tail - found)) < 0.1 * abs(float(cut - found))

    def test_more_terms_reach_the_mean(self):
        q = law(1.5, 0.8)
        assert float(q.mean_log_rest_by_series(3000)) == pytest.approx(float(q.mean_log_rest), rel=1e-5)


class Operations(TorchDispatchMode):
    """Counts what torch is asked to do."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("a", "b", "exact"),  # by quadrature to 30 digits
    [
        (0.05, 2.0, -0.0052806227128689145),
        (0.05, 7.0, -1.134474804515509e-06),
        (0.02, 3.0, -4.643446865872642e-05),
        (0.2, 5.0, -0.004163324155674796),
    ],
)
def test_the_mean_logarithm_of_what_is_left_of_small_fractions(a, b, exact):
    assert float(law(a, b).mean_log_rest) == pytest.approx(exact, rel=1e-6)


def test_divergences_of_a_batch_are_integrals_side_by_side():
    """As those of single fractions, in far fewer operations than one for each node of the integral."""
    a, b = (torch.tensor(values, dtype=torch.float64).reshape(2, 1, 4) for values in zip(*PARAMETERS, strict=True))
    with Operations() as operations:
        found = Kumaraswamy(a, b, validate_args=False).mean_log_rest
    assert operations.count < 50
    single = [law(*parameters).mean_log_rest for parameters in PARAMETERS]
    torch.testing.assert_close(found, torch.stack(single).reshape(2, 1, 4), rtol=1e-12, atol=0)


def test_batches_expand():
    q = Kumaraswamy(torch.tensor([0.5, 2.0]), torch.tensor([[1.0], [3.0], [0.2]]))
    assert q.batch_shape == (3, 2) and q.expand((4, 3, 2)).rsample((5,)).shape == (5, 4, 3, 2)
    assert kl_divergence(q.to_event(1), Beta(torch.ones(3, 2), torch.ones(3, 2)).to_event(1)).shape == (3,)
    half = Kumaraswamy(torch.tensor([0.5], dtype=torch.bfloat16), torch.tensor([0.1], dtype=torch.bfloat16))
    assert half.log_prob(half.rsample((100,))).dtype == torch.float32
    with pytest.raises(ValueError, match="concentration1"):
        Kumaraswamy(torch.tensor(0.0), torch.tensor(1.0), validate_args=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("b", [19.0, 21.0, 1e4, 1e12, 1e17])
def test_moments_of_a_parameter_that_is_large(b, dtype):
    """Of a = 1, 1/2 and 1/3 they are 1 / (b + 1), 2 / (b + 1) (b + 2) and so on; log-gamma functions cancel."""
    for power in (1, 2, 3):
        mean = Kumaraswamy(torch.tensor(1 / power, dtype=dtype), torch.tensor(b, dtype=dtype)).mean
        exact = math.factorial(power) / math.prod(b + i for i in range(1, power + 1))
        assert float(mean) == pytest.approx(exact, rel=2e-5 if dtype == torch.float32 else 1e-9)


@pytest.mark.parametrize(("a", "log_b"), [(10.0, 16.0), (20.0, 30.0), (50.0, 20.0)])
def test_narrow_posteriors_of_a_large_parameter(a, log_b):
    """By quantiles of a fine grid, in single precision too."""
    exact = Kumaraswamy(torch.tensor(a), torch.tensor(log_b).exp())
    grid = (torch.arange(200_000) + 0.5) / 200_000
    values = exact.icdf(grid)
    found = Kumaraswamy(*(torch.tensor(value, dtype=torch.float32) for value in (a, math.exp(log_b))))
    assert float(found.mean) == pytest.approx(float(values.mean()), rel=1e-4)
    assert float(exact.variance.sqrt()) == pytest.approx(float(values.std()), rel=1e-3)
    torch.testing.assert_close(exact.cdf(values), grid, rtol=1e-9, atol=1e-12)
    torch.manual_seed(0)
    drawn = found.rsample((100_000,))
    assert float(drawn.mean()) == pytest.approx(float(values.mean()), abs=4 * float(values.std()) / 300)
    assert float(found.log_prob(drawn).mean()) == pytest.approx(-float(exact.entropy()), abs=0.02)


@pytest.mark.parametrize("a", [0.05, 1.0, 50.0])
@pytest.mark.parametrize("b", [0.05, 1.0, 50.0])
def test_derivatives_by_hand_are_autograds(a, b):
    """Of values, their logarithms and densities, at the ends of (0, 1) too, where values are constants."""
    a, b = (torch.full((3, 1), value, requires_grad=True) for value in (a, b))
    q = Kumaraswamy(a, b)
    torch.manual_seed(0)
    v = q.rsample((400,))
    torch.manual_seed(0)
    twin = _quantile(torch.empty(400, 3, 1).exponential_(), a, b)
    own = (v, *q._draw.of(v))
    torch.testing.assert_close(own, twin)
    value, log_value, tail = twin
    density = a.log() + b.log() + (a - 1) * log_value + (b - 1) * tail
    weights = torch.randn(4, *v.shape)
    found, expected = (
        torch.autograd.grad(sum((w * term).sum() for w, term in zip(weights, terms, strict=True)), [a, b])
        for terms in ((*own, q.log_prob(v)), (*twin, density))
    )
    torch.testing.assert_close(found, expected)


def test_values_at_the_end_are_constants():
    """Those that round to 1, and are put below, have no gradient, however small it would be."""
    a, b = (torch.full((2000,), value, dtype=torch.float32, requires_grad=True) for value in (5.0, 0.1))
    q = Kumaraswamy(a, b)
    torch.manual_seed(0)
    v = q.rsample()
    (grad,) = torch.autograd.grad(v.sum(), b)
    end = q._draw.of(v)[0].exp() == 1
    assert bool((v[end] == 1 - torch.finfo(v.dtype).eps / 2).all())
    assert bool(end.any()) and bool((grad[end] == 0).all()) and bool((grad[~end] != 0).any())

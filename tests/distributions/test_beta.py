# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The lean Beta distribution against Pyro's."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.distributions import kl_divergence

from pyro_spvae.distributions import Beta, Kumaraswamy
from pyro_spvae.priors import Sticks


@pytest.mark.parametrize("shape", [(4,), (3, 5, 4)])
def test_is_pyros(shape):
    """Density, its gradients in everything, moments, divergence and draws, as it is and expanded."""
    a, b = (0.3 + 3 * torch.rand(4)).requires_grad_(), (0.3 + 3 * torch.rand(4)).requires_grad_()
    p, twin = Beta(a, b, validate_args=True).expand(shape), dist.Beta(a, b).expand(shape)
    v = torch.rand(*shape).requires_grad_()
    torch.testing.assert_close(p.log_prob(v), twin.log_prob(v))
    found, expected = (torch.autograd.grad(law.log_prob(v).square().sum(), [v, a, b]) for law in (p, twin))
    torch.testing.assert_close(found, expected)
    for name in ("batch_shape", "event_shape", "mean", "variance", "mode", "concentration1", "concentration0"):
        torch.testing.assert_close(getattr(p, name), getattr(twin, name))
    torch.testing.assert_close(p.entropy(), twin.entropy())
    q = Kumaraswamy(torch.tensor(0.7), torch.tensor(1.8)).expand(shape)
    torch.testing.assert_close(kl_divergence(q, p), kl_divergence(q, twin))
    draws = []
    for law in (p, twin):
        torch.manual_seed(0)
        draws.append(law.rsample((6,)))
    torch.testing.assert_close(*draws)


def test_a_value_of_fewer_dimensions_is_one_for_all():
    assert Beta(torch.ones(4), torch.ones(4)).expand((3, 4)).log_prob(torch.rand(4)).shape == (3, 4)


def test_is_precise_near_zero_in_single_precision():
    """Where 1 - v is 1: the density falls by (beta - 1) (v' - v)."""
    p = Beta(torch.tensor(1.0, dtype=torch.float32), torch.tensor(1e7, dtype=torch.float32))
    low, high = p.log_prob(torch.tensor([1e-8, 2e-8], dtype=torch.float32))
    assert float(low - high) == pytest.approx(0.1, rel=1e-3)


@pytest.mark.parametrize("options", [{}, {"alpha0": 3.0}, {"alpha": 0.6}])
def test_a_known_normaliser_is_that_of_the_concentrations(options):
    p = Sticks(**options).bind(leaves=1, event_shape=(4,))().base_dist
    v = torch.rand(9, 4)
    assert p._log_normaliser is not None
    torch.testing.assert_close(p.log_prob(v), dist.Beta(p.concentration1, p.concentration0).log_prob(v))


def test_refuses_what_pyros_does():
    with pytest.raises(ValueError, match="concentration1"):
        Beta(torch.tensor(-1.0), torch.tensor(1.0), validate_args=True)
    with pytest.raises(ValueError, match="support"):
        Beta(torch.tensor(1.0), torch.tensor(1.0), validate_args=True).log_prob(torch.tensor(1.5))


def test_grows_to_batches_that_have_its_own():
    with pytest.raises(ValueError, match=r"^batch_shape \(1,\) was given to expand a Beta of batch shape \(4,\)"):
        Beta(torch.ones(4), torch.ones(4)).expand((1,))


@pytest.mark.parametrize("b", [1.0, 1e5, 1e7])
def test_large_concentrations_in_single_precision(b):
    """Terms of the normaliser cancel."""
    p = Beta(torch.tensor(1.0, dtype=torch.float32), torch.tensor(b, dtype=torch.float32))
    v = torch.tensor(0.1 / b, dtype=torch.float32)
    assert float(p.log_prob(v)) == pytest.approx(stats.beta(1.0, b).logpdf(float(v)), rel=1e-5, abs=1e-5)

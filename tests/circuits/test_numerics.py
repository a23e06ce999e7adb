# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Exponentials that are quick next to 0 are those of torch."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_spvae.circuits.numerics import exp_, log_sum_exp

INF = math.inf
# differences of all sizes, beyond those whose exponential is denormal, or 0
SPREADS = [1e-3, 1.0, 30.0, 90.0, 110.0, 750.0, 5000.0]


def values(spread: float, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (spread * torch.randn(6, 5, 4, generator=generator, dtype=torch.float64)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spread", SPREADS)
class TestAgainstTorch:
    @pytest.mark.parametrize("dim", [0, 1, 2, -1])
    def test_log_sum_exp(self, spread, dtype, dim):
        x = values(spread, dtype)
        expected = torch.logsumexp(x.double(), dim)
        assert log_sum_exp(x, dim).dtype == dtype
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(log_sum_exp(x, dim).double(), expected, rtol=2 * eps, atol=4 * eps)

    def test_gradients_of_log_sum_exp(self, spread, dtype):
        x = values(spread, dtype).requires_grad_()
        weights = values(1.0, torch.float64)[:, 0]
        (log_sum_exp(x, 1) * weights.to(dtype)).sum().backward()
        expected = x.detach().double().softmax(1) * weights.unsqueeze(1)
        torch.testing.assert_close(x.grad.double(), expected, rtol=0, atol=8 * torch.finfo(dtype).eps)

    def test_exp(self, spread, dtype):
        x = -values(spread, dtype).abs()
        eps, smallest = torch.finfo(dtype).eps, torch.finfo(dtype).tiny
        expected = x.double().exp()
        bound = 2 * eps * (1 + x.double().abs()) * expected + smallest  # what rounding of the argument makes of it
        assert ((exp_(x.clone()).double() - expected).abs() <= bound).all()


def test_second_derivatives():
    x = values(2.0, torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(log_sum_exp, x)


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ([-INF, -INF], -INF),
        ([-INF, 3.0], 3.0),
        ([1000.0, -INF], 1000.0),
        ([-1e30, -1e30], -1e30),
    ],
)
def test_extremes(x, expected):
    assert log_sum_exp(torch.tensor(x)).item() == expected


def test_what_is_impossible_has_no_gradient():
    x = torch.tensor([[-INF, -INF], [-INF, 1.0]], dtype=torch.float64, requires_grad=True)
    log_sum_exp(x).clamp(min=-9.0).sum().backward()
    assert x.grad.tolist() == [[0.0, 0.0], [0.0, 1.0]]
    x.grad = None
    log_sum_exp(x).sum().backward()
    assert x.grad.tolist() == [[0.0, 0.0], [0.0, 1.0]]


def test_nan_stays():
    assert log_sum_exp(torch.tensor([0.0, math.nan])).isnan()


def test_exp_is_in_place():
    x = torch.tensor([0.0, -INF, -1.0])
    assert exp_(x) is x
    torch.testing.assert_close(x, torch.tensor([1.0, 0.0, math.exp(-1)]))

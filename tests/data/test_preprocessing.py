# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Dequantisation: noise inside each grey level, uniform, reproducible, safe from rounding."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_spvae.data import dequantize


@pytest.mark.parametrize("levels", [2, 3, 17, 255, 256, 257, 2**16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_never_leaves_its_grey_level(levels: int, dtype: torch.dtype) -> None:
    # Enough draws on few levels that plain float32 noise would round up to the next level several times.
    x = torch.tensor([0, 1, levels // 2, levels - 2, levels - 1], dtype=dtype).repeat(100_000)
    y = dequantize(x, levels, torch.Generator().manual_seed(0))
    assert y.dtype == dtype and y.shape == x.shape
    assert float(y.min()) > 0 and float(y.max()) < 1
    assert torch.equal((y * levels).floor(), x)


def test_noise_is_uniform() -> None:
    x = torch.full((100_000,), 5.0, dtype=torch.float64)
    u = dequantize(x, 17, torch.Generator().manual_seed(0)) * 17 - 5
    num_bins = 20
    counts = torch.histc(u, num_bins, 0, 1)
    expected = len(x) / num_bins
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 43.8  # 99.9 % quantile at 19 degrees of freedom
    assert abs(float(u.mean()) - 0.5) < 4 / math.sqrt(12 * len(x))


def test_generator_makes_it_reproducible_and_leaves_the_global_one_alone() -> None:
    x = torch.arange(17, dtype=torch.float32)
    state = torch.get_rng_state()
    first = dequantize(x, 17, torch.Generator().manual_seed(3))
    assert torch.equal(first, dequantize(x, 17, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, dequantize(x, 17, torch.Generator().manual_seed(4)))
    assert torch.equal(state, torch.get_rng_state())
    dequantize(x, 17)
    assert not torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("levels", [1, 0, -5, 2**16 + 1])
def test_levels_out_of_range(levels: int) -> None:
    with pytest.raises(ValueError, match=f"levels is {levels}, but"):
        dequantize(torch.zeros(2), levels)


@pytest.mark.parametrize("value", [-1.0, 17.0, 0.5, math.nan, math.inf])
def test_values_that_are_no_grey_levels(value: float) -> None:
    with pytest.raises(ValueError, match="whole numbers between 0 and levels - 1 = 16"):
        dequantize(torch.tensor([0.0, value]), 17)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16, torch.uint8])
def test_types_without_room_for_noise(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="torch.float32 or torch.float64"):
        dequantize(torch.zeros(2, dtype=dtype), 2)

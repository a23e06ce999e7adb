# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Preprocessing: the law of its noise, its values, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

from pyro_spvae.data import Rows, Values, dequantize
from pyro_spvae.data.preprocessing import preprocessing


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


WHOLE = "whole numbers between 0 and levels - 1 = 16"


@pytest.mark.parametrize(
    ("x", "levels", "error", "message"),
    [
        *((torch.zeros(2), levels, ValueError, f"levels is {levels}, but") for levels in (1, 0, -5, 2**16 + 1)),
        *((torch.tensor([0.0, x]), 17, ValueError, WHOLE) for x in (-1.0, 17.0, 0.5, math.nan, math.inf)),
        *(
            (torch.zeros(2, dtype=dtype), 2, TypeError, "torch.float32 or torch.float64")  # without room for noise
            for dtype in (torch.int64, torch.float16, torch.uint8)
        ),
    ],
)
def test_what_cannot_be_dequantised(x: torch.Tensor, levels: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        dequantize(x, levels)


def read(name: str, x: torch.Tensor, values: Values, seed: int = 0) -> torch.Tensor:
    """All rows, transformed as for validation."""
    return Rows(x, preprocessing=preprocessing(name, values), seed=seed)[:]


def test_dequantised_rows() -> None:
    x = torch.randint(17, (50, 1, 2, 3))
    y = read("dequantize", x, Values.grey_levels(17))
    assert torch.equal((y * 17).floor(), x.float())
    assert torch.equal(y, read("dequantize", x, Values.grey_levels(17)))
    assert not torch.equal(y, read("dequantize", x, Values.grey_levels(17), seed=1))


@pytest.mark.parametrize("name", ["binarize", "binarize-static"])
@pytest.mark.parametrize("values", [Values.grey_levels(5), Values(low=0, high=1)])
def test_pixels_are_white_with_the_probability_of_their_grey(name: str, values: Values) -> None:
    levels = torch.arange(5.0).repeat(20_000, 1)
    x = levels if values.levels else levels / 4
    y = read(name, x, values)
    assert set(y.unique().tolist()) == {0.0, 1.0}
    expected = torch.arange(5.0) / 4
    error = 4 * (expected * (1 - expected) / len(x)).sqrt()
    assert ((y.double().mean(0) - expected).abs() <= error).all(), "and 0 and 4 are never drawn otherwise"
    step = preprocessing(name, values)
    assert step is not None and step.values == Values.grey_levels(2)
    assert not step.apply(torch.zeros(1, 1), torch.zeros(1, 1)).any(), "black stays black under the smallest noise too"


def test_the_papers_images_run_from_0_to_1_with_noise_that_is_reflected() -> None:
    x = torch.tensor([10.0, 10.0, 130.0, 250.0]).repeat(20_000, 1, 4, 64)  # a quarter of the pixels each
    x = x[:200].flatten(2).unsqueeze(2)
    y = read("paper", x, Values.grey_levels(256))
    assert (y.amin((1, 2, 3)) == 0).all() and (y.amax((1, 2, 3)) == 1).all()
    dark, middle, bright = (y[x == value].double() for value in (10.0, 130.0, 250.0))
    sigma = 1 / 255
    # reflected normal noise is half normal; the second scaling moves values by a fraction of sigma
    assert float(dark.mean()) == pytest.approx(sigma * math.sqrt(2 / math.pi), rel=0.03)
    assert float(1 - bright.mean()) == pytest.approx(sigma * math.sqrt(2 / math.pi), rel=0.1)
    assert float(middle.std()) == pytest.approx(sigma, rel=0.03)
    centre = round(255 * (130 - 10) / 240) / 255
    assert float(middle.mean()) == pytest.approx(centre, abs=0.1 * sigma), "rounded to multiples of 1/255"
    step = preprocessing("paper", Values.grey_levels(256))
    assert step is not None and step.values == Values(low=0, high=1), "no grey levels"
    assert step.values.bits_per_dim(-1.0, (1, 2, 2)) is None


def test_an_image_of_one_value_is_black_before_the_noise() -> None:
    y = read("paper", torch.full((3, 1, 8, 8), 7.0), Values.grey_levels(256))
    assert torch.isfinite(y).all() and torch.equal(y.amax((1, 2, 3)), torch.ones(3))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("dequantize", Values(low=0, high=1), ", but the values of x are continuous; grey levels"),
        ("integers", Values(low=0, high=1), ", but the values of x are continuous; grey levels"),
        ("binarize", Values(low=-1, high=1), ", but .* grey levels or values in .0, 1. are needed"),
        ("nosuch", Values.grey_levels(2), "; known are none, integers, dequantize, binarize, "),
    ],
)
def test_refusals(name: str, values: Values, message: str) -> None:
    with pytest.raises(ValueError, match=f"^preprocess is '{name}'{message}"):
        preprocessing(name, values, "x")


@pytest.mark.parametrize("name", ["paper", "paper-discrete"])
def test_the_papers_images_of_several_channels_are_scaled_as_one(name: str) -> None:
    """By the smallest and largest value of the image, not of each channel: the brightest grey, 200, is in the last."""
    x = torch.tensor([[0, 20, 40, 10], [50, 50, 50, 50], [100, 200, 120, 60]]).repeat(2, 1, 1).reshape(2, 3, 2, 2)
    x[1] += torch.tensor([55, 0, 0]).reshape(3, 1, 1)  # and another image, from 50 to 200
    y = read(name, x, Values.grey_levels(256)) * (255 if name == "paper" else 1)
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    assert low.flatten().tolist() == [0, 50] and high.flatten().tolist() == [200, 200]
    expected = (255 * (x - low) / (high - low)).round()
    # noise of standard deviation 1, and the second scaling, move a level by a few
    torch.testing.assert_close(y, expected.float(), rtol=0, atol=6 if name == "paper" else 0)


def test_the_papers_discrete_images_are_scaled_one_by_one_to_256_levels() -> None:
    x = torch.tensor([[0, 100, 50, 200], [10, 10, 10, 10], [0, 1, 3, 4]]).reshape(3, 1, 2, 2)
    y = read("paper-discrete", x, Values.grey_levels(256))
    expected = torch.tensor([[0, 128, 64, 255], [0, 0, 0, 0], [0, 64, 191, 255]]).reshape(3, 1, 2, 2)
    assert (y == expected).all()
    step = preprocessing("paper-discrete", Values.grey_levels(256))
    assert step is not None and step.values == Values.grey_levels(256) and not step.draws_anew

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a data set promises about its tensors, and the unit conversion that follows from its values."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from pyro_spvae.data import DataSet, Rows, Values


def make(x: Tensor, values: Values) -> DataSet:
    """A data set whose three splits are the same rows."""
    return DataSet("example", x, x.clone(), x.clone(), values)


def grey(levels: int, *shape: int) -> Tensor:
    """Every grey level in turn."""
    return (torch.arange(math.prod(shape)) % levels).to(torch.float32).reshape(shape)


def test_shape_of_images_and_tables() -> None:
    images = make(grey(17, 5, 1, 2, 3), Values.grey_levels(17))
    assert images.is_image and images.event_shape == (1, 2, 3)
    table = make(grey(2, 5, 4), Values.grey_levels(2))
    assert not table.is_image and table.event_shape == (4,)
    assert repr(table).startswith("DataSet('example', train=5, validation=5, test=5, event_shape=(4,), ")


def test_is_frozen() -> None:
    data = make(grey(2, 5, 4), Values.grey_levels(2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "other"  # type: ignore[misc]


def test_bits_per_dim_of_the_uniform_code_is_log2_of_the_levels() -> None:
    """All of L^D images equally likely: log2 L bits a pixel, whether stated of levels or of a density on [0, 1]."""
    levels, dims = 17, 6
    data = make(grey(levels, 5, 1, 2, 3), Values.grey_levels(levels))
    assert data.bits_per_dim(-dims * math.log(levels)) == pytest.approx(math.log2(levels), rel=1e-12)
    assert data.preprocessed("dequantize").bits_per_dim(0.0) == pytest.approx(math.log2(levels), rel=1e-12)


def test_bits_per_dim_agree_between_levels_and_their_dequantisation() -> None:
    """A density that is constant within each level has P(x) = p(y) / L^D, hence the same bits."""
    levels, dims, log_probability = 256, 4, -7.25
    data = make(grey(levels, 64, 4), Values.grey_levels(levels))
    log_density = log_probability + dims * math.log(levels)
    assert data.bits_per_dim(log_probability) == pytest.approx(
        data.preprocessed("dequantize").bits_per_dim(log_density), rel=1e-12
    )


def test_bits_per_dim_takes_tensors_and_is_undefined_for_other_densities() -> None:
    per_row = make(grey(2, 5, 4), Values.grey_levels(2)).bits_per_dim(torch.tensor([-math.log(2), -8 * math.log(2)]))
    assert per_row is not None
    torch.testing.assert_close(per_row, torch.tensor([0.25, 2.0]))
    assert make(torch.randn(5, 4).to(torch.float32), Values(low=-9, high=9)).bits_per_dim(-1.0) is None
    assert make(torch.rand(5, 4).to(torch.float32), Values(low=0, high=1)).bits_per_dim(-1.0) is None


@pytest.mark.parametrize(
    "broken, message",
    [
        (torch.zeros(0, 4), "must not be empty"),
        (torch.zeros(4, 0), "must not be empty"),
        (torch.zeros(4), "shape"),
        (torch.zeros(2, 3, 4), "shape"),
        (torch.zeros(4, 5), "rows of shape"),
        (torch.full((4, 4), math.nan), "16 NaN or infinite values"),
        (torch.full((4, 4), -math.inf), "16 NaN or infinite values"),
        (torch.full((4, 4), 2.0), "other than its grey levels 0 to 1"),
        (torch.full((4, 4), 0.5), "other than its grey levels 0 to 1"),
        (torch.full((4, 4), -1.0), "other than its grey levels 0 to 1"),
    ],
)
def test_bad_splits(broken: Tensor, message: str) -> None:
    good = torch.zeros(4, 4, dtype=torch.float32)
    with pytest.raises(ValueError, match=message) as caught:
        DataSet("example", good, good, broken, Values.grey_levels(2))
    assert "test of the data set 'example'" in str(caught.value)


def test_values_outside_the_stated_range() -> None:
    with pytest.raises(ValueError, match="runs from 0 to 1.5, but .* between 0 and 1"):
        make(torch.tensor([[0.0, 1.5]], dtype=torch.float32), Values(low=0, high=1))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"low": 0, "high": 16, "levels": 16},
        {"low": 1, "high": 16, "levels": 17},
        {"low": 0, "high": 0, "levels": 1},
        {"low": 0, "high": 16, "levels": 17, "scaled_from": 17},
        {"low": 0, "high": 2, "scaled_from": 17},
    ],
)
def test_values_that_contradict_themselves(kwargs: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="levels"):
        Values(**kwargs)


def test_tensors_of_any_type_are_read_as_float32() -> None:
    for dtype in (torch.uint8, torch.bool, torch.int64, torch.float64, torch.float16):
        data = make(grey(2, 5, 4).to(dtype), Values.grey_levels(2))
        assert data.train[:].dtype == torch.float32 and torch.equal(data.train[:], grey(2, 5, 4))


def test_a_data_set_is_checked_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_spvae.data.rows._SCANNED", 4)
    x = torch.zeros(5, 4)
    x[4, 3] = 2
    with pytest.raises(ValueError, match="grey levels 0 to 1"):
        make(x, Values.grey_levels(2))


def test_preprocessing_twice_is_refused() -> None:
    data = make(grey(17, 5, 4), Values.grey_levels(17))
    assert data.preprocessed("none") is data and data.preprocessed("integers") is data
    with pytest.raises(ValueError, match="'example' is preprocessed already"):
        data.preprocessed("dequantize").preprocessed("binarize")


def test_the_fingerprint_notices_what_changed() -> None:
    x, values = grey(17, 500, 4), Values.grey_levels(17)
    first = make(x, values).fingerprint()
    assert first == make(x.clone(), values).fingerprint() and len(first) == 16
    other = x.clone()
    other[-1, -1] = 16 - other[-1, -1]
    assert first != make(other, values).fingerprint()
    assert first != make(x, Values.grey_levels(18)).fingerprint()
    assert first != make(x[:-1], values).fingerprint()
    assert first != DataSet("example", Rows(x, torch.arange(500).flip(0)), x, x, values).fingerprint()


def test_held_values_are_those_that_are_read() -> None:
    data = make(grey(17, 40, 4), Values.grey_levels(17)).preprocessed("paper", 3)
    held = data.cached(10**6)
    for split in ("train", "validation", "test"):
        assert torch.equal(getattr(held, split)[:], getattr(data, split)[:])

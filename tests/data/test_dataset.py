# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a data set promises about its tensors, and the unit conversion that follows from its values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pyro_spvae.data import DataSet, Rows, Values
from tests.data.cases import refused


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
        (torch.full((4, 4), math.nan), "holds nothing but NaN"),
        (torch.full((4, 4), -math.inf), "16 NaN or infinite values"),
        (torch.full((4, 4), 2.0), "other than its whole numbers 0 to 1"),
        (torch.full((4, 4), 0.5), "other than its whole numbers 0 to 1"),
        (torch.full((4, 4), -1.0), "other than its whole numbers 0 to 1"),
        (
            torch.tensor([[0, 0, 0, 0], [1, math.nan, 0, math.inf]]),
            r"1 NaN or infinite value, in row 1 at \[3\], but all must be finite\.$",
        ),
        (torch.tensor([[0, 0, 0, 0], [1, 0, -math.inf, 0]]), r"1 NaN .* in row 1 at \[2\], but all must be finite\.$"),
        (torch.tensor([[0.0, 1.5, 0, 0]]), "runs from 0 to 1.5, but .* between 0 and 1"),
    ],
)
def test_bad_splits(broken: Tensor, message: str) -> None:
    good = torch.zeros(4, 4, dtype=torch.float32)
    with refused(message, "test of the data set 'example'"):
        DataSet("example", good, good, broken, Values(low=0, high=1) if "runs" in message else Values.grey_levels(2))


TABLE = make(grey(17, 4, 3), Values.grey_levels(17))


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("levels", lambda: Values(low=0, high=16, levels=16)),
        ("levels", lambda: Values(low=1, high=16, levels=17)),
        ("levels", lambda: Values(low=0, high=0, levels=1)),
        ("levels", lambda: Values(low=0, high=16, levels=17, scaled_from=17)),
        ("levels", lambda: Values(low=0, high=2, scaled_from=17)),
        ("'example' is preprocessed already", lambda: TABLE.preprocessed("dequantize").preprocessed("binarize")),
        (r"grey is asked for, but the data set 'example' has rows of shape \[3\]", TABLE.in_grey),
        *(("a number above 0 and at most 1 is needed", partial(TABLE.thinned, x)) for x in (0.0, -1.0, 1.5, math.nan)),
    ],
)
def test_refusals(message: str, call: Callable[[], object]) -> None:
    with refused(message):
        call()


def test_tensors_of_any_type_are_read_as_float32() -> None:
    for dtype in (torch.uint8, torch.bool, torch.int64, torch.float64, torch.float16):
        data = make(grey(2, 5, 4).to(dtype), Values.grey_levels(2))
        assert data.train[:].dtype == torch.float32 and torch.equal(data.train[:], grey(2, 5, 4))


def test_a_data_set_is_checked_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_spvae.data.rows._SCANNED", 4)
    x = torch.zeros(5, 4)
    x[4, 3] = 2
    with pytest.raises(ValueError, match="whole numbers 0 to 1"):
        make(x, Values.grey_levels(2))


def test_levels_stay_without_preprocessing() -> None:
    data = make(grey(17, 5, 4), Values.grey_levels(17))
    assert data.preprocessed("none") is data and data.preprocessed("integers") is data


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


NOISY = ["dequantize", "binarize", "binarize-static", "paper"]


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize("shared", [False, True])
def test_splits_have_noise_of_their_own(name: str, shared: bool) -> None:
    """Equal rows of equal numbers, of one source or of three, are equal no more: not even two of them, by chance."""
    x = grey(17, 6, 40)
    rows = [Rows(x, torch.tensor([4, 0, 2])) if shared else Rows(x.clone()) for _ in range(3)]
    data = DataSet("equal", rows[0], rows[1], rows[2], Values.grey_levels(17)).preprocessed(name, 3)
    values = torch.cat([data.train[:], data.validation[:], data.test[:]])
    assert len(values.unique(dim=0)) == len(values) == (9 if shared else 18)


class TestThinned:
    @pytest.mark.parametrize("name", ["none", *NOISY])
    @pytest.mark.parametrize("held", [False, True])
    def test_the_rows_that_are_left_are_training_rows_with_the_values_that_they_had(self, name, held):
        """Of splits that are parts of one source, in any order."""
        x = torch.arange(60.0).reshape(60, 1) + torch.zeros(60, 12)
        order = torch.randperm(60)
        splits = (Rows(x, index, stream=stream) for stream, index in enumerate(order.split([30, 18, 12])))
        data = DataSet("parts", *splits, Values.grey_levels(60)).preprocessed(name, 3)
        whole = data.train
        if held:
            object.__setattr__(data, "train", whole.cached(10**6))
        train = data.thinned(0.5, seed=1).train
        assert train.index is not None and len(train) == 15 == len(set(train.index.tolist()))
        place = {number: position for position, number in enumerate(order[:30].tolist())}
        assert set(train.index.tolist()) < place.keys(), "none of another split"
        assert torch.equal(train[:], whole[torch.tensor([place[number] for number in train.index.tolist()])])
        assert torch.equal(train.raw(slice(None)), x[train.index])

    def test_smaller_parts_lie_in_larger_ones_and_test_rows_stay(self):
        rows = torch.arange(100.0).reshape(100, 1, 1, 1).expand(100, 1, 2, 2)
        data = DataSet("numbers", rows, rows[:7], rows[:5], Values(low=0, high=99))
        few, more = (set(data.thinned(part, seed=3).train[:][:, 0, 0, 0].tolist()) for part in (0.1, 0.45))
        assert len(few) == 10 and len(more) == 45 and few < more
        assert few != set(data.thinned(0.1, seed=4).train[:][:, 0, 0, 0].tolist())
        assert len(data.thinned(0.45).validation) == 3 and len(data.thinned(0.01).validation) == 1
        assert len(data.thinned(0.1).test) == 5
        assert data.thinned(1.0) is data and len(data.thinned(1e-9).train) == 1


class TestInGrey:
    def test_is_pillows_luma(self):
        images = torch.randint(0, 256, (9, 3, 5, 4), dtype=torch.uint8)
        grey = DataSet("colour", images, images[:3], images[3:5], Values.grey_levels(256)).in_grey()
        assert grey.event_shape == (1, 5, 4) and grey.values == Values.grey_levels(256)
        for image, mine in zip(images, grey.train[:], strict=True):
            pillow = Image.fromarray(image.permute(1, 2, 0).numpy(), "RGB").convert("L")
            assert (torch.from_numpy(np.array(pillow)) == mine[0]).all()
        assert torch.equal(grey.test[:], grey.train[:][3:5])

    def test_labels_stay(self):
        images, labels = torch.arange(9, dtype=torch.uint8).reshape(9, 1, 1, 1).expand(9, 3, 2, 2), torch.arange(9) + 3
        parts = (Rows(images, index, labels=labels) for index in torch.tensor([4, 8, 1, 0, 2, 7]).split([3, 2, 1]))
        grey = DataSet("colour", *parts, Values.grey_levels(256)).in_grey()
        for rows in (grey.train, grey.validation, grey.test, grey.thinned(0.5).train):
            assert rows.labels.tolist() == (rows[:][:, 0, 0, 0] + 3).tolist()

    def test_grey_images_stay(self):
        images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
        data = DataSet("grey", images, images, images, Values.grey_levels(256))
        assert data.in_grey() is data


class TestMissing:
    """NaN are taken as missing where they may be."""

    HOLES = torch.tensor([[[[0.0, math.nan], [16, 3]]], [[[math.nan, math.nan], [math.nan, 5]]]], dtype=torch.float32)

    def make(self, x: Tensor, **options: str) -> DataSet:
        whole = torch.zeros(2, 1, 2, 2, dtype=torch.float32)
        return DataSet("example", x, whole, whole, Values.grey_levels(17), **options)

    def test_splits_know_their_holes(self) -> None:
        data = self.make(self.HOLES, missing="nan")
        assert [data.train.missing, data.validation.missing, data.test.missing] == [True, False, False]
        assert data.has_holes and "missing='nan'" in repr(data)
        torch.testing.assert_close(data.train[:], self.HOLES, equal_nan=True, rtol=0, atol=0)
        for changed in (data.thinned(0.5), data.preprocessed("dequantize").thinned(0.5), data.cached(10**6)):
            assert changed.train.missing and not changed.test.missing and changed.missing == "nan"

    def test_data_without_holes_stay_as_they_are(self) -> None:
        data, plain = (self.make(self.HOLES.nan_to_num(), **options) for options in ({"missing": "nan"}, {}))
        assert not data.has_holes and repr(data) == repr(plain) and data.fingerprint() == plain.fingerprint()

    @pytest.mark.parametrize(
        ("x", "missing", "message"),
        [
            (HOLES, "none", r"train of .* holds 4 NaN .*, the first in row 0 at \[0, 0, 1\], but .*--missing nan"),
            (HOLES, "NaN", "missing is 'NaN'; known are auto, none, nan"),
            (HOLES.nan_to_num(math.inf), "nan", r"train of .* holds 4 NaN or infinite values, .* must be finite\.$"),
            (HOLES * math.nan, "nan", "train of .* holds nothing but NaN"),
            (HOLES + 0.5, "nan", "other than its grey levels 0 to 16"),
            (HOLES + 1, "nan", "other than its grey levels 0 to 16"),
        ],
    )
    def test_refusals(self, x: Tensor, missing: str, message: str) -> None:
        with refused(message):
            self.make(x, missing=missing)

    def test_the_row_of_the_array_is_named(self) -> None:
        rows = Rows(self.HOLES, torch.tensor([1]), stream=1)
        with refused(r"validation of .* in row 0 \(row 1 of the array\) at \[0, 0, 0\], but"):
            DataSet("example", self.HOLES.nan_to_num(), rows, self.HOLES.nan_to_num(), Values.grey_levels(17))

    @pytest.mark.parametrize("name", ["paper", "paper-discrete"])
    def test_whole_rows_are_not_scaled(self, name: str) -> None:
        with refused(f"preprocess is '{name}', which scales each row .* entries of the data set 'example' are missing"):
            self.make(self.HOLES, missing="nan").preprocessed(name)
        assert self.make(self.HOLES.nan_to_num(), missing="nan").preprocessed(name).train[:].isfinite().all()

    def test_colours_are_not_mixed(self) -> None:
        x = torch.zeros(2, 3, 2, 2, dtype=torch.float32)
        holes = x.clone()
        holes[0, 1, 0, 0] = math.nan
        with refused("grey is asked for, but entries of the data set 'example' are missing"):
            DataSet("example", holes, x, x, Values.grey_levels(256), missing="nan").in_grey()

    @pytest.mark.parametrize("name", ["dequantize", "binarize", "binarize-static"])
    @pytest.mark.parametrize("limit", [0, 10**6])
    def test_holes_stay_and_change_nothing_else(self, name: str, limit: int) -> None:
        data, whole = (
            self.make(x, missing="nan").preprocessed(name, 3).cached(limit).train
            for x in (self.HOLES, self.HOLES.nan_to_num(7))
        )
        hole, index = self.HOLES.isnan(), torch.tensor([1, 0])
        drawn, of_whole = (rows.draw(index, torch.Generator().manual_seed(1)) for rows in (data, whole))
        for x, other, where in ((data[:], whole[:], hole), (drawn, of_whole, hole[index])):
            assert torch.equal(x.isnan(), where) and torch.equal(x[~where], other[~where])

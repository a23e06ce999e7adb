# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A user's own files: shapes, splits, kinds of values, and one clear sentence for whatever does not fit."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_spvae.data import DataSet, Values, load_data
from pyro_spvae.data.array_files import _read
from pyro_spvae.training.batches import Batches
from tests.cli_cases import Forked
from tests.data.cases import damaged, lengths, perhaps_refused, refused, together


def load_array(tmp_path: Path, array: Any, seed: int = 0) -> DataSet:
    """What comes of one array in a .npy file."""
    np.save(tmp_path / "own.npy", array)
    return load_data(tmp_path / "own.npy", seed=seed)


def load_arrays(tmp_path: Path, **arrays: Any) -> DataSet:
    """What comes of several arrays in a .npz file."""
    np.savez(tmp_path / "own.npz", **arrays)
    return load_data(str(tmp_path / "own.npz"))


def numbered(rows: int, first: int = 0) -> Any:
    """A table whose first column numbers the rows."""
    return np.stack([np.arange(first, first + rows), np.zeros(rows, dtype=int)], axis=1)


@pytest.mark.parametrize(
    "shape, event_shape",
    [((20, 4, 5), (1, 4, 5)), ((20, 3, 4, 5), (3, 4, 5)), ((20, 1, 4, 5), (1, 4, 5)), ((20, 7), (7,))],
)
def test_shapes(tmp_path: Path, shape: tuple[int, ...], event_shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).random(shape)
    data = load_array(tmp_path, array)
    assert data.event_shape == event_shape and data.name == "own.npy"
    rows = together(data)
    assert rows.dtype == torch.float32
    assert {row.numpy().tobytes() for row in rows} == {row.tobytes() for row in array.astype(np.float32)}


def test_rows_are_split_by_seed(tmp_path: Path) -> None:
    data = load_array(tmp_path, numbered(109))
    assert lengths(data) == [89, 10, 10]
    assert torch.equal(together(data)[:, 0].sort().values, torch.arange(109.0, dtype=torch.float32))
    assert not torch.equal(data.test[:], load_array(tmp_path, numbered(109), seed=1).test[:])
    assert torch.equal(data.test[:], load_array(tmp_path, numbered(109), seed=0).test[:])


@pytest.mark.parametrize("validation", ["validation", "valid", "val", "x_validation", "x_valid", "x_val"])
@pytest.mark.parametrize("prefix", ["", "x_"])
def test_given_splits_are_kept_in_order(tmp_path: Path, prefix: str, validation: str) -> None:
    train, held_out, test = numbered(9), numbered(3, first=9), numbered(2, first=12)
    arrays = {f"{prefix}train": train, validation: held_out, f"{prefix}test": test, "y_train": np.zeros(9)}
    data = load_arrays(tmp_path, **arrays)
    for loaded, expected in ((data.train, train), (data.validation, held_out), (data.test, test)):
        np.testing.assert_array_equal(loaded[:].numpy(), expected)


def test_a_missing_split_is_drawn_from_train(tmp_path: Path) -> None:
    data = load_arrays(tmp_path, x_train=numbered(50), x_test=numbered(7, first=50), y_train=np.zeros(50))
    assert lengths(data) == [45, 5, 7]
    np.testing.assert_array_equal(data.test[:].numpy(), numbered(7, first=50))
    numbers = torch.cat([data.train[:], data.validation[:]])[:, 0]
    assert sorted(numbers.tolist()) == list(range(50))
    assert lengths(load_arrays(tmp_path, train=numbered(50))) == [40, 5, 5]


def test_which_array_of_a_npz_file(tmp_path: Path) -> None:
    assert load_arrays(tmp_path, x=numbered(20), y=np.zeros(20)).event_shape == (2,)
    for name in ("pictures", "test"):
        assert load_arrays(tmp_path, **{name: numbered(20)}).event_shape == (2,)
    np.savez_compressed(tmp_path / "small.NPZ.npz", x=numbered(20))
    assert load_data(tmp_path / "small.NPZ.npz").values.levels == 20


def with_labels(rows: int, first: int = 0) -> tuple[Any, Any]:
    """A table, and a label for each row that is twice its number."""
    return numbered(rows, first), 2 * np.arange(first, first + rows, dtype=np.int16)


class TestLabels:
    @pytest.mark.parametrize("name", ["x", "pictures", "train", "test"])
    @pytest.mark.parametrize("kind", ["npz", "pt"])
    def test_beside_a_single_array(self, tmp_path: Path, name: str, kind: str) -> None:
        x, labels = with_labels(40)
        self.check(self.load(tmp_path, kind, {name: x, "labels": labels}), {"train", "validation", "test"})
        if name == "x":
            data = self.load(tmp_path, kind, {"x": x, "labels": labels, "train_labels": x, "y": x[:3]})
            self.check(data, {"train", "validation", "test"})

    @pytest.mark.parametrize("name", ["validation", "val", "x_valid"])
    @pytest.mark.parametrize("kind", ["npz", "pt"])
    def test_beside_splits(self, tmp_path: Path, name: str, kind: str) -> None:
        (x, labels), (y, more), (z, _) = with_labels(40), with_labels(7, 40), with_labels(5, 47)
        arrays = {"train": x, name: y, "test": z, "train_labels": labels, "validation_labels": more}
        self.check(self.load(tmp_path, kind, arrays), {"train", "validation"})
        self.check(self.load(tmp_path, kind, arrays | {"labels": z}), {"train", "validation"})
        del arrays[name], arrays["validation_labels"]  # which is drawn from the training rows then
        self.check(self.load(tmp_path, kind, arrays), {"train", "validation"})
        self.check(self.load(tmp_path, kind, {"x_train": x, "train_labels": labels}), {"train", "validation", "test"})
        self.check(self.load(tmp_path, kind, {"test": x, "test_labels": labels}), {"train", "validation", "test"})

    def load(self, tmp_path: Path, kind: str, arrays: dict[str, Any]) -> DataSet:
        if kind == "pt":
            torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, tmp_path / "own.pt")
        else:
            np.savez(tmp_path / "own.npz", **arrays)
        return load_data(tmp_path / f"own.{kind}")

    def check(self, data: DataSet, labelled: set[str]) -> None:
        for split in ("train", "validation", "test"):
            rows = getattr(data, split)
            assert (rows.labels is not None) == (split in labelled)
            if split in labelled:
                assert rows.labels.tolist() == (2 * rows[:][:, 0]).tolist()

    def test_a_lone_array_is_data_whatever_its_name(self, tmp_path: Path) -> None:
        data = load_arrays(tmp_path, labels=numbered(40))
        assert data.event_shape == (2,) and data.train.labels is None

    def test_with_missing_entries_thinned_and_preprocessed(self, tmp_path: Path) -> None:
        x, labels = with_labels(40)
        holes = np.where((np.arange(2) == 1) & (np.arange(40)[:, None] > 0), np.nan, x.astype(np.float64))
        np.savez(tmp_path / "own.npz", x=holes, labels=labels)
        data = load_data(tmp_path / "own.npz", missing="nan")
        assert data.train.missing
        self.check(data, {"train", "validation", "test"})
        self.check(data.thinned(0.3, seed=2), {"train", "validation", "test"})
        np.savez(tmp_path / "own.npz", x=x, labels=labels)
        levels = load_data(tmp_path / "own.npz")
        changed = levels.preprocessed("dequantize", 1).cached(10**6).thinned(0.5)
        for split in ("train", "validation", "test"):
            rows = getattr(changed, split)
            assert rows.labels.tolist() == (2 * (rows[:][:, 0] * 40).floor()).tolist()

    def test_the_fingerprint_is_that_of_the_rows(self, tmp_path: Path) -> None:
        x, labels = with_labels(40)
        assert load_arrays(tmp_path, x=x, labels=labels).fingerprint() == load_arrays(tmp_path, x=x).fingerprint()

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"labels": np.zeros(19, int)}, r"arrays labels, x, of which labels is int64 of shape \[19\]; a .* 20 int"),
            ({"labels": np.zeros((20, 1), int)}, r"labels is int64 of shape \[20, 1\]"),
            ({"labels": np.zeros(20)}, r"labels is float64 of shape \[20\]; a tensor of 20 integers, one for each row"),
            ({"labels": np.array(["a"] * 20)}, "array labels in .* is of type <U1, but integers are needed"),
            ({"labels": np.array([None] * 20)}, "own.npz cannot be read as NumPy arrays"),
        ],
    )
    def test_refusals(self, tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
        with refused(message, "own.npz"):
            load_arrays(tmp_path, x=numbered(20), **arrays)

    def test_labels_of_the_wrong_split_are_refused(self, tmp_path: Path) -> None:
        with refused(r"test, test_labels, train, of which test_labels is int64 of shape \[20\]; a tensor of 12 int"):
            load_arrays(tmp_path, train=numbered(20), test=numbered(12), test_labels=np.zeros(20, int))


INTEGERS = np.arange(40).reshape(20, 2)


@pytest.mark.parametrize(
    "array, values",
    [
        (INTEGERS % 2 == 0, Values.grey_levels(2)),
        (INTEGERS % 2, Values.grey_levels(2)),
        ((INTEGERS % 2).astype(np.uint8), Values.grey_levels(2)),
        ((INTEGERS % 2).astype(np.float32), Values.grey_levels(2)),
        (np.zeros((20, 2), dtype=np.uint8), Values.grey_levels(2)),
        ((INTEGERS % 17).astype(np.uint8), Values.grey_levels(17)),
        ((INTEGERS % 18).astype(np.uint8), Values.grey_levels(256)),
        ((INTEGERS % 18).astype(np.int64), Values.grey_levels(18)),
        (INTEGERS.astype(">u2") + 65_496, Values.grey_levels(65_536)),
        (INTEGERS + 65_497, Values(low=65_497, high=65_536)),
        (INTEGERS - 1, Values(low=-1, high=38)),
        (INTEGERS / 39, Values(low=0, high=1)),
        ((INTEGERS / 39).astype(np.float16), Values(low=0, high=1)),
        (INTEGERS / 2, Values(low=0, high=19.5)),
        (INTEGERS / 2 - 1, Values(low=-1, high=18.5)),
        # 0.3 and -0.7 round outwards in float32: the bounds must be those of the rounded values
        (np.array([[-0.7, 0.3]] * 20), Values(low=float(np.float32(-0.7)), high=float(np.float32(0.3)))),
    ],
)
def test_kind_of_values(tmp_path: Path, array: Any, values: Values) -> None:
    data = load_array(tmp_path, array)
    assert data.values == values
    np.testing.assert_array_equal(np.sort(together(data).numpy(), axis=0), np.sort(array.astype(np.float32), axis=0))


def test_kind_of_values_is_decided_over_all_splits(tmp_path: Path) -> None:
    zeros = np.zeros((5, 2), dtype=np.int64)
    assert load_arrays(tmp_path, train=zeros, validation=zeros, test=zeros + 6).values == Values.grey_levels(7)


class Trap:
    """An object that tells when it is unpickled."""

    sprung = False

    def __setstate__(self, state: dict[str, int]) -> None:
        Trap.sprung = True


def saved(kind: str) -> bytes:
    """A file of every kind."""
    buffer, array = io.BytesIO(), np.arange(60, dtype=np.uint8).reshape(20, 3)
    if kind == "npy":
        np.save(buffer, array)
    elif kind == "npz":
        np.savez_compressed(buffer, x=array, y=array)
    else:
        torch.save({"train": torch.from_numpy(array)}, buffer)
    return buffer.getvalue()


REFUSED: dict[str, list[tuple[Any, str]]] = {
    "npy": [
        (np.zeros((0, 4)), r"\[0, 4\], but it must not be empty"),
        (np.zeros((20, 0)), r"\[20, 0\], but it must not be empty"),
        (np.zeros(20), r"\[20\], but \[N, H, W\]"),
        (np.zeros(()), r"\[\], but"),
        (np.zeros((20, 1, 2, 2, 2)), r"\[20, 1, 2, 2, 2\], but"),
        (np.zeros((20, 28, 28, 3)), "channels-last"),
        (np.zeros((9, 4)), "9 rows to draw the validation and test split from, but at least 10"),
        (np.zeros((20, 4), dtype=complex), "type complex128"),
        (np.full((20, 4), "a"), "type <U1"),
        (np.zeros((20, 4), dtype="datetime64[s]"), "type datetime64"),
        (np.zeros(20, dtype=[("a", int), ("b", int)]), "type "),
        *((np.full((20, 4), value), "NaN or infinite") for value in (-np.inf, 1e300)),
        (np.full((20, 4), np.nan), "holds nothing but NaN"),
        (np.full((20, 4, 4), np.nan), "NaN or infinite"),
    ],
    "npz": [
        ({}, r"\(none\)"),
        ({"images": numbered(20), "labels": np.zeros(20)}, "images, labels"),
        ({"test": numbered(20), "validation": numbered(20)}, "test, validation"),
        ({"x": numbered(20), "train": numbered(20)}, "train, x"),
        ({"train": numbered(20), "x_train": numbered(20)}, "train and x_train"),
        ({"train": numbered(20), "test": numbered(20)[:, :1]}, r"train int64 \[20, 2\], test int64 \[20, 1\]"),
        ({"train": numbered(20), "test": numbered(20) / 2}, r"train int64 \[20, 2\], test float64 \[20, 2\]"),
    ],
    "pt": [
        ([torch.zeros(2)], "holds a list; a tensor or a dict of them"),
        ({}, "holds a dict; a tensor or a dict of them"),
        ({"a": 1}, "holds no tensor"),
        (torch.zeros(20, 2).to_sparse(), "no plain array of real numbers"),
        (torch.zeros(20, 2, dtype=torch.complex64), "no plain array of real numbers"),
        (torch.zeros(20), r"has the shape \[20\], but"),
        (torch.nn.Linear(2, 2), "cannot be read as tensors"),
        ({"a": Trap()}, "cannot be read as tensors"),
    ],
}
for kind in ("npy", "npz"):
    damage = (b"", b"no array", *(saved(kind)[:end] for end in (50, len(saved(kind)) // 2, -30)))
    REFUSED[kind] += [(content, "cannot be read as NumPy arrays") for content in damage]
WRITERS = {
    "npy": np.save,
    "npz": lambda path, arrays: np.savez(path, **arrays),
    "pt": lambda path, x: torch.save(x, path),
}


@pytest.mark.parametrize(
    ("kind", "content", "message"), [(kind, *case) for kind, cases in REFUSED.items() for case in cases]
)
def test_refusals(tmp_path: Path, kind: str, content: Any, message: str) -> None:
    path = tmp_path / f"own.{kind}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        WRITERS[kind](path, content)
    with refused(message, "" if kind == "npz" and isinstance(content, dict) else path.name):
        load_data(path)
    assert not Trap.sprung


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    trap = Trap()
    trap.__dict__["a"] = 1  # a state, so that __setstate__ would be called
    objects = np.empty((20, 2), dtype=object)
    objects[:] = trap
    np.save(tmp_path / "objects.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "objects.npz", x=objects, allow_pickle=True)
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(trap))
    for name in ("objects.npy", "objects.npz", "pickle.npy"):
        with refused(f"{name} cannot be read as NumPy arrays"):
            load_data(tmp_path / name)
    assert not Trap.sprung


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64, np.float64, np.float16, bool])
def test_arrays_are_read_where_they_lie(tmp_path: Path, dtype: type) -> None:
    """In the type and the place that they have in the file, which nothing changes."""
    data = load_array(tmp_path, numbered(20).astype(dtype))
    before = (tmp_path / "own.npy").read_bytes()
    source = data.train.source
    assert source is data.test.source and source.numpy().dtype == dtype
    data.train[:].zero_()
    del data, source
    assert (tmp_path / "own.npy").read_bytes() == before


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="needs to know the size of memory")
def test_a_file_may_be_larger_than_memory(tmp_path: Path) -> None:
    rows = 2 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1000
    with (tmp_path / "large.npy").open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (rows, 1000)}
        np.lib.format.write_array_header_1_0(file, header)
        try:
            file.truncate(file.tell() + rows * 1000)  # takes no place on the disk
        except OSError:
            pytest.skip("no file can be so large here")
    x = _read(tmp_path / "large.npy")["x"]
    assert len(x) == rows and not x[rows - 1].any()


class TestTorch:
    def test_labels_of_any_kind_are_left_alone(self, tmp_path: Path) -> None:
        torch.save({"train": torch.rand(20, 2), "y": torch.eye(20).to_sparse()}, tmp_path / "own.pt")
        assert len(load_data(tmp_path / "own.pt").train) == 16

    @pytest.mark.parametrize("dtype", [torch.uint16, torch.bfloat16])
    def test_types_that_numpy_does_not_have(self, tmp_path: Path, dtype: torch.dtype) -> None:
        torch.save(torch.arange(40).reshape(20, 2).to(dtype), tmp_path / "own.pt")
        data = load_data(tmp_path / "own.pt")
        assert data.train.source.dtype == dtype and len(data.fingerprint()) == 16
        assert data.values == (Values(low=0, high=39) if dtype.is_floating_point else Values.grey_levels(40))

    def test_a_tensor(self, tmp_path: Path) -> None:
        x = torch.arange(40.0).reshape(20, 2).double()
        torch.save(x, tmp_path / "own.pt")
        data = load_data(tmp_path / "own.pt")
        assert torch.equal(together(data).sort(0).values, x.float()) and data.name == "own.pt"

    def test_a_dict_with_splits(self, tmp_path: Path) -> None:
        parts = {name: torch.randint(256, (12, 3, 4, 5), dtype=torch.uint8) for name in ("train", "val", "test")}
        torch.save(parts | {"labels": torch.zeros(12), "note": "mine"}, tmp_path / "own.pt")
        data = load_data(tmp_path / "own.pt")
        for rows, name in ((data.train, "train"), (data.validation, "val"), (data.test, "test")):
            assert torch.equal(rows[:], parts[name].float())
        assert data.values == Values.grey_levels(256)

    def test_the_older_format(self, tmp_path: Path) -> None:
        torch.save(torch.ones(20, 2), tmp_path / "own.pt", _use_new_zipfile_serialization=False)
        assert len(load_data(tmp_path / "own.pt").train) == 16


@given(st.sampled_from(["npy", "npz", "pt"]), st.integers(0, 5000), st.binary(max_size=12), st.booleans())
def test_only_refusals_leave_the_readers(tmp_path_factory: Any, kind: str, place: int, noise: bytes, cut: bool) -> None:
    path = tmp_path_factory.getbasetemp() / f"fuzz.{kind}"
    path.write_bytes(damaged(saved(kind), place, noise, cut))
    with perhaps_refused("fuzz"):
        assert torch.isfinite(load_data(path).train[:]).all()


@given(st.sampled_from(["npy", "npz", "pt"]), st.binary(max_size=200))
def test_noise_is_refused(tmp_path_factory: Any, kind: str, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / f"noise.{kind}"
    path.write_bytes(content)
    with refused("noise"):
        load_data(path)


def grown(path: Path) -> None:
    """Prints by how many MiB reading a file, and batches of it, let the process grow."""

    def anonymous() -> float:
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)  # what was freed is given back, whatever the C library would do
        return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 1024

    before = anonymous()
    data = load_data(path).preprocessed("dequantize", 0).cached(2**20)
    batches = Batches(data.train, None, 64, 0)
    for number in range(3):
        x, _ = batches(0, number)
        assert x.shape[1:] == (3, 64, 64) and 60 < len(x) <= 64
    print(anonymous() - before)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of memory")
def test_a_large_file_is_not_copied(tmp_path: Path) -> None:
    rows = 160 * 2**20 // (3 * 64 * 64)
    mapped = np.lib.format.open_memmap(tmp_path / "large.npy", mode="w+", dtype=np.uint8, shape=(rows, 3, 64, 64))
    mapped[7, 0, 0, 0] = 200
    mapped.flush()
    done = Forked(grown, tmp_path / "large.npy").succeed()
    assert float(done.stdout) < 150, "MiB; blocks of 16 MiB as floats and what they are compared with"


@pytest.mark.parametrize(
    ("seen", "values"),
    [
        ([0.0, 1.0], Values.grey_levels(2)),
        ([0.25, 1.0], Values(low=0, high=1)),
        ([-3.0, 2.0], Values(low=-3, high=2)),
    ],
)
def test_entries_that_are_missing_do_not_count_for_the_kind_of_values(
    tmp_path: Path, seen: list[float], values: Values
) -> None:
    x = np.resize(seen, (40, 3))
    x[::3, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    data = load_data(tmp_path / "x.npy", missing="nan")
    assert data.values == values and data.train.missing
    found = np.concatenate([getattr(data, split)[:].numpy() for split in ("train", "validation", "test")])
    assert np.isnan(found).sum() == 14 and set(found[~np.isnan(found)]) == set(seen)
    with pytest.raises(ValueError, match=r"NaN or infinite .*row \d+ of the array\) at \[1\].*--missing none"):
        load_data(tmp_path / "x.npy", missing="none")
    with pytest.raises(ValueError, match="^missing is 'no'; known are auto, none, nan$"):
        load_data("digits", missing="no")

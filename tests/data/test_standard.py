# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The standard data sets: true content, seeded splits, and one clear sentence where files are missing."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pyro_spvae.data import DataSet, Values, load_data

Bytes = NDArray[np.uint8]


def rows(data: DataSet) -> list[bytes]:
    """All rows of a data set, in an order that does not depend on the split."""
    return sorted(x.numpy().tobytes() for x in torch.cat([data.train, data.validation, data.test]))


def test_digits_are_the_bundled_images() -> None:
    from sklearn.datasets import load_digits

    digits = load_data("digits")
    assert [len(digits.train), len(digits.validation), len(digits.test)] == [1297, 250, 250]
    assert digits.event_shape == (1, 8, 8)
    assert digits.values == Values.grey_levels(17)
    assert digits.train.dtype == torch.float32
    assert rows(digits) == sorted(image.astype(np.float32).tobytes() for image in load_digits().images)


def test_digits_split_by_seed() -> None:
    first, again, other = load_data("digits", seed=5), load_data("digits", seed=5), load_data("digits", seed=6)
    for split in ("train", "validation", "test"):
        assert torch.equal(getattr(first, split), getattr(again, split))
        assert not torch.equal(getattr(first, split), getattr(other, split))
    assert rows(first) == rows(other)


def write_idx(path: Path, array: Bytes) -> None:
    """An array of bytes in MNIST's file format: magic number (type 8 = bytes, rank), sizes, values; big-endian."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


@pytest.fixture
def mnist_dir(tmp_path: Path) -> Path:
    """A tiny MNIST: 60 training and 10 test images of 28x28, each filled with a number of its own."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, first, count in (("train", 0, 60), ("t10k", 100, 10)):
        images = np.broadcast_to(np.arange(first, first + count, dtype=np.uint8)[:, None, None], (count, 28, 28)).copy()
        images[:, 0, 0] = 255
        write_idx(raw / f"{name}-images-idx3-ubyte", images)
        write_idx(raw / f"{name}-labels-idx1-ubyte", np.zeros(count, dtype=np.uint8))
    return tmp_path


def test_mnist(mnist_dir: Path) -> None:
    mnist = load_data("mnist", data_dir=mnist_dir, seed=1)
    assert [x.shape for x in (mnist.train, mnist.validation, mnist.test)] == [
        (50, 1, 28, 28),
        (10, 1, 28, 28),
        (10, 1, 28, 28),
    ]
    assert mnist.values == Values.grey_levels(256)
    assert mnist.train.dtype == torch.float32
    assert mnist.test[:, 0, 9, 9].tolist() == list(range(100, 110))  # the test images in their own order
    assert (mnist.test[:, 0, 0, 0] == 255).all()
    in_training = mnist.train[:, 0, 9, 9].tolist() + mnist.validation[:, 0, 9, 9].tolist()
    assert sorted(in_training) == list(range(60))
    assert in_training != sorted(in_training)
    other = load_data("mnist", data_dir=str(mnist_dir), seed=2)
    assert not torch.equal(mnist.validation, other.validation)
    assert torch.equal(mnist.test, other.test)


def test_mnist_without_a_folder() -> None:
    with pytest.raises(ValueError, match="data_dir is not given, but mnist needs it"):
        load_data("mnist")


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_mnist_says_which_file_goes_where_and_writes_nothing(mnist_dir: Path, name: str) -> None:
    raw = mnist_dir / "MNIST" / "raw"
    (raw / name).unlink()
    before = sorted(raw.iterdir())
    with pytest.raises(ValueError) as caught:
        load_data("mnist", data_dir=mnist_dir)
    assert name in str(caught.value) and str(raw) in str(caught.value)
    assert sorted(raw.iterdir()) == before
    with pytest.raises(ValueError, match="train-images-idx3-ubyte"):
        load_data("mnist", data_dir=mnist_dir / "elsewhere")
    assert not (mnist_dir / "elsewhere").exists()


def test_mnist_with_a_damaged_file(mnist_dir: Path) -> None:
    path = mnist_dir / "MNIST" / "raw" / "train-images-idx3-ubyte"
    whole = path.read_bytes()
    for content in (whole[:1000], whole[:10], b"", b"<html>not found</html>", b"\x00\x00\x08\x01" + whole[4:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            load_data("mnist", data_dir=mnist_dir)

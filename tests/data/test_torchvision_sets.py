# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Data sets in torchvision's files: true content, seeded splits, one clear sentence where files are missing."""

from __future__ import annotations

import http.client
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from numpy.typing import NDArray
from PIL import Image

from pyro_spvae.data import DataSet, Values, load_data, torchvision_sets
from pyro_spvae.data._torchvision import torchvision_datasets
from tests.data.cases import lengths, refused, together

Bytes = NDArray[np.uint8]


def rows(data: DataSet) -> list[bytes]:
    """All rows of a data set, in an order that does not depend on the split."""
    return sorted(x.numpy().tobytes() for x in together(data))


def test_digits_are_the_bundled_images() -> None:
    from sklearn.datasets import load_digits

    digits = load_data("digits")
    assert lengths(digits) == [1297, 250, 250] and digits.event_shape == (1, 8, 8)
    assert digits.values == Values.grey_levels(17) and digits.train.dtype == torch.float32
    assert rows(digits) == sorted(image.astype(np.float32).tobytes() for image in load_digits().images)
    labels = {
        image.astype(np.float32).tobytes(): label for image, label in zip(*load_digits(return_X_y=True), strict=True)
    }
    for split in (digits.train, digits.validation, digits.test):
        assert split.labels is not None
        assert split.labels.tolist() == [labels[x.numpy().tobytes()] for x in split]


def test_digits_split_by_seed() -> None:
    first, again, other = load_data("digits", seed=5), load_data("digits", seed=5), load_data("digits", seed=6)
    for split in ("train", "validation", "test"):
        assert torch.equal(getattr(first, split)[:], getattr(again, split)[:])
        assert not torch.equal(getattr(first, split)[:], getattr(other, split)[:])
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
        write_idx(raw / f"{name}-labels-idx1-ubyte", np.arange(first, first + count, dtype=np.uint8))
    return tmp_path


def test_mnist(mnist_dir: Path) -> None:
    mnist = load_data("mnist", data_dir=mnist_dir, seed=1)
    assert lengths(mnist) == [50, 10, 10] and mnist.event_shape == (1, 28, 28)
    assert mnist.values == Values.grey_levels(256) and mnist.train.dtype == torch.float32
    assert mnist.test[:][:, 0, 9, 9].tolist() == list(range(100, 110))  # the test images in their own order
    assert (mnist.test[:][:, 0, 0, 0] == 255).all()
    in_training = mnist.train[:][:, 0, 9, 9].tolist() + mnist.validation[:][:, 0, 9, 9].tolist()
    assert sorted(in_training) == list(range(60))
    assert in_training != sorted(in_training)
    for split in (mnist.train, mnist.validation, mnist.test):
        assert split.labels is not None and split.labels.tolist() == split[:][:, 0, 9, 9].tolist()
    other = load_data("mnist", data_dir=str(mnist_dir), seed=2)
    assert not torch.equal(mnist.validation[:], other.validation[:])
    assert torch.equal(mnist.test[:], other.test[:])


def test_mnist_that_is_missing_or_damaged(mnist_dir: Path) -> None:
    raw = mnist_dir / "MNIST" / "raw"
    with refused("data_dir is not given, but mnist needs it"):
        load_data("mnist")
    with refused("train-images-idx3-ubyte"):
        load_data("mnist", data_dir=mnist_dir / "elsewhere")
    assert not (mnist_dir / "elsewhere").exists()
    path = raw / "train-images-idx3-ubyte"
    whole = path.read_bytes()
    for content in (whole[:1000], whole[:10], b"", b"<html>not found</html>", b"\x00\x00\x08\x01" + whole[4:]):
        path.write_bytes(content)
        with refused("damaged"):
            load_data("mnist", data_dir=mnist_dir)
    for name in ("t10k-labels-idx1-ubyte", "train-images-idx3-ubyte"):
        (raw / name).unlink()
        before = sorted(raw.iterdir())
        with refused("^mnist needs the file", name, raw, "/mnist/"):
            load_data("mnist", data_dir=mnist_dir)
        assert sorted(raw.iterdir()) == before, "nothing is written"


def test_labels_of_other_images_are_refused(mnist_dir: Path) -> None:
    write_idx(mnist_dir / "MNIST" / "raw" / "t10k-labels-idx1-ubyte", np.zeros(9, dtype=np.uint8))
    with refused("^mnist has 9 labels for 10 images; remove its files and fetch them anew"):
        load_data("mnist", data_dir=mnist_dir)


def test_fashion_mnist_lies_beside_it(mnist_dir: Path) -> None:
    (mnist_dir / "MNIST").rename(mnist_dir / "FashionMNIST")
    fashion = load_data("fashion_mnist", data_dir=mnist_dir)
    assert fashion.name == "fashion_mnist" and len(fashion.train) == 50
    with refused("^mnist needs the file train-images-idx3-ubyte"):
        load_data("mnist", data_dir=mnist_dir)


def write_svhn(folder: Path, **arrays: Bytes) -> None:
    folder.mkdir(exist_ok=True)
    for split, images in arrays.items():
        labels = images[0, 0, 0, :, np.newaxis] % 10 + 1  # 10 stands for the digit 0
        scipy.io.savemat(folder / f"{split}_32x32.mat", {"X": images, "y": labels})


@pytest.fixture
def no_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision compares its files' digests with the official ones, which files of a test cannot have."""
    datasets = torchvision_datasets()
    for module in (datasets.svhn, datasets.omniglot):
        monkeypatch.setattr(module, "check_integrity", lambda path, digest: Path(path).is_file())


def test_files_with_other_digests_are_refused(tmp_path: Path) -> None:
    images = np.zeros((32, 32, 3, 30), dtype=np.uint8)
    write_svhn(tmp_path, train=images, test=images)
    with refused("^the svhn files in .* are damaged"):
        load_data("svhn", data_dir=tmp_path)


@pytest.mark.parametrize("inside", ["", "svhn"])
def test_svhn(tmp_path: Path, no_digests: None, inside: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 30), dtype=np.uint8)
    write_svhn(tmp_path / inside, train=images[..., :20], test=images[..., 20:])
    svhn = load_data("svhn", data_dir=tmp_path)
    assert lengths(svhn) == [18, 2, 10] and svhn.event_shape == (3, 32, 32) and svhn.values == Values.grey_levels(256)
    expected = torch.from_numpy(images[..., 20:].transpose(3, 2, 0, 1)).float()
    assert torch.equal(svhn.test[:], expected)
    for split in (svhn.train, svhn.validation, svhn.test):
        assert split.labels is not None and split.labels.tolist() == ((split[:][:, 0, 0, 0] + 1) % 10).tolist()
    (tmp_path / inside / "test_32x32.mat").write_bytes(b"nothing")
    with refused("^the svhn files in .* are damaged"):
        load_data("svhn", data_dir=tmp_path)


def test_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision checks the digests of its files, so that only a stand-in for its class can be given other images."""
    images = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)

    class CIFAR10:
        def __init__(self, folder: Path, train: bool) -> None:
            self.data = images[:50] if train else images[50:]
            self.targets = list(range(50)) if train else list(range(50, 60))

    module = torchvision_datasets()
    with refused("^cifar10 needs the file data_batch_1 .* in .*cifar-10-batches-py, and it is"):
        load_data("cifar10", data_dir=tmp_path)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(pickle.dumps({"data": 1}))
    with refused("^the cifar10 files in .* are damaged"):  # the digest is wrong: not unpickled
        load_data("cifar10", data_dir=tmp_path)
    monkeypatch.setattr(module, "CIFAR10", CIFAR10)
    cifar = load_data("cifar10", data_dir=tmp_path)
    assert lengths(cifar) == [40, 10, 10]
    assert torch.equal(cifar.test[:], torch.from_numpy(images[50:].transpose(0, 3, 1, 2)).float())
    for split in (cifar.train, cifar.validation, cifar.test):
        assert split.labels is not None and split.labels.dtype == torch.int64
        assert torch.equal(split[:], torch.from_numpy(images[split.labels.numpy()].transpose(0, 3, 1, 2)).float())


def test_omniglot(tmp_path: Path, no_digests: None) -> None:
    random = np.random.default_rng(0)
    strokes = {}
    for place, number in (("images_background", 20), ("images_evaluation", 3)):
        folder = tmp_path / "omniglot-py" / place / "Alphabet" / "character01"
        folder.mkdir(parents=True)
        pictures = random.random((number, 105, 105)) < 0.1
        for name, picture in enumerate(pictures):
            Image.fromarray(~picture).save(folder / f"{name:04d}_01.png")
        (tmp_path / "omniglot-py" / f"{place}.zip").touch()
        strokes[place] = torch.from_numpy(pictures).unsqueeze(1).float()
    omniglot = load_data("omniglot", data_dir=tmp_path)
    assert lengths(omniglot) == [18, 2, 3] and omniglot.values == Values.grey_levels(2)
    assert torch.equal(omniglot.test[:], strokes["images_evaluation"])


def test_where_the_files_come_from() -> None:
    """The addresses that messages give are those of torchvision."""
    datasets = torchvision_datasets()
    ours = torchvision_sets._ADDRESSES
    for kind in ("MNIST", "FashionMNIST"):
        assert ours[kind] in getattr(datasets, kind).mirrors
    assert ours["CIFAR10"] == datasets.CIFAR10.url
    assert f"{ours['SVHN']}test_32x32.mat" == datasets.SVHN.split_list["test"][0]
    assert ours["Omniglot"] == f"{datasets.Omniglot.download_url_prefix}/"


@pytest.mark.parametrize("name", ["mnist", "svhn", "cifar10", "omniglot"])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("no network\nat all"), "no network"),
        (http.client.IncompleteRead(b"", 9), "IncompleteRead.*"),
        (zipfile.BadZipFile(), "BadZipFile"),
    ],
)
def test_a_download_that_fails_says_what_to_do(tmp_path, monkeypatch, name, error, reason) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise error

    for kind in ("MNIST", "SVHN", "CIFAR10", "Omniglot"):
        monkeypatch.setattr(torchvision_datasets(), kind, fails)
    with refused(rf"^{name} could not be downloaded \({reason}\); put .* into .*, from http"):
        load_data(name, data_dir=tmp_path, download=True)

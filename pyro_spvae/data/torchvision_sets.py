# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Data sets in torchvision's files and layout; it fetches them from their official addresses and checks digests."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_spvae.data._torchvision import torchvision_datasets
from pyro_spvae.data.dataset import DataSet
from pyro_spvae.data.rows import Rows
from pyro_spvae.data.sources import require_data_dir
from pyro_spvae.data.splits import shuffled_split
from pyro_spvae.data.values import Values

MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_ADDRESSES = {
    "MNIST": "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "FashionMNIST": "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "CIFAR10": "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "SVHN": "http://ufldl.stanford.edu/housenumbers/",
    "Omniglot": "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/",
}
"""Where torchvision fetches them."""


def load_mnist(data_dir: Path | None, seed: int, download: bool) -> DataSet:
    """MNIST (LeCun et al. 1998): 28x28 pixels, 256 grey levels.

    Its 10,000 test images are the test split; a random sixth of its 60,000 training images, 10,000, is held out for
    validation. Labels are the digits.

    :param data_dir: folder that holds ``MNIST/raw``.
    :param int seed: seed of the validation split.
    :param bool download: fetch the files into ``data_dir`` where they are missing.
    :raises ValueError: if ``data_dir`` is not given, or a file is missing (and not to be downloaded) or damaged.
    """
    return _load_idx("mnist", "MNIST", data_dir, seed, download)


def load_fashion_mnist(data_dir: Path | None, seed: int, download: bool) -> DataSet:
    """Fashion-MNIST (Xiao et al. 2017), of the sizes and with the splits of MNIST.

    :param data_dir: folder that holds ``FashionMNIST/raw``.
    :param int seed: seed of the validation split.
    :param bool download: fetch the files where they are missing.
    :raises ValueError: as for MNIST.
    """
    return _load_idx("fashion_mnist", "FashionMNIST", data_dir, seed, download)


def load_cifar10(data_dir: Path | None, seed: int, download: bool) -> DataSet:
    """CIFAR-10 (Krizhevsky 2009): 3x32x32 pixels, 256 levels; 40,000 / 10,000 (drawn by the seed) / 10,000.

    torchvision reads its files, which are pickles, after it has checked that their digests are the official ones.

    :param data_dir: folder that holds ``cifar-10-batches-py``.
    :param int seed: seed of the validation split.
    :param bool download: fetch and unpack ``cifar-10-python.tar.gz`` where that is missing.
    :raises ValueError: if files are missing or damaged.
    """
    folder = require_data_dir("cifar10", data_dir)
    needed = folder / "cifar-10-batches-py" / "data_batch_1"
    train, test = _pair("cifar10", "CIFAR10", folder, [needed], download, ({"train": True}, {"train": False}))
    images = [torch.from_numpy(np.asarray(part.data)).permute(0, 3, 1, 2) for part in (train, test)]
    labels = [torch.as_tensor(part.targets, device="cpu") for part in (train, test)]
    return _held_out("cifar10", images, len(images[0]) // 5, seed, (3, 32, 32), Values.grey_levels(256), labels)


def load_svhn(data_dir: Path | None, seed: int, download: bool) -> DataSet:
    """Street View House Numbers (Netzer et al. 2011), cropped: 3x32x32 pixels, 256 levels.

    The 26,032 test images are the test split; a random tenth of the 73,257 training images is held out for validation.

    :param data_dir: folder that holds ``train_32x32.mat`` and ``test_32x32.mat``, or a folder ``svhn`` with them.
    :param int seed: seed of the validation split.
    :param bool download: fetch them where they are missing.
    :raises ValueError: if files are missing or damaged.
    """
    folder = require_data_dir("svhn", data_dir)
    folder = folder / "svhn" if (folder / "svhn" / "train_32x32.mat").is_file() else folder
    needed = [folder / f"{split}_32x32.mat" for split in ("train", "test")]
    train, test = _pair("svhn", "SVHN", folder, needed, download, ({"split": "train"}, {"split": "test"}))
    images = [torch.from_numpy(np.asarray(part.data)) for part in (train, test)]
    labels = [torch.from_numpy(np.asarray(part.labels)) for part in (train, test)]
    return _held_out("svhn", images, len(images[0]) // 10, seed, (3, 32, 32), Values.grey_levels(256), labels)


def load_omniglot(data_dir: Path | None, seed: int, download: bool) -> DataSet:
    """Omniglot (Lake et al. 2015) as published: 105x105 pixels, black strokes (1) on white (0).

    The 13,180 evaluation images are the test split; a random tenth of the 19,280 background images is held out for
    validation. For the 28x28 version that generative models are usually compared on see ``omniglot_burda``.

    :param data_dir: folder that holds ``omniglot-py`` with ``images_background.zip`` and ``images_evaluation.zip``, by
        which torchvision knows them, and what is in these archives.
    :param int seed: seed of the validation split.
    :param bool download: fetch and unpack the archives where they are missing.
    :raises ValueError: if files are missing or damaged.
    """
    folder = require_data_dir("omniglot", data_dir)
    files = ("images_background.zip", "images_evaluation.zip", "images_background", "images_evaluation")
    needed = [folder / "omniglot-py" / name for name in files]
    parts = ({"background": True}, {"background": False})
    train, test = _pair("omniglot", "Omniglot", folder, needed, download, parts)
    images = [_guarded("omniglot", folder, functools.partial(_omniglot_images, part)) for part in (train, test)]
    return _held_out("omniglot", images, len(images[0]) // 10, seed, (1, 105, 105), Values.grey_levels(2))


def _load_idx(name: str, kind: str, data_dir: Path | None, seed: int, download: bool) -> DataSet:
    folder = require_data_dir(name, data_dir)
    raw = folder / kind / "raw"
    needed = [raw / file for file in MNIST_FILES]
    train, test = _pair(name, kind, folder, needed, download, ({"train": True}, {"train": False}))
    images = [part.data.unsqueeze(1) if part.data.dim() == 3 else part.data for part in (train, test)]
    labels = [part.targets for part in (train, test)]
    return _held_out(name, images, len(images[0]) // 6, seed, None, Values.grey_levels(256), labels)


def _pair(
    name: str,
    kind: str,
    folder: Path,
    needed: list[Path],
    download: bool,
    parts: tuple[dict[str, Any], dict[str, Any]],
) -> list[Any]:
    """torchvision's training and test set."""
    missing = [path for path in needed if not path.exists()]
    if missing and not download:
        raise ValueError(
            f"{name} needs the file {missing[0].name} (uncompressed) in {missing[0].parent}, and it is not there; put "
            f"it there (from {_ADDRESSES[kind]}), or allow the download by --download (download=True)."
        )
    dataset = getattr(torchvision_datasets(), kind)
    if missing:
        try:
            for part in parts:
                dataset(folder, download=True, **part)
        except Exception as error:  # of the connection, of archives, of files
            reason = str(error).partition("\n")[0][:200] or type(error).__name__
            files = ", ".join(path.name for path in needed)
            raise ValueError(
                f"{name} could not be downloaded ({reason}); put {files} into {needed[0].parent} yourself, from "
                f"{_ADDRESSES[kind]}."
            ) from error
    return [_guarded(name, folder, functools.partial(dataset, folder, **part)) for part in parts]


def _guarded(name: str, folder: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:  # damaged files surface as almost any error of pickle, scipy, Pillow or torchvision
        raise ValueError(f"the {name} files in {folder} are damaged; remove them and fetch them anew.") from error


def _omniglot_images(part: Any) -> Tensor:
    """Bytes ``[N, 1, 105, 105]``, strokes 1."""
    pixels = np.empty((len(part), 1, 105, 105), dtype=np.uint8)
    for place in range(len(part)):
        image, _ = part[place]
        pixels[place, 0] = np.asarray(image.convert("L")) < 128
    return torch.from_numpy(pixels)


def _held_out(
    name: str,
    parts: list[Tensor],
    num_validation: int,
    seed: int,
    event_shape: tuple[int, ...] | None,
    values: Values,
    labels: list[Tensor] | None = None,
) -> DataSet:
    """The data set whose validation split is drawn from its training images; labels are those of both parts."""
    train, test = parts
    for images in parts:
        wrong = images.dim() != 4 or images.dtype != torch.uint8
        if wrong or (event_shape is not None and tuple(images.shape[1:]) != event_shape):
            raise ValueError(
                f"the images of {name} are {images.dtype} of shape {list(images.shape)}, which is not what they should "
                "be; remove its files and fetch them anew."
            )
    train_labels, test_labels = (None, None) if labels is None else labels
    for images, found in ((train, train_labels), (test, test_labels)):
        if found is not None and len(found) != len(images):
            raise ValueError(
                f"{name} has {len(found)} labels for {len(images)} images; remove its files and fetch them anew."
            )
    index, held_out = shuffled_split(len(train), [len(train) - num_validation, num_validation], seed)
    return DataSet(
        name,
        Rows(train, index, labels=train_labels),
        Rows(train, held_out, stream=1, labels=train_labels),
        Rows(test, stream=2, labels=test_labels),
        values,
    )

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The standard data sets: where each comes from and how its rows are split."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pyro_spvae.data._torchvision import torchvision_datasets
from pyro_spvae.data.dataset import DataSet, Values
from pyro_spvae.data.splits import shuffled_split

MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def load_digits(data_dir: Path | None, seed: int, download: bool) -> DataSet:
    """The 1,797 handwritten digits bundled with scikit-learn: 8x8 pixels, 17 grey levels.

    Source: the test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998, UCI). It has no
    customary split; here the rows are shuffled by ``seed`` into 1,297 / 250 / 250.

    :param data_dir: not used, the data are part of scikit-learn.
    :param int seed: seed of the split.
    :param bool download: not used.
    """
    from sklearn.datasets import load_digits as sklearn_digits  # takes a second, and only this data set needs it

    x = torch.from_numpy(sklearn_digits().images).to(torch.float32).unsqueeze(1)  # [N, 1, 8, 8]
    train, validation, test = shuffled_split(len(x), [len(x) - 500, 250, 250], seed)
    return DataSet("digits", x[train], x[validation], x[test], Values.grey_levels(17))


def load_mnist(data_dir: Path | None, seed: int, download: bool) -> DataSet:
    """MNIST (LeCun et al. 1998): 28x28 pixels, 256 grey levels, in torchvision's folder layout.

    Its 10,000 test images are the test split; a random sixth of its 60,000 training images, 10,000, is held out for
    validation.

    :param data_dir: folder that holds ``MNIST/raw``.
    :param int seed: seed of the validation split.
    :param bool download: fetch the files into ``data_dir`` where they are missing.
    :raises ValueError: if ``data_dir`` is not given, or a file is missing (and not to be downloaded) or damaged.
    """
    if data_dir is None:
        raise ValueError("data_dir is not given, but mnist needs it: the folder that holds (or will hold) MNIST/raw.")
    raw = data_dir / "MNIST" / "raw"
    missing = [name for name in MNIST_FILES if not (raw / name).is_file()]
    if missing and not download:
        raise ValueError(
            f"mnist needs the file {missing[0]} (uncompressed) in {raw}, and it is not there; put it there, or allow "
            "the download by download=True."
        )
    mnist = torchvision_datasets().MNIST
    if missing:
        try:
            mnist(data_dir, download=True)
        except (OSError, RuntimeError) as error:
            raise ValueError(f"MNIST could not be downloaded; put {', '.join(MNIST_FILES)} into {raw}.") from error
    try:
        train_images, test_images = (_images(mnist(data_dir, train=train).data) for train in (True, False))
    except (AssertionError, IndexError, KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"the MNIST files in {raw} are damaged; remove them and fetch them anew.") from error
    num_validation = len(train_images) // 6
    train, validation = shuffled_split(len(train_images), [len(train_images) - num_validation, num_validation], seed)
    values = Values.grey_levels(256)
    return DataSet("mnist", train_images[train], train_images[validation], test_images, values)


def _images(x: Tensor) -> Tensor:
    """`[N, H, W]` bytes as float32 `[N, 1, H, W]`."""
    if x.dim() != 3 or x.dtype != torch.uint8:
        raise ValueError(f"images are {x.dtype} of shape {list(x.shape)}, but bytes of shape [N, H, W] are needed.")
    return x.to(torch.float32).unsqueeze(1)

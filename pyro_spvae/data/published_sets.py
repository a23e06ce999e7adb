# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
Data sets in the files of those who published them, of the sizes on which generative models are compared (Burda et al.
2016; Tomczak and Welling 2018).

Digests are known of the files of ``static_mnist`` (those of TensorFlow Datasets) and checked after a download. Of the
others none were published: they are recognised by their content, arrays of the right names, types and sizes. Two of the
MATLAB files have digests that others recorded (NEVIS'22 of ``caltech101_silhouettes``); they decide how a file is read.
"""

from __future__ import annotations

import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_spvae.data.dataset import DataSet
from pyro_spvae.data.matlab_arrays import read_matlab_arrays
from pyro_spvae.data.pickled_arrays import pickled_arrays, read_pickled_arrays
from pyro_spvae.data.rows import Rows
from pyro_spvae.data.sources import Source, SourceFile
from pyro_spvae.data.splits import shuffled_split
from pyro_spvae.data.values import Values

_LAROCHELLE = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist"
_STATIC_MNIST_SHA256 = {
    "train": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "valid": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    "test": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
}
STATIC_MNIST = Source(
    "static_mnist",
    tuple(
        SourceFile(f"binarized_mnist_{split}.amat", f"{_LAROCHELLE}/binarized_mnist_{split}.amat", f"sha256:{sha256}")
        for split, sha256 in _STATIC_MNIST_SHA256.items()
    ),
)
OMNIGLOT_BURDA = Source(
    "omniglot_burda",
    (SourceFile("chardata.mat", "https://github.com/yburda/iwae/raw/master/datasets/OMNIGLOT/chardata.mat"),),
)
CALTECH101_SILHOUETTES = Source(
    "caltech101_silhouettes",
    (
        SourceFile(
            "caltech101_silhouettes_28_split1.mat",
            "https://people.cs.umass.edu/~marlin/data/caltech101_silhouettes_28_split1.mat",
            "md5:4483e9c14b188fd09937f9ea6f9ea777",
        ),
    ),
)
FREY_FACES = Source(
    "frey_faces",
    (
        SourceFile(
            "frey_rawface.mat",
            "https://cs.nyu.edu/~roweis/data/frey_rawface.mat",
            "sha1:32c4bc7a947721c46df32d4f4973f31daf5d3946",
        ),
    ),
)
HISTOPATHOLOGY = Source(
    "histopathology",
    (
        SourceFile(
            "histopathology.pkl.tar.gz",
            "https://github.com/jmtomczak/vae_householder_flow/raw/master/datasets/histopathologyGray/"
            "histopathology.pkl.tar.gz",
            packed="histopathology.pkl",
        ),
    ),
)

SIZES = {
    "static_mnist": (50_000, 10_000, 10_000),
    "omniglot_burda": (23_000, 1_345, 8_070),
    "caltech101_silhouettes": (4_100, 2_264, 2_307),
    "frey_faces": (1_565, 200, 200),
    "histopathology": (6_800, 2_000, 2_000),
}
"""Rows of the three splits."""


def load_static_mnist(data_dir: Path | None, seed: int, download: bool) -> DataSet:
    """MNIST made black and white once for all (Salakhutdinov and Murray 2008; files by Larochelle): 1x28x28, 2 levels.

    :param data_dir: folder that holds ``binarized_mnist_{train,valid,test}.amat``, or a folder ``static_mnist`` with
        them.
    :param int seed: not used, the splits are given.
    :param bool download: fetch missing files.
    :raises ValueError: if files are missing or damaged.
    """
    parts = [_read_amat(path) for path in STATIC_MNIST.locate(data_dir, download)]
    return _as_published("static_mnist", parts, Values.grey_levels(2))


def load_omniglot_burda(data_dir: Path | None, seed: int, download: bool) -> DataSet:
    """OMNIGLOT as Burda et al. (2016) prepared it: 1x28x28, grey values in [0, 1], to be used with ``binarize``.

    The file's columns hold images by columns of pixels; they are turned upright. Its 8,070 test images are the test
    split; 1,345 of the other 24,345, drawn by the seed, are for validation.

    :param data_dir: folder that holds ``chardata.mat``, or a folder ``omniglot_burda`` with it.
    :param int seed: seed of the validation split.
    :param bool download: fetch a missing file.
    :raises ValueError: if the file is missing or damaged.
    """
    path, arrays = _read_mat(OMNIGLOT_BURDA, ("data", "testdata"), data_dir, download)
    train, test = (_upright(array.T, 28, 28, path) for array in (arrays["data"], arrays["testdata"]))
    _check_range(path, train, test)
    return _drawn("omniglot_burda", train, test, seed, Values(low=0, high=1))


def load_caltech101_silhouettes(data_dir: Path | None, seed: int, download: bool) -> DataSet:
    """Caltech 101 Silhouettes, split 1 (Marlin et al. 2010): 1x28x28, 2 levels, the silhouette being 1.

    The file has silhouettes 0, which is turned round as is customary, and pixels by columns.

    :param data_dir: folder that holds ``caltech101_silhouettes_28_split1.mat``, or a folder
        ``caltech101_silhouettes`` with it.
    :param int seed: not used, the splits are given.
    :param bool download: fetch a missing file.
    :raises ValueError: if the file is missing or damaged.
    """
    names = ("train_data", "val_data", "test_data")
    path, arrays = _read_mat(CALTECH101_SILHOUETTES, names, data_dir, download)
    return _as_published(
        "caltech101_silhouettes",
        [1 - _upright(arrays[name], 28, 28, path) for name in names],
        Values.grey_levels(2),
    )


def load_frey_faces(data_dir: Path | None, seed: int, download: bool) -> DataSet:
    """Frey faces (Roweis and Frey): 1,965 frames of a film, 1x28x20, 256 grey levels.

    The rows are shuffled by the seed into 1,565 / 200 / 200, the customary sizes; there are no customary rows.

    :param data_dir: folder that holds ``frey_rawface.mat``, or a folder ``frey_faces`` with it.
    :param int seed: seed of the split.
    :param bool download: fetch a missing file.
    :raises ValueError: if the file is missing or damaged.
    """
    path, arrays = _read_mat(FREY_FACES, ("ff",), data_dir, download)
    faces = arrays["ff"]
    if faces.dtype != np.uint8 or faces.ndim != 2 or faces.shape[0] != 560:
        raise _damaged(path)
    images = _images(np.ascontiguousarray(faces.T), 28, 20, path)
    _check_sizes("frey_faces", (len(images),), (sum(SIZES["frey_faces"]),))
    train, validation, test = (
        Rows(images, index, stream=stream)
        for stream, index in enumerate(shuffled_split(len(images), SIZES["frey_faces"], seed))
    )
    return DataSet("frey_faces", train, validation, test, Values.grey_levels(256))


def load_histopathology(data_dir: Path | None, seed: int, download: bool) -> DataSet:
    """Histopathology patches (Tomczak and Welling 2016): 1x28x28, continuous grey values in [0, 1].

    The file is a pickle, from which :func:`~pyro_spvae.data.pickled_arrays.pickled_arrays` reads the arrays and refuses
    everything else.

    :param data_dir: folder that holds ``histopathology.pkl.tar.gz`` or the ``histopathology.pkl`` in it, or a folder
        ``histopathology`` with one of them.
    :param int seed: not used, the splits are given.
    :param bool download: fetch a missing file.
    :raises ValueError: if the file is missing or damaged, or holds anything but arrays.
    """
    (path,) = HISTOPATHOLOGY.locate(data_dir, download)
    packed = HISTOPATHOLOGY.files[0].packed
    if path.name == packed:
        arrays = read_pickled_arrays(path)
    else:
        arrays = pickled_arrays(_unpacked(path, packed), f"the file {path}")
    names = ("training", "validation", "test")
    for name in names:
        if name not in arrays:
            raise ValueError(f"the file {path} holds no array {name!r}, which histopathology needs.")
        if arrays[name].ndim not in (2, 3) or not arrays[name].size:
            raise _damaged(path)
    parts = [
        _images(_float32(array.reshape(len(array), -1)), 28, 28, path)  # [N, 784] or [N, 28, 28]
        for array in (arrays[name] for name in names)
    ]
    _check_range(path, *parts)
    return _as_published("histopathology", parts, Values(low=0, high=1))


def _unpacked(path: Path, name: str | None) -> bytes:
    """A file in an archive, read where it lies: nothing is written."""
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                if member.isfile() and PurePosixPath(member.name).name == name:
                    file = archive.extractfile(member)
                    assert file is not None
                    return file.read()
    except Exception as error:  # damaged bytes surface as almost any error
        raise _damaged(path) from error
    raise ValueError(f"the archive {path} holds no file {name}; remove it and fetch it anew.")


def _read_amat(path: Path) -> Tensor:
    """Lines of 784 zeros and ones, as bytes ``[N, 1, 28, 28]``."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"the file {path} cannot be read: {error.strerror or error}.") from None
    symbols = np.frombuffer(content, dtype=np.uint8)
    digits = symbols[(symbols != ord(" ")) & (symbols != ord("\n")) & (symbols != ord("\r"))]
    if digits.size == 0 or digits.size % 784 or not np.isin(digits, (ord("0"), ord("1"))).all():
        raise _damaged(path)
    return torch.from_numpy((digits - ord("0")).reshape(-1, 1, 28, 28))


def _read_mat(
    source: Source, names: tuple[str, ...], data_dir: Path | None, download: bool
) -> tuple[Path, dict[str, Any]]:
    """Matrices from the MATLAB file of a data set, and where it lies."""
    (path,) = source.locate(data_dir, download)
    arrays = read_matlab_arrays(path, names, source.files[0].digest)
    for name in names:
        if name not in arrays or arrays[name].ndim != 2 or not arrays[name].size:
            raise ValueError(f"the file {path} holds no array {name!r} of numbers; remove it and fetch it anew.")
    return path, arrays


def _images(rows: Any, height: int, width: int, path: Path) -> Tensor:
    """Rows of pixels as ``[N, 1, H, W]``."""
    if rows.ndim != 2 or rows.shape[1] != height * width:
        raise _damaged(path)
    return torch.from_numpy(rows).reshape(-1, 1, height, width)


def _float32(rows: Any) -> Any:
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
        return np.ascontiguousarray(rows, dtype=np.float32)


def _upright(rows: Any, height: int, width: int, path: Path) -> Tensor:
    """Rows that hold images by columns of pixels, as float32 ``[N, 1, H, W]``."""
    return _images(_float32(rows), width, height, path).transpose(2, 3).contiguous()


def _check_range(path: Path, *parts: Tensor) -> None:
    if not all(bool(((x >= 0) & (x <= 1)).all()) for x in parts):
        raise _damaged(path)


def _check_sizes(name: str, given: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if given != expected:
        raise ValueError(
            f"{name} has {', '.join(f'{rows:,}' for rows in given)} rows in its files, but "
            f"{', '.join(f'{rows:,}' for rows in expected)} are expected; fetch them anew."
        )


def _as_published(name: str, parts: list[Tensor], values: Values) -> DataSet:
    _check_sizes(name, tuple(map(len, parts)), SIZES[name])
    train, validation, test = parts
    try:
        return DataSet(name, train, validation, test, values)
    except ValueError as error:
        raise ValueError(f"{str(error).rstrip('.')}; fetch the files of {name} anew.") from error


def _drawn(name: str, train: Tensor, test: Tensor, seed: int, values: Values) -> DataSet:
    """The data set whose validation split is drawn from its training images."""
    sizes = SIZES[name]
    _check_sizes(name, (len(train), len(test)), (sizes[0] + sizes[1], sizes[2]))
    index, held_out = shuffled_split(len(train), sizes[:2], seed)
    return DataSet(name, Rows(train, index), Rows(train, held_out, stream=1), Rows(test, stream=2), values)


def _damaged(path: Path) -> ValueError:
    return ValueError(f"the file {path} is damaged, or another file; remove it and fetch it anew.")

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A folder of images as arrays of bytes."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")

_SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val"), "test": ("test",)}
_KINDS = {
    "1": "1",
    "L": "L",
    "LA": "L",
    "RGB": "RGB",
    "RGBA": "RGB",
    "P": "RGB",
    "PA": "RGB",
    "CMYK": "RGB",
    "YCbCr": "RGB",
}
_MANY = 1000  # files, from which reading takes long enough to be shown


def read_image_folder(folder: Path) -> dict[str, Tensor]:
    """
    Reads all images below a folder.

    If it has a folder ``train``, the images below that are the training split, those below ``validation`` (or
    ``valid``, ``val``) and ``test`` the others; else all images are one array. Images are ordered by their paths. Grey
    images become ``[N, 1, H, W]``, all others colour, ``[N, 3, H, W]``; images of black and white pixels only (mode 1)
    become 0 and 1. Of an animation the first picture is taken; hidden files and files that are no images are left
    alone.

    :param pathlib.Path folder: the folder.
    :returns: uint8 tensors by split.
    :raises ValueError: if there are no images, one cannot be read, or they differ in size or kind.
    """
    places = {"train": folder}
    if (folder / "train").is_dir():
        places = {}
        for split, names in _SPLITS.items():
            found = [name for name in names if (folder / name).is_dir()]
            if len(found) > 1:
                raise ValueError(
                    f"the folder {folder} holds both {found[0]} and {found[1]}, but there can be only one {split} "
                    "split."
                )
            if found:
                places[split] = folder / found[0]
    files = {split: _images(place) for split, place in places.items()}
    for split, images in files.items():
        if not images:
            raise ValueError(
                f"there are no images below the folder {places[split]}; accepted are {', '.join(SUFFIXES)} files."
            )
    first = files["train"][0]
    kind = _kind(first, _open(first)[0])
    total = sum(map(len, files.values()))
    with tqdm(total=total, desc="images", unit="img", disable=None if total >= _MANY else True) as bar:
        return {split: _read_all(found, first, kind, bar) for split, found in files.items()}


def _images(folder: Path) -> list[Path]:
    try:
        found = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    except OSError as error:
        raise ValueError(f"the folder {folder} cannot be read: {error.strerror or error}.") from None
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _kind(path: Path, mode: str) -> str:
    """How an image is read: as bits, as grey levels or in colour."""
    if mode not in _KINDS:
        raise ValueError(f"the image {path} is of mode {mode}; accepted are {', '.join(_KINDS)}, of 8 bits or less.")
    return _KINDS[mode]


def _open(path: Path, kind: str | None = None) -> tuple[str, np.ndarray | None]:
    """The mode of an image and, if a kind is given, its pixels of that kind."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about descriptions beside the pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if kind is None:
                    return image.mode, None
                return image.mode, np.asarray(image.convert(kind), dtype=np.uint8)
    except Exception as error:  # damaged files surface as many kinds of errors
        reason = str(error).partition("\n")[0][:120] or type(error).__name__
        raise ValueError(f"the image {path} cannot be read ({reason}).") from None


def _read_all(files: list[Path], first: Path, kind: str, bar: tqdm) -> Tensor:
    """Bytes ``[N, C, H, W]`` in one array."""
    pixels: np.ndarray | None = None
    size: tuple[int, ...] = _open(first, kind)[1].shape  # type: ignore[union-attr]
    for place, path in enumerate(files):
        mode, image = _open(path, kind)
        assert image is not None
        if image.shape != size or _kind(path, mode) != kind:
            given = f"{image.shape[1]} x {image.shape[0]} pixels of mode {mode}"
            raise ValueError(
                f"the image {path} has {given}, but {first} has {size[1]} x {size[0]} of mode {_open(first)[0]}; all "
                "must have one size, and be grey or coloured all of them."
            )
        if pixels is None:
            pixels = np.empty((len(files), 3 if kind == "RGB" else 1, *size[:2]), dtype=np.uint8)
        pixels[place] = image.transpose(2, 0, 1) if kind == "RGB" else image[np.newaxis]
        bar.update()
    assert pixels is not None
    return torch.from_numpy(pixels)

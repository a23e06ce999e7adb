# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Folders of images."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_spvae.data import Values, load_data
from tests.data.cases import lengths, perhaps_refused, refused, together


def pictures(number: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (number, *shape), dtype=np.uint8)


def write(folder: Path, images: np.ndarray, suffix: str = "png", mode: str | None = None, **options: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        picture = Image.fromarray(image)
        (picture if mode is None else picture.convert(mode)).save(folder / f"{number:03d}.{suffix}", **options)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "PNG"])
@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)])
def test_grey_and_coloured_images(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    images, folder = pictures(20, *shape), tmp_path / "images"
    write(folder, images, suffix, **({"lossless": True} if suffix == "webp" else {}))
    (folder / "notes.txt").write_text("mine")
    (folder / ".hidden.png").write_text("not mine")
    data = load_data(folder)
    grey = len(shape) == 2 and suffix != "webp"  # which has colour only
    assert data.event_shape == ((1, 6, 5) if grey else (3, 6, 5)) and data.values == Values.grey_levels(256)
    expected = torch.from_numpy(images if len(shape) == 3 else np.repeat(images[..., None], 1 if grey else 3, -1))
    order = torch.cat([rows.index for rows in (data.train, data.validation, data.test) if rows.index is not None])
    assert torch.equal(together(data), expected.permute(0, 3, 1, 2).float()[order])
    assert data.name == "images" and data.train.source is data.test.source, "one array of bytes"


@pytest.mark.parametrize("validation", ["validation", "valid", "val"])
def test_folders_of_splits_and_of_classes(tmp_path: Path, validation: str) -> None:
    parts = {"train": pictures(9, 4, 4), validation: pictures(3, 4, 4, seed=1), "test": pictures(2, 4, 4, seed=2)}
    for name, images in parts.items():
        write(tmp_path / name / "a", images[:1])
        write(tmp_path / name / "b" / "deeper", images[1:])
    data = load_data(tmp_path)
    for rows, images in zip((data.train, data.validation, data.test), parts.values(), strict=True):
        assert torch.equal(rows[:], torch.from_numpy(images).unsqueeze(1).float())


def test_a_split_that_is_missing_is_drawn(tmp_path: Path) -> None:
    write(tmp_path / "train", pictures(20, 4, 4))
    data = load_data(tmp_path, seed=1)
    assert lengths(data) == [16, 2, 2]
    assert not torch.equal(data.test[:], load_data(tmp_path, seed=2).test[:])


def test_black_and_white_images_have_two_levels(tmp_path: Path) -> None:
    images = (pictures(12, 4, 4) > 127).astype(np.uint8) * 255
    write(tmp_path, images, mode="1")
    data = load_data(tmp_path)
    assert data.values == Values.grey_levels(2) and float(together(data).sum()) == (images > 0).sum()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Image.new("L", (5, 4)), "999.png has 5 x 4 pixels of mode L, but .*000.png has 4 x 4 of"),
        (Image.new("RGB", (4, 4)), "999.png has 4 x 4 pixels of mode RGB, but .*of mode L; all"),
        (Image.new("1", (4, 4)), "999.png has 4 x 4 pixels of mode 1, but .*of mode L; all"),
        (Image.new("I;16", (4, 4)), "999.png is of mode I;16; accepted are 1, L, "),
        *((content, "^the image .*999.png cannot be read") for content in (b"no image", b"", 60)),
    ],
)
def test_images_that_do_not_fit(tmp_path: Path, other: Image.Image | bytes | int, message: str) -> None:
    write(tmp_path, pictures(20, 4, 4))
    if isinstance(other, Image.Image):
        other.save(tmp_path / "999.png")
    else:
        part = (tmp_path / "000.png").read_bytes()[:other] if isinstance(other, int) else other
        (tmp_path / "999.png").write_bytes(part)
    with refused(message):
        load_data(tmp_path)


def test_damage_beside_the_pixels_is_no_matter(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    images = pictures(20, 4, 4)
    write(tmp_path, images, suffix="tif")
    path = tmp_path / "007.tif"
    content = path.read_bytes()
    place = content.index(struct.pack("<2HI", 278, 4, 1)) if b"II" == content[:2] else 0  # how many rows to a strip
    path.write_bytes(content[:place] + struct.pack("<2H2I", 278, 4, 2**20, 0) + content[place + 12 :])
    assert float(together(load_data(tmp_path)).sum()) == images.sum() and not recwarn.list


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "webp", "tif"])
def test_only_refusals_leave_the_reader(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, pictures(20, 8, 8), suffix=suffix)
    path, random = tmp_path / f"005.{suffix}", np.random.default_rng(0)
    whole = path.read_bytes()
    for cut in [False, True] * 40:
        content = bytearray(whole)
        for place in random.integers(0, len(whole), 3):
            content[place] = random.integers(256)
        path.write_bytes(content[: random.integers(len(whole))] if cut else content)
        with perhaps_refused(str(tmp_path)):
            assert len(load_data(tmp_path).train) == 16


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({}, "^there are no images below the folder .*; accepted are .png, .jpg"),
        ({".": 9}, "^the data folder .* has 9 rows to draw the validation and test split from"),
        ({".": 9, "train": 0}, "^there are no images below the folder .*train"),
        ({"train": 3, "val": 3, "valid": 3}, "holds both valid and val, but there can be only one validation split"),
    ],
)
def test_folders_that_do_not_fit(tmp_path: Path, folders: dict[str, int], message: str) -> None:
    for name, number in folders.items():
        write(tmp_path / name, pictures(number, 4, 4))
    with refused(message):
        load_data(tmp_path)

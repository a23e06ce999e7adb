# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The front door: names first, then paths, and a sentence that helps for anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyro_spvae.data import DATA_SETS, load_data


def test_known_names() -> None:
    torchvision = {"mnist", "fashion_mnist", "omniglot", "svhn", "cifar10"}
    published = {"static_mnist", "omniglot_burda", "caltech101_silhouettes", "frey_faces", "histopathology"}
    assert set(DATA_SETS) == {"digits"} | torchvision | published


@pytest.mark.parametrize("name", ["zzz", "", "DIGITS", "digits.csv"])
def test_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match=f"^'{name}' is no known data set; .*give one of digits, mnist, ") as caught:
        load_data(name)
    assert ".npy, .npz, .pt file or of a folder" in str(caught.value)


@pytest.mark.parametrize("name", ["none.npy", "none.npz", "none.NPZ"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="there is no data file") as caught:
        load_data(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "meant"), [("minst", "mnist"), ("fashion-mnist", "fashion_mnist"), ("cifar", "cifar10")]
)
def test_the_nearest_name_is_told(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"is no known data set; did you mean {meant}[?] give one of"):
        load_data(name)


def test_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("1,2")
    with pytest.raises(ValueError, match="of an unknown kind; .npy, .npz, .pt files and folders of images can be read"):
        load_data(tmp_path / "table.csv")
    (tmp_path / "folder.npy").mkdir()
    for path in (tmp_path, tmp_path / "folder.npy"):
        with pytest.raises(ValueError, match="there are no images below the folder"):
            load_data(path)


@pytest.mark.parametrize("name", ["a" * 5000, "bad\0name", "x/" * 3000])
def test_names_that_are_no_paths(name: str) -> None:
    with pytest.raises(ValueError):
        load_data(name)

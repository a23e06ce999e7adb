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


UNKNOWN = "^'{}' is no known data set; .*give one of digits, mnist, .*.csv, .*.npy, .npz, .pt file or of a folder"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *((name, UNKNOWN.format(name)) for name in ("zzz", "", "DIGITS", "digits.txt")),
        ("minst", "is no known data set; did you mean mnist[?] give one of"),
        ("fashion-mnist", "is no known data set; did you mean fashion_mnist[?] give one of"),
        ("cifar", "is no known data set; did you mean cifar10[?] give one of"),
        *(
            (f"{{}}/none.{suffix}", "there is no data file .*none.")
            for suffix in ("npy", "npz", "NPZ", "csv", "csv.gz")
        ),
        ("{}/table.txt", "of an unknown kind; .csv, .*, .npy, .npz, .pt files and folders of images can be read"),
        *((path, "there are no images below the folder") for path in ("{}", "{}/folder.npy")),
        *((name, "^the data|no known data set") for name in ("a" * 5000, "bad\0name", "x/" * 3000)),  # no paths
    ],
)
def test_refusals(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "table.txt").write_text("1,2")
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(ValueError, match=message):
        load_data(name.format(tmp_path))

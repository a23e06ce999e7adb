# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The front door: names first, then paths, and a sentence that helps for anything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyro_spvae.data import DATA_SETS, load_data


def test_known_names() -> None:
    assert {"digits", "mnist"} <= set(DATA_SETS)


@pytest.mark.parametrize("name", ["fashion", "", "DIGITS", "digits.csv"])
def test_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is no known data set; give one of .*digits, .*mnist") as caught:
        load_data(name)
    assert ".npy or .npz" in str(caught.value)


@pytest.mark.parametrize("name", ["none.npy", "none.npz", "none.NPZ"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="there is no data file") as caught:
        load_data(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("1,2")
    with pytest.raises(ValueError, match="only .npy and .npz"):
        load_data(tmp_path / "table.csv")
    with pytest.raises(ValueError, match="only .npy and .npz"):
        load_data(tmp_path)
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(ValueError, match="there is no data file"):
        load_data(tmp_path / "folder.npy")

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Small tables as contenders get them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.tables_data import Split
from pyro_spvae.data import load_data


def split_of(frame: Any, folder: Path, kinds: Mapping[str, str] | None = None, seed: int = 0, **options: Any) -> Split:
    """A split of a DataFrame, by way of a file."""
    path = folder / "table.csv"
    frame.to_csv(path, index=False)
    given = dict(kinds or {})
    data = load_data(path, seed=seed, kinds=given or None)
    return Split("table", path, given, seed, data, **{"levels": None} | options)


def real_table(rows: int = 200) -> Any:
    """Two columns that depend on each other, in units that differ a thousandfold."""
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 2)) @ np.array([[1.0, 0.6], [0.0, 0.5]])
    return pd.DataFrame({"width": 30 + 100 * x[:, 0], "weight": 0.1 * x[:, 1] - 2})


def mixed_table(rows: int = 120) -> Any:
    """Numbers, three categories and two, with holes."""
    random = np.random.default_rng(1)
    species = random.integers(0, 3, rows)
    frame = pd.DataFrame(
        {
            "length": (species * 3 + random.normal(size=rows)).round(3),
            "species": np.array(["a", "b", "c"])[species],
            "sex": np.array(["f", "m"])[random.integers(0, 2, rows)],
        }
    )
    return frame.mask(random.random(frame.shape) < 0.1)


def binary_table(rows: int = 300) -> Any:
    """Four columns of 0 and 1, of which two are nearly the same."""
    random = np.random.default_rng(2)
    x = random.integers(0, 2, (rows, 4))
    x[:, 1] = np.where(random.random(rows) < 0.9, x[:, 0], 1 - x[:, 0])
    return pd.DataFrame(x, columns=list("abcd"))

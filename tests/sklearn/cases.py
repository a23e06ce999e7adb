# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Small tables, and estimators whose fits take about a second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from pyro_spvae import SPN, SPVAE, whole
from pyro_spvae.data import Column
from pyro_spvae.likelihoods import Columns

RHO = 0.9  # of the correlated table
SMALL: dict[str, Any] = {
    "structure": "whole",
    "units": 1,
    "latent_dim": 1,
    "hidden": (8,),
    "samples": 100,
    "random_state": 0,
    "lr": 0.02,
}
QUICK = SMALL | {"epochs": 2, "samples": 5}


def correlated(rows: int, seed: int = 0) -> np.ndarray:
    """Two standard normal columns of correlation 0.9, in units of 10 about 100, and of 0.1 about -1."""
    x = np.random.default_rng(seed).multivariate_normal([0, 0], [[1, RHO], [RHO, 1]], rows)
    return x * [10, 0.1] + [100, -1]


def holey(rows: int, seed: int = 0) -> np.ndarray:
    """The same, a fifth of whose entries are missing: guides learn what is to be inferred from the others."""
    x = correlated(rows, seed)
    return np.where(np.random.default_rng(seed + 1).random(x.shape) < 0.2, np.nan, x)


def mixed(rows: int, seed: int = 0) -> pd.DataFrame:
    """Texts that follow a number, a number of categories that follows the texts, counts and truth values."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, rows)
    return pd.DataFrame(
        {
            "size": np.array([-5.0, 0.0, 5.0])[kind] + rng.normal(size=rows),
            "kind": np.array(["small", "middle", "large"], dtype=object)[kind],
            "grade": np.array([10.0, 20.0])[(kind == 2).astype(int)],
            "visits": rng.poisson(20, rows),
            "flag": rng.random(rows) < 0.5,
        }
    )


def exact(columns: Sequence[Column]) -> SPN:
    """A mixture of three factorised leaves, whose answers are known."""
    return SPN(whole((len(columns),)), units=1, leaves=3, likelihood=Columns(columns))


def own(columns: Sequence[Column]) -> SPVAE:
    """A model of one's own."""
    return SPVAE(whole((len(columns),)), 1, latent_dim=3, likelihood=Columns(columns), hidden_dims=(4,))

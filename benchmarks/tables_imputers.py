# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Imputers of scikit-learn, on standardised numbers and categories that are one-hot."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

from benchmarks.tables_data import Array, Split
from benchmarks.tables_scores import Outcome, with_holes

MOST_NUMBERS = 2_000_000  # in the encoded training rows of an imputer; of more rows, the first


class Encoding:
    """
    Rows as imputers take them: numbers standardised by training rows; one column of 0 and 1 for each category, or one
    alone where there are two.
    """

    def __init__(self, split: Split) -> None:
        self.location, self.scale = split.units()
        self.sizes = [
            0 if not coded else max(2, len(column.categories))
            for column, coded in zip(split.columns, split.coded, strict=True)
        ]

    def encode(self, x: Array) -> Array:
        """``[N, D]`` to ``[N, E]``; all columns of a missing entry are NaN."""
        parts = []
        for place, size in enumerate(self.sizes):
            own = x[:, place]
            if size > 2:
                one_hot = (own[:, None] == np.arange(size)).astype(np.float64)
                parts.append(np.where(np.isnan(own)[:, None], np.nan, one_hot))
            else:
                parts.append((own if size else (own - self.location[place]) / self.scale[place])[:, None])
        return np.concatenate(parts, 1)

    def decode(self, encoded: Array) -> Array:
        """The inverse; of categories the most probable."""
        found, start = [], 0
        for place, size in enumerate(self.sizes):
            width = size if size > 2 else 1
            own = encoded[:, start : start + width]
            start += width
            if size > 2:
                found.append(own.argmax(1).astype(np.float64))
            elif size:
                found.append((own[:, 0] > 0.5).astype(np.float64))
            else:
                found.append(own[:, 0] * self.scale[place] + self.location[place])
        return np.stack(found, 1)


class Imputer:
    """
    An imputer of scikit-learn.

    :param str name: what reports call it.
    :param callable make: from a seed to the imputer.
    """

    is_fast = True

    def __init__(self, name: str, make: Callable[[int], Any]) -> None:
        self.name, self.make = name, make

    def applies(self, split: Split) -> bool:
        """To every table."""
        return True

    def run(self, split: Split, budget: float) -> Outcome:
        """Fits it to training rows and fills in what is hidden of the test rows."""
        encoding = Encoding(split)
        train = encoding.encode(split.train)
        train = train[: max(1, MOST_NUMBERS // train.shape[1])]
        cpu, wall = time.process_time(), time.perf_counter()
        imputer = self.make(split.seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            imputer.fit(train)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        x = with_holes(split)
        filled = encoding.decode(imputer.transform(encoding.encode(x)))
        return Outcome(filled=np.where(np.isnan(x), filled, x), chosen=f"{len(train):,} rows", cpu=cpu, wall=wall)


IMPUTERS = (
    Imputer("mean", lambda seed: SimpleImputer(keep_empty_features=True)),
    Imputer("neighbours", lambda seed: KNNImputer(keep_empty_features=True)),
    Imputer("iterative", lambda seed: IterativeImputer(random_state=seed, keep_empty_features=True)),
)

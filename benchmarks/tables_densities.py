# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
Densities of scikit-learn, whose options are chosen by validation rows.

They are fitted to standardised training rows; a density of the table's own units is

.. math:: \\log p(x) = \\log p_s((x - m) / s) - \\textstyle\\sum_d \\log s_d,

where m and s are the mean and standard deviation of training rows.
"""

from __future__ import annotations

import itertools
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

from benchmarks.tables_data import Array, Split
from benchmarks.tables_scores import Outcome

COMPONENTS = (1, 2, 3, 4, 6, 8, 12)
COVARIANCES = ("full", "tied", "diag", "spherical")
RIDGES = (1e-6, 1e-3, 1e-2, 1e-1)
BANDWIDTHS = tuple(np.geomspace(0.03, 3.0, 24).tolist())
_STARTS = 3


class Density:
    """
    The best of several estimators of scikit-learn, by the mean log-likelihood of validation rows.

    :param str name: what reports call it.
    :param candidates: options of the estimators.
    :param callable make: from options and a seed to an estimator.
    """

    is_fast = True

    def __init__(
        self, name: str, candidates: list[dict[str, Any]], make: Callable[[Mapping[str, Any], int], Any]
    ) -> None:
        self.name, self.candidates, self.make = name, candidates, make

    def applies(self, split: Split) -> bool:
        """To whole rows of numbers whose log-likelihoods are densities."""
        return not split.has_holes and all(column.is_density for column in split.columns) and split.levels is None

    def run(self, split: Split, budget: float) -> Outcome:
        """Fits all candidates; those that training rows do not allow are left out."""
        cpu, wall = time.process_time(), time.perf_counter()
        fitted, chosen = self.chosen(split)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        return Outcome(
            nats=log_density(fitted, split, split.test),
            validation=log_density(fitted, split, split.validation),
            parameters=fitted._n_parameters() if isinstance(fitted, GaussianMixture) else None,
            chosen=", ".join(
                f"{name} {value if isinstance(value, str) else f'{value:.3g}'}" for name, value in chosen.items()
            ),
            cpu=cpu,
            wall=wall,
        )

    def chosen(self, split: Split) -> tuple[Any, dict[str, Any]]:
        """The best estimator and its options."""
        location, scale = split.units()
        train, best = (split.train - location) / scale, None
        for options in self.candidates:
            estimator = self.make(options, split.seed)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    estimator.fit(train)
            except ValueError:  # more components than rows, covariances that are singular
                continue
            found = float(log_density(estimator, split, split.validation).mean())
            if best is None or found > best[0]:
                best = found, estimator, options
        assert best is not None
        return best[1:]


def log_density(estimator: Any, split: Split, x: Array) -> Array:
    """Nats of each row in the table's own units, ``[N]``, of an estimator of standardised rows."""
    location, scale = split.units()
    found: Array = estimator.score_samples((x - location) / scale) - np.log(scale).sum()
    return found


def _mixture(options: Mapping[str, Any], seed: int) -> Any:
    return GaussianMixture(**options, n_init=_STARTS, max_iter=500, random_state=seed)


def _kernels(options: Mapping[str, Any], seed: int) -> Any:
    return KernelDensity(**options)


def _grid(**options: tuple[Any, ...]) -> list[dict[str, Any]]:
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]


DENSITIES = (
    Density("gaussian", _grid(n_components=(1,), covariance_type=("full",), reg_covar=RIDGES), _mixture),
    Density("mixture", _grid(n_components=COMPONENTS, covariance_type=COVARIANCES, reg_covar=RIDGES), _mixture),
    Density("kernels", _grid(bandwidth=BANDWIDTHS), _kernels),
)

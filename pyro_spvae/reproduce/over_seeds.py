# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Runs that differ in their seeds alone, as one line of a table."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from pyro_spvae.reproduce.finished import Finished
from pyro_spvae.training.stated import stated_lines


def by_seed(runs: Sequence[Finished], place: Callable[[Finished], Any]) -> list[list[Finished]]:
    """
    Runs that differ in their seeds alone, together.

    :param callable place: where the runs of one group belong.
    """
    groups: dict[tuple[Any, ...], list[Finished]] = {}
    for run in runs:
        groups.setdefault(tuple(value for name, value in run.experiment.items() if name != "seed"), []).append(run)
    ordered = (sorted(group, key=lambda run: run.experiment["seed"]) for group in groups.values())
    return sorted(ordered, key=lambda group: place(group[0]))


def score(group: list[Finished]) -> str:
    """Mean log-likelihood over seeds, and its deviation where they are several."""
    values = [run.results["log_likelihood"] for run in group]
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def mean(group: list[Finished], value: Callable[[Finished], float], digits: int = 2) -> str:
    """Of a value of each run."""
    return f"{statistics.mean(map(value, group)):.{digits}f}"


def log_z(group: list[Finished]) -> str:
    """Of each seed's machine, if the prior is one, with the standard error of its estimate."""
    return ", ".join(value for run in group for name, value, _ in stated_lines(run.results) if name == "log Z")


def seeds(group: list[Finished]) -> str:
    """In words."""
    chosen = [run.experiment["seed"] for run in group]
    return f"seed{'s' * (len(chosen) > 1)} {numbers(chosen)}"


def numbers(values: Sequence[int]) -> str:
    """With commas."""
    return ", ".join(f"{value:,}" for value in values)

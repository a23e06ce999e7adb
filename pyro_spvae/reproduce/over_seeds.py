# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Experiments with several seeds, and runs that differ in their seeds alone as one line of a table."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

from pyro_spvae.reproduce.finished import Finished, with_error
from pyro_spvae.training.stated import stated_lines

T = TypeVar("T")


def with_seeds(experiments: Iterable[T], every: Iterable[int]) -> list[T]:
    """Each experiment, a dataclass with a ``seed``, with each of the seeds."""
    chosen = tuple(every)
    return [dataclasses.replace(cast(Any, one), seed=seed) for one in experiments for seed in chosen]


def seed_in_name(seed: int) -> str:
    """The end of a picture's name."""
    return f"-seed-{seed}" if seed else ""


def by_seed(runs: Sequence[Finished], place: Callable[[Finished], Any] = lambda run: 0) -> list[list[Finished]]:
    """
    Runs that differ in their seeds alone, together.

    :param callable place: where the runs of one group belong; by default where the first of them is.
    """
    groups: dict[tuple[Any, ...], list[Finished]] = {}
    for run in runs:
        groups.setdefault(tuple(value for name, value in run.experiment.items() if name != "seed"), []).append(run)
    ordered = (sorted(group, key=lambda run: run.experiment["seed"]) for group in groups.values())
    return sorted(ordered, key=lambda group: place(group[0]))


def score(group: list[Finished]) -> str:
    """Mean log-likelihood over seeds, and its deviation where they are several."""
    return spread([run.results["log_likelihood"] for run in group])


def likelihood(group: list[Finished]) -> str:
    """:func:`score`, of a single seed with the standard error over images."""
    return score(group) if len(group) > 1 else with_error(group[0].results)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean, and standard deviation of several."""
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def note_on_seeds(groups: Iterable[list[Finished]]) -> list[str]:
    """What stands below a table some of whose lines are of several seeds."""
    if all(len(group) == 1 for group in groups):
        return []
    return ["", "± is the standard deviation over seeds where there are several, else the standard error over images."]


def mean(group: list[Finished], value: Callable[[Finished], float], digits: int = 2) -> str:
    """Of a value of each run."""
    return f"{statistics.mean(map(value, group)):,.{digits}f}"


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

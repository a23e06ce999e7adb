# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Tables 1 and 2 of the DVAE++ paper, ours beside theirs, over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from pyro_spvae.reproduce.binary_sets import TITLES
from pyro_spvae.reproduce.dvae import NETS, DiscreteExperiment, Table, methods
from pyro_spvae.reproduce.finished import Finished
from pyro_spvae.training.stated import stated_lines

NAMES = {
    "nvil": "NVIL",
    "muprop": "MuProp",
    "rebar": "REBAR",
    "concrete": "Concrete",
    "joint": "joint bound",
    "marginal": "marginal bound",
    "rbm": "RBM, overlapping",
    "rbm-rolfe": "RBM, spike and exponential",
}
_ORDER = [*NETS[1], *NETS[2]]


def discrete_lines(run: Finished) -> list[tuple[str, str, str | None]]:
    """Rows about one run: name, ours, theirs."""
    return [(name, value, None) for name, value, _ in stated_lines(run.results)]


def discrete_table(runs: list[Finished]) -> list[str]:
    """Markdown: each of the paper's tables, and how its numbers came about."""
    lines = list[str]()
    for table in NETS:
        chosen = [run for run in runs if _experiment(run).number == table]
        if chosen:
            lines += [*([""] * bool(lines)), *_as_printed(table, chosen), "", *_in_full(chosen)]
    return lines


def over_seeds(runs: Sequence[Finished]) -> list[list[Finished]]:
    """Runs that differ in their seeds alone, in the order of the paper."""
    groups: dict[tuple[Any, ...], list[Finished]] = {}
    for run in runs:
        groups.setdefault(tuple(value for name, value in run.experiment.items() if name != "seed"), []).append(run)

    def place(group: list[Finished]) -> tuple[Any, ...]:
        one = _experiment(group[0])
        return one.data, one.budget, _ORDER.index(one.net), methods(one.number).index(one.method)

    return sorted((sorted(group, key=lambda run: run.experiment["seed"]) for group in groups.values()), key=place)


def _experiment(run: Finished) -> DiscreteExperiment:
    return DiscreteExperiment(**run.experiment)


def _as_printed(table: Table, runs: list[Finished]) -> list[str]:
    """Rows and columns of the paper: ours, and theirs in brackets."""
    columns = methods(table)
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for group in over_seeds(runs):
        one = _experiment(group[0])
        theirs = group[0].published_score
        rows.setdefault((one.data, one.net, one.budget), {})[one.method] = f"{_score(group)} ({theirs})"
    samples = {run.results["samples"] for run in runs}
    described = f"{_numbers(sorted(samples))} samples"
    lines = [
        f"Table {table}, {described}; mean and standard deviation over seeds, in brackets the paper's:",
        "",
        "| data | networks | budget | " + " | ".join(NAMES[method] for method in columns) + " |",
        "|" + "---|" * (3 + len(columns)),
    ]
    for (data, net, budget), scores in rows.items():
        cells = [TITLES[data], net, budget, *(scores.get(method, "") for method in columns)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _in_full(runs: list[Finished]) -> list[str]:
    lines = [
        "| data | networks | method | ours | standard error over images | paper | samples | test images "
        "| single-sample bound | log Z | parameters | steps | training seconds | how |",
        "|" + "---|" * 14,
    ]
    for group in over_seeds(runs):
        one, results = _experiment(group[0]), group[0].results
        cells = [
            TITLES[one.data],
            one.net,
            NAMES[one.method],
            _score(group),
            _mean(group, lambda run: run.results["standard_error"] or 0.0),
            group[0].published_score or "",
            f"{results['samples']:,}",
            f"{results['rows']:,}",
            _mean(group, lambda run: run.results["elbo"]),
            _log_z(group),
            f"{results['parameters']:,}",
            f"{results['steps']:,}",
            _mean(group, lambda run: run.results["train_seconds"], 0),
            f"budget {one.budget}, {_seeds(group)}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _score(group: list[Finished]) -> str:
    """Mean log-likelihood over seeds, and its deviation where they are several."""
    values = [run.results["log_likelihood"] for run in group]
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def _mean(group: list[Finished], value: Callable[[Finished], float], digits: int = 2) -> str:
    return f"{statistics.mean(map(value, group)):.{digits}f}"


def _log_z(group: list[Finished]) -> str:
    """Of each seed's machine, if the prior is one, with the standard error of its estimate."""
    return ", ".join(value for run in group for name, value, _ in stated_lines(run.results) if name == "log Z")


def _seeds(group: list[Finished]) -> str:
    seeds = [run.experiment["seed"] for run in group]
    return f"seed{'s' * (len(seeds) > 1)} {_numbers(seeds)}"


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(f"{value:,}" for value in values)

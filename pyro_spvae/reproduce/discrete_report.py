# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Tables 1 and 2 of the DVAE++ paper, ours beside theirs, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyro_spvae.reproduce.binary_sets import TITLES
from pyro_spvae.reproduce.dvae import NETS, DiscreteExperiment, Table, methods
from pyro_spvae.reproduce.finished import Finished
from pyro_spvae.reproduce.over_seeds import by_seed, log_z, mean, numbers, score, seeds
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

    def place(run: Finished) -> tuple[Any, ...]:
        one = _experiment(run)
        return one.data, one.budget, _ORDER.index(one.net), methods(one.number).index(one.method)

    return by_seed(runs, place)


def _experiment(run: Finished) -> DiscreteExperiment:
    return DiscreteExperiment(**run.experiment)


def _as_printed(table: Table, runs: list[Finished]) -> list[str]:
    """Rows and columns of the paper: ours, and theirs in brackets."""
    columns = methods(table)
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for group in over_seeds(runs):
        one = _experiment(group[0])
        theirs = group[0].published_score
        rows.setdefault((one.data, one.net, one.budget), {})[one.method] = f"{score(group)} ({theirs})"
    samples = {run.results["samples"] for run in runs}
    described = f"{numbers(sorted(samples))} samples"
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
            score(group),
            mean(group, lambda run: run.results["standard_error"] or 0.0),
            group[0].published_score or "",
            f"{results['samples']:,}",
            f"{results['rows']:,}",
            mean(group, lambda run: run.results["elbo"]),
            log_z(group),
            f"{results['parameters']:,}",
            f"{results['steps']:,}",
            mean(group, lambda run: run.results["train_seconds"], 0),
            f"budget {one.budget}, {seeds(group)}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines

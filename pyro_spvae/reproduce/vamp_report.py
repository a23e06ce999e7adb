# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Tables of the VampPrior paper: ours, theirs, and what they quote of others."""

from __future__ import annotations

import statistics
from typing import Any

from pyro_spvae.reproduce.finished import Finished
from pyro_spvae.reproduce.over_seeds import by_seed, likelihood, mean, note_on_seeds, seeds, spread
from pyro_spvae.reproduce.published import VAMP_OTHERS

_NAMES = {
    "standard": "standard normal",
    "mog": "mixture of Gaussians",
    "vamp": "VampPrior",
    "vamp-data": "VampPrior data",
}


def vamp_lines(results: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    """Rows about one run: name, ours, theirs."""
    return [("active units", _active([results]), None)]


def vamp_table(runs: list[Finished]) -> list[str]:
    """Markdown, one table of all data, then what others reached."""
    lines = [
        "| data | model | prior | components | ours | samples | paper | single-sample bound | active units "
        "| parameters | steps | training seconds | how |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups = by_seed(runs)
    for group in groups:
        run, results, experiment = group[0], group[0].results, group[0].experiment
        cells = (
            experiment["data"],
            run.model,
            _NAMES[experiment["prior"]],
            "" if experiment["components"] is None else str(experiment["components"]),
            spread([each.results["bits_per_dim"] for each in group], 3) if run.published_in_bits else likelihood(group),
            f"{results['samples']:,}",
            run.published_score or "",
            spread([each.results["elbo"] for each in group], 1),
            _active([each.results for each in group]),
            f"{results['parameters']:,}",
            mean(group, lambda each: each.results["steps"], 0),
            mean(group, lambda each: each.results["train_seconds"], 0),
            f"{run.how}, {seeds(group)}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    lines += note_on_seeds(groups)
    for data in dict.fromkeys(run.experiment["data"] for run in runs):
        if data in VAMP_OTHERS:
            quoted = ", ".join(f"{name} {value:.2f}" for name, value in VAMP_OTHERS[data].items())
            lines += ["", f"Others on {data}, as the paper quotes them: {quoted}."]
    return lines


def _active(results: list[dict[str, Any]]) -> str:
    """Units that are active, of each layer of latent variables, means over seeds."""
    counts = [each.get("active_units") or {} for each in results]
    known = {name: [count[name] for count in counts] for name in counts[0]}
    return ", ".join(f"{name} {statistics.mean(of):g}" for name, of in known.items() if None not in of)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Tables of the VampPrior paper: ours, theirs, and what they quote of others."""

from __future__ import annotations

from typing import Any

from pyro_spvae.reproduce.finished import Finished, with_error
from pyro_spvae.reproduce.published import VAMP_OTHERS

_NAMES = {
    "standard": "standard normal",
    "mog": "mixture of Gaussians",
    "vamp": "VampPrior",
    "vamp-data": "VampPrior data",
}


def vamp_lines(results: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    """Rows about one run: name, ours, theirs."""
    return [("active units", _active(results), None)]


def vamp_table(runs: list[Finished]) -> list[str]:
    """Markdown, one table of all data, then what others reached."""
    lines = [
        "| data | model | prior | components | ours | samples | paper | single-sample bound | active units "
        "| parameters | steps | training seconds | how |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        results, experiment = run.results, run.experiment
        cells = (
            experiment["data"],
            run.model,
            _NAMES[experiment["prior"]],
            "" if experiment["components"] is None else str(experiment["components"]),
            f"{results['bits_per_dim']:.3f}" if run.published_in_bits else with_error(results),
            f"{results['samples']:,}",
            run.published_score or "",
            f"{results['elbo']:.1f}",
            _active(results),
            f"{results['parameters']:,}",
            f"{results['steps']:,}",
            f"{results['train_seconds']:.0f}",
            run.how,
        )
        lines.append("| " + " | ".join(cells) + " |")
    for data in dict.fromkeys(run.experiment["data"] for run in runs):
        if data in VAMP_OTHERS:
            quoted = ", ".join(f"{name} {value:.2f}" for name, value in VAMP_OTHERS[data].items())
            lines += ["", f"Others on {data}, as the paper quotes them: {quoted}."]
    return lines


def _active(results: dict[str, Any]) -> str:
    """Units that are active, of each layer of latent variables."""
    found = results.get("active_units")
    if isinstance(found, dict):
        return ", ".join(f"{name} {number}" for name, number in found.items())
    return "" if found is None else str(found)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Table 3 of the DVAE++ paper, ours beside theirs, over seeds."""

from __future__ import annotations

from pyro_spvae.reproduce.finished import Finished
from pyro_spvae.reproduce.over_seeds import by_seed, log_z, mean, score, seeds
from pyro_spvae.reproduce.published import GLOBAL

_KINDS = {
    "normal": "normal",
    "rolfe": "RBM, spike and exponential",
    "rbm": "RBM, overlapping",
    "bernoulli": "Bernoulli",
}


def global_table(runs: list[Finished]) -> list[str]:
    """Markdown: our numbers beside the paper's, and how they came about."""
    lines = [
        "| data | global | local | ours | standard error over images | bits/dim | paper | samples | test images "
        "| single-sample bound | log Z | parameters | steps | training seconds | how |",
        "|" + "---|" * 15,
    ]
    order = list(GLOBAL["mnist"])
    for group in by_seed(runs, lambda run: (run.experiment["data"], order.index(run.experiment["model"]))):
        run, results = group[0], group[0].results
        above, below = run.experiment["model"].split("-")
        cells = [
            run.experiment["data"],
            _KINDS[above],
            _KINDS[below],
            score(group),
            mean(group, lambda run: run.results["standard_error"] or 0.0),
            mean(group, lambda run: run.results["bits_per_dim"], 3) if run.published_in_bits else "",
            run.published_score or "",
            f"{results['samples']:,}",
            f"{results['rows']:,}",
            mean(group, lambda run: run.results["elbo"]),
            log_z(group),
            f"{results['parameters']:,}",
            f"{results['steps']:,}",
            mean(group, lambda run: run.results["train_seconds"], 0),
            f"budget {run.experiment['budget']}, {run.experiment['groups']} groups, {seeds(group)}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines

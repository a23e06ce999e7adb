# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Tables of the DLGMM paper, ours beside theirs."""

from __future__ import annotations

from typing import Any

from pyro_spvae.reproduce.binary_sets import TITLES
from pyro_spvae.reproduce.dlgmm import SAMPLES, MixtureExperiment
from pyro_spvae.reproduce.finished import Finished, with_error
from pyro_spvae.reproduce.mixture_scores import read_scores
from pyro_spvae.reproduce.neighbours import NEIGHBOURS
from pyro_spvae.reproduce.published import NEIGHBOURS as PUBLISHED

_BOUNDS = {"mixture": "the mixture", "enumerated": "summed over", "eq1": "eq. (1)", None: "ELBO"}


def mixture_lines(run: Finished) -> list[tuple[str, str, str | None]]:
    """Rows about one run: name, ours, theirs."""
    scores, lines = read_scores(run.path), list[tuple[str, str, str | None]]()
    if "likelihood" in scores:
        ours = f"{scores['likelihood']['log_likelihood']:.2f}"
        lines.append((f"log-likelihood (nats, {SAMPLES[0]})", ours, run.published_score))
    for k, error in scores.get("kNN", {}).get("errors", {}).items():
        theirs = _published(run).get(int(k))
        lines.append((f"{k} neighbours, error", f"{100 * error:.2f} %", None if theirs is None else f"{theirs:.2f} %"))
    return lines


def mixture_table(runs: list[Finished]) -> list[str]:
    """Markdown, one table of all data."""
    lines = [
        "| data | model | trained by | "
        + " | ".join(f"log-likelihood, {samples:,} samples" for samples in reversed(SAMPLES))
        + " | paper, 50 | "
        + " | ".join(f"{k} neighbours, error: ours | paper" for k in NEIGHBOURS)
        + " | parameters | epochs | training seconds | how |",
        "|" + "---|" * (10 + 2 * len(NEIGHBOURS)),
    ]
    for run in runs:
        lines.append("| " + " | ".join(_cells(run)) + " |")
    return lines


def _cells(run: Finished) -> list[str]:
    results, experiment, scores = run.results, run.experiment, read_scores(run.path)
    few, errors = scores.get("likelihood"), scores.get("kNN", {}).get("errors", {})
    many: dict[str, Any] | None = results
    if results["samples"] == SAMPLES[0]:  # of Figure 2, whose runs are scored with few
        many, few = None, results
    neighbours = []
    for k in NEIGHBOURS:
        theirs, shown = _published(run).get(k), errors.get(str(k))
        neighbours += ["" if shown is None else f"{100 * shown:.2f} %", "" if theirs is None else f"{theirs:.2f} %"]
    spread = ", means of Figure 2" if experiment["prior"] == "spread" else ""
    return [
        TITLES[experiment["data"]],
        run.model + spread,
        _BOUNDS[MixtureExperiment(**experiment).chosen_bound],
        "" if many is None else with_error(many),
        "" if few is None else with_error(few),
        run.published_score or "",
        *neighbours,
        f"{results['parameters']:,}",
        str(results["best_epoch"]),
        f"{results['train_seconds']:.0f}",
        f"recipe {experiment['recipe']}, budget {experiment['budget']}, seed {experiment['seed']}",
    ]


def _published(run: Finished) -> dict[int, float]:
    """Errors that the paper prints for such a model, by numbers of neighbours; of means of components it does not."""
    return PUBLISHED.get(run.experiment["model"], {}) if run.experiment["prior"] == "zero" else {}

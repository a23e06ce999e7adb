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
from pyro_spvae.reproduce.over_seeds import by_seed, mean, note_on_seeds, seeds, spread
from pyro_spvae.reproduce.published import NEIGHBOURS as PUBLISHED

_BOUNDS = {"mixture": "the mixture", "enumerated": "summed over", "eq1": "eq. (1)", None: "ELBO"}


def mixture_lines(run: Finished) -> list[tuple[str, str, str | None]]:
    """Rows about one run: name, ours, theirs."""
    scores, lines = read_scores(run.path), list[tuple[str, str, str | None]]()
    if "likelihood" in scores:
        ours = f"{scores['likelihood']['log_likelihood']:.2f}"
        lines.append((f"log-likelihood (nats, {scores['likelihood']['samples']})", ours, run.published_score))
    for k, error in scores.get("kNN", {}).get("errors", {}).items():
        theirs = _published(run).get(int(k))
        lines.append((f"{k} neighbours, error", f"{100 * error:.2f} %", None if theirs is None else f"{theirs:.2f} %"))
    return lines


def mixture_table(runs: list[Finished]) -> list[str]:
    """Markdown, one table of all data."""
    lines = [
        "| data | model | trained by | log-likelihood | samples | log-likelihood, few samples | samples | paper, 50 | "
        + " | ".join(f"{k} neighbours, error: ours | paper" for k in NEIGHBOURS)
        + " | parameters | epochs | training seconds | how |",
        "|" + "---|" * (12 + 2 * len(NEIGHBOURS)),
    ]
    groups = by_seed(runs)
    for group in groups:
        lines.append("| " + " | ".join(_cells(group)) + " |")
    return lines + note_on_seeds(groups)


def _cells(group: list[Finished]) -> list[str]:
    """
    :param list group: runs that differ in their seeds alone.
    """
    run, experiment = group[0], group[0].experiment
    scores = [read_scores(each.path) for each in group]
    many: list[dict[str, Any]] = [each.results for each in group]
    few = [found["likelihood"] for found in scores if "likelihood" in found]
    if run.results["samples"] == SAMPLES[experiment["budget"]][0]:  # of Figure 2, whose runs are scored with few
        many, few = [], many
    neighbours = []
    for k in NEIGHBOURS:
        shown = [100 * found["kNN"]["errors"][str(k)] for found in scores if "kNN" in found]
        theirs = _published(run).get(k)
        neighbours += [f"{spread(shown)} %" if shown else "", "" if theirs is None else f"{theirs:.2f} %"]
    return [
        TITLES[experiment["data"]],
        run.model + (", means of Figure 2" if experiment["prior"] == "spread" else ""),
        _BOUNDS[MixtureExperiment(**experiment).chosen_bound],
        *_likelihood(many),
        *_likelihood(few),
        run.published_score or "",
        *neighbours,
        f"{run.results['parameters']:,}",
        mean(group, lambda each: each.results["best_epoch"], 0),
        mean(group, lambda each: each.results["train_seconds"], 0),
        f"recipe {experiment['recipe']}, budget {experiment['budget']}, {seeds(group)}",
    ]


def _likelihood(found: list[dict[str, Any]]) -> tuple[str, str]:
    """Over seeds, and how many samples."""
    if not found:
        return "", ""
    shown = with_error(found[0]) if len(found) == 1 else spread([one["log_likelihood"] for one in found])
    return shown, f"{found[0]['samples']:,}"


def _published(run: Finished) -> dict[int, float]:
    """Errors that the paper prints for such a model, by numbers of neighbours; of means of components it does not."""
    return PUBLISHED.get(run.experiment["model"], {}) if run.experiment["prior"] == "zero" else {}

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Records of contenders as tables, in Markdown, and as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.tables_ours import DEFAULT
from benchmarks.tables_scores import paired
from pyro_spvae.plots.figures import new_figure, save

Record = dict[str, Any]

ROWS = {"test": "nats", "validation": "validation"}  # of which likelihoods are compared, and their name in records

_NONE = "-"
_COLUMNS = (
    "method",
    "nats",
    "ours less it",
    "RMSE",
    "accuracy",
    "parameters",
    "CPU s",
    "wall s",
    "threads",
    "s to its nats, ours",
    "chosen",
)


def by_method(records: Sequence[Record], table: str) -> dict[str, list[Record]]:
    """Records of a table, a list over seeds for each method."""
    found: dict[str, list[Record]] = {}
    for own in records:
        if own["table"] == table:
            found.setdefault(own["method"], []).append(own)
    return {method: sorted(own, key=lambda record: record["seed"]) for method, own in found.items()}


def nats_of(records: Sequence[Record], rows: str = "test") -> list[float] | None:
    """Log-likelihoods of the rows of all seeds; ``None`` where there are none."""
    if any(own.get(ROWS[rows]) is None for own in records):
        return None
    return list(chain.from_iterable(own[ROWS[rows]] for own in records))


def difference(ours: Sequence[Record], theirs: Sequence[Record], rows: str = "test") -> tuple[float, float] | None:
    """
    Nats of ours less theirs, and the standard error, over the rows of all seeds; ``None`` where one has none. A row
    that several seeds have in common counts for each.

    :raises ValueError: if they are of other data.
    """
    own_nats, their_nats = nats_of(ours, rows), nats_of(theirs, rows)
    if own_nats is None or their_nats is None:
        return None
    if [(own["seed"], own["data"]) for own in ours] != [(own["seed"], own["data"]) for own in theirs]:
        raise ValueError(
            f"records of {ours[0]['table']} by {ours[0]['method']} and {theirs[0]['method']} are of other seeds or data"
        )
    return paired(own_nats, their_nats)


def rmse(records: Sequence[Record]) -> float | None:
    """Of the hidden numbers of all seeds, in standard deviations of their columns."""
    squared = list(chain.from_iterable(own["squared"] for own in records))
    return math.sqrt(math.fsum(squared) / len(squared)) if squared else None


def accuracy(records: Sequence[Record]) -> float | None:
    """Part of the hidden categories that was met, over all seeds."""
    hits = list(chain.from_iterable(own["hits"] for own in records))
    return math.fsum(hits) / len(hits) if hits else None


def seconds_to(curve: Sequence[Sequence[float]], nats: float) -> float | None:
    """The first CPU seconds at which validation rows had so many nats, or ``None``."""
    return next((seconds for seconds, validation, _ in curve if validation >= nats), None)


def table_of(records: Sequence[Record], table: str, rows: str = "test") -> str:
    """Markdown, a row for each method; of validation rows without what is known of test rows."""
    methods = by_method(records, table)
    lines = [f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
    ours = methods.get(DEFAULT)
    for method, own in methods.items():
        lines.append(f"| {' | '.join(_row(method, own, ours, rows))} |")
    return "\n".join(lines)


def _row(method: str, own: list[Record], ours: list[Record] | None, rows: str) -> list[str]:
    nats = nats_of(own, rows)
    against = None if ours is None or method == DEFAULT else difference(ours, own, rows)
    error, hits = (rmse(own), accuracy(own)) if rows == "test" else (None, None)
    return [
        method,
        f"{math.fsum(nats) / len(nats):.3f}" if nats else _NONE,
        _NONE if against is None else f"{against[0]:+.3f} ± {against[1]:.3f}",
        _NONE if error is None else f"{error:.3f}",
        _NONE if hits is None else f"{hits:.3f}",
        _mean([record["parameters"] for record in own], ",.0f"),
        _mean([record["cpu"] for record in own], ".1f"),
        _mean([record["wall"] for record in own], ".1f"),
        str(own[0]["threads"]),
        _NONE if ours is None or method == DEFAULT else _equal(ours, own),
        own[0]["chosen"],
    ]


def _mean(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return format(sum(known) / len(known), form) if known else _NONE


def _equal(ours: list[Record], theirs: list[Record]) -> str:
    """Ours, and theirs, to the best of their validation likelihoods, of the first seed."""
    curve, other = ours[0]["curve"], theirs[0]["curve"]
    if not curve or not other:
        return _NONE
    best = max(validation for _, validation, _ in other)
    taken, their_own = seconds_to(curve, best), seconds_to(other, best)
    reached = "not reached" if taken is None else f"{taken:.0f}"
    return f"{reached}, theirs {their_own:.0f}"


def summary(records: Sequence[Record], rows: str = "test") -> str:
    """On how many tables ours is at least equal to the best of the others, and ahead of it."""
    tables = list(dict.fromkeys(own["table"] for own in records))
    compared, equal, ahead, clearly = 0, 0, 0, 0
    imputed, better, lines = 0, 0, []
    for table in tables:
        methods = by_method(records, table)
        ours = methods.get(DEFAULT)
        others = {name: own for name, own in methods.items() if not name.startswith(DEFAULT)}
        if ours is None:
            continue
        against = [(found, name) for name, own in others.items() if (found := difference(ours, own, rows)) is not None]
        if against:
            (mean, error), name = min(against)
            compared, equal, ahead = compared + 1, equal + (mean >= -error), ahead + (mean > 0)
            clearly += mean > error
            lines.append(f"{table}: {mean:+.3f} ± {error:.3f} nats to the best other, {name}")
        own_error, their_error = rmse(ours), rmse(others.get("iterative", []))
        if own_error is not None and their_error is not None:
            imputed, better = imputed + 1, better + (own_error <= their_error)
    lines.append(
        f"log-likelihood: of {compared} tables at least equal to the best other, within one standard error, on "
        f"{equal}; ahead on {ahead}, by more than one standard error on {clearly}"
    )
    lines.append(f"imputation: of {imputed} tables an RMSE of at most IterativeImputer's on {better}")
    return "\n".join(lines)


def picture(records: Sequence[Record], path: str | Path) -> None:
    """
    Likelihoods of validation rows against CPU seconds of training, a panel for each table that has curves.

    :raises ValueError: if no record has one, or the file cannot be written.
    """
    tables = list(dict.fromkeys(own["table"] for own in records if own["curve"]))
    if not tables:
        raise ValueError("picture is asked for, but no contender has a curve of likelihoods; run one that is trained")
    figure = new_figure(3.6 * len(tables), 3.2)
    for place, table in enumerate(tables):
        axes = figure.add_subplot(1, len(tables), place + 1)
        for method, own in by_method(records, table).items():
            if own[0]["curve"]:
                seconds, nats, _ = zip(*own[0]["curve"], strict=True)
                axes.plot(seconds, nats, label=method, linewidth=1.2)
        finals = [max(point[1] for point in own["curve"]) for own in records if own["table"] == table and own["curve"]]
        axes.set_ylim(min(finals) - 1.5, max(finals) + 0.3)
        axes.set_xscale("log")
        axes.set(title=table, xlabel="CPU seconds")
        axes.legend(fontsize=7, loc="lower right")
        if place == 0:
            axes.set_ylabel("validation nats")
    save(figure, path)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What ``evaluate --holdout`` adds: how hidden entries are imputed, as a table and files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyro_spvae.commands.query import Query, Selection
    from pyro_spvae.data import Rows
    from pyro_spvae.queries import Calibration

_SPACE = 24  # most characters of a column's name
_HEADS = ("column", "kind", "hidden", "RMSE", "accuracy", "CRPS", "log-likelihood", "in 50 %", "in 90 %")


def training_rows(asked: Query, selection: Selection) -> Rows | None:
    """
    The rows that the run was trained on, whose columns are the baselines; ``None``, and a line that says so, where they
    are not there any more, or were never known.
    """
    if selection.label == selection.split and selection.split != "all":  # splits of the run's own data
        return selection.data.train
    try:
        return asked.run.data().train
    except ValueError as error:
        asked.report(f"baselines are of the rows asked about, less what is hidden, as training rows are not: {error}")
        return None


def write_calibration(asked: Query, name: str, found: Calibration) -> None:
    """Reports the table, and writes ``.json``, ``.npz`` and ``.png``, of named columns a ``calibration`` table too."""
    from pyro_spvae import plots
    from pyro_spvae.commands.query import to_array

    holdout, draws = found.options["holdout"], found.options["draws"]
    for line in calibration_lines(found):
        asked.report(line)
    entries = found.entries
    ordered = to_array(found.has_pit)
    names = [str(column["column"]) for column in found.by_column]
    figure = None
    if ordered.any():
        figure = plots.calibration(to_array(entries.pit)[ordered], to_array(entries.column)[ordered], names)
    arrays = {key: to_array(value) for key, value in vars(entries).items()}
    arrays["log_likelihood_joint"] = to_array(found.log_likelihood_joint)
    few = "" if draws == 100 else f"-draws-{draws}"
    name = f"{name}-holdout-{holdout:g}{few}"
    asked.write(name, arrays, found.to_dict(), figure)
    if found.by_column:
        asked.write_table(asked.table_name("calibration", name, "test-holdout-0.1"), found.frame())


def calibration_lines(found: Calibration) -> list[str]:
    """
    The figures in aligned lines, each with that of the column's own marginal in brackets.
    """
    overall, options = found.overall, found.options
    head = (
        f"holdout {options['holdout']:g}: {overall['hidden']:,} seen entries of {overall['rows']:,} rows hidden and "
        f"imputed by {options['draws']} draws; in brackets what the columns' own marginals get"
    )
    rows = [list(_HEADS)] if found.by_column else []
    rows += [_row(str(figures["column"]), str(figures["kind"]), figures) for figures in found.by_column]
    lines = [head, *_aligned(rows)]
    if found.by_column:
        lines.append("RMSE and CRPS in the unit of the column; log-likelihood in nats an entry")
    return [*lines, *_overall(overall, bool(found.by_column), int(found.has_pit.sum()))]


def _overall(overall: dict[str, Any], is_table: bool, ordered: int) -> list[str]:
    unit = "relative" if is_table else None
    what = "standard deviations of the columns" if is_table else "the unit of the entries"
    lines = []
    for key, label, remark in (
        ("rmse", "RMSE", what),
        ("accuracy", "accuracy", "of the most probable category"),
        ("crps", "CRPS", f"{what}, lower is better"),
        ("log_likelihood", "log-likelihood", "nats an entry, given the seen entries of its row"),
    ):
        key = f"{key}_{unit}" if unit and key in ("rmse", "crps") else key
        if overall[key] is not None:
            lines.append([label, _pair(overall, key, 3), remark])
    error = overall["standard_error"]
    joint = f"nats a row, of all its hidden entries{'' if error is None else f', standard error {error:.2f}'}"
    lines.append(["  jointly", f"{overall['log_likelihood_joint']:.2f}", joint])
    for level in (50, 90):
        share = overall[f"inside_{level}"]
        if share is not None:
            error = 100 * (level / 100 * (1 - level / 100) / ordered) ** 0.5
            remark = f"of truths are in the central {level} % interval; {level} ± {error:.1f} % if calibrated"
            lines.append([f"in {level} %", f"{100 * share:.1f} %", remark])
    labels = max(len(line[0]) for line in lines)
    values = max(len(line[1]) for line in lines)
    return [f"{label:<{labels}}  {value:>{values}}  {remark}" for label, value, remark in lines]


def _row(name: str, kind: str, figures: dict[str, Any]) -> list[str]:
    shares = ["" if figures[key] is None else f"{100 * figures[key]:.0f} %" for key in ("inside_50", "inside_90")]
    name = name if len(name) <= _SPACE else f"{name[: _SPACE - 1]}…"
    pairs = [_pair(figures, key) for key in ("rmse", "accuracy", "crps", "log_likelihood")]
    return [name, kind, f"{figures['hidden']:,}", *pairs, *shares]


def _pair(figures: dict[str, Any], key: str, digits: int | None = None) -> str:
    value, baseline = figures[key], figures[f"{key}_baseline"]
    if value is None:
        return ""

    def text(number: float) -> str:
        return f"{number:.3g}" if digits is None else f"{number:.{digits}f}"

    return text(value) if baseline is None else f"{text(value)} ({text(baseline)})"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Names to the left, numbers to the right; columns that are empty but for their heads are left out."""
    if not rows:
        return []
    kept = [place for place in range(len(rows[0])) if any(row[place] for row in rows[1:])]
    widths = {place: max(len(row[place]) for row in rows) for place in kept}
    return [
        "  ".join(
            row[place].ljust(widths[place]) if place < 2 else row[place].rjust(widths[place]) for place in kept
        ).rstrip()
        for row in rows
    ]

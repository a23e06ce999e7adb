# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""``info``: runs in one table, and all about one. Reads text files only, and does not import torch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_spvae.commands.app import command, say
from pyro_spvae.commands.details import details
from pyro_spvae.training.json_file import read_json
from pyro_spvae.training.status import read_status, status_of

_DEPTH = 4  # levels of folders that are searched for runs

_HEADINGS = (
    "run",
    "data",
    "model",
    "parameters",
    "status",
    "log-likelihood (nats)",
    "bits/dim",
    "seconds",
)
_LEFT = {"run", "data", "model", "status"}  # texts; the others are numbers


def info(
    paths: Iterable[str | os.PathLike[str]], *, report: Callable[[str], None] = lambda line: None
) -> list[dict[str, Any]]:
    """
    What runs are and how far they came.

    :param paths: run folders, or folders that hold runs.
    :param callable report: takes lines of text about runs that cannot be read; such a run is an error where it alone is
        named, and among others a line with the status ``damaged``.
    :returns: a dict for each run, those on the same data in the order of their test log-likelihood, highest first:
        ``run``, ``data``, ``preprocess``, ``model``, ``parameters``, ``status`` (see
        :func:`~pyro_spvae.training.status.status_of`), ``log_likelihood`` (mean over the test split, nats per row),
        ``standard_error``, ``bits_per_dim``, ``samples``, ``seconds``, ``options``, which are those of its
        configuration by name, and ``race``, of the candidates that a table's model was chosen from (see
        :func:`pyro_spvae.training.race.race`); what is not known is ``None``.
    :raises ValueError: if there is no run, or the only one that was named cannot be read.
    """
    rows: dict[Path, dict[str, Any]] = {}
    named = list(map(Path, paths))
    for path in named:
        if _is_run(path) and len(named) == 1:
            return [_read(path)]
        for run in [path] if _is_run(path) else _find(path):
            if run.resolve() in rows:
                continue
            try:
                rows[run.resolve()] = _read(run)
            except ValueError as error:
                report(f"note        {error}")
                rows[run.resolve()] = _row(run, status="damaged")
    return sorted(rows.values(), key=_order)


def _info(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders, or folders that hold runs.", metavar="RUN", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """
    One table of runs: data, model, parameters, status, test log-likelihood, bits/dim and seconds.

    Log-likelihoods are means over the test split in nats per row, higher is
    better, with their standard error; the best run on the same data comes first.
    Of a single run its likelihood, networks, guide, prior, objective, optimiser
    and the other options that made it follow, the candidates that the model of
    a table was chosen from, and its columns.
    """
    rows = info(runs, report=lambda line: typer.echo(line, err=True))
    for line in [json.dumps(rows, indent=2)] if as_json else shown(rows):
        say(line)


command(_info, name="info", computes=False)


def shown(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The table of runs, and of a single one that can be read what made it."""
    lines = table(rows)
    if len(rows) == 1 and rows[0]["options"] is not None:
        lines += ["", *details(rows[0])]
    return lines


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The runs that :func:`info` returns in aligned lines under headings."""
    cells = [_HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            f"{cell:{'<' if heading in _LEFT else '>'}{width}}"
            for heading, cell, width in zip(_HEADINGS, line, widths, strict=True)
        ).rstrip()
        for line in cells
    ]


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    def shown(value: Any, form: str) -> str:
        return "-" if value is None else format(value, form)

    likelihood = shown(row["log_likelihood"], ".2f")
    if row["log_likelihood"] is not None and row["standard_error"] is not None:
        likelihood += f" +- {row['standard_error']:.2f}"
    data = shown(row["data"], "")
    if row["preprocess"] not in (None, "none", "integers", "auto"):
        data += f" ({row['preprocess']})"
    return (
        row["run"],
        data,
        shown(row["model"], ""),
        shown(row["parameters"], ",d"),
        row["status"],
        likelihood,
        shown(row["bits_per_dim"], ".3f"),
        shown(row["seconds"], ".0f"),
    )


def _order(row: dict[str, Any]) -> tuple[str, str, bool, float, str]:
    """Runs of the same data together; preprocessing changes what is modelled, so it counts as other data."""
    value = row["log_likelihood"]
    return row["data"] or "", row["preprocess"] or "", value is None, -(value or 0.0), row["run"]


def _is_run(path: Path) -> bool:
    return (path / "config.json").is_file() and (path / "data.json").is_file()


def _find(folder: Path) -> list[Path]:
    """The runs in a folder, in the order of their paths."""
    if not folder.is_dir():
        raise ValueError(f"there is no run folder {folder}")
    found = []
    for root, folders, _ in os.walk(folder):
        here = Path(root)
        if _is_run(here):
            found.append(here)
            folders.clear()  # runs hold no runs
        elif len(here.relative_to(folder).parts) >= _DEPTH:
            folders.clear()
        folders[:] = [name for name in folders if not name.startswith(".")]
    if not found:
        raise ValueError(f"the folder {folder} is no run and holds none: there is no config.json and data.json")
    return sorted(found)


def _read(path: Path) -> dict[str, Any]:
    """
    :raises ValueError: if a file is damaged.
    """
    config, record = (_object(path / name) for name in ("config.json", "data.json"))
    results = _object(path / "results.json") if (path / "results.json").exists() else {}
    status = read_status(path)
    data = record.get("name")
    return _row(
        path,
        data="(from Python)" if data is None else str(data),
        preprocess=config.get("preprocess"),
        model=_model(config),
        status=status_of(path),
        options=config,
        race=record.get("race"),
        **{
            name: value if isinstance(value, (int, float)) and not isinstance(value, bool) else None
            for name in ("parameters", "log_likelihood", "standard_error", *_FIGURES)
            for value in [results.get(name, status.get(name))]
        },
    )


def _row(path: Path, **known: Any) -> dict[str, Any]:
    names = ("data", "preprocess", "model", "parameters", "status", "log_likelihood", "standard_error")
    return {"run": str(path)} | {name: known.get(name) for name in (*names, *_FIGURES, "options", "race")}


def _model(config: dict[str, Any]) -> str | None:
    """Structure, units x leaves, sizes of the leaf networks; what a run fitted from Python does not record."""
    names = ("structure", "units", "leaves", "hidden")
    if any(config.get(name) is None for name in names):
        return None
    structure, units, leaves, hidden = (config[name] for name in names)
    sizes = _listed(hidden)
    delta = "" if config.get("delta") is None else f" {_listed(config['delta'])}"
    parts = "".join(
        f", {config[name]}" for name, usual in _USUAL.items() if config.get(name) not in (None, "auto", usual)
    )
    parts += "".join(
        f", {config[name]} {name}" for name, usual in _NAMED.items() if config.get(name) not in (None, "auto", usual)
    )
    if config.get("guide") == "none":  # leaves without latent variables, and so without networks
        return f"{structure}{delta} {units}x{leaves}, {config.get('leaf')}"
    latent = "" if config.get("latent_dim") is None else f", latent {config['latent_dim']}"
    return f"{structure}{delta} {units}x{leaves}{latent}, hidden {sizes}{parts}"


def _listed(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


_USUAL = {"leaf": "vae", "prior": "standard-normal", "guide": "normal", "network": "mlp"}
_NAMED = {"decoder": "mlp", "weights": "full", "tie": "none"}
_FIGURES = ("bits_per_dim", "samples", "seconds")


def _object(path: Path) -> dict[str, Any]:
    values = read_json(path)
    if not isinstance(values, dict):
        raise ValueError(f"the file {path} holds a {type(values).__name__}; an object is needed")
    return values

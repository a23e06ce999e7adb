# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What made a run, in aligned lines, from its text files; of a table's columns, from its model where needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_spvae.training.json_file import read_json

if TYPE_CHECKING:
    from torch import nn

    from pyro_spvae.data.column import Column

_CATEGORIES = 6  # that are named of a column
_UNUSUAL: dict[str, dict[str, Any]] = {  # said behind what they belong to, unless they are these
    "structure": {"delta": None, "depth": None, "repetitions": None, "leaf_size": None, "block": None},
    "leaf": {"latent_dim": None, "networks": "separate"},
    "objective": {
        "particles": None,
        "alpha": None,
        "gradient": "iwae",
        "reduce": "leaf",
        "kl": "sample",
        "estimator": "vimco",
        "beta": 1.0,
        "warmup": 0,
        "balance": False,
    },
    "optimiser": {
        **{"lr": None, "schedule": None, "weight_decay": 0.0, "clip": None, "batch_size": None, "hide": 0.0},
        **{"average": "none", "average_decay": None, "average_start": None},
    },
    "data": {"preprocess": "none", "missing": "none", "na": None, "grey": False, "fraction": 1.0},
}
_OF_EM: dict[str, dict[str, Any]] = {  # likewise, of optimisers that have no learning rate
    "em": {"smoothing": None, "ridge": 1e-3},
    "online-em": {
        "smoothing": None,
        "ridge": 1e-3,
        "step_size": None,
        "schedule": None,
        "batch_size": None,
        "hide": 0.0,
    },
}
_OF_RACE = (("bound", ".3f"), ("parameters", ",.0f"), ("epochs", ".0f"), ("seconds", ".1f"))


def details(row: Mapping[str, Any]) -> list[str]:
    """
    What made a run: its options by what they belong to, and a line for each column of a table.

    :param dict row: one of :func:`~pyro_spvae.commands.listing.info`.
    """
    path, options = Path(row["run"]), row["options"]
    lines = [(name, text) for name, text in _lines(row, options, path) if text]
    width = max(len(name) for name, _ in lines)
    found = [f"{name:<{width}}  {text}" for name, text in lines]
    for block in (_race(row["race"]), _columns(path)):
        found += ([""] if block else []) + block
    return found


def _lines(row: Mapping[str, Any], options: Mapping[str, Any], path: Path) -> Iterator[tuple[str, str]]:
    def with_rest(name: str) -> str:
        return "" if options.get(name) is None else ", ".join([str(options[name]), *_rest(name, options)])

    latent = options.get("guide") != "none"  # else there are no networks either
    yield "status", row["status"]
    yield "data", ", ".join([str(row["data"]), *_rest("data", options), *_rows(path)])
    yield "structure", with_rest("structure")
    yield "units", _text(options.get("units"))
    yield "leaves", _text(options.get("leaves"))
    yield "weights", _text(options.get("weights"))
    yield "tie", _text(options.get("tie"))
    yield "leaf", with_rest("leaf")
    yield "guide", _text(options.get("guide"))
    if latent:
        yield "prior", _text(options.get("prior"))
    yield "likelihood", _text(options.get("likelihood"))
    if latent and options.get("network") is not None:
        layers = f", hidden layers {_text(options.get('hidden'))}, {_text(options.get('activation'))}"
        yield "encoder", _text(options["network"]) + layers
        yield "decoder", _text(options.get("decoder") or options["network"]) + layers
    yield "objective", with_rest("objective") if latent else "log-likelihood"  # which all bounds are then
    yield "optimiser", with_rest("optimiser")
    if options.get("epochs") is not None:
        yield "epochs", f"at most {_text(options['epochs'])}, patience {_text(options.get('patience'))}"
    yield "seed", _text(options.get("seed"))
    yield "samples", _text(row["samples"]) if row["samples"] != 0 else "exact"


def _rest(name: str, options: Mapping[str, Any]) -> list[str]:
    """Options that belong to another, where they are not what they are by default."""
    unusual = _OF_EM.get(str(options.get("optimiser")), _UNUSUAL[name]) if name == "optimiser" else _UNUSUAL[name]
    return [
        key.replace("_", " ") if value is True else f"{key.replace('_', ' ')} {_text(value)}"
        for key, usual in unusual.items()
        for value in [options.get(key)]
        if value is not None and value != usual and value != "auto"
    ]


def _rows(path: Path) -> list[str]:
    """Numbers of rows."""
    rows = _record(path).get("rows")
    if not isinstance(rows, dict):
        return []
    return [f"{number:,} {split} rows" for split, number in rows.items() if isinstance(number, int)]


def _race(raced: Any) -> list[str]:
    """The candidates that a table's model was chosen from, the best first, and those that were left out."""
    if not isinstance(raced, list) or not all(isinstance(line, dict) for line in raced):
        return []
    ran = [line for line in raced if isinstance(line.get("bound"), (int, float))]
    cells: list[tuple[str, ...]] = [("candidate", "validation (nats)", "parameters", "epochs", "seconds")]
    for line in sorted(ran, key=lambda line: -line["bound"]):
        numbers = (_number(line.get(name), form) for name, form in _OF_RACE)
        cells.append((str(line.get("candidate")), *numbers))
    left = [
        (str(line.get("candidate")), f"left out: {line['refused']}")
        for line in raced
        if isinstance(line.get("refused"), str)
    ]
    if not left and not ran:
        return []
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    widths[0] = max([widths[0], *(len(name) for name, _ in left)])
    found = [
        "  ".join(f"{cell:{'>' if place else '<'}{widths[place]}}" for place, cell in enumerate(line)) for line in cells
    ]
    return found + [f"{name:<{widths[0]}}  {text}" for name, text in left]


def _number(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, (int, float)) else "-"


def _columns(path: Path) -> list[str]:
    """The columns of a table, as the model's likelihood has them."""
    shape = _record(path).get("event_shape")
    if not isinstance(shape, list) or len(shape) != 1 or not (path / "best.pt").exists():
        return []
    from pyro_spvae.training.run import open_run

    try:
        columns = columns_of(open_run(path).spvae)
    except ValueError as error:  # parts of one's own may not be at hand
        return [f"columns are not shown: {error}"]
    if not columns:
        return []
    cells = [("column", "kind", "family", "values")]
    cells += [(column.name, column.kind, str(column.family), _unit(column)) for column in columns]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def columns_of(model: nn.Module) -> tuple[Column, ...]:
    """The columns of the first likelihood in a model that has an attribute ``columns``; none where none has."""
    from pyro_spvae.data.column import Column

    found = (getattr(module, "columns", None) for module in model.modules())
    named = (columns for columns in found if isinstance(columns, tuple))
    return next((columns for columns in named if all(isinstance(column, Column) for column in columns)), ())


def _unit(column: Column) -> str:
    """What values of a column are, in its own unit."""
    if column.categories:
        named = ", ".join(column.categories[:_CATEGORIES])
        return named if len(column.categories) <= _CATEGORIES else f"{named}, .. ({len(column.categories)})"
    of = "logarithms " if column.family == "log-normal" else ""
    return f"{of}{column.location:.4g} +- {column.scale:.4g}"


def _record(path: Path) -> dict[str, Any]:
    record = read_json(path / "data.json")
    return record if isinstance(record, dict) else {}


def _text(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else f"{value:,}" if type(value) is int else str(value)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What is known of experiments that are not finished: those that were asked for, and how far each has come."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_spvae.reproduce.race_report import RACE
from pyro_spvae.reproduce.run import record
from pyro_spvae.reproduce.timing import MEMBERS, TimeExperiment
from pyro_spvae.training.config import read_json
from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.status import TRAINED, read_status

_BEGUN, _NOT_EVALUATED, _NOT_BEGUN = "begun", "trained, not evaluated", "not begun"


@dataclass(frozen=True)
class Unfinished:
    """
    A model that was begun or asked for.

    :ivar Path path: its run folder, whether or not it is there.
    :ivar str state: in words.
    :ivar int epoch: that it has reached, 0 before the first validation, of ``epochs``; ``None`` where it was not begun.
    :ivar float best: the best validation bound so far, nats; of the experiment on time that of test images.
    :ivar str command: that goes on with it, if it is known.
    """

    path: Path
    state: str
    epoch: int | None = None
    epochs: int | None = None
    best: float | None = None
    command: str | None = None


def note_asked(experiment: Any, out: Path) -> None:
    """Leaves beside the run folder of an experiment what it is, before it is begun."""
    path = _note(out / experiment.table / experiment.name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        RunFolder(path.parent).write_json(path.name, record(experiment))


def unfinished(out: Path) -> list[Unfinished]:
    """
    The models in a folder of experiments, or asked for in it, that are not finished, in the order of their paths.

    :raises ValueError: if a file of one cannot be read.
    """
    commands = {
        path.with_name(path.name.removesuffix(".json")): read_json(path).get("command")
        for path in out.glob("*/*.json")
        if not path.name.startswith(".")
    }
    begun = {path.parent for path in out.glob("*/*/config.json") if not path.parent.name.startswith(".")}
    raced = {path.parent.parent for path in out.glob(f"{TimeExperiment.table}/*/*/config.json")}
    found = []
    for path in sorted({*commands, *begun, *raced}):
        if (path / RACE).exists():
            continue
        members = [path / name for name in MEMBERS] if path.parent.name == TimeExperiment.table else [path]
        found += [one for member in members if (one := _look(member, commands.get(path))) is not None]
    return found


def unfinished_table(models: list[Unfinished], out: Path) -> list[str]:
    """Markdown: how far each has come."""
    lines = [
        "| experiment | model | state | epoch | best validation bound so far (nats) | goes on by |",
        "|---|---|---|---|---|---|",
    ]
    for one in models:
        experiment, *model = one.path.relative_to(out).parts
        epoch = "" if one.epoch is None else f"{one.epoch:,} of {one.epochs:,}"
        best = "" if one.best is None else f"{one.best:.2f}"
        command = "" if one.command is None else f"`{one.command}`"
        lines.append(f"| {experiment} | {'/'.join(model)} | {one.state} | {epoch} | {best} | {command} |")
    return lines


def _look(path: Path, command: str | None) -> Unfinished | None:
    if not path.exists():
        return Unfinished(path, _NOT_BEGUN, command=command)
    folder = RunFolder.open(path)
    if folder.is_finished:
        return None
    metrics = folder.read_metrics()
    state = _NOT_EVALUATED if read_status(path).get("status") == TRAINED else _BEGUN
    best = max((line["val_elbo"] for line in metrics), default=None)
    epoch = metrics[-1]["epoch"] if metrics else 0
    return Unfinished(path, state, epoch, folder.read_json("config.json")["epochs"], best, command)


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")

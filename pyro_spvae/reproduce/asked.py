# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What is known of experiments that are not finished: those that were asked for, and how far each has come."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_spvae.reproduce.places import with_places
from pyro_spvae.reproduce.race_report import RACE
from pyro_spvae.reproduce.run import note_of, record
from pyro_spvae.reproduce.timing import MEMBERS, TimeExperiment
from pyro_spvae.training.json_file import read_json
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


def note_asked(experiment: Any, out: Path, data_dir: str | None = None) -> None:
    """
    Leaves beside the run folder of an experiment what it is, before it is begun.

    :param str data_dir: folder of data sets that it was asked for with.
    """
    path = note_of(out / experiment.table / experiment.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    place = None if data_dir is None else str(Path(data_dir).expanduser().absolute())
    RunFolder(path.parent).write_json(path.name, record(experiment) | {"data_dir": place})


def unfinished(out: Path) -> list[Unfinished]:
    """
    The models in a folder of experiments, or asked for in it, that are not finished, in the order of their paths.

    :raises ValueError: if a file of one cannot be read.
    """
    notes = {
        path.with_name(path.name.removesuffix(".json")): _read_note(path)
        for path in out.glob("*/*.json")
        if not path.name.startswith(".")
    }
    begun = {path.parent for path in out.glob("*/*/config.json") if not path.parent.name.startswith(".")}
    raced = {path.parent.parent for path in out.glob(f"{TimeExperiment.table}/*/*/config.json")}
    found = []
    for path in sorted({*notes, *begun, *raced}):
        if (path / RACE).exists() or path.name.startswith("."):
            continue
        members = [path / name for name in MEMBERS] if path.parent.name == TimeExperiment.table else [path]
        note = notes.get(path, {})
        found += [one for member in members if (one := _look(member, note, out)) is not None]
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


def _look(path: Path, note: dict[str, Any], out: Path) -> Unfinished | None:
    def command(data_dir: str | None) -> str | None:
        return with_places(note["command"], out, data_dir) if "command" in note else None

    if not path.exists():
        return Unfinished(path, _NOT_BEGUN, command=command(note.get("data_dir")))
    folder = RunFolder.open(path)
    if folder.is_finished:
        return None
    metrics, config = folder.read_metrics(), folder.read_json("config.json")
    state = _NOT_EVALUATED if read_status(path).get("status") == TRAINED else _BEGUN
    if not isinstance(config, dict) or "epochs" not in config:
        raise ValueError(f"the file {path / 'config.json'} lacks 'epochs'; run the experiment again by --overwrite")
    if any(not line.keys() >= {"val_elbo", "epoch"} for line in metrics):
        raise ValueError(f"the file {path / 'metrics.jsonl'} has a line without 'val_elbo' or 'epoch'")
    best = max((line["val_elbo"] for line in metrics), default=None)
    epoch = metrics[-1]["epoch"] if metrics else 0
    return Unfinished(path, state, epoch, config["epochs"], best, command(config.get("data_dir")))


def _read_note(path: Path) -> dict[str, Any]:
    note = read_json(path)
    if not isinstance(note, dict):
        raise ValueError(f"the file {path} holds a {type(note).__name__}; the note of an experiment is an object")
    return note

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Runs an experiment into a folder of its own, or goes on with it, and says what came out beside the paper."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from pyro.infer import ELBO

from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.forecast import forecast
from pyro_spvae.training.interruption import Interrupted
from pyro_spvae.training.leaf_kinds import resolved_prior
from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.train import plan, resume, train

Report = Callable[[str], None]

RECORD = "reproduce.json"


class Runnable(Protocol):
    """An experiment: a frozen dataclass of what is run."""

    @property
    def table(self) -> str: ...

    @property
    def name(self) -> str: ...

    def configuration(self, data_dir: str | None = None, device: str = "auto") -> TrainConfig: ...

    @property
    def objective(self) -> ELBO | None:
        """In the place of the one that the configuration names."""


def run(
    experiment: Runnable,
    out: str | os.PathLike[str],
    *,
    data_dir: str | None = None,
    device: str = "auto",
    overwrite: bool = False,
    download: bool = False,
    progress: bool = False,
    report: Report = lambda line: None,
) -> Path:
    """
    Trains and scores a model in ``out/table/name``; a run that is there is used as it is if it is finished, and
    continued if it was stopped.

    :param Runnable experiment: what is run.
    :param out: folder of all experiments.
    :param str data_dir: folder of data sets.
    :param str device: as in :class:`~pyro_spvae.training.config.TrainConfig`.
    :param bool overwrite: train again where there is a run.
    :param bool download: whether missing files may be fetched.
    :param bool progress: show progress bars.
    :param callable report: takes lines of text.
    :returns: the run folder.
    :raises ValueError: if the run cannot be trained, or the folder holds one of another configuration.
    :raises Interrupted: when it was stopped by SIGINT or SIGTERM, with everything saved.
    """
    path, config = Path(out) / experiment.table / experiment.name, experiment.configuration(data_dir, device)
    report(f"--- {experiment.table}: {experiment.name} ---")
    folder = RunFolder(path)
    try:
        if path.exists() and not overwrite:
            folder = RunFolder.open(path)
            check_folder(folder, config)
            if folder.is_finished:
                report(f"finished    before, in {path}; train it again by --overwrite")
            else:
                changes = {"data_dir": data_dir} if data_dir is not None else {}
                changes |= {"device": device} if device != "auto" else {}
                resume(path, changes, progress, report, download, experiment.objective)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            train(config, path, progress, report, download, overwrite, experiment.objective)
    except Interrupted:
        raise Interrupted(f"stopped in {path}, everything is saved; the same command goes on with it") from None
    folder.write_json(RECORD, record(experiment))
    return path


def note_of(path: Path) -> Path:
    """The file beside a run folder that says, before it is begun, what it will be."""
    return path.with_name(f"{path.name}.json")


def record(experiment: Any) -> dict[str, Any]:
    """What says of an experiment what is run, and the command that runs it."""
    return {"table": experiment.table, "experiment": asdict(experiment), "command": command_line(experiment)}


def show_plan(experiment: Runnable, data_dir: str | None, device: str, report: Report, download: bool = False) -> float:
    """
    Reports the resolved configuration and its parameter counts, without training.

    :returns: seconds that it will take, about and at most.
    """
    report(f"--- {experiment.table}: {experiment.name} ---")
    if experiment.objective is not None:
        report(f"objective   {type(experiment.objective).__name__}, in the place of the one that is named below")
    job = plan(experiment.configuration(data_dir, device), report, download, experiment.objective)
    return forecast(job).total


def command_line(experiment: Any) -> str:
    """The command that runs an experiment: every option that is not the default, and some that are."""
    of_figure_3 = experiment.table == "spvae-figure3"  # whose command has no models, and another usual recipe
    parts = ["pyro-spvae", "reproduce", experiment.table]
    for field in dataclasses.fields(experiment):
        value = getattr(experiment, field.name)
        named = field.name in ("pixels", "model") or field.metadata.get("named")
        named = named or (of_figure_3 and field.name == "recipe")
        left_out = field.name == "figure" or (of_figure_3 and field.name == "model")
        if left_out or (value == field.default and not named):
            continue
        name, text = field.name.replace("_", "-"), str(value)
        if experiment.table == "spvae-figure2":
            name = {"fraction": "fractions", "model": "models"}.get(name, name)
        parts += [f"--{name}", shlex.quote(text)]
    return " ".join(parts)


def check_folder(folder: RunFolder, config: TrainConfig) -> None:
    """
    :raises ValueError: if a run has other options than are asked for.
    """
    path = folder.path / "config.json"
    check_same(
        f"the run {folder.path}",
        TrainConfig.from_dict(folder.read_json("config.json"), f"the configuration {path}"),
        config,
    )


def check_same(what: str, found: TrainConfig, wanted: TrainConfig) -> None:
    """
    :param str what: was found, for messages.
    :raises ValueError: if an option is another than is asked for; what is left to the data may be anything.
    """
    if wanted.leaf == "auto":  # of images
        wanted = dataclasses.replace(wanted, leaf="vae")
    has, asked = (one.to_dict() | {"prior": resolved_prior(one)} for one in (found, wanted))
    for name, value in asked.items():
        if name in ("data_dir", "device", "structure") or value == "auto" or (value is None and name != "test_rows"):
            continue  # resolved from the data, or free to change
        if has[name] != value:
            raise ValueError(
                f"{what} has {name} {has[name]!r}, but {value!r} is asked for; choose another --out, or --overwrite it"
            )

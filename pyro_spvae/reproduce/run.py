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
from typing import Any, Protocol, cast

from pyro.infer import ELBO

from pyro_spvae.training.config import TrainConfig
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
    config: TrainConfig,
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
    :param TrainConfig config: its configuration.
    :param bool overwrite: train again where there is a run.
    :param bool download: whether missing files may be fetched.
    :param bool progress: show progress bars.
    :param callable report: takes lines of text.
    :returns: the run folder.
    :raises ValueError: if the run cannot be trained, or the folder holds one of another configuration.
    """
    path = Path(out) / experiment.table / experiment.name
    report(f"--- {experiment.table}: {experiment.name} ---")
    folder = RunFolder(path)
    if path.exists() and not overwrite:
        folder = RunFolder.open(path)
        _check_same(folder, config)
        if folder.is_finished:
            report(f"finished    before, in {path}; train it again by --overwrite")
        else:
            resume(path, progress=progress, report=report, download=download, objective=experiment.objective)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        train(config, path, progress, report, download, overwrite, experiment.objective)
    folder.write_json(
        RECORD,
        {
            "table": experiment.table,
            "experiment": asdict(cast(Any, experiment)),
            "command": command_line(experiment),
        },
    )
    return path


def show_plan(experiment: Runnable, config: TrainConfig, report: Report, download: bool = False) -> None:
    """Reports the resolved configuration and its parameter counts, without training."""
    report(f"--- {experiment.table}: {experiment.name} ---")
    if experiment.objective is not None:
        report(f"objective   {type(experiment.objective).__name__}, in the place of the one that is named below")
    plan(config, report, download)


def command_line(experiment: Runnable) -> str:
    """The command that runs an experiment: every option that is not the default."""
    parts = ["pyro-spvae", "reproduce", experiment.table]
    for field in dataclasses.fields(cast(Any, experiment)):
        value = getattr(experiment, field.name)
        named = field.name in ("pixels", "model") or field.metadata.get("named")
        if value == field.default and not named or field.name == "figure":
            continue
        name, text = field.name.replace("_", "-"), f"{value:g}" if isinstance(value, float) else str(value)
        if experiment.table == "spvae-figure2":
            name = {"fraction": "fractions", "model": "models"}.get(name, name)
        parts += [f"--{name}", shlex.quote(text)]
    return " ".join(parts)


def _check_same(folder: RunFolder, config: TrainConfig) -> None:
    """Refuses a folder whose run has other options than are asked for; what is left to the data may be anything."""
    path = folder.path / "config.json"
    of_folder = TrainConfig.from_dict(folder.read_json("config.json"), f"the configuration {path}")
    if config.leaf == "auto":  # of images
        config = dataclasses.replace(config, leaf="vae")
    found, wanted = (one.to_dict() | {"prior": resolved_prior(one)} for one in (of_folder, config))
    for name, value in wanted.items():
        if name in ("data_dir", "device", "structure") or value in (None, "auto"):
            continue  # resolved from the data, or free to change
        if found[name] != value:
            raise ValueError(
                f"the run {folder.path} has {name} {found[name]!r}, but {value!r} is asked for; choose another --out, "
                "or --overwrite it"
            )

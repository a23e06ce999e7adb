# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A whole run: data, model, training, test log-likelihood, pictures."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch

from pyro_spvae import __version__, distributed
from pyro_spvae.data import DATA_SETS, DataSet, load_data
from pyro_spvae.models import SPVAE
from pyro_spvae.training.build import CACHE, build_model, modelled, resolve
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.evaluation import evaluate_rows
from pyro_spvae.training.logger import Logger, TensorBoard
from pyro_spvae.training.objective import build_objective
from pyro_spvae.training.pictures import write_pictures
from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.trainer import Trainer

Report = Callable[[str], None]

_LARGE = 10.0  # networks start with outputs near 0 and steps of the learning rate
_MAY_CHANGE = ("data_dir", "device")  # what does not alter a run: where files lie, and what it runs on


@dataclass(frozen=True, eq=False)
class _Job:
    """A configuration that was resolved, and what it is about."""

    config: TrainConfig
    raw: DataSet
    data: DataSet  # preprocessed
    spvae: SPVAE
    record: dict[str, Any]

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.spvae.parameters())

    @property
    def identity(self) -> dict[str, Any]:
        return {"architecture": self.spvae.architecture(), "config": self.config.to_dict(), "data": self.record}


def train(
    config: TrainConfig,
    out: str | os.PathLike[str],
    progress: bool = False,
    report: Report = lambda line: None,
    download: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """
    Trains a model and leaves a run folder, see :class:`~pyro_spvae.training.run_folder.RunFolder`.

    Everything that can be refused is refused before the folder is made.

    :param TrainConfig config: what to do.
    :param out: the folder to make.
    :param bool progress: show progress bars.
    :param callable report: takes lines of text about what happens.
    :param bool download: whether a missing data set may be downloaded.
    :param bool overwrite: replace a run that is in the folder.
    :returns: what ``results.json`` holds: ``log_likelihood`` and its ``standard_error`` (nats per datum, mean over the
        test split), ``bits_per_dim``, the ELBO's terms, ``parameters``, seconds, versions.
    :raises ValueError: if the configuration does not fit the data, the folder exists, or a number is not finite. In the
        last case the folder keeps the checkpoints, if there are any, and is removed otherwise.
    :raises Interrupted: when it was stopped by SIGINT or SIGTERM, with everything saved for :func:`resume`.
    """
    start = time.perf_counter()
    with _processes(config, report) as (device, report):
        distributed.on_main(lambda: RunFolder(out).check_free(overwrite))
        job = _set_up(config, device, download)
        folder = RunFolder(out)
        distributed.on_main(lambda: _create(folder, job, overwrite))
        return _run(job, folder, None, start, progress, report)


def resume(
    path: str | os.PathLike[str],
    changes: dict[str, Any] | None = None,
    progress: bool = False,
    report: Report = lambda line: None,
    download: bool = False,
) -> dict[str, Any]:
    """
    Continues a run that was stopped or killed; it ends with the parameters and metrics of one that never was.

    :param path: the run folder.
    :param dict changes: options of the configuration; ``data_dir`` and ``device`` may be others than the run's.
    :returns: as :func:`train`.
    :raises ValueError: if there is no such run, it is finished, other options or data were given, or a file is damaged.
    """
    start = time.perf_counter()
    folder = RunFolder.open(path)
    config = TrainConfig.from_dict(folder.read_json("config.json"), f"the configuration {folder.path / 'config.json'}")
    config = _changed(config, changes or {}, folder)
    if folder.is_finished:
        raise ValueError(
            f"the run {folder.path} is finished, there is nothing to resume; train another one from its configuration "
            f"by --config {folder.path / 'config.json'} --out FOLDER"
        )
    with _processes(config, report) as (device, report):
        job = _set_up(config, device, download)
        kept = folder.read_json("data.json")
        if not isinstance(kept, dict) or kept.get("fingerprint") != job.record["fingerprint"]:
            raise ValueError(
                f"the data {config.data} are not those that the run {folder.path} was started with: their content changed"
            )
        state = None
        if (folder.path / "last.pt").exists():
            state = folder.load("last.pt")
            if state.get("architecture") != job.identity["architecture"]:
                raise ValueError(
                    f"the checkpoint {folder.path / 'last.pt'} is of another architecture than config.json"
                )
            report(f"resuming    {folder.path} after step {state['step']}")
        else:
            report(f"resuming    {folder.path} from its start")
        distributed.on_main(lambda: folder.rewind(0 if state is None else state["validations"]) and None)
        return _run(job, folder, state, start, progress, report)


def plan(config: TrainConfig, report: Report, download: bool = False) -> None:
    """Reports the resolved configuration as JSON, and what it would train, without training."""
    job = _set_up(config, distributed.choose_device(config.device), download)
    report(json.dumps(job.config.to_dict(), indent=2))
    _describe(job, report)
    for name, part in (("circuit", job.spvae.circuit), ("leaves", job.spvae.leaf), ("guides", job.spvae.leaf_guide)):
        report(f"  {name:<10}{sum(parameter.numel() for parameter in part.parameters()):,}")


def _run(
    job: _Job, folder: RunFolder, state: dict[str, Any] | None, start: float, progress: bool, report: Report
) -> dict[str, Any]:
    report = _logged(folder, report)
    _describe(job, report)
    loggers: list[Logger] = []
    if job.config.tensorboard and distributed.is_main():
        loggers.append(TensorBoard(folder.path, step=0 if state is None else state["step"]))
    try:
        trainer = Trainer(
            job.spvae,
            job.data.train,
            job.data.validation,
            job.config,
            folder,
            job.identity,
            progress=progress,
            report=report,
            loggers=loggers,
        )
        if state is not None:
            trainer.load_state(state, folder.read_metrics())
        trainer.run()
        report(
            f"trained     {trainer.epoch} epochs, best validation bound {trainer.best:.2f} nats "
            f"in epoch {trainer.best_epoch}"
        )
        results = _results(job, trainer, start, progress)
        if distributed.is_main():
            write_pictures(job.spvae, job.data, folder, trainer.metrics, loggers, trainer.step)
            folder.write_json("results.json", results)
        distributed.barrier()
    except Exception:
        if distributed.is_main():
            folder.discard_unless_trained()
        raise
    finally:
        for logger in loggers:
            logger.close()
    report(summary(results))
    report(f"written to  {folder.path}")
    return results


def _set_up(config: TrainConfig, device: torch.device, download: bool) -> _Job:
    """Data and a new model, on its device."""
    if config.data not in DATA_SETS and Path(config.data).expanduser().exists():  # a run can be opened from anywhere
        config = dataclasses.replace(config, data=str(Path(config.data).expanduser().absolute()))
    if config.data_dir is not None:
        config = dataclasses.replace(config, data_dir=str(Path(config.data_dir).expanduser().absolute()))
    if download:  # by one process
        distributed.on_main(lambda: _load(config, True) and None)
    raw = _load(config, False)
    config = resolve(config, raw)
    data = modelled(config, raw).cached(CACHE)
    pyro.set_rng_seed(config.seed)
    with pyro.settings.context(module_local_params=True):
        spvae = build_model(config, data)
    dtype = getattr(torch, config.precision)
    for rows in (data.train, data.validation, data.test):
        spvae.check(rows[: min(len(rows), 1024)].to(dtype))  # the values themselves were checked when they were read
    record = {
        "name": raw.name,
        "rows": {"train": len(raw.train), "validation": len(raw.validation), "test": len(raw.test)},
        "split_seed": config.seed,
        "event_shape": list(raw.event_shape),
        "raw_values": dataclasses.asdict(raw.values),
        "values": dataclasses.asdict(data.values),
        "fingerprint": raw.fingerprint(),
    }
    return _Job(config, raw, data, spvae.to(device), record)


def _load(config: TrainConfig, download: bool) -> DataSet:
    return load_data(config.data, data_dir=config.data_dir, seed=config.seed, download=download)


def _create(folder: RunFolder, job: _Job, overwrite: bool) -> None:
    RunFolder.create(folder.path, job.config.to_dict(), job.record, overwrite)


def _changed(config: TrainConfig, changes: dict[str, Any], folder: RunFolder) -> TrainConfig:
    """The run's configuration with what may be changed; refuses the rest."""
    values = config.to_dict()
    for name, value in changes.items():
        if name == "data" and value not in DATA_SETS:
            value = str(Path(value).expanduser().absolute())
        if name not in _MAY_CHANGE and value != values[name]:
            raise ValueError(
                f"{name} is {value!r}, but the run {folder.path} was started with {values[name]!r}; leave it out to "
                "resume"
            )
        values[name] = value
    return TrainConfig.from_dict(values, "")


def _describe(job: _Job, report: Report) -> None:
    config, values = job.config, job.data.values
    report(f"data        {job.raw!r}")
    changed = "" if config.preprocess in ("none", "integers") else f", preprocessed by {config.preprocess}"
    report(f"likelihood  {config.likelihood} of values from {values.low:g} to {values.high:g}{changed}")
    if config.likelihood == "normal" and max(abs(values.low), abs(values.high)) > _LARGE:
        report(
            f"note        values run from {values.low:.4g} to {values.high:.4g}; scale them to about [-1, 1] for a good fit"
        )
    report(f"structure   {job.spvae.circuit.regions!r}")
    report(f"model       {job.spvae.num_leaves} leaf VAEs, {job.parameters:,} parameters")


def _results(job: _Job, trainer: Trainer, start: float, progress: bool) -> dict[str, Any]:
    config = job.config
    figures, _ = evaluate_rows(
        job.spvae,
        job.data.test,
        elbo=build_objective(config),
        samples=config.samples,
        chunk_size=config.chunk_size,
        seed=config.seed,
        progress=progress,
    )
    return {
        "data": job.raw.name,
        "split": "test",
        **figures,
        "bits_per_dim": job.data.bits_per_dim(figures["log_likelihood"]),
        "parameters": job.parameters,
        "best_epoch": trainer.best_epoch,
        "steps": trainer.step,
        "train_seconds": round(trainer.seconds, 3),
        "seconds": round(time.perf_counter() - start, 3),
        "processes": distributed.world(),
        "device": str(trainer.device),
        "versions": {
            "pyro_spvae": __version__,
            "pyro": pyro.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


@contextmanager
def _processes(config: TrainConfig, report: Report) -> Iterator[tuple[torch.device, Report]]:
    """Joins the processes that were launched together; the first alone reports."""
    device = distributed.choose_device(config.device)
    with distributed.processes(device):
        yield device, report if distributed.is_main() else (lambda line: None)


def _logged(folder: RunFolder, report: Report) -> Report:
    """Reports, and keeps what was reported in the folder."""
    if not distributed.is_main():
        return report

    def both(line: str) -> None:
        folder.append_log(line)
        report(line)

    return both


def summary(results: dict[str, Any]) -> str:
    """One line about a split."""
    error = results["standard_error"]
    line = f"{results['split']:<12}log-likelihood {results['log_likelihood']:.2f}"
    line += "" if error is None else f" +- {error:.2f}"
    line += f" nats ({results['rows']:,} rows, {results['samples']:,} samples)"
    bits = results["bits_per_dim"]
    return line if bits is None else line + f", {bits:.3f} bits/dim"


def with_parameters_of(config: TrainConfig, data: DataSet, least: int) -> TrainConfig:
    """
    The smallest plain VAE (one region, one leaf, two hidden layers of equal width) with at least ``least`` parameters.

    :param TrainConfig config: everything but the structure and the layers.
    :param DataSet data: the data after preprocessing.
    """
    width = 1
    while True:
        plain = dataclasses.replace(
            config,
            structure="whole",
            delta=None,
            depth=None,
            repetitions=None,
            units=1,
            leaves=1,
            hidden=(width, width),
        )
        if sum(p.numel() for p in build_model(plain, data).parameters()) >= least:
            return plain
        width += 1

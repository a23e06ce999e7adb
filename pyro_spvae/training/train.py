# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A whole run: data, model, training, test log-likelihood, pictures."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pyro.infer import ELBO
from torch import Tensor

from pyro_spvae import distributed, joining, plots
from pyro_spvae.data import DATA_SETS
from pyro_spvae.training import cost
from pyro_spvae.training.by_kind import passes
from pyro_spvae.training.candidates import is_raced
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.evaluation import evaluate_rows, per_dimension
from pyro_spvae.training.forecast import figures_seconds
from pyro_spvae.training.going_on import GOES_ON, check_goes_on, is_over, last_state
from pyro_spvae.training.job import Job, describe, set_up
from pyro_spvae.training.logger import Logger, TensorBoard
from pyro_spvae.training.objective import as_bound, build_objective
from pyro_spvae.training.optimisers import BY_STEP
from pyro_spvae.training.own_objects import OwnObjects
from pyro_spvae.training.pace import Pace
from pyro_spvae.training.race import entry_list
from pyro_spvae.training.run_folder import RunFolder, versions
from pyro_spvae.training.run_lock import trained_by_one
from pyro_spvae.training.stated import kind_lines, nats, stated_lines, unit_of
from pyro_spvae.training.status import FINISHED, TRAINED
from pyro_spvae.training.trainer import Trainer

Report = Callable[[str], None]

# what does not alter training: where files lie, what it runs on and how
_MAY_CHANGE = ("data_dir", "device", "samples", "graphs")
_MORE = 1000  # samples of an evaluation that is proposed


def train(
    config: TrainConfig,
    out: str | os.PathLike[str],
    progress: bool = False,
    report: Report = lambda line: None,
    download: bool = False,
    overwrite: bool = False,
    objective: ELBO | None = None,
) -> dict[str, Any]:
    """
    Trains a model and leaves a run folder, see :class:`~pyro_spvae.training.run_folder.RunFolder`.

    Everything that can be refused is refused before the folder is made.

    :param TrainConfig config: what to do.
    :param out: the folder to make.
    :param bool progress: show progress bars.
    :param callable report: takes lines of text about what happens.
    :param bool download: whether a missing data set may be downloaded.
    :param bool overwrite: replace a run that is in the folder, when the new one has its first checkpoint.
    :param ELBO objective: to train by, in the place of the one that the configuration names; ``data.json`` names it.
        The bounds in ``results.json`` are those of the configuration's.
    :returns: what ``results.json`` holds: ``log_likelihood`` and its ``standard_error`` (nats per datum, mean over the
        test split), of tables its parts (see :func:`pyro_spvae.training.by_kind.by_kind`),
        ``bits_per_dim`` (``nats_per_seen_entry`` where entries are missing), the ELBO's terms, entropy and
        cross-entropy and active units of latent sites, ``parameters``, seconds, versions.
        Without ``samples`` in the configuration as many are drawn for the log-likelihood as take about a tenth of the
        time of training, see :func:`~pyro_spvae.training.cost.affordable_samples`.
    :raises ValueError: if the configuration does not fit the data, the folder exists, or a number is not finite. In the
        last case the folder keeps the checkpoints, if there are any, and is removed otherwise; then a run that it
        replaced is there again.
    :raises Interrupted: when it was stopped by SIGINT or SIGTERM, with everything saved for :func:`resume`.
    :raises Lost: if it is one of several processes, and the others cannot be reached any longer; :func:`resume` goes
        on.
    """
    with _processes(config, out, report) as (device, report):
        distributed.on_main(lambda: RunFolder(out).check_free(overwrite))
        told: list[str] = []

        def both(line: str) -> None:
            told.append(line)
            report(line)

        job = set_up(config, device, download, objective, both)
        folder = RunFolder(out)
        distributed.on_main(lambda: _create(folder, job, overwrite))
        with trained_by_one(folder.path):
            return _run(job, folder, None, progress, report, told)


def resume(
    path: str | os.PathLike[str],
    changes: dict[str, Any] | None = None,
    progress: bool = False,
    report: Report = lambda line: None,
    download: bool = False,
    objective: ELBO | None = None,
) -> dict[str, Any]:
    """
    Continues a run that was stopped or killed; it ends with the parameters and metrics of one that never was, and with
    its results, unless samples of the log-likelihood are chosen by the time that training took. One that was stopped
    in its evaluation is evaluated.

    A run that is finished is trained on by more ``epochs``, or by more ``patience`` where that had stopped it, from its
    last parameters and the state of its optimiser. It ends as one that had all epochs from its start, if its learning
    rate does not depend on their number (``plateau`` and ``constant``), no part of the model is annealed by it, and
    ``validate_every`` is left out or divides its former steps, so that no validation is added at their end.
    Otherwise rate and annealing go on from where those of a run of all epochs are by then. ``results.json`` stays what
    it was until there are new ones.

    :param path: the run folder.
    :param dict changes: options of the configuration; ``data_dir``, ``device``, ``graphs`` and ``samples`` may be
        others than the run's, and ``epochs`` and ``patience`` of a run whose training is over.
    :param ELBO objective: the one that :func:`train` was given.
    :returns: as :func:`train`.
    :raises ValueError: if there is no such run, it is finished, other options or data were given, or a file is damaged.
    """
    folder = RunFolder.open(path)
    kept = folder.read_json("data.json")
    if not isinstance(kept, dict) or "name" not in kept:
        raise ValueError(f"the file {folder.path / 'data.json'} lacks 'name'; the run cannot be resumed without it")
    if kept["name"] is None:
        raise ValueError(
            f"the run {folder.path} was fitted from Python; continue it by spvae.fit(..., out=..., resume=True)"
        )
    config = TrainConfig.from_dict(folder.read_json("config.json"), f"the configuration {folder.path / 'config.json'}")
    state = last_state(folder)
    before, config = config, _changed(config, changes or {}, folder, state)
    if folder.is_finished and not set(GOES_ON) & (changes or {}).keys():
        raise ValueError(
            f"the run {folder.path} is finished, there is nothing to resume; train another one from its configuration "
            f"by --config {shlex.quote(str(folder.path / 'config.json'))} --out FOLDER, train it on by --epochs, or "
            "evaluate it"
        )
    given, wanted = OwnObjects(objective).described().get("objective"), kept.get("objective")
    if given != wanted:
        raise ValueError(
            f"objective is {given or 'none'}, but the run {folder.path} was started with {wanted or 'none'}; give the "
            "same to resume"
        )
    with _processes(config, folder.path, report) as (device, report), trained_by_one(folder.path):
        distributed.agree(f"the run {folder.path}", folder.digest)
        job = set_up(config, device, download, objective)
        job.record.update({name: kept[name] for name in ("race",) if name in kept})
        if any(kept.get(name) != job.record.get(name) for name in ("fingerprint", "columns")):
            raise ValueError(
                f"the data {config.data} are not those that the run {folder.path} was started with: "
                "their content changed"
            )
        if state is not None:
            if state.get("architecture") != job.identity["architecture"]:
                raise ValueError(
                    f"the checkpoint {folder.path / 'last.pt'} is of another architecture than config.json"
                )
            report(f"resuming    {folder.path} after step {state['step']}")
        else:
            report(f"resuming    {folder.path} from its start")
        distributed.on_main(lambda: folder.rewind(0 if state is None else state["validations"]) and None)
        kept = before.to_dict() | {name: getattr(config, name) for name in (*GOES_ON, "samples")}
        if kept != before.to_dict():
            distributed.on_main(lambda: folder.reconfigure(kept))
        return _run(job, folder, state, progress, report)


def plan(config: TrainConfig, report: Report, download: bool = False, objective: ELBO | None = None) -> Job:
    """
    Reports the resolved configuration as JSON, and what it would train, without training: where candidates would race,
    all of them, and the first one's configuration.

    :param ELBO objective: in the place of the one that the configuration names.
    :returns: what would be trained.
    """
    job = set_up(config, distributed.choose_device(config.device), download, objective)
    report(json.dumps(job.config.to_dict(), indent=2))
    if is_raced(config, job.raw):
        for line in entry_list(config, job.raw):
            report(line)
        report("options above and model below are those of the first of them")
    describe(job, report, kept=False)
    for name, part in (("circuit", job.spvae.circuit), ("leaves", job.spvae.leaf), ("guides", job.spvae.leaf_guide)):
        report(f"  {name:<10}{sum(parameter.numel() for parameter in part.parameters()):,}")
    return job


def _run(
    job: Job,
    folder: RunFolder,
    state: dict[str, Any] | None,
    progress: bool,
    report: Report,
    told: Sequence[str] = (),
) -> dict[str, Any]:
    """
    :param told: lines that were reported before there was a folder to keep them in.
    """
    report = _logged(folder, report)
    loggers: list[Logger] = []
    try:
        if distributed.is_main():
            for line in told:
                folder.append_log(line)
        describe(job, report)
        if job.config.tensorboard and distributed.is_main():
            loggers.append(TensorBoard(folder.path, step=0 if state is None else state["step"]))
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
            objective=job.objective,
        )
        if state is not None:
            trainer.load_state(state, folder.read_metrics())
            _report_going_on(job.config, state, trainer, report)
        trainer.run()
        epochs = f"{trainer.epoch} epoch{'' if trainer.epoch == 1 else 's'}"
        report(f"trained     {epochs}, best validation bound {trainer.best:.2f} nats in epoch {trainer.best_epoch}")
        known = _known(job, trainer)
        if distributed.is_main():
            folder.write_json("status.json", {"status": TRAINED} | known)
            _write_pictures(job, trainer, folder, loggers, report)
        results, log_likelihood = _results(job, trainer, progress, report)
        if distributed.is_main():
            _write_pictures(job, trainer, folder, loggers, report, log_likelihood)
            folder.write_json("results.json", results)
            _say_finished(folder, known)
        distributed.barrier()
    except ConnectionError:  # the folder is as of a run that was killed
        raise
    except BaseException as error:
        if distributed.is_main() and (isinstance(error, Exception) or folder.replaced.exists()):
            folder.discard_unless_trained()
        raise
    finally:
        for logger in loggers:
            logger.close()
    for line in latent_lines(results):
        report(line)
    for name, value, remark in stated_lines(results):
        report(f"{name:<12}{value} {remark}".rstrip())
    report(summary(results))
    for name, nats_of_kind, unit in kind_lines(results):
        report(f"{name:<12}{nats_of_kind:.2f} {unit}")
    if job.config.samples is None and 0 < results["samples"] < cost.MOST:
        more = _MORE if results["samples"] < _MORE else cost.MOST
        report(
            "note        samples were chosen by what training took; more give a higher bound: "
            f"pyro-spvae evaluate {shlex.quote(str(folder.path))} --samples {more}"
        )
    report(f"written to  {folder.path}")
    return results


def _say_finished(folder: RunFolder, known: dict[str, Any]) -> None:
    folder.write_json("status.json", {"status": FINISHED} | known)


def _report_going_on(config: TrainConfig, state: dict[str, Any], trainer: Trainer, report: Report) -> None:
    """Says what becomes of a learning rate that depends on the number of epochs, where that is another than before."""
    epochs = state.get("config", {}).get("epochs", config.epochs)
    if epochs == config.epochs:
        return
    report(f"training on from epoch {trainer.epoch} to {config.epochs} at most, where {epochs} was the last before")
    if config.schedule in BY_STEP and trainer.update.lr is not None:
        report(
            f"schedule    {config.schedule}, as if all {config.epochs} epochs had been asked for at once: the learning "
            f"rate goes on at {trainer.update.lr:.3g}"
        )


def _write_pictures(
    job: Job,
    trainer: Trainer,
    folder: RunFolder,
    loggers: list[Logger],
    report: Report,
    log_likelihood: Tensor | None = None,
) -> None:
    """Those that training leaves, or, given the log-likelihoods of the test rows, that of these alone."""
    images: dict[str, Tensor] = {}
    folder.figures.mkdir(exist_ok=True)
    with Pace(report).during("pictures"):
        if log_likelihood is None:
            figures, images = plots.run_pictures(job.spvae, job.data, trainer.metrics)
        else:
            figures = {"log_likelihoods": plots.likelihood_histogram(log_likelihood)}
        for name, figure in figures.items():
            plots.save(figure, folder.figures / f"{name}.png")
    for logger in loggers:
        for name, shown in images.items():
            logger.image(trainer.step, name, shown)
    report(f"pictures    {', '.join(f'{name}.png' for name in figures)} in {folder.figures}")


def _create(folder: RunFolder, job: Job, overwrite: bool) -> None:
    RunFolder.create(folder.path, job.config.to_dict(), job.record, overwrite)


def _changed(
    config: TrainConfig, changes: dict[str, Any], folder: RunFolder, state: dict[str, Any] | None
) -> TrainConfig:
    """
    The run's configuration with what may be changed; refuses the rest.

    :param dict state: the run's last checkpoint.
    """
    values = config.to_dict()
    over = state is not None and is_over(config, state)
    for name, value in changes.items():
        if (name == "data" and value not in DATA_SETS) or name in ("validation_data", "test_data"):
            value = str(Path(value).expanduser().absolute())
        free = (*_MAY_CHANGE, *GOES_ON) if over else _MAY_CHANGE
        if name not in free and value != values[name]:
            raise ValueError(
                f"{name} is {value!r}, but the run {folder.path} was started with {values[name]!r}; leave it out to "
                "resume"
            )
        values[name] = value
    changed = TrainConfig.from_dict(values, "")
    asked = changes.keys() & set(GOES_ON)
    if state is not None and asked and (folder.is_finished or any(values[n] != getattr(config, n) for n in asked)):
        check_goes_on(changed, asked, folder, state)
    return changed


def _results(job: Job, trainer: Trainer, progress: bool, report: Report) -> tuple[dict[str, Any], Tensor]:
    """What ``results.json`` holds, and the log-likelihood of every test row."""
    config, start = job.config, time.perf_counter()
    raced = sum(line.get("seconds", 0.0) for line in job.record.get("race", ()))
    samples = _announce(job, trainer, report)
    figures, log_likelihood, _ = evaluate_rows(
        job.spvae,
        job.test,
        elbo=as_bound(build_objective(config)),
        samples=samples,
        chunk_size=config.chunk_size,
        seed=config.seed,
        progress=progress,
        pace=Pace(report),
    )
    results = {
        "data": job.raw.name,
        "split": "test",
        "missing": config.missing,
        **figures,
        **per_dimension(figures, job.data.bits_per_dim),
        **_known(job, trainer),
        "seconds": round(raced + trainer.seconds + time.perf_counter() - start, 3),  # also of before a resumption
        "processes": distributed.world(),
        "device": str(trainer.device),
        "versions": versions(),
    }
    return results, log_likelihood


def _known(job: Job, trainer: Trainer) -> dict[str, Any]:
    """What is known of a run when it is trained."""
    return {
        "parameters": job.parameters,
        "val_elbo": trainer.best,
        "best_epoch": trainer.best_epoch,
        "epochs": trainer.epoch,
        "steps": trainer.step,
        "train_seconds": round(trainer.seconds, 3),
    }


def _announce(job: Job, trainer: Trainer, report: Report) -> int:
    """Says what the evaluation will cost; the number of its samples, the same in every process."""
    config, rows = job.config, job.test

    def measure() -> list[float]:
        per_sample = cost.sample_seconds(job.spvae, rows, config.chunk_size, config.samples) * passes(job.spvae)
        samples = config.samples
        if samples is None:
            samples = cost.affordable_samples(per_sample, len(rows), trainer.seconds)
        return [samples, cost.evaluation_seconds(per_sample, len(rows), samples if job.spvae.latents else 1)]

    samples, seconds = distributed.on_main(measure)
    if distributed.world() == 1:  # of several, each would have to measure the same blocks
        seconds += figures_seconds(job.spvae, as_bound(build_objective(config)), rows, config.seed)
    exactness = f"with {samples:,} samples" if job.spvae.latents else "exactly"
    report(f"evaluating  {len(rows):,} rows {exactness}, about {cost.in_words(seconds)}")
    return int(samples)


@contextmanager
def _processes(
    config: TrainConfig, out: str | os.PathLike[str], report: Report
) -> Iterator[tuple[torch.device, Report]]:
    """Joins the processes that were launched together; the first alone reports."""
    device = distributed.choose_device(config.device)
    advice = f"start all of them again, by --resume {shlex.quote(str(out))} where that folder is there"
    with joining.processes(device, advice):
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
    exactness = f"{results['samples']:,} samples" if results["samples"] else "exact"
    line += f" {unit_of(results)} ({results['rows']:,} rows, {exactness})"
    bits = results["bits_per_dim"]
    if results.get("nats_per_seen_entry") is not None:
        line += f", {results['nats_per_seen_entry']:.4f} nats per seen entry"
    return line if bits is None else line + f", {bits:.3f} bits/dim"


def latent_lines(results: dict[str, Any]) -> list[str]:
    """A line about each latent site of a split."""
    lines = []
    for site, kl in results["kl"].items():
        line = f"{'latent ' + site:<12}KL {nats(kl)} = cross-entropy {results['cross_entropy'][site]:.2f}"
        line += f" - entropy {results['entropy'][site]:.2f} nats"
        active = results["active_units"][site]
        lines.append(line if active is None else f"{line}, {active} active unit{'' if active == 1 else 's'}")
    return lines

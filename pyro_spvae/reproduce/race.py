# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""How long the SPVAE trains until it passes what the VAE ends with: both take turns in one process."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from pyro_spvae import distributed, plots
from pyro_spvae.reproduce.race_report import RACE, read_race
from pyro_spvae.reproduce.run import check_folder, check_same
from pyro_spvae.reproduce.timing import MEMBERS, TimeExperiment
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.cost import MOST
from pyro_spvae.training.evaluation import log_likelihoods
from pyro_spvae.training.forecast import forecast
from pyro_spvae.training.going_on import last_state
from pyro_spvae.training.interruption import Interrupted
from pyro_spvae.training.job import Job, set_up
from pyro_spvae.training.json_file import read_json
from pyro_spvae.training.pace import Pace
from pyro_spvae.training.run_folder import RunFolder, beside
from pyro_spvae.training.train import plan
from pyro_spvae.training.trainer import Trainer

Report = Callable[[str], None]

_SCORE = "score.json"


def race(
    experiment: TimeExperiment,
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
    Trains ``spvae`` and ``vae`` by turns of as many batches as lie between validations, 128 of the paper's, and scores
    the test images after each; the SPVAE only takes its turn while it is not ahead. Early stopping is that of the
    configurations, on the test bound.

    The VAE's final value is its best five-sample test bound, and its time that of reaching it. The SPVAE's time is that
    of its first five-sample test bound above this value; also above the VAE's final log-likelihood with the samples of
    its configuration, which is higher, while the SPVAE's own bound still counts with five. Seconds are those of
    training steps alone.

    ``out/spvae-time/name`` gets ``race.json``: the curves, the times and their ratios. One that was stopped or killed
    goes on from the last turns of both, and one that is finished is used as it is.

    :param TimeExperiment experiment: what is run.
    :param out: folder of all experiments.
    :param str data_dir: folder of data sets.
    :param bool overwrite: train again where there is one.
    :returns: its folder.
    :raises ValueError: if the folder holds one of other configurations or data, or a model cannot be trained.
    """
    path = Path(out) / experiment.table / experiment.name
    report(f"--- {experiment.table}: {experiment.name} ---")
    configs = experiment.configurations(data_dir, device)
    if overwrite:
        _check_replaceable(path)
    if (path / RACE).exists() and not overwrite:
        found = read_race(path / RACE)
        if not found.get("configs", {}).keys() >= configs.keys():
            raise ValueError(f"the file {path / RACE} lacks 'configs'; run the experiment again by --overwrite")
        for name, config in configs.items():
            of_folder = TrainConfig.from_dict(found["configs"][name], f"the file {path / RACE}")
            check_same(f"{path}, {name},", of_folder, config)
        report(f"finished    before, in {path}; train it again by --overwrite")
    else:
        found = _run(configs, path, distributed.choose_device(device), download, progress, report, overwrite)
        plots.save(_picture(found), path / "race.png")
        RunFolder(path).write_json(RACE, found | {"experiment": dataclasses.asdict(experiment)})
        report(f"written to  {path / RACE}, race.png")
    for line in found["lines"]:
        report(line)
    return path


def show_race(
    experiment: TimeExperiment, data_dir: str | None, device: str, report: Report, download: bool = False
) -> float:
    """
    Reports the resolved configurations and parameter counts of both models, without training.

    :returns: seconds that it will take, about and at most.
    """
    total = 0.0
    for name, member in experiment.members().items():
        report(f"--- {experiment.table}: {experiment.name}, {name} ---")
        job = plan(member.configuration(data_dir, device), report, download)
        expected = forecast(job, job.test)
        total += expected.total if name == "vae" else expected.training  # which alone is scored with many samples
    return total


def _check_replaceable(path: Path) -> None:
    """
    :raises ValueError: if there is something else than a race.
    """
    known = (RACE, *(f"{name}/config.json" for name in MEMBERS))
    if path.exists() and not any((path / name).exists() for name in known):
        raise ValueError(f"the folder {path} exists and is no race, so it is not overwritten; choose another --out")


@contextmanager
def _replaced(path: Path) -> Iterator[None]:
    """Within the block a race that was there lies beside its folder; it comes back if the block fails."""
    aside = beside(path)
    if path.exists() and aside.exists():  # of a replacement that was killed
        shutil.rmtree(aside if (path / RACE).exists() else path)
    if path.exists():
        path.rename(aside)
    try:
        yield
    except BaseException:
        if aside.exists():
            shutil.rmtree(path, ignore_errors=True)
            aside.rename(path)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _run(
    configs: dict[str, TrainConfig],
    path: Path,
    device: torch.device,
    download: bool,
    progress: bool,
    report: Report,
    overwrite: bool,
) -> dict[str, Any]:
    """What ``race.json`` holds of it."""
    jobs = {name: set_up(config, device, download) for name, config in configs.items()}
    vae = jobs["vae"]
    samples = vae.config.samples or MOST

    def score() -> float:
        if (path / _SCORE).exists():  # of a race that was stopped after it
            return float(read_json(path / _SCORE)["log_likelihood"])
        pace = Pace(report)
        with pace.during("scoring"):
            per_datum = log_likelihoods(
                vae.spvae,
                vae.test,
                samples=samples,
                chunk_size=vae.config.chunk_size,
                seed=vae.config.seed,
                progress=progress,
                tick=(lambda done, rows: pace.said()) if progress else pace.counting("scoring"),
            )
        found = float(per_datum.mean())
        RunFolder(path).write_json(_SCORE, {"log_likelihood": found, "samples": samples})
        return found

    with _replaced(path) if overwrite else nullcontext():
        racers = {
            name: Racer(_trainer(job, _folder(path / name, configs[name], job, report), name, progress, report))
            for name, job in jobs.items()
        }
    try:
        level = _take_turns(racers["spvae"], racers["vae"], score)
    except Interrupted:
        raise Interrupted(f"stopped in {path}, everything is saved; the same command goes on with it") from None
    found = summarise({name: racer.curve for name, racer in racers.items()}, level, samples)
    return found | {"configs": {name: job.config.to_dict() for name, job in jobs.items()}}


def _folder(path: Path, config: TrainConfig, job: Job, report: Report) -> RunFolder:
    """
    The run folder of a model, made, or as it was left.

    :raises ValueError: if it is of another configuration or of other data.
    """
    if not path.exists():
        return RunFolder.create(path, job.config.to_dict(), job.record)
    folder = RunFolder.open(path)
    check_folder(folder, config)
    if folder.read_json("data.json").get("fingerprint") != job.record["fingerprint"]:
        raise ValueError(f"the data {config.data} are not those that the run {path} was started with")
    report(f"resuming    {path}")
    return folder


def summarise(curves: dict[str, list[dict[str, float]]], score: float, samples: int) -> dict[str, Any]:
    """
    Times and ratios from the curves.

    :param dict curves: for ``spvae`` and ``vae`` a dict with ``step``, ``seconds`` and ``bound`` after every turn.
    :param float score: the VAE's final log-likelihood, nats.
    :param int samples: importance samples of that.
    """
    best = max(curves["vae"], key=lambda point: point["bound"])
    levels = {"five-sample bound": best["bound"], f"{samples:,}-sample log-likelihood": score}
    lines = [
        "| the VAE's final test value | nats | VAE, seconds to its own | SPVAE, seconds to pass it | ratio |",
        "|---|---|---|---|---|",
    ]
    ratios = {}
    for name, level in levels.items():
        passed = next((point["seconds"] for point in curves["spvae"] if point["bound"] > level), None)
        ratios[name] = None if passed is None else passed / best["seconds"]
        lines.append(
            f"| {name} | {level:.1f} | {best['seconds']:.0f} | "
            + ("not passed | |" if passed is None else f"{passed:.0f} | {ratios[name]:.3f} |")
        )
    return {"curves": curves, "vae_score": score, "ratios": ratios, "lines": lines}


def _trainer(job: Job, folder: RunFolder, name: str, progress: bool, report: Report) -> Trainer:
    """Of a model, on the test rows, as far as its folder has come."""
    trainer = Trainer(
        job.spvae,
        job.data.train,
        job.test,
        job.config,
        folder,
        job.identity,
        progress=progress,
        report=lambda line: report(f"{name:6}{line}"),
    )
    state = last_state(folder)
    metrics = folder.rewind(0 if state is None else state["validations"])
    if state is not None:
        trainer.load_state(state, metrics)
    return trainer


class Racer:
    """
    One of the two: its turns, of which those that were taken before a stop are taken again as they were.

    :param Trainer trainer: as far as it has come.
    :ivar list curve: after each of the turns so far, ``step``, ``seconds`` and test ``bound``.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        assert trainer.config.validate_every is not None
        self._turn = trainer.config.validate_every
        self.curve: list[dict[str, float]] = []

    @property
    def finished(self) -> bool:
        """Whether it has no turn left."""
        return len(self.curve) == len(self._trainer.metrics) and self._trainer.finished

    @property
    def best(self) -> float:
        """The best bound so far."""
        return max((point["bound"] for point in self.curve), default=-math.inf)

    def turn(self) -> None:
        """Trains until the next validation, if that was not before a stop."""
        if len(self.curve) == len(self._trainer.metrics):
            self._trainer.run(max_steps=self._turn - self._trainer.step % self._turn)
        line = self._trainer.metrics[len(self.curve)]
        self.curve.append({"step": line["step"], "seconds": line["step_seconds"], "bound": line["val_elbo"]})

    def restore(self) -> None:
        """The best parameters, of one that is finished, also if that was before a stop."""
        self._trainer.run(max_steps=0)


def _take_turns(spvae: Racer, vae: Racer, score: Callable[[], float]) -> float:
    """
    Has both race, and gives the VAE's score. The VAE trains to its end; the SPVAE takes its turn while it is not above
    the best that the VAE has reached so far, and then until it is above the VAE's score.
    """
    while not vae.finished:
        vae.turn()
        if spvae.best <= vae.best and not spvae.finished:
            spvae.turn()
    vae.restore()
    level = score()
    while spvae.best <= max(level, vae.best) and not spvae.finished:
        spvae.turn()
    return level


def _picture(found: dict[str, Any]) -> Any:
    lines = [plots.Line("vae, final log-likelihood", None, [found["vae_score"]], ":", "tab:orange")]
    for name, colour in (("spvae", "tab:blue"), ("vae", "tab:orange")):
        seconds, bounds = ([point[axis] for point in found["curves"][name]] for axis in ("seconds", "bound"))
        lines.append(plots.Line(name, seconds, bounds, colour=colour))
    x, y = "seconds of training steps", "test bound, 5 samples (nats)"
    return plots.line_plot(plots.Panel(lines, x, y, log=True, later=True))

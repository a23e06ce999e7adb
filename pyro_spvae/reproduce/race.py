# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""How long the SPVAE trains until it passes what the VAE ends with: both take turns in one process."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyro_spvae import distributed, plots
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.cost import MOST
from pyro_spvae.training.evaluation import log_likelihoods
from pyro_spvae.training.job import Job, set_up
from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.trainer import Trainer

Report = Callable[[str], None]

_TURN = 128  # batches of a turn, after each of which the test images are scored


def race(
    configs: dict[str, TrainConfig],
    out: str | os.PathLike[str],
    overwrite: bool = False,
    download: bool = False,
    progress: bool = False,
    report: Report = lambda line: None,
) -> dict[str, Any]:
    """
    Trains ``spvae`` and ``vae`` by turns of 128 batches and scores the test images after each; the SPVAE only takes
    its turn while it is not ahead. Early stopping is that of the configurations, on the test bound.

    The VAE's final value is its best five-sample test bound, and its time that of reaching it. The SPVAE's time is that
    of its first five-sample test bound above this value; also above the VAE's final log-likelihood with the samples of
    its configuration, which is higher, while the SPVAE's own bound still counts with five. Seconds are those of
    training steps alone.

    :param dict configs: ``spvae`` and ``vae``.
    :param out: folder of all experiments.
    :returns: what is written to ``race.json``: the curves, the times and their ratios.
    :raises ValueError: if it was run before, or a model cannot be trained.
    """
    first = configs["spvae"]
    pixels = "discrete" if first.likelihood.startswith("binomial") else "continuous"
    folder = Path(out) / "spvae-time" / f"{first.data}-{pixels}"
    if (folder / "race.json").exists() and not overwrite:
        raise ValueError(f"{folder / 'race.json'} is there already; run it again by --overwrite")
    folder.mkdir(parents=True, exist_ok=True)
    device = distributed.choose_device(first.device)
    jobs = {name: set_up(config, device, download) for name, config in configs.items()}
    vae = jobs["vae"]
    samples = vae.config.samples or MOST

    def score() -> float:
        per_datum = log_likelihoods(
            vae.spvae,
            vae.data.test,
            samples=samples,
            chunk_size=vae.config.chunk_size,
            seed=vae.config.seed,
            progress=progress,
        )
        return float(per_datum.mean())

    trainers = _trainers(jobs, progress, report)
    found = summarise(*_take_turns(trainers["spvae"], trainers["vae"], score), samples)
    for line in found["lines"]:
        report(line)
    RunFolder(folder).write_json("race.json", found | {"configs": {n: j.config.to_dict() for n, j in jobs.items()}})
    plots.save(_picture(found), folder / "race.png")
    report(f"written to  {folder / 'race.json'}, race.png")
    return found


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


def _trainers(jobs: dict[str, Job], progress: bool, report: Report) -> dict[str, Trainer]:
    return {
        name: Trainer(
            job.spvae,
            job.data.train,
            job.data.test,
            dataclasses.replace(job.config, validate_every=_TURN),
            progress=progress,
            report=lambda line, name=name: report(f"{name:6}{line}"),  # type: ignore[misc]
        )
        for name, job in jobs.items()
    }


def _turn(trainer: Trainer) -> list[dict[str, float]]:
    """128 more steps; a point of the curve for each scoring in them."""
    before = len(trainer.metrics)
    trainer.run(max_steps=_TURN)
    return [
        {"step": line["step"], "seconds": trainer.step_seconds, "bound": line["val_elbo"]}
        for line in trainer.metrics[before:]
    ]


def _take_turns(spvae: Trainer, vae: Trainer, score: Callable[[], float]) -> tuple[dict[str, list[Any]], float]:
    """
    The curves of both, and the VAE's score. The VAE trains to its end; the SPVAE takes its turn while it is not above
    the best that the VAE has reached so far, and then until it is above the VAE's score.
    """
    curves: dict[str, list[dict[str, float]]] = {"spvae": [], "vae": []}
    while not vae.finished:
        curves["vae"] += _turn(vae)
        if _best(curves["spvae"]) <= _best(curves["vae"]) and not spvae.finished:
            curves["spvae"] += _turn(spvae)
    level = score()
    while _best(curves["spvae"]) <= max(level, _best(curves["vae"])) and not spvae.finished:
        curves["spvae"] += _turn(spvae)
    return curves, level


def _best(curve: list[dict[str, float]]) -> float:
    return max((point["bound"] for point in curve), default=-math.inf)


def _picture(found: dict[str, Any]) -> Any:
    lines = [plots.Line("vae, final log-likelihood", None, [found["vae_score"]], ":", "tab:orange")]
    for name, colour in (("spvae", "tab:blue"), ("vae", "tab:orange")):
        seconds, bounds = ([point[axis] for point in found["curves"][name]] for axis in ("seconds", "bound"))
        lines.append(plots.Line(name, seconds, bounds, colour=colour))
    x, y = "seconds of training steps", "test bound, 5 samples (nats)"
    return plots.line_plot(plots.Panel(lines, x, y, log=True, later=True))

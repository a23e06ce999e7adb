# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Scores of the DLGMM paper that a run does not have by itself: nearest neighbours, and few importance samples."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_spvae import distributed
from pyro_spvae.data import DataSet, Rows
from pyro_spvae.data.seeds import noise_seed
from pyro_spvae.evaluating import evaluating
from pyro_spvae.reproduce.neighbours import neighbour_errors
from pyro_spvae.reproduce.published import MixtureTable
from pyro_spvae.training.evaluation import log_likelihoods, prepare_evaluation
from pyro_spvae.training.json_file import read_json
from pyro_spvae.training.pace import Pace
from pyro_spvae.training.reading import evaluated
from pyro_spvae.training.run import Run, open_run

FILE = "scores.json"
_ROWS = 5000  # encoded at a time
_STREAM = 11  # of the noise of latent draws


def read_scores(path: Path) -> dict[str, Any]:
    """What :func:`add_score` has left in a run folder, by table; empty where it has not been."""
    found = read_json(path / FILE) if (path / FILE).exists() else {}
    return found if isinstance(found, dict) else {}


def add_score(
    path: Path,
    table: MixtureTable,
    samples: int,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """
    Scores a finished run for a table and writes that into its folder, unless it is there.

    - ``kNN``: error of k-nearest-neighbour classifiers, k = 3, 5, 10, on one draw of the latent variables of every
      image: those of training are the points, those of test are classified.
    - ``likelihood``: test log-likelihood with few importance samples, 50 in the authors' code (which drops batches that
      are not finite; here there are none).

    :param int samples: of the log-likelihood.
    :raises ValueError: if the data have no labels.
    """
    scores = read_scores(path)
    if table in scores and not overwrite:
        return
    run = open_run(path, distributed.choose_device(device))
    data = run.data(data_dir=data_dir)
    test, pace = evaluated(run.config, data), Pace(report)
    if table == "kNN":
        report("neighbours  of 1 draw of the latent variables of every training and test image")
        with pace.during("neighbours"):
            errors = neighbour_errors(*_draws(run, data, data.train), *_draws(run, data, test))
        scores[table] = {"errors": {str(k): error for k, error in errors.items()}, "points": len(data.train)}
    else:
        prepare_evaluation(run.spvae, run.config.seed)
        values = log_likelihoods(
            run.spvae,
            test,
            samples=samples,
            chunk_size=run.config.chunk_size,
            seed=run.config.seed,
            progress=progress,
            tick=(lambda done, rows: pace.said()) if progress else pace.counting("scoring"),
        )
        error = float(values.std() / len(values) ** 0.5)
        scores[table] = {"samples": samples, "log_likelihood": float(values.mean()), "standard_error": error}
    run.folder.write_json(FILE, scores)


def latent_draws(run: Run, rows: Rows, count: int | None = None) -> Tensor:
    """
    A draw of the last latent site for each of the first rows, ``[row, dimension]``.

    :param int count: how many rows, ``None``: all.
    """
    site = list(run.spvae.latents)[-1]
    stop = len(rows) if count is None else min(count, len(rows))
    found = []
    parameter = next(run.spvae.parameters())
    with evaluating(run.spvae, noise_seed(run.config.seed, 0, _STREAM)):
        for start in range(0, stop, _ROWS):
            x = rows[start : min(start + _ROWS, stop)].to(parameter)
            found.append(run.spvae.draw_latents(x)[site][0].flatten(1).cpu())
    return torch.cat(found)


def _draws(run: Run, data: DataSet, rows: Rows) -> tuple[Tensor, Tensor]:
    if rows.labels is None:
        raise ValueError(f"data is {data.name}, which has no labels; nearest neighbours need them")
    return latent_draws(run, rows), rows.labels

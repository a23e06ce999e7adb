# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""About how long a run will take, from a few steps and a few rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pyro_spvae import distributed
from pyro_spvae.blocks import in_mode
from pyro_spvae.data import Rows
from pyro_spvae.evaluating import block, lean
from pyro_spvae.infer import CircuitELBO
from pyro_spvae.queries import Queries
from pyro_spvae.training import cost
from pyro_spvae.training.batches import BATCH_SIZE
from pyro_spvae.training.by_kind import passes
from pyro_spvae.training.evaluation import before_validation, mean_bounds, mean_variances, prepare_evaluation
from pyro_spvae.training.job import Job
from pyro_spvae.training.trainer import Trainer

_FEW, _SOME = 8, 32  # rows that are measured
_BLOCK = 256  # rows that bounds are computed of at a time
_SHORT = 1.0  # seconds that a measurement of all rows of a block may take


@dataclass(frozen=True)
class Forecast:
    """
    Seconds that a run will take, about, without its pictures.

    :ivar float training: all its epochs and validations, which early stopping may cut short.
    :ivar float evaluation: the figures of its test rows.
    """

    training: float
    evaluation: float

    @property
    def total(self) -> float:
        """Of both."""
        return self.training + self.evaluation


def forecast(job: Job, watched: Rows | None = None) -> Forecast:
    """
    Measures a step, a validation and an evaluation of a new model on few rows, which takes seconds; the model is not
    of use for training afterwards, but nothing is written.

    :param Job job: its configuration says how many samples an evaluation takes.
    :param Rows watched: rows of the validations, those of the data by default.
    """
    config, spvae, test = job.config, job.spvae, job.test
    watched = job.data.validation if watched is None else watched
    if config.samples is None:
        raise ValueError("samples is left to the time of training; a number is needed")
    few = watched.part(torch.arange(min(_FEW, len(watched)), device="cpu"))
    trainer = Trainer(spvae, job.data.train, few, config, objective=job.objective)
    batch = min(config.batch_size or BATCH_SIZE, len(job.data.train))
    x, observed = block(spvae, job.data.train, None, 0, batch)

    def step(rows: int) -> None:
        with lean(), in_mode(spvae, training=True):
            trainer.train_step(x[:rows], None if observed is None else observed[:rows])

    steps, every = trainer.steps, config.validate_every
    validations = config.epochs if every is None else math.ceil(steps / every)
    validation = _once(lambda: before_validation(spvae, config.seed))
    validation += _bounds(spvae, trainer.elbo, watched, config.seed)
    training = steps * _block(step, batch) / distributed.world() + validations * validation
    prepared = _once(lambda: prepare_evaluation(spvae, config.seed))
    evaluation = prepared + figures_seconds(spvae, trainer.elbo, test, config.seed)
    return Forecast(training, evaluation + _likelihoods(job, config.samples))


def figures_seconds(spvae: Queries, elbo: CircuitELBO, rows: Rows, seed: int) -> float:
    """
    About how long an evaluation takes beside its log-likelihoods: bounds, and how much latents vary with the data.

    :param CircuitELBO elbo: the bound.
    :param int seed: of the draws.
    """
    means = _rows(lambda number: mean_variances(spvae, _first(rows, number), seed=seed), rows)
    return _bounds(spvae, elbo, rows, seed) + means


def _bounds(spvae: Queries, elbo: CircuitELBO, rows: Rows, seed: int) -> float:
    return _rows(lambda number: mean_bounds(spvae, elbo, _first(rows, number), seed), rows)


def _likelihoods(job: Job, samples: int) -> float:
    """Of the test rows, by few samples first, of which a full chunk would take long."""
    rows, chunk_size = job.test, job.config.chunk_size
    per_sample = cost.sample_seconds(job.spvae, rows, chunk_size, 1)
    if per_sample * chunk_size < _SHORT:
        per_sample = cost.sample_seconds(job.spvae, rows, chunk_size, samples)
    samples = samples if job.spvae.latents else 1
    return cost.evaluation_seconds(per_sample * passes(job.spvae), len(rows), samples)


def _rows(work: Callable[[int], object], rows: Rows) -> float:
    """Seconds of all rows, shared out among processes."""
    size = min(_BLOCK, len(rows))
    return _block(work, size) * len(rows) / size / distributed.world()


def _block(work: Callable[[int], object], size: int) -> float:
    """
    Seconds of a block of rows, measured after a first time on few rows. Where all would take long they are inferred
    from some, as what each row takes beside what a block takes by itself.
    """
    few, some = min(_FEW, size), min(_SOME, size)
    first = _once(lambda: work(few))
    small = first if first > _SHORT else _once(lambda: work(few))
    if small * size / few <= _SHORT:
        return _once(lambda: work(size))
    if some == few:
        return small
    middle = _once(lambda: work(some))
    return middle + max(0.0, middle - small) / (some - few) * (size - some)


def _once(work: Callable[[], object]) -> float:
    start = cost.clock()
    work()
    return cost.clock() - start


def _first(rows: Rows, number: int) -> Rows:
    return rows.part(torch.arange(number, device="cpu"))

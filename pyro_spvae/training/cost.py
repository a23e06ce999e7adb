# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What an evaluation costs, and how many importance samples are worth it."""

from __future__ import annotations

import time

from torch import Tensor

from pyro_spvae import distributed
from pyro_spvae.data import Rows
from pyro_spvae.evaluating import block, evaluating
from pyro_spvae.models import SPN
from pyro_spvae.queries import Queries

MOST, LEAST = 5000, 10  # samples that are chosen
SHARE = 0.1  # of the time of training that they may take

_ROWS = 16  # of which the time is taken
_TIMES, _ENOUGH = 5, 0.5  # most measurements, of which the least counts, and seconds that are enough for them
_TRIED = 2  # steps
_STEPS = (5, 2, 1)  # round numbers

clock = time.perf_counter


def sample_seconds(
    spvae: Queries, rows: Rows | Tensor, chunk_size: int, samples: int | None = None, observed: Tensor | None = None
) -> float:
    """
    Seconds that one importance sample of one row takes this process, measured on a full chunk of few rows.

    :param int chunk_size: pairs of row and sample that are decoded at a time.
    :param int samples: no more than so many are drawn.
    """
    number = min(_ROWS, len(rows))
    full = max(1, chunk_size // number)
    drawn = (full if samples is None else min(full, samples)) if spvae.latents else 1
    with evaluating(spvae, seed=0):
        x, seen = block(spvae, rows, observed, 0, number)

        def work(num_samples: int) -> None:
            float(spvae.log_likelihood(x, seen, num_samples=num_samples, chunk_size=chunk_size).sum())

        work(1)  # what is made once is not counted
        times: list[float] = []
        while len(times) < _TIMES and sum(times) < _ENOUGH:
            start = clock()
            work(drawn)
            times.append(clock() - start)
        return min(times) / (number * drawn)


def step_seconds(spvae: SPN, x: Tensor, observed: Tensor | None = None) -> float:
    """
    About how long a step of training by gradients takes where nothing is latent: log-densities of a batch and their
    derivatives, the least of few measurements after a first one.

    :param Tensor x: a batch, of the model's type on its device.
    :param Tensor observed: its entries that are not missing, if any are.
    """
    times = []
    for _ in range(1 + _TRIED):
        start = clock()
        spvae.log_prob(x, observed).sum().backward()
        times.append(clock() - start)
    spvae.zero_grad(set_to_none=True)
    return min(times[1:])


def evaluation_seconds(per_sample: float, rows: int, samples: int) -> float:
    """
    About how long the log-likelihoods of rows take all processes together.

    :param float per_sample: see :func:`sample_seconds`.
    :param int samples: of each row; 1 where it is exact.
    """
    return per_sample * rows * samples / distributed.world()


def in_words(seconds: float) -> str:
    """Seconds, minutes or hours."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "1 s"


def affordable_samples(per_sample: float, rows: int, training: float) -> int:
    """
    The largest number of samples among 10, 20, 50, .. 5,000 for which the log-likelihoods of all rows take at most a
    tenth of the time of training; 10 where none does.

    :param float per_sample: see :func:`sample_seconds`.
    :param float training: seconds.
    """
    numbers = sorted(
        (step * 10**power for power in range(1, 4) for step in _STEPS if step * 10**power <= MOST), reverse=True
    )
    fitting = (number for number in numbers if evaluation_seconds(per_sample, rows, number) <= SHARE * training)
    return next(fitting, LEAST)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Contenders that take turns, so that a machine whose speed drifts slows all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from pyro_spvae.evaluating import lean

Steps = Mapping[str, Callable[[], object]]


def in_turns(
    steps: Steps, rounds: int, warm_up: int = 0, seldom: Mapping[str, int] | None = None
) -> dict[str, list[float]]:
    """
    CPU times of contenders.

    :param dict steps: what each of them does, by name.
    :param int rounds: how often, all of them once a round.
    :param int warm_up: rounds before, which do not count.
    :param dict seldom: every how many rounds, of those that do not take part in all of them.
    :returns: milliseconds of each round, by name; NaN where one took no part.
    """
    seldom = seldom or {}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(warm_up + rounds):
        for name, step in steps.items():
            taken = (round_ - warm_up) % seldom.get(name, 1) == 0
            start = time.process_time()
            if taken:
                step()
            if round_ >= warm_up:
                times[name].append(1000 * (time.process_time() - start) if taken else float("nan"))
    return times


def median(times: list[float]) -> float:
    """Of the rounds that a contender took part in."""
    return statistics.median(own for own in times if own == own)


def ratio(times: list[float], others: list[float]) -> float:
    """The median of the ratios of neighbours in time, so that a machine whose speed drifts does not matter."""
    return median([own / other for own, other in zip(times, others, strict=True)])


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the block torch has one thread and Pyro the settings of the trainer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with lean():
            yield
    finally:
        torch.set_num_threads(threads)

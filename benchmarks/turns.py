# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Contenders that take turns, so that a machine whose speed drifts slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


def in_turns(steps: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 0) -> dict[str, list[float]]:
    """
    CPU times of contenders.

    :param dict steps: what each of them does, by name.
    :param int rounds: how often, all of them once a round.
    :param int warm_up: rounds before, which do not count.
    :returns: milliseconds of each round, by name.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(warm_up + rounds):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if round_ >= warm_up:
                times[name].append(1000 * (time.process_time() - start))
    return times

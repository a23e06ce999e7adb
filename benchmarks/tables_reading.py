# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What reading a table costs, kinds of columns and splits included, in units of ``pandas.read_csv`` alone.

A file of 10^6 rows and 20 columns of numbers is read by both in turns, in one process on one thread. Run
``python -m benchmarks.tables_reading [rows]``.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pyro_spvae.data import load_data

ROWS, COLUMNS, ROUNDS = 1_000_000, 20, 3
LIMIT = 1.5


def measure(rows: int = ROWS, rounds: int = ROUNDS) -> dict[str, float]:
    """
    Times both readers.

    :returns: medians of seconds, ``pandas`` and ``ours``, and their ``ratio``.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "numbers.csv"
            write(path, rows)
            seconds: dict[str, list[float]] = {"pandas": [], "ours": []}
            for _ in range(rounds):
                seconds["pandas"].append(timed(lambda: pd.read_csv(path)))
                seconds["ours"].append(timed(lambda: load_data(path)))
    finally:
        torch.set_num_threads(threads)
    medians = {name: statistics.median(own) for name, own in seconds.items()}
    return medians | {"ratio": medians["ours"] / medians["pandas"]}


def write(path: Path, rows: int) -> None:
    """Normal, skewed, whole and few values by turns."""
    random = np.random.default_rng(0)
    kinds: list[Callable[[], object]] = [
        lambda: random.normal(size=rows).round(5),
        lambda: random.lognormal(size=rows).round(5),
        lambda: random.poisson(40, rows),
        lambda: random.integers(0, 5, rows),
    ]
    pd.DataFrame({f"x{i}": kinds[i % len(kinds)]() for i in range(COLUMNS)}).to_csv(path, index=False)


def timed(call: Callable[[], object]) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    found = measure(int(sys.argv[1]) if sys.argv[1:] else ROWS)
    print(f"pandas {found['pandas']:.2f} s, ours {found['ours']:.2f} s, ratio {found['ratio']:.2f}, limit {LIMIT}")

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What the input pipeline adds to a training step, at the size of the paper's MNIST model.

The same steps are taken on batches that are drawn from a data set (index, conversion from bytes, fresh noise) and on
one batch that is in memory already. Contenders take turns in one process on one thread. Run
``python -m benchmarks.data``.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.step import BATCH, PARTICLES, paper_model
from pyro_spvae.data import Rows, load_data
from pyro_spvae.evaluating import lean
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.trainer import Trainer

ROWS, ROUNDS, WARM_UP = 20_000, 40, 5
LIMIT = 0.05
SOURCES = ("none", "dequantize", "binarize", "paper")


def measure() -> list[dict[str, Any]]:
    """
    Times a step and the batches of every kind of preprocessing.

    :returns: ``source``, ``milliseconds`` a batch, ``share`` of a step, ``limit``.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder, lean():
            return _measure(Path(folder))
    finally:
        torch.set_num_threads(threads)


def _measure(folder: Path) -> list[dict[str, Any]]:
    path = folder / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (ROWS, 28, 28), dtype=np.uint8))
    data = load_data(path)
    config = FitConfig(batch_size=BATCH, particles=PARTICLES, lr=1e-3)
    trainers = {}
    for name in SOURCES:
        rows = data.preprocessed(name, 0).train
        trainers[name] = _trainer(rows.cached(2**29), config)
    mapped = torch.from_numpy(np.load(path, mmap_mode="c")).unsqueeze(1)
    trainers["none, of a file that is mapped into memory"] = _trainer(Rows(mapped), config)
    x = torch.rand(BATCH, 1, 28, 28)
    step = next(iter(trainers.values()))
    times: dict[str, list[float]] = {name: [] for name in ("step", *trainers)}
    for round_ in range(WARM_UP + ROUNDS):
        for name, run in {"step": lambda: step.train_step(x), **_batches(trainers, round_)}.items():
            start = time.process_time()
            run()
            if round_ >= WARM_UP:
                times[name].append(1000 * (time.process_time() - start))
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    results: list[dict[str, Any]] = [
        {"source": "a step on a batch in memory", "milliseconds": medians["step"], "share": None, "limit": None}
    ]
    for name in trainers:
        share = statistics.median(a / b for a, b in zip(times[name], times["step"], strict=True))
        results.append({"source": name, "milliseconds": medians[name], "share": share, "limit": LIMIT})
    return results


def _trainer(rows: Rows | Tensor, config: FitConfig) -> Trainer:
    return Trainer(paper_model(), rows, rows, config)


def _batches(trainers: dict[str, Trainer], number: int) -> dict[str, Any]:
    return {name: lambda trainer=trainer: trainer.batches(0, number) for name, trainer in trainers.items()}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| preprocessing | CPU ms, median | share of a step | at most |", "|---|---|---|---|"]
    for row in rows:
        if row["share"] is None:
            lines.append(f"| {row['source']} | {row['milliseconds']:.1f} | | |")
        else:
            lines.append(f"| {row['source']} | {row['milliseconds']:.2f} | {row['share']:.1%} | {row['limit']:.0%} |")
    return "\n".join(lines)


def main() -> str:
    """Measures and prints."""
    text = table(measure())
    print(text)
    return text


if __name__ == "__main__":
    main()

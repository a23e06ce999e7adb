# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Speed of a table of twenty real columns: the Columns likelihood against the plain Normal one.

Training steps of the trainer, batch 128, 5 particles, 8 leaves of 5 columns each. Contenders take turns in one process
on one thread; CPU time. Run ``python -m benchmarks.columns``.
"""

from __future__ import annotations

import statistics
from typing import Any

import torch

from benchmarks.step import Lean
from benchmarks.turns import in_turns
from pyro_spvae import SPVAE, Columns, Likelihood, Normal, random_binary_tree
from pyro_spvae.data import Column
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.trainer import Trainer

BATCH, ROUNDS, WARM_UP = 128, 200, 20
SIZE = 20  # columns
LIMIT = 1.1  # Columns over Normal
CATEGORIES = ("a", "b", "c")


def measure() -> list[dict[str, Any]]:
    """
    Times both likelihoods, and for comparison ``Columns`` of all kinds.

    :returns: ``likelihood``, ``milliseconds``, ``ratio`` to the plain Normal likelihood, ``limit``.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with Lean():
            torch.manual_seed(0)
            real = torch.randn(BATCH, SIZE)
            steps = {
                "Normal": _step(Normal(), real),
                "Columns, all real": _step(Columns([Column(f"c{i}", "real") for i in range(SIZE)]), real),
                "Columns, all kinds": _step(*_all_kinds()),
            }
            times = in_turns(steps, ROUNDS, WARM_UP)
    finally:
        torch.set_num_threads(threads)
    return [
        {
            "likelihood": name,
            "milliseconds": statistics.median(own),
            "ratio": statistics.median(a / b for a, b in zip(own, times["Normal"], strict=True)),
            "limit": LIMIT if name == "Columns, all real" else None,
        }
        for name, own in times.items()
    ]


def _step(likelihood: Likelihood, x: torch.Tensor) -> Any:
    torch.manual_seed(0)
    spvae = SPVAE(random_binary_tree((SIZE,), depth=2, repetitions=1, seed=0), units=2, likelihood=likelihood)
    trainer = Trainer(spvae, x, x, FitConfig(batch_size=BATCH, particles=5))
    return lambda: trainer.train_step(x)


def _all_kinds() -> tuple[Columns, torch.Tensor]:
    columns, values = [], []
    for i in range(SIZE):
        column, value = [
            (Column(f"c{i}", "real"), torch.randn(BATCH)),
            (Column(f"c{i}", "positive"), torch.randn(BATCH).exp()),
            (Column(f"c{i}", "proportion", location=0.5, scale=0.2), torch.rand(BATCH).clamp(0.01, 0.99)),
            (Column(f"c{i}", "count", location=2.0, scale=2.0), torch.poisson(torch.full((BATCH,), 2.0))),
            (Column(f"c{i}", "binary", categories=CATEGORIES[:2]), torch.randint(2, (BATCH,)).float()),
            (Column(f"c{i}", "categorical", categories=CATEGORIES), torch.randint(3, (BATCH,)).float()),
            (Column(f"c{i}", "ordinal", categories=CATEGORIES), torch.randint(3, (BATCH,)).float()),
        ][i % 7]
        columns.append(column)
        values.append(value)
    return Columns(columns), torch.stack(values, -1)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        f"| likelihood of {SIZE} columns | ms a step, batch {BATCH}, 5 particles | over Normal | limit |",
        "|---|---|---|---|",
    ]
    for row in rows:
        limit = "" if row["limit"] is None else f"{row['limit']:.1f}"
        lines.append(f"| {row['likelihood']} | {row['milliseconds']:.2f} | {row['ratio']:.2f} | {limit} |")
    return "\n".join(lines)


def main() -> str:
    """Measures and prints."""
    text = table(measure())
    print(text)
    return text


if __name__ == "__main__":
    main()

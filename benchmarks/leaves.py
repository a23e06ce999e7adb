# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Speed of the paper's models against each other: SPVAE and VAE, with and without convolutions.

Sizes of Table 1, batch 128, 5 particles, training steps of the trainer. Contenders take turns in one process. On the
CPU one thread and CPU time; on a GPU wall time with synchronisation. Run ``python -m benchmarks.leaves [DEVICE]``.
"""

from __future__ import annotations

import statistics
import sys
import time
from typing import Any

import torch

from benchmarks.step import Lean
from pyro_spvae.data import DataSet, Values
from pyro_spvae.reproduce.spvae import Experiment
from pyro_spvae.training.build import build_model
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.reading import modelled
from pyro_spvae.training.resolve import resolve
from pyro_spvae.training.trainer import Trainer

BATCH, ROUNDS, WARM_UP = 128, 20, 4
LIMIT = 1.2  # SPVAE over VAE
PAIRS = (("spvae", "vae"), ("conv-spvae", "conv-vae"))


def measure(device: str = "cpu") -> list[dict[str, Any]]:
    """
    Times the four models for both kinds of pixels.

    :returns: ``pixels``, ``model``, ``parameters``, ``milliseconds``, ``ratio`` to the VAE of its kind, ``limit``.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = []
    try:
        for pixels in ("continuous", "discrete"):
            for pair in PAIRS:
                rows += _pair(pixels, pair, device)
    finally:
        torch.set_num_threads(threads)
    return rows


def _pair(pixels: str, models: tuple[str, str], device: str) -> list[dict[str, Any]]:
    with Lean():
        trainers = {model: _trainer(pixels, model, device) for model in models}
        x = torch.rand(BATCH, 1, 28, 28)
        x = x if pixels == "continuous" else (255 * x).round()
        times: dict[str, list[float]] = {model: [] for model in models}
        for round_ in range(WARM_UP + ROUNDS):
            for model, trainer in trainers.items():
                start = _now(device)
                trainer.train_step(x)
                if round_ >= WARM_UP:
                    times[model].append(1000 * (_now(device) - start))
    ours, theirs = models
    ratio = statistics.median(a / b for a, b in zip(times[ours], times[theirs], strict=True))
    return [
        {
            "pixels": pixels,
            "model": model,
            "parameters": sum(p.numel() for p in trainers[model].spvae.parameters()),
            "milliseconds": statistics.median(times[model]),
            "ratio": ratio if model == ours else 1.0,
            "limit": LIMIT if model == "spvae" else None,
        }
        for model in models
    ]


def _trainer(pixels: str, model: str, device: str) -> Trainer:
    experiment = Experiment("mnist", pixels, model, recipe="tuned")  # type: ignore[arg-type]
    blank = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    data = DataSet("mnist", blank, blank, blank, Values.grey_levels(256))
    config = resolve(experiment.configuration(), data)
    torch.manual_seed(0)
    spvae = build_model(config, modelled(config, data)).to(device)
    rows = torch.zeros(BATCH, 1, 28, 28)
    return Trainer(spvae, rows, rows, FitConfig(lr=1e-4, particles=config.particles))


def _now(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        f"| pixels | model | parameters | ms a step, batch {BATCH}, 5 particles | over the VAE | limit |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        limit = "" if row["limit"] is None else f"{row['limit']:.1f}"
        lines.append(
            f"| {row['pixels']} | {row['model']} | {row['parameters']:,} | {row['milliseconds']:.1f} "
            f"| {row['ratio']:.2f} | {limit} |"
        )
    return "\n".join(lines)


def main(device: str = "cpu") -> str:
    """Measures and prints."""
    text = table(measure(device))
    print(text)
    return text


if __name__ == "__main__":
    main(*sys.argv[1:2])

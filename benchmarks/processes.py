# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""How many more images a second two processes train than one, each with one thread.

Both train the paper's MNIST model on random images of its size, taking turns; the first epoch is left out. Needs two
cores. Run ``python -m benchmarks.processes``.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROWS, EPOCHS, ROUNDS = 8_192, 3, 3
LIMIT = 1.5
OPTIONS = (
    *("--units", "2", "--weights", "full", "--latent-dim", "25", "--hidden", "30,30", "--batch-size", "256"),
    *("--epochs", str(EPOCHS), "--likelihood", "normal", "--samples", "1", "--quiet"),
)


def measure() -> dict[int, float]:
    """
    Trains with one and with two processes in turn.

    :returns: images a second for each number of processes, medians.
    """
    speeds: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npz"
        images = np.random.default_rng(0).integers(0, 256, (ROWS, 28, 28), dtype=np.uint8)
        np.savez(path, train=images, validation=images[:256], test=images[:16])
        for round_ in range(ROUNDS):
            for number in speeds:
                out = Path(folder) / f"{number}-{round_}"
                launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(number)]
                command = [sys.executable, *launch, "-m", "pyro_spvae", "train", str(path), "--out", str(out)]
                environment = os.environ | {"OMP_NUM_THREADS": "1"}
                subprocess.run([*command, *OPTIONS], check=True, capture_output=True, env=environment)
                lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
                speeds[number] += [line["images_per_second"] for line in lines[1:]]
    return {number: statistics.median(taken) for number, taken in speeds.items()}


def table(speeds: dict[int, float]) -> str:
    """Markdown."""
    lines = ["| processes, one thread each | images/s | ratio | at least |", "|---|---|---|---|"]
    for number, speed in speeds.items():
        limit = f"{LIMIT:.1f}" if number > 1 else ""
        lines.append(f"| {number} | {speed:.0f} | {speed / speeds[1]:.2f} | {limit} |")
    return "\n".join(lines)


def main() -> str:
    """Measures and prints."""
    text = table(measure())
    print(text)
    return text


if __name__ == "__main__":
    main()

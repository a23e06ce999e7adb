# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Speed of the 5000-sample log-likelihood at the size of the paper's MNIST model.

The published protocol takes one image at a time and encodes copies of it again for every chunk of samples. It is
written here in plain torch (the twin of ``step.py``), with the same number of images times samples decoded at a time,
so that both need the same memory. Contenders take turns in one process on one thread. Run
``python -m benchmarks.evaluate``.
"""

from __future__ import annotations

import math
import statistics
import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.step import paper_model
from benchmarks.twin import Twin

IMAGES, SAMPLES, ROUNDS = 4, 5000, 5
CHUNKS = (100, 500, 2048)  # pairs of image and sample at a time
LIMIT = 2.0


class Published:
    """One image at a time, encoded anew for every chunk."""

    def __init__(self, twin: Twin) -> None:
        self.twin = twin

    def log_likelihood(self, x: Tensor, chunk: int) -> Tensor:
        """Nats, ``[data]``."""
        results = []
        for image in x:
            parts, left = [], SAMPLES
            while left:
                copies = min(chunk, left)
                log_weight = self.twin.log_weights(image.expand(copies, *image.shape), 1)  # [L, 1, copies]
                parts.append(log_weight.flatten(1).logsumexp(1))
                left -= copies
            leaf = torch.stack(parts).logsumexp(0) - math.log(SAMPLES)
            results.append(self.twin.circuit(leaf))
        return torch.stack(results)


def measure() -> list[dict[str, Any]]:
    """
    Times both.

    :returns: for every chunk size ``ours`` and ``published`` (images a second) and their ``ratio``.
    :raises RuntimeError: if their values differ by more than importance sampling explains.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [_compare(chunk) for chunk in CHUNKS]
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def _compare(chunk: int) -> dict[str, Any]:
    model = paper_model()
    published = Published(Twin(model, 1))
    x = torch.rand(IMAGES, 1, 28, 28)
    contenders = {
        "ours": lambda: model.log_likelihood(x, num_samples=SAMPLES, chunk_size=chunk),
        "published": lambda: published.log_likelihood(x, chunk),
    }
    ours, theirs = (run() for run in contenders.values())
    if not torch.allclose(ours, theirs, atol=15.0):  # of about -720; two runs of either differ by 5
        raise RuntimeError(f"ours are {ours.tolist()} nats, the published protocol's {theirs.tolist()}")
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, run in contenders.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    ratios = [b / a for a, b in zip(times["ours"], times["published"], strict=True)]
    speeds = {name: IMAGES / statistics.median(taken) for name, taken in times.items()}
    return {"chunk": chunk, **speeds, "ratio": statistics.median(ratios)}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| images x samples at a time | ours, images/s | published protocol, images/s | ratio | at least |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        speeds = f"{row['ours']:.1f} | {row['published']:.1f}"
        lines.append(f"| {row['chunk']} | {speeds} | {row['ratio']:.2f} | {LIMIT:.1f} |")
    return "\n".join(lines)


def main() -> str:
    """Measures and prints."""
    text = table(measure())
    print(text)
    return text


if __name__ == "__main__":
    main()

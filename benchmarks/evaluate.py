# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Speed of the 5000-sample log-likelihood at the size of the paper's MNIST model.

It is compared with its own floor: the matrix products of the decoder, the normal draws, and one pass of each
element-wise function that it cannot avoid, timed alone and written into memory that is there. The published protocol
takes one image at a time and encodes copies of it again for every chunk of samples; it is written here in plain torch
(the twin of ``step.py``). All decode the same number of images times samples at a time, and so need the same memory.
Contenders take turns in one process on one thread. Run ``python -m benchmarks.evaluate``.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.step import paper_model
from benchmarks.turns import in_turns
from benchmarks.twin import Twin

IMAGES, SAMPLES, ROUNDS = 4, 5000, 5
CHUNKS = (100, 500, 2048)  # pairs of image and sample at a time
LIMIT = 0.85  # of the floor's speed, at the default number of pairs: the last


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


class Floor:
    """What no evaluation can do without, for ``pairs`` of image and sample at a time."""

    def __init__(self, twin: Twin, pairs: int) -> None:
        self.rows = -(-IMAGES * SAMPLES // pairs)  # chunks
        self.networks = [list(network.parameters()) for network in list(twin.networks)[2:]]
        leaves, latent, _ = self.networks[0][0].shape
        self.loc, self.scale, self.noise, self.z = (torch.rand(leaves, pairs, latent) for _ in range(4))
        self.layers = [
            [torch.empty(leaves, pairs, weight.size(2)) for weight in network[::2]] for network in self.networks
        ]
        self.pixels = torch.rand(leaves, 1, self.layers[0][-1].size(2))
        self.floor: float = twin.floor

    _softplus: Any = staticmethod(torch._C._nn.softplus)  # into memory that is there

    def run(self) -> None:
        """All chunks."""
        for _ in range(self.rows):
            torch.randn(self.noise.shape, out=self.noise)
            torch.addcmul(self.loc, self.scale, self.noise, out=self.z)
            for network, outputs in zip(self.networks, self.layers, strict=True):
                h = self.z
                for weight, bias, out in zip(network[::2], network[1::2], outputs, strict=True):
                    h = torch.baddbmm(bias, h, weight, out=out)
                    if out is not outputs[-1]:
                        h = self._softplus(h, out=out)
            loc, raw = (outputs[-1] for outputs in self.layers)
            scale = self._softplus(raw, out=raw).add_(self.floor)
            self.z.square_().sum(-1), self.noise.square_().sum(-1)
            torch.sub(self.pixels, loc, out=loc).div_(scale).square_().sum(-1)
            scale.log_().sum(-1)


def measure() -> list[dict[str, Any]]:
    """
    Times all.

    :returns: for every chunk size ``ours``, ``floor`` and ``published`` (images a second), and the ``ratio`` of ours to
        the other two.
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
    twin = Twin(model, 1)
    published, floor = Published(twin), Floor(twin, chunk)
    x = torch.rand(IMAGES, 1, 28, 28)
    contenders = {
        "ours": lambda: model.log_likelihood(x, num_samples=SAMPLES, chunk_size=chunk),
        "published": lambda: published.log_likelihood(x, chunk),
    }
    ours, theirs = (run() for run in contenders.values())
    if not torch.allclose(ours, theirs, atol=15.0):  # of about -720; two runs of either differ by 5
        raise RuntimeError(f"ours are {ours.tolist()} nats, the published protocol's {theirs.tolist()}")
    timed: dict[str, Callable[[], object]] = {**contenders, "floor": floor.run}
    times = in_turns(timed, ROUNDS)
    ratios = {
        f"over {name}": statistics.median(b / a for a, b in zip(times["ours"], times[name], strict=True))
        for name in ("floor", "published")
    }
    speeds = {name: 1000 * IMAGES / statistics.median(taken) for name, taken in times.items()}
    return {"chunk": chunk, **speeds, **ratios}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| images x samples at a time | ours, images/s | the floor's | part of it | at least "
        "| published protocol, images/s | ours over it |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        limit = f"{LIMIT:.2f}" if row is rows[-1] else ""
        floor = f"{row['ours']:.1f} | {row['floor']:.1f} | {row['over floor']:.2f} | {limit}"
        lines.append(f"| {row['chunk']} | {floor} | {row['published']:.1f} | {row['over published']:.2f} |")
    return "\n".join(lines)


def main() -> str:
    """Measures and prints."""
    text = table(measure())
    print(text)
    return text


if __name__ == "__main__":
    main()

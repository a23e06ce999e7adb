# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Speed of a training step and of evaluation at the size of the paper's MNIST model.

28 x 28 pixels, delta 7, two leaves and sums a region, latent size 25, two hidden layers of 30, batch 128, 5 particles.
Contenders take turns in one process on one thread; medians of CPU time over the rounds. Run
``python -m benchmarks.step``.
"""

from __future__ import annotations

import copy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro.infer import SVI
from torch import Tensor

from benchmarks.twin import Twin
from pyro_spvae import CircuitELBO, poon_domingos
from pyro_spvae.denormals import flushed
from pyro_spvae.evaluating import lean
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import SPVAE
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.trainer import Trainer

BATCH, PARTICLES, ROUNDS, WARM_UP = 128, 5, 60, 10
TWIN, TRAINER, SVI_LEAN, SVI_DEFAULT, CIRCUIT = (
    "plain torch twin, fused Adam",
    "trainer's step",
    "SVI.step, validation off",
    "SVI.step, Pyro's default settings",
    "circuit alone, forward and backward",
)
LIMITS = {TRAINER: 1.06, SVI_LEAN: 1.20, SVI_DEFAULT: 1.25, CIRCUIT: 0.10}


def paper_model() -> SPVAE:
    """The paper's SPVAE for continuous MNIST, 413,352 parameters."""
    torch.manual_seed(0)
    return SPVAE(
        poon_domingos((28, 28), delta=7),
        units=2,
        latent_dim=25,
        hidden_dims=(30, 30),
        likelihood=Normal(mean="identity"),
    )


def measure() -> list[dict[str, Any]]:
    """
    Times all contenders in turn.

    :returns: ``contender``, ``milliseconds``, ``ratio`` to the twin, ``limit``.
    :raises RuntimeError: if the twin's loss is not the same.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x = torch.rand(BATCH, 1, 28, 28)
        steps = _contenders(x)
        times: dict[str, list[float]] = {name: [] for name in steps}
        for round_ in range(WARM_UP + ROUNDS):
            for name, (step, enter) in steps.items():
                with enter():
                    start = time.process_time()
                    step()
                    if round_ >= WARM_UP:
                        times[name].append(1000 * (time.process_time() - start))
        medians = {name: statistics.median(taken) for name, taken in times.items()}
        # ratios of neighbours in time, so that a machine whose speed drifts does not matter
        ratios = {
            name: statistics.median(a / b for a, b in zip(taken, times[TWIN], strict=True))
            for name, taken in times.items()
        }
        return [
            {"contender": name, "milliseconds": medians[name], "ratio": ratios[name], "limit": LIMITS.get(name)}
            for name in steps
        ]
    finally:
        torch.set_num_threads(threads)


class Lean:
    """The settings of the trainer."""

    def __enter__(self) -> None:
        self.settings = lean()
        self.settings.__enter__()

    def __exit__(self, *args: Any) -> None:
        self.settings.__exit__(*args)


class _Store:
    """Pyro's global parameter store, with or without validation; denormal numbers count as 0 as for the others."""

    def __init__(self, validation: bool) -> None:
        self.validation = validation

    def __enter__(self) -> None:
        self.numbers = flushed()
        self.numbers.__enter__()
        pyro.enable_validation(self.validation)

    def __exit__(self, *args: Any) -> None:
        pyro.enable_validation(False)
        self.numbers.__exit__(*args)


def _contenders(x: Tensor) -> dict[str, tuple[Callable[[], object], Callable[[], Any]]]:
    original = paper_model()
    twin = Twin(original, PARTICLES)
    twin.circuit = copy.deepcopy(original.circuit)
    _check_same(original, twin, x)
    optimiser = torch.optim.Adam(twin.parameters(), lr=1e-3, fused=True)

    def twin_step() -> float:
        optimiser.zero_grad(set_to_none=True)
        loss = twin(x)
        (loss / len(x)).backward()
        optimiser.step()
        return loss.item()

    with Lean():
        trained = paper_model()
        trainer = Trainer(trained, x, x, FitConfig(lr=1e-3, particles=PARTICLES))

    steps: dict[str, tuple[Callable[[], object], Callable[[], Any]]] = {
        TWIN: (twin_step, Lean),
        TRAINER: (lambda: trainer.train_step(x), Lean),
    }
    svi_model = paper_model()
    svi = SVI(svi_model.model, svi_model.guide, pyro.optim.ClippedAdam({"lr": 1e-5}), CircuitELBO(PARTICLES))
    steps[SVI_LEAN] = (lambda: svi.step(x), lambda: _Store(validation=False))
    steps[SVI_DEFAULT] = (lambda: svi.step(x), lambda: _Store(validation=True))
    leaf = torch.randn(BATCH, original.num_leaves)

    def circuit_step() -> None:
        original.circuit.zero_grad()
        original.circuit(leaf.detach().requires_grad_()).sum().backward()

    steps[CIRCUIT] = (circuit_step, Lean)
    return steps


def _check_same(spvae: SPVAE, twin: Twin, x: Tensor) -> None:
    with Lean():
        torch.manual_seed(1)
        ours = CircuitELBO(PARTICLES)(spvae.model, spvae.guide)(x).item()
    torch.manual_seed(1)
    theirs = twin(x).item()
    if abs(ours - theirs) > 1e-4 * abs(theirs):
        raise RuntimeError(f"the twin computes {theirs}, ours {ours}")


EVALUATION = """
import resource, time, torch
from pathlib import Path
from benchmarks.step import paper_model
model = paper_model()
x = torch.rand(100, 1, 28, 28)
model.log_likelihood(x[:1], num_samples=10)
before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**10  # resident now, KiB
start = time.perf_counter()
model.log_likelihood(x, num_samples=5000)
print(time.perf_counter() - start, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20)
"""


def measure_evaluation() -> dict[str, float]:
    """
    Wall seconds of the 5000-sample log-likelihood of 100 images on all cores, and its peak memory in GiB above what was
    resident before, in a fresh process (Linux).
    """
    output = subprocess.run([sys.executable, "-c", EVALUATION], capture_output=True, text=True, check=True).stdout
    seconds, memory = map(float, output.split())
    return {"seconds": seconds, "gib": memory}


def table(rows: list[dict[str, Any]], evaluation: dict[str, float]) -> str:
    """Markdown."""
    lines = [
        f"| one step, batch {BATCH}, {PARTICLES} particles | CPU ms, median | ratio to the twin | limit |",
        "|---|---|---|---|",
    ]
    for row in rows:
        limit = "" if row["limit"] is None else f"{row['limit']:.2f}"
        lines.append(f"| {row['contender']} | {row['milliseconds']:.1f} | {row['ratio']:.2f} | {limit} |")
    lines += [
        "",
        "| 5000-sample log-likelihood of 100 images | measured | limit |",
        "|---|---|---|",
        f"| wall seconds, {torch.get_num_threads()} threads | {evaluation['seconds']:.1f} | 30 |",
        f"| memory above the model's, GiB | {evaluation['gib']:.2f} | 1 |",
    ]
    return "\n".join(lines)


def main() -> str:
    """Measures and prints."""
    text = table(measure(), measure_evaluation())
    print(text)
    return text


if __name__ == "__main__":
    main()

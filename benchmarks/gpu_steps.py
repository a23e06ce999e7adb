# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Wall time of training steps on a device: the trainer's, ordinary and captured, beside plain torch, likewise."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.priors import COMPONENTS, paper_vae
from benchmarks.step import paper_model
from benchmarks.twin import Twin
from benchmarks.vamp_twin import VampTwin
from pyro_spvae.evaluating import lean
from pyro_spvae.models import SPVAE
from pyro_spvae.training.cuda_graphs import CudaGraphs
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.trainer import Trainer

TWIN, TWIN_GRAPH, OURS, OURS_GRAPH = (
    "plain torch twin",
    "plain torch twin, captured",
    "trainer",
    "trainer, captured",
)
NEVER = 10**9
BATCHES = 8  # of the rows that are trained on

Block = Callable[[int], None]


def measure(device: torch.device, steps: int, rounds: int, small: bool = False) -> list[dict[str, Any]]:
    """
    Times blocks of steps by turns. Twins have their batch on the device; the trainer draws one on the CPU for every
    step, sends it, seeds its noise and keeps the bound.

    :param int steps: of a block.
    :param int rounds: blocks of each contender that count, after one that does not.
    :param bool small: of fewer pseudo-inputs and units.
    :returns: ``model``, ``contender``, ``milliseconds`` a step, ``ratio`` to the ordinary twin of the same model.
    """
    sizes = (20, 30, 4) if small else (COMPONENTS, 300, 40)  # pseudo-inputs, hidden units, latent variables
    models: dict[str, tuple[SPVAE, Callable[[SPVAE], nn.Module], int, int]] = {
        "SPVAE of continuous MNIST, batch 128, 5 particles": (paper_model(), _twin, 128, 5),
        f"VAE with a VampPrior of {sizes[0]}, batch 100": (paper_vae(*sizes), VampTwin, 100, 1),
    }
    found = []
    for name, (spvae, twin, batch, particles) in models.items():
        times = _in_turns(_contenders(spvae, twin(spvae), batch, particles, device), steps, rounds, device)
        for contender, taken in times.items():
            ratios = (own / other for own, other in zip(taken, times[TWIN], strict=True))
            found.append(
                {
                    "model": name,
                    "contender": contender,
                    "milliseconds": statistics.median(taken),
                    "ratio": statistics.median(ratios),
                }
            )
    return found


def _twin(spvae: SPVAE) -> Twin:
    twin = Twin(spvae, 5)
    twin.circuit = copy.deepcopy(spvae.circuit)
    return twin


def _contenders(spvae: SPVAE, twin: nn.Module, batch: int, particles: int, device: torch.device) -> dict[str, Block]:
    rows = torch.rand(batch * BATCHES, 1, 28, 28).round()
    x = rows[:batch].to(device)
    found: dict[str, Block] = {TWIN: partial(_repeat, _twin_step(copy.deepcopy(twin).to(device), x))}
    if device.type == "cuda":
        step, graphs = _twin_step(copy.deepcopy(twin).to(device), x, capturable=True), CudaGraphs(device)
        for _ in range(3):
            graphs.warm_up(step)
        found[TWIN_GRAPH] = partial(_repeat, graphs.capture(step))
    for name, graphs_option in {OURS: "off", OURS_GRAPH: "on"}.items():
        if name == OURS_GRAPH and device.type != "cuda":
            continue
        options = {"lr": 1e-4, "schedule": "constant", "graphs": graphs_option}
        config = FitConfig(
            batch_size=batch,
            particles=particles,
            epochs=NEVER,
            validate_every=NEVER,
            **options,  # type: ignore[arg-type]
        )
        with lean():
            trainer = Trainer(copy.deepcopy(spvae).to(device), rows, rows, config)
        found[name] = partial(_trained, trainer)
    return found


def _trained(trainer: Trainer, steps: int) -> None:
    trainer.run(steps)


def _repeat(step: Callable[[], None], steps: int) -> None:
    for _ in range(steps):
        step()


def _twin_step(twin: nn.Module, x: torch.Tensor, capturable: bool = False) -> Callable[[], None]:
    optimiser = torch.optim.Adam(twin.parameters(), lr=1e-4, fused=True, capturable=capturable)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        (twin(x) / len(x)).backward()
        optimiser.step()

    return step


def _in_turns(contenders: Mapping[str, Block], steps: int, rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Milliseconds a step of each round, by contender."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(rounds + 1):
        for name, block in contenders.items():
            start = time.perf_counter()
            block(steps)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if round_:
                times[name].append(1000 * (time.perf_counter() - start) / steps)
    return times

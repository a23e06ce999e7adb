# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Speed of DVAE++: a training step against the same networks, of torch's own layers, in plain torch.

One leaf of 28 x 28 binary pixels, batch 100: 16 global bits in two groups under a Boltzmann machine of 100 chains and
10 sweeps, 4 groups of 16 normal variables at each of 7 x 7 positions, residual networks of 8 and 32 channels;
divergences in closed form. Contenders take turns in one process on one thread. Run ``python -m benchmarks.dvaepp``.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.dvaepp_twin import DVAEppTwin
from benchmarks.step import Lean
from benchmarks.turns import in_turns
from pyro_spvae import whole
from pyro_spvae.guides import DVAEppGuide
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import SPVAE, DVAEpp
from pyro_spvae.nn import SEResNet
from pyro_spvae.priors import BoltzmannMachine
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.trainer import Trainer

BATCH, ROUNDS, WARM_UP = 100, 30, 5
TWIN, OURS = "plain torch twin, fused Adam", "trainer's step"
LIMITS = {OURS: 1.10}


def small_dvaepp(
    bits: int = 16,
    groups: int = 4,
    local_shape: tuple[int, int, int] = (16, 7, 7),
    channels: Sequence[int] = (8, 32, 32),
    hidden: int = 128,
    sides: tuple[int, int] = (28, 28),
) -> SPVAE:
    """
    The model of normal groups and a Boltzmann machine, of the size that ``reproduce dvaepp --budget small`` trains.

    :param channels: of maps at the image's sides and halved once, twice and three times.
    """
    torch.manual_seed(0)
    finest, middle, state = channels
    leaf = DVAEpp(
        Bernoulli(),
        bits,
        BoltzmannMachine(chains=100, sweeps=10),
        groups=groups,
        local_shape=local_shape,
        channels=state,
        decoder=SEResNet((finest, middle)),
    )
    return SPVAE(whole(sides), 1, leaf=leaf, guide=DVAEppGuide(2, channels=channels, hidden_dims=(hidden,)))


def measure() -> list[dict[str, Any]]:
    """
    Times training steps; chains are moved first.

    :returns: ``contender``, ``milliseconds``, ``ratio`` to the twin.
    :raises RuntimeError: if the twin's loss is not the same.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x = torch.rand(BATCH, 1, 28, 28).round()
        spvae = small_dvaepp()
        twin = DVAEppTwin(spvae)
        with Lean():
            trainer = Trainer(spvae, x, x, FitConfig(objective="elbo", kl="analytic", particles=1))
            _check_same(trainer, twin, x)
            times = in_turns({TWIN: _twin_step(twin, x), OURS: _step(spvae, trainer, x)}, ROUNDS, WARM_UP)
    finally:
        torch.set_num_threads(threads)
    return [
        {
            "contender": name,
            "milliseconds": statistics.median(taken),
            "ratio": statistics.median(a / b for a, b in zip(taken, times[TWIN], strict=True)),
        }
        for name, taken in times.items()
    ]


def _step(spvae: SPVAE, trainer: Trainer, x: Tensor) -> Callable[[], object]:
    def step() -> None:
        with torch.no_grad():
            spvae.advance(0.5)
        trainer.train_step(x)

    return step


def _twin_step(twin: DVAEppTwin, x: Tensor) -> Callable[[], object]:
    optimiser = torch.optim.Adam(twin.parameters(), lr=1e-3, fused=True)

    def step() -> float:
        twin.advance()
        optimiser.zero_grad(set_to_none=True)
        loss = twin(x)
        (loss / len(x)).backward()
        optimiser.step()
        return loss.item()

    return step


def _check_same(trainer: Trainer, twin: DVAEppTwin, x: Tensor) -> None:
    losses = []
    for module in (trainer.objective, twin):
        torch.manual_seed(1)
        losses.append(module(x).item())
    ours, theirs = losses
    if abs(ours - theirs) > 1e-4 * abs(theirs):
        raise RuntimeError(f"the twin computes {theirs}, ours {ours}")


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [f"| one step, batch {BATCH} | CPU ms, median | ratio to the twin | limit |", "|---|---|---|---|"]
    for row in rows:
        limit = f"{LIMITS[row['contender']]:.2f}" if row["contender"] in LIMITS else ""
        lines.append(f"| {row['contender']} | {row['milliseconds']:.1f} | {row['ratio']:.2f} | {limit} |")
    return "\n".join(lines)


def main() -> str:
    """Measures and prints."""
    text = table(measure())
    print(text)
    return text


if __name__ == "__main__":
    main()

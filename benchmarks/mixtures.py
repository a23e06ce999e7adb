# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Speed of mixture and stick-breaking posteriors, against a VAE of the same size with a normal one.

784 pixels, hidden layers of 500, 25 latent variables, batch 100, one draw: the sizes of the DLGMM paper for MNIST.
Contenders take turns in one process on one thread. Run ``python -m benchmarks.mixtures``.
"""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import torch

from benchmarks.step import Lean
from benchmarks.turns import in_turns
from pyro_spvae import whole
from pyro_spvae.guides import LeafGuide, MixtureGuide, NormalGuide, StickGuide
from pyro_spvae.leaves import LeafModel
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import DLGMM, SBVAE, SPVAE, VAE
from pyro_spvae.nn import MLP
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.trainer import Trainer

BATCH, ROUNDS, WARM_UP, HIDDEN, LATENT = 100, 30, 5, 500, 25
NORMAL = "VAE, normal guide"


def contenders() -> dict[str, tuple[LeafModel, LeafGuide, float | None]]:
    """Leaf, guide and the largest ratio to the VAE's step."""
    found: dict[str, tuple[LeafModel, LeafGuide, float | None]] = {
        NORMAL: (VAE(Bernoulli(), LATENT, decoder=_network()), NormalGuide(encoder=_network()), None)
    }
    for count in (3, 5):
        leaf = DLGMM(Bernoulli(), LATENT, count, decoder=_network())
        found[f"DLGMM, {count} components, summed over"] = (leaf, MixtureGuide(encoder=_network()), 0.75 * count + 1)
        leaf = DLGMM(Bernoulli(), LATENT, count, summed=True, decoder=_network())
        found[f"DLGMM, {count} components, the mixture"] = (leaf, MixtureGuide(encoder=_network()), 1.3)
    found["SB-VAE, 25 pieces"] = (SBVAE(Bernoulli(), 25, decoder=_network()), StickGuide(encoder=_network()), None)
    return found


def _network() -> MLP:
    return MLP((HIDDEN,), "relu", "shared")


def measure() -> list[dict[str, Any]]:
    """
    Times training steps.

    :returns: ``contender``, ``milliseconds``, ``ratio`` to the VAE and its ``limit``.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x = torch.rand(BATCH, 1, 28, 28).round()
        torch.manual_seed(0)
        made = contenders()
        with Lean():
            steps = {}
            for name, (leaf, guide, _) in made.items():
                spvae = SPVAE(whole((28, 28)), 1, leaf=leaf, guide=guide)
                steps[name] = partial(Trainer(spvae, x, x, FitConfig(particles=1)).train_step, x)
            times = in_turns(steps, ROUNDS, WARM_UP)
        return [
            {
                "contender": name,
                "milliseconds": statistics.median(taken),
                "ratio": statistics.median(a / b for a, b in zip(taken, times[NORMAL], strict=True)),
                "limit": made[name][2],
            }
            for name, taken in times.items()
        ]
    finally:
        torch.set_num_threads(threads)


def main() -> str:
    """Measures, prints, and returns a Markdown table."""
    lines = ["| one step, batch 100, one draw | CPU ms, median | over the VAE | limit |", "|---|---|---|---|"]
    for row in measure():
        limit = "" if row["limit"] is None else f"{row['limit']:.2f}"
        lines.append(f"| {row['contender']} | {row['milliseconds']:.1f} | {row['ratio']:.2f} | {limit} |")
    table = "\n".join(lines)
    print(table)
    return table


if __name__ == "__main__":
    main()

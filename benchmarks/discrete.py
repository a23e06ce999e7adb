# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Speed of discrete latent variables: what a Boltzmann machine adds to a step, log Z, evaluation, smoothed bits.

784 pixels, 200 bits, two hidden layers of 200 with batch normalisation, batch 100: the nonlinear model of one layer of
DVAE++ for MNIST, with a machine of 100 x 100 units, 1,000 persistent chains and 40 sweeps a step. Contenders take turns
in one process on one thread. Run ``python -m benchmarks.discrete``.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import RelaxedBernoulli

from benchmarks.step import Lean
from benchmarks.turns import in_turns
from pyro_spvae import whole
from pyro_spvae.distributions import OverlappingExponentials, SmoothedBernoulli
from pyro_spvae.distributions.boltzmann import RestrictedMachine, annealed_importance_sampling
from pyro_spvae.guides import DiscreteGuide
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import SPVAE, DiscreteVAE
from pyro_spvae.priors import BoltzmannMachine, IndependentBits, Prior
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.trainer import Trainer

BATCH, BITS, HIDDEN, CHAINS, SWEEPS = 100, 200, 200, 1000, 40
ROUNDS, WARM_UP = 15, 3
IMAGES, SAMPLES = 100, 4000
FACTORIAL, MACHINE = "independent bits", "Boltzmann machine, 100 x 100"
MOVED, PRODUCTS = "of it, chains moved", "of that, matrix products alone"
OURS, RELAXED = "SmoothedBernoulli, overlapping exponentials", "torch's RelaxedBernoulli"
LOG_Z, EVALUATION = "log Z, 1,024 chains x 1,000 temperatures", f"{SAMPLES}-sample log-likelihood of {IMAGES} images"
LIMITS = {MACHINE: 2.0, LOG_Z: 10.0, EVALUATION: 30.0}  # seconds are those of two threads


def paper_dvae(prior: Prior | None = None) -> SPVAE:
    """The nonlinear model of one layer; with the machine as its prior by default."""
    torch.manual_seed(0)
    size: dict[str, Any] = {"hidden_dims": (HIDDEN, HIDDEN), "activation": "tanh", "normalise": True}
    prior = BoltzmannMachine(chains=CHAINS, sweeps=SWEEPS) if prior is None else prior
    leaf = DiscreteVAE(Bernoulli(), BITS, prior, OverlappingExponentials(10.0), **size)
    return SPVAE(whole((28, 28)), 1, leaf=leaf, guide=DiscreteGuide(**size))


def measure_step() -> list[dict[str, Any]]:
    """
    Times training steps, as the trainer takes them: chains are moved first.

    :returns: ``contender``, ``milliseconds``, ``ratio`` to the step with independent bits.
    """
    x = torch.rand(BATCH, 1, 28, 28).round()
    config = FitConfig(objective="elbo", kl="analytic", particles=1)
    with Lean():
        steps: dict[str, Callable[[], object]] = {}
        for name, prior in ((FACTORIAL, IndependentBits()), (MACHINE, None)):
            spvae = paper_dvae(prior)
            steps[name] = _step(spvae, Trainer(spvae, x, x, config), x)
        steps[MOVED] = lambda: spvae.advance(0.5)
        left, weight = torch.rand(1, CHAINS, BITS // 2).round(), torch.randn(1, BITS // 2, BITS // 2)
        field = torch.empty_like(left)

        def products() -> None:
            for _ in range(2 * SWEEPS):
                torch.baddbmm(weight[:, :1], left, weight, out=field)

        steps[PRODUCTS] = products
        return _rows(in_turns(steps, ROUNDS, WARM_UP), FACTORIAL)


def _step(spvae: SPVAE, trainer: Trainer, x: Tensor) -> Callable[[], object]:
    def step() -> None:
        with torch.no_grad():
            spvae.advance(0.5)
        trainer.train_step(x)

    return step


def measure_smoothing() -> list[dict[str, Any]]:
    """
    Times draws of 200 bits for each of 100 images with their log-density, and the backward pass to the logits.

    :returns: as :func:`measure_step`, over torch's relaxed bits.
    """
    logits = torch.randn(BATCH, 1, BITS, requires_grad=True)
    smoothing, temperature = OverlappingExponentials(8.0), torch.tensor(0.5)

    def run(law: Callable[[], Any]) -> Callable[[], object]:
        def step() -> None:
            q = law()
            zeta = q.rsample()
            (zeta.sum() + q.log_prob(zeta).sum()).backward()
            logits.grad = None

        return step

    contenders = {
        RELAXED: run(lambda: RelaxedBernoulli(temperature, logits=logits, validate_args=False)),
        OURS: run(lambda: SmoothedBernoulli(logits, smoothing, validate_args=False)),
    }
    return _rows(in_turns(contenders, 200, 20), RELAXED)


def _rows(times: dict[str, list[float]], of: str) -> list[dict[str, Any]]:
    return [
        {
            "contender": name,
            "milliseconds": statistics.median(taken),
            "ratio": statistics.median(a / b for a, b in zip(taken, times[of], strict=True)),
        }
        for name, taken in times.items()
    ]


def measure_figures() -> dict[str, float]:
    """CPU seconds, on one thread, of annealed importance sampling and of evaluation."""
    torch.manual_seed(0)
    side = BITS // 2
    machine = RestrictedMachine(0.1 * torch.randn(1, BITS), 0.1 * torch.randn(1, side, side))
    model, x = paper_dvae(), torch.rand(IMAGES, 1, 28, 28).round()
    contenders: dict[str, Callable[[], object]] = {
        LOG_Z: lambda: annealed_importance_sampling(machine, 1024, 1000),
        EVALUATION: lambda: model.log_likelihood(x, num_samples=SAMPLES),
    }
    with torch.no_grad():
        return {name: statistics.median(taken) / 1000 for name, taken in in_turns(contenders, 1).items()}


def measure() -> dict[str, Any]:
    """All of it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {"steps": measure_step(), "smoothing": measure_smoothing(), "figures": measure_figures()}
    finally:
        torch.set_num_threads(threads)


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    lines = [f"| one step, {BITS} bits, batch {BATCH} | CPU ms, median | ratio | limit |", "|---|---|---|---|"]
    for row in found["steps"]:
        limit = f"{LIMITS[row['contender']]:.1f}" if row["contender"] in LIMITS else ""
        lines.append(f"| {row['contender']} | {row['milliseconds']:.1f} | {row['ratio']:.2f} | {limit} |")
    lines += ["", f"| {BATCH} x {BITS} bits, forward and backward | CPU ms, median | ratio |", "|---|---|---|"]
    for row in found["smoothing"]:
        lines.append(f"| {row['contender']} | {row['milliseconds']:.2f} | {row['ratio']:.2f} |")
    lines += ["", "| figures, one thread | CPU seconds | limit |", "|---|---|---|"]
    for name, seconds in found["figures"].items():
        lines.append(f"| {name} | {seconds:.1f} | {LIMITS[name]:.0f} |")
    return "\n".join(lines)


def main() -> str:
    """Measures and prints."""
    text = table(measure())
    print(text)
    return text


if __name__ == "__main__":
    main()

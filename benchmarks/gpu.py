# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
What a GPU makes of the package, in less than eight minutes: ``make gpu-check DATA=folder``.

The tests that need a CUDA device; times of training steps; how long the sum-product VAE of continuous MNIST takes to
the paper's 2,819 nats, by the bound of validation rows with five samples; and how far the VAE with a VampPrior comes in
the time that is left. The last two need the folder that has MNIST. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import gpu_steps
from pyro_spvae.reproduce.spvae import Experiment
from pyro_spvae.reproduce.vampprior import VampExperiment
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.job import set_up
from pyro_spvae.training.trainer import Trainer

TARGET = 2819.2  # nats of test images, SPVAE paper, Table 1
LOOK_EVERY = 128  # steps between looks at the clock


@dataclass(frozen=True)
class Budget:
    """
    Wall seconds, and sizes.

    :ivar float whole: of everything.
    :ivar float tests: of the tests, at most.
    :ivar float spvae: of the sum-product VAE, at most.
    :ivar int steps: of a block that is timed.
    :ivar int rounds: blocks of each contender.
    :ivar int most: steps of a training, at most.
    :ivar bool small: small models, images drawn at random.
    """

    whole: float = 450.0
    tests: float = 150.0
    spvae: float = 120.0
    steps: int = 50
    rounds: int = 5
    most: int = gpu_steps.NEVER
    small: bool = False


TINY = Budget(tests=0.0, steps=1, rounds=1, most=4, small=True)


def check(device: torch.device, budget: Budget, data_dir: str | None = None) -> list[tuple[str, str]]:
    """
    Everything that there is time for.

    :param device: where models are; that of the tests is always a CUDA device.
    :param str data_dir: folder of data sets; ``None``: what needs one is left out, or, with a small budget, takes
        images drawn at random.
    :returns: what was done, and what came out.
    """
    start = time.perf_counter()
    found: list[tuple[str, str]] = []
    if budget.tests:
        found.append(("tests that need a CUDA device", _tests(budget.tests)))
    for row in gpu_steps.measure(device, budget.steps, budget.rounds, budget.small):
        result = f"{row['milliseconds']:.2f} ms a step, {row['ratio']:.2f} of the twin's"
        found.append((f"{row['model']}: {row['contender']}", result))
    with tempfile.TemporaryDirectory() as folder:
        if budget.small:
            images = np.random.default_rng(0).integers(0, 256, (300, 28, 28), dtype=np.uint8)
            np.save(Path(folder) / "images.npy", images)
        elif data_dir is None:
            return [*found, ("training on MNIST", "left out: it needs --data-dir, the folder that has MNIST")]
        kind = "random images" if budget.small else "MNIST"
        where: dict[str, Any] = {"data": str(Path(folder) / "images.npy")} if budget.small else {}
        config = dataclasses.replace(Experiment().configuration(data_dir, str(device)), **where)
        line = _trained(config, device, budget.spvae, budget.most, TARGET)
        found.append((f"SPVAE of continuous {kind} to {TARGET:,.1f} nats", line))
        vamp = VampExperiment(prior="vamp", components=20 if budget.small else None)
        config = dataclasses.replace(vamp.configuration(data_dir, str(device)), warmup=0, **where)
        left = budget.whole - (time.perf_counter() - start)
        line = _trained(config, device, left, budget.most)
        found.append((f"VAE with a VampPrior on binary {kind}, without warm-up, in the time left", line))
    return found


def _trained(config: TrainConfig, device: torch.device, seconds: float, most: int, target: float = math.inf) -> str:
    """
    Trains until the bound of validation rows is high enough, or the seconds, with those of reading data, are over, or
    the steps.
    """
    start = time.perf_counter()
    job = set_up(config, device, download=False)
    trainer = Trainer(job.spvae, job.data.train, job.data.validation, job.config)
    while not trainer.finished and trainer.best < target and time.perf_counter() - start < seconds:
        if trainer.step >= most:
            break
        trainer.run(min(LOOK_EVERY, most - trainer.step))
    if not trainer.validations:
        return f"no validation in {time.perf_counter() - start:.0f} s ({trainer.step:,} steps)"
    reached = next((line for line in trainer.metrics if line["val_elbo"] >= target), trainer.metrics[-1])
    what = "reached" if trainer.best >= target else "best bound" if target == math.inf else "not reached, best bound"
    rate = sum(line["images_per_second"] for line in trainer.metrics) / len(trainer.metrics)
    return (
        f"{what} {trainer.best:,.2f} nats after {reached['seconds']:.1f} s, {reached['step']:,} steps "
        f"(epoch {reached['epoch']}), {rate:,.0f} images/s in training"
    )


def _tests(seconds: float) -> str:
    """The last line of pytest's report."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider", "tests/cuda"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd=Path(__file__).parents[1])
    except subprocess.TimeoutExpired:
        return f"FAILED: not done in {seconds:.0f} s"
    lines = ran.stdout.strip().splitlines() or ran.stderr.strip().splitlines() or ["no output"]
    failed = [line for line in lines if line.startswith("FAILED")]
    summary = re.sub(r"^=+ | =+$", "", lines[-1])
    return summary if ran.returncode == 0 else f"FAILED: {summary}; {'; '.join(failed)}"


def table(device: torch.device, found: list[tuple[str, str]]) -> str:
    """Markdown."""
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else f"a CPU ({platform.machine()}), no GPU"
    lines = [f"Measured on {named}, torch {torch.__version__}.", "", "| what | result |", "|---|---|"]
    return "\n".join([*lines, *(f"| {what} | {result} |" for what, result in found)])


def main(arguments: list[str] | None = None) -> str:
    """
    Checks and prints.

    :param list arguments: those of the command line.
    :raises SystemExit: in one sentence, if there is no CUDA device and that is asked for; after the table, if a test
        failed.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--data-dir", help="folder that has MNIST")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to try the script (default: cuda)")
    parser.add_argument("--tiny", action="store_true", help="a few steps of small models on random images, no tests")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("gpu-check needs a CUDA device, and torch finds none here")
    text = table(device, found := check(device, TINY if options.tiny else Budget(), options.data_dir))
    print(text)
    if any(result.startswith("FAILED") for _, result in found):
        raise SystemExit("tests failed")
    return text


if __name__ == "__main__":
    main()

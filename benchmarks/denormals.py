# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What denormal numbers cost: steps of training with them and without, of models that have trained a little.

Each model takes some steps on real images, then steps by turns, all of one run: with denormal numbers as processors
have them, and taken for 0 as the trainer does. CPU time of one thread. It is no part of ``make bench``:

    python -m benchmarks.denormals --data-dir DIR
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from unittest import mock

import torch

from benchmarks.turns import in_turns, median, ratio
from pyro_spvae.reproduce.spvae import Experiment
from pyro_spvae.reproduce.vampprior import VampExperiment
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.job import set_up
from pyro_spvae.training.trainer import Trainer

EACH, ROUNDS = 2, 8  # steps of a turn, turns
WITH, WITHOUT = "with", "without"


def models() -> dict[str, TrainConfig]:
    """The SPVAE paper's models of MNIST, by their recipe best, and the VampPrior paper's without convolutions."""
    found = {
        f"{model}, {pixels} pixels": Experiment(model=model, pixels=pixels).configuration()
        for model in ("spvae", "vae", "conv-spvae", "conv-vae")
        for pixels in ("continuous", "discrete")
    }
    for model in ("vae", "hvae"):
        for prior in ("standard", "vamp"):
            experiment = VampExperiment(model=model, prior=prior, recipe="best")
            found[f"{model}, black and white, {prior}"] = experiment.configuration()
    return found


def measure(config: TrainConfig, before: int) -> dict[str, list[float]]:
    """CPU milliseconds of a step in each turn, with denormal numbers and without, after some steps."""
    job = set_up(dataclasses.replace(config, device="cpu"), torch.device("cpu"), download=False)
    trainer = Trainer(job.spvae, job.data.train, job.data.validation[:100], job.config)

    def as_they_are() -> None:
        with mock.patch("pyro_spvae.evaluating.flushed", contextlib.nullcontext):
            trainer.run(EACH)

    trainer.run(before)
    times = in_turns({WITH: as_they_are, WITHOUT: lambda: trainer.run(EACH)}, ROUNDS, warm_up=1)
    return {name: [one / EACH for one in taken] for name, taken in times.items()}


def main() -> None:
    """Prints the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, help="folder that has MNIST")
    parser.add_argument("--model", action="append", help="words that its name must have, several times for several")
    parser.add_argument("--before", type=int, default=40, help="steps before those that are timed")
    given = parser.parse_args()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    print("| model | ms a step, with denormal numbers | without | ratio |\n|---|---|---|---|")
    for name, config in models().items():
        if given.model is None or any(words in name for words in given.model):
            times = measure(dataclasses.replace(config, data_dir=given.data_dir), given.before)
            ours, theirs = times[WITHOUT], times[WITH]
            print(f"| {name} | {median(theirs):.0f} | {median(ours):.0f} | {ratio(theirs, ours):.2f} |", flush=True)
    torch.set_num_threads(threads)


if __name__ == "__main__":
    main()

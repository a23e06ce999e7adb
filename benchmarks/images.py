# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Bits per dimension of grey images against seconds of training: our sum-product VAE, our hidden Chow-Liu tree over
pixels, started at clusters and at random, and a circuit of cirkit over the same tree.

    python -m benchmarks.images --data-dir DIR --budget 300 --units 16 --picture curves.png --out curves.json

All see the same training images in batches of 128 and are trained by Adam, in turns of a few CPU seconds in one process
on one thread. After each turn stand the bits per dimension of test images: exact of trees, by importance samples, which
make them a little too large, of leaf VAEs. Seconds of evaluation do not count, those of the start do. Learning rates
fall linearly over the budget for trees; the sum-product VAE has its own. Structures are learned before the clock
starts, by us, for all trees.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmarks import images_cirkit
from benchmarks.images_cirkit import CirkitCircuit
from pyro_spvae.checkpoint import atomic_write
from pyro_spvae.data import Values
from pyro_spvae.plots.figures import new_figure, save
from pyro_spvae.training.batches import Batches
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.evaluation import log_likelihoods
from pyro_spvae.training.job import Job, set_up
from pyro_spvae.training.optimisers import default_rate
from pyro_spvae.training.trainer import Trainer

BATCH, TURNS, TRIED = 128, 10, 3  # rows of a step, turns of a contender, steps by which one is timed
VAES, TREE, RANDOM = "sum-product VAE", "hidden Chow-Liu tree", "the same, started at random"
WATCHED = 100  # validation rows, which are looked at after each epoch


class Contender(Protocol):
    """What is trained in turns."""

    name: str
    parameters: int

    def train(self, seconds: float) -> None:
        """Trains for about so many CPU seconds."""

    def bits(self) -> float:
        """Bits per dimension of the test images."""


class Ours:
    """
    A configuration of this package, trained as by ``pyro-spvae train``.

    :param str name: what it is called.
    :param TrainConfig config: the configuration; its epochs are replaced by as many as fit into the budget.
    :param float budget: CPU seconds of training.
    :param int test: number of test images.
    :param int samples: importance samples, where anything is latent.
    """

    def __init__(self, name: str, config: TrainConfig, budget: float, test: int, samples: int) -> None:
        self.name, self.samples = name, samples
        self.job: Job = set_up(config, torch.device("cpu"), download=False)
        self.parameters = self.job.parameters
        self.test = self.job.data.test[:test]
        step, steps = (
            self._trainer(copy.deepcopy(self.job), dataclasses.replace(self.job.config, start="random")),
            TRIED,
        )
        self.seconds = _timed(lambda: step.run(max_steps=steps)) / steps
        epochs = max(1, round(budget / (self.seconds * len(step.batches))))
        self.trainer = self._trainer(self.job, dataclasses.replace(self.job.config, epochs=epochs))

    def _trainer(self, job: Job, config: TrainConfig) -> Trainer:
        return Trainer(job.spvae, job.data.train, job.data.validation[:WATCHED], config)

    def train(self, seconds: float) -> None:
        """As many steps as take so long by those before; fewer where the epochs are over."""
        if self.trainer.step == 0:
            self.trainer.run(max_steps=1)  # with the start, which the clock of turns counts
        before = self.trainer.step
        steps = max(1, round(seconds / self.seconds))
        taken = _timed(lambda: self.trainer.run(max_steps=steps))
        self.seconds = taken / max(1, self.trainer.step - before)

    def bits(self) -> float:
        """By the preprocessing's own rule."""
        options: dict[str, Any] = {"samples": self.samples, "chunk_size": self.job.config.chunk_size, "seed": 0}
        nats = float(log_likelihoods(self.job.spvae, self.test, **options).mean())
        return _bits(self.job.data.values, nats, self.job.data.event_shape)


class Cirkit:
    """
    A circuit of cirkit over the region graph of a tree of ours, of as many units.

    :param Ours tree: ours.
    :param float budget: CPU seconds, over which the learning rate falls.
    """

    name = images_cirkit.NAME

    def __init__(self, tree: Ours, budget: float) -> None:
        job = tree.job
        assert job.config.units is not None and job.data.values.levels is not None
        self.values, self.shape, self.test, self.budget = job.data.values, job.data.event_shape, tree.test, budget
        self.batches = Batches(job.data.train, None, BATCH, job.config.seed)
        torch.manual_seed(job.config.seed)
        self.circuit = CirkitCircuit(job.spvae.circuit.regions, job.config.units, job.data.values.levels)
        self.parameters = sum(parameter.numel() for parameter in self.circuit.parameters())
        self.rate = default_rate(latents=False) if job.config.lr is None else job.config.lr
        self.used, self.step = 0.0, 0
        self.optimiser = torch.optim.Adam(self.circuit.parameters(), self.rate, fused=True)

    def train(self, seconds: float) -> None:
        """Steps until the time is over."""
        start = time.process_time()
        while (taken := time.process_time() - start) < seconds:
            left = max(0.0, 1 - (self.used + taken) / self.budget)
            for group in self.optimiser.param_groups:
                group["lr"] = self.rate * left
            x, _ = self.batches(*divmod(self.step, len(self.batches)))
            self.optimiser.zero_grad(set_to_none=True)
            (-self.circuit(x.flatten(1)).mean()).backward()
            self.optimiser.step()
            self.step += 1
        self.used += taken

    @torch.no_grad()
    def bits(self) -> float:
        """Exact."""
        nats = torch.cat([self.circuit(x) for x in self.test.flatten(1).split(BATCH)])
        return _bits(self.values, float(nats.double().mean()), self.shape)


def _timed(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _bits(values: Values, nats: float, shape: Sequence[int]) -> float:
    bits = values.bits_per_dim(nats, shape)
    assert bits is not None
    return bits


def contenders(given: argparse.Namespace) -> list[Contender]:
    """
    Those that are asked for and installed.

    :raises ValueError: if the data are no grey images.
    """
    of_data = {"data": given.data, "data_dir": given.data_dir, "fraction": given.fraction, "seed": given.seed}
    options = {"budget": given.budget, "test": given.test, "samples": given.samples}
    config = TrainConfig.from_dict({**of_data, "batch_size": BATCH, "patience": 10**6}, "images")
    vaes = Ours(VAES, dataclasses.replace(config, structure="poon-domingos", preprocess="integers"), **options)
    raw = vaes.job.raw
    levels = raw.values.levels
    if not raw.is_image or raw.event_shape[0] != 1 or levels is None:
        raise ValueError(f"data is {given.data!r}, {raw!r}; grey images of whole levels are needed")
    of_tree = dataclasses.replace(config, structure="chow-liu", units=given.units)
    tree = Ours(TREE, of_tree, **options)
    found: list[Contender] = [vaes, tree, Ours(RANDOM, dataclasses.replace(of_tree, start="random"), **options)]
    if images_cirkit.is_installed():
        found.append(Cirkit(tree, given.budget))
    else:
        print(f"cirkit is not installed and is left out: {images_cirkit.INSTALL}")
    return found


def compare(given: argparse.Namespace) -> list[dict[str, Any]]:
    """
    Trains all in turns.

    :returns: of each ``name``, ``parameters``, and ``curve``: pairs of CPU seconds and bits per dimension.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(given.threads)
    try:
        found = contenders(given)
        records: list[dict[str, Any]] = [{"name": own.name, "parameters": own.parameters, "curve": []} for own in found]
        for _ in range(TURNS):
            for own, record in zip(found, records, strict=True):
                curve: list[tuple[float, float]] = record["curve"]
                taken = _timed(lambda own=own: own.train(given.budget / TURNS))  # type: ignore[misc]
                curve.append(((curve[-1][0] if curve else 0.0) + taken, own.bits()))
        return records
    finally:
        torch.set_num_threads(before)


def table(records: Sequence[dict[str, Any]]) -> str:
    """Bits per dimension by seconds as a Markdown table."""
    lines = ["| | parameters | CPU s | bits/dim at 10 % | 50 % | 100 % |", "|---|---|---|---|---|---|"]
    for own in records:
        curve = own["curve"]
        marks = [curve[round(part * len(curve)) - 1][1] for part in (0.1, 0.5, 1.0)]
        shown = " | ".join(f"{bits:.3f}" for bits in marks)
        lines.append(f"| {own['name']} | {own['parameters']:,} | {curve[-1][0]:.0f} | {shown} |")
    return "\n".join(lines)


def picture(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Curves."""
    figure = new_figure(5.0, 3.4)
    axes = figure.add_subplot()
    for own in records:
        seconds, bits = zip(*own["curve"], strict=True)
        axes.plot(seconds, bits, marker="o", ms=3, linewidth=1.2, label=own["name"])
    axes.set(xlabel="CPU seconds of training, one thread", ylabel="bits/dim of test images", xlim=(0, None))
    axes.legend(fontsize=8, loc="upper right")
    save(figure, path)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.images", description=__doc__.strip().split("\n\n")[0])
    add = parser.add_argument
    add("--data", default="mnist", help="a data set of grey images")
    add("--data-dir", help="its folder")
    add("--fraction", type=float, default=1.0, help="part of the training images")
    add("--budget", type=float, default=300.0, help="CPU seconds of training of each")
    add("--units", type=int, default=16, help="of the trees")
    add("--test", type=int, default=1000, help="test images")
    add("--samples", type=int, default=100, help="importance samples of leaf VAEs")
    add("--threads", type=int, default=1)
    add("--seed", type=int, default=0)
    add("--out", type=Path, help="JSON file of all curves")
    add("--picture", type=Path, help="PNG file of all curves")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> str:
    """Runs and prints."""
    given = arguments(words)
    for name in ("budget", "units", "test", "samples", "threads"):
        if not getattr(given, name) > 0:
            raise ValueError(f"{name} is {getattr(given, name)}; a number above 0 is needed")
    records = compare(given)
    text = table(records)
    print(text)
    if given.out is not None:
        atomic_write(given.out, lambda file: file.write(json.dumps(records).encode()))
    if given.picture is not None:
        picture(records, given.picture)
    return text


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""This package as a user calls it: ``pyro_spvae.training.train`` with a file, and nothing else but what is named."""

from __future__ import annotations

import json
import shlex
import signal
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.tables_data import Array, Split
from benchmarks.tables_scores import Outcome, with_holes
from pyro_spvae.models import SPVAE
from pyro_spvae.training import cost
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.evaluation import log_likelihoods
from pyro_spvae.training.run import Run, open_run
from pyro_spvae.training.train import train

DEFAULT = "ours"  # what others are compared with
DRAWS = 100  # of what is missing, that are averaged
_TRAINED = "trained "  # the line that training reports when it is over
_ROWS = 256  # of which entries are drawn at a time
_SHOWN = ("structure", "leaf", "units", "leaves", "weights", "optimiser", "lr", "likelihood")


class Ours:
    """
    A run of this package.

    :param str options: of the configuration, as in ``structure=learned units=8``; the defaults by default.
    :raises ValueError: if it is written otherwise, or an option does not exist.
    """

    is_fast = False

    def __init__(self, options: str = "") -> None:
        self.name = f"{DEFAULT} {options}".strip()
        self.options = parsed(options)
        TrainConfig.from_dict(self.options, f"ours {options!r}")

    def applies(self, split: Split) -> bool:
        """To every table."""
        return True

    def run(self, split: Split, budget: float) -> Outcome:
        """
        Trains until validation stalls, or for at most ``budget`` CPU seconds: then as one stops it by Ctrl-C. Seconds
        are those until training is over, reading and choices included.
        """
        kinds = ",".join(f"{name}={kind}" for name, kind in split.kinds.items())
        given = {"data": str(split.path), "kinds": kinds or None, "seed": split.seed, "device": "cpu"}
        config = TrainConfig.from_dict(given | self.options, "")
        clock = Clock(budget)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of columns; the same for every contender
            out = Path(folder) / "run"
            with clock:
                train(config, out, report=clock.look)
            if not (out / "best.pt").exists():
                raise ValueError(
                    f"budget is {budget:g} s, in which {self.name} came to no validation of {split.table}; give more"
                )
            run = open_run(out)
            test, validation = self._nats(run, budget)
            return Outcome(
                nats=test,
                validation=validation,
                filled=completed(run.spvae, with_holes(split), split.coded, split.seed),
                parameters=sum(parameter.numel() for parameter in run.spvae.parameters()),
                chosen=chosen(run),
                cpu=clock.cpu,
                wall=clock.wall,
                curve=_curve(run, clock.cpu / clock.wall),
            )

    def _nats(self, run: Run, budget: float) -> list[Array]:
        """Log-likelihoods of test rows, and of validation rows."""
        config, data = run.config, run.data()
        samples = run.samples
        if not run.results and config.samples is None:
            per_sample = cost.sample_seconds(run.spvae, data.test, config.chunk_size)
            samples = cost.affordable_samples(per_sample, len(data.test), budget)
        options: dict[str, Any] = {"samples": samples, "chunk_size": config.chunk_size, "seed": config.seed}
        return [log_likelihoods(run.spvae, rows, **options).double().numpy() for rows in (data.test, data.validation)]


class Clock:
    """
    CPU and wall seconds until training is over. Within a ``with`` block the process gets what Ctrl-C sends, once it has
    taken ``budget`` CPU seconds; the interruption ends with the block.
    """

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self.cpu = self.wall = 0.0
        self._over = self._fired = False

    def __enter__(self) -> Clock:
        self._start = time.process_time(), time.perf_counter()
        self._before = signal.signal(signal.SIGPROF, self._fire)
        # a process in the background starts with Ctrl-C ignored
        self._interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_PROF, self.budget)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> bool:
        self._stop()
        signal.signal(signal.SIGPROF, self._before)
        signal.signal(signal.SIGINT, self._interrupt)
        return self._fired and kind is not None and issubclass(kind, KeyboardInterrupt)

    def look(self, line: str) -> None:
        """Takes the lines that a run reports."""
        if line.startswith(_TRAINED):
            self._stop()

    def _fire(self, number: int, frame: object) -> None:
        left = self._start[0] + self.budget - time.process_time()  # the timer may go fast by a tick
        if self._over:
            return
        if left > 0:
            signal.setitimer(signal.ITIMER_PROF, left)
            return
        self._fired = True
        signal.raise_signal(signal.SIGINT)

    def _stop(self) -> None:
        if not self._over:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self._over = True
            self.cpu, self.wall = time.process_time() - self._start[0], time.perf_counter() - self._start[1]


def parsed(text: str) -> dict[str, Any]:
    """
    Options from ``name=value name=value``; numbers, true, false and lists as JSON has them, all else texts.

    :raises ValueError: if it is written otherwise.
    """
    found: dict[str, Any] = {}
    for word in shlex.split(text):
        name, equals, value = word.partition("=")
        if not name or not equals or name in found:
            raise ValueError(
                f"ours is {text!r}; name=value is needed, each name once, as in 'structure=learned units=8'"
            )
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def chosen(run: Run) -> str:
    """What the run's configuration came to."""
    values = run.config.to_dict()
    return " ".join(f"{name}={values[name]}" for name in _SHOWN)


def _curve(run: Run, share: float) -> list[tuple[float, float, float]]:
    """
    Seconds, validation included, and the bound on validation rows, which is their log-likelihood where nothing is
    latent.

    :param float share: CPU seconds of one by the clock, which are those that a run keeps.
    """
    return [(share * float(row["seconds"]), float(row["val_elbo"]), float("nan")) for row in run.folder.read_metrics()]


@torch.no_grad()
def completed(spvae: SPVAE, x: Array, coded: np.ndarray, seed: int) -> Array:
    """
    Rows whose missing entries are the mean of the likelihood's means given draws of the rest, and the most frequent
    draw of categories, as :class:`pyro_spvae.sklearn.SPVAEImputer` has them.

    :param x: ``[N, D]``, NaN = missing.
    :param coded: which columns have categories, ``bool [D]``.
    """
    found = x.copy()
    torch.manual_seed(seed)
    like = next(spvae.parameters())
    for start in range(0, len(x), _ROWS):
        own = torch.from_numpy(x[start : start + _ROWS]).to(like)
        seen = ~own.isnan()
        values = torch.where(seen, own, 0.0)
        if bool((~coded).any()):
            found[start : start + _ROWS] = spvae.impute(values, seen, DRAWS, means=True).mean(0).double().numpy()
        if bool(coded.any()):
            drawn = spvae.impute(values, seen, DRAWS).mode(0).values.double().numpy()
            found[start : start + _ROWS, coded] = drawn[:, coded]
    return np.where(np.isnan(x), found, x)

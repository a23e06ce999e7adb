# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
Runs that are killed (SIGKILL) at chosen moments and resumed, each in a process of its own.

Started as a program, which loads everything once and then forks: ``python -m tests.training.killer FOLDER``. It leaves
``FOLDER/<name>`` for every case, ``FOLDER/whole`` for a run that was never stopped, and ``FOLDER/report.json`` with how
each process ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch

import pyro_spvae.checkpoint
import pyro_spvae.training.train as train_module
from pyro_spvae.training import run_folder
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.trainer import Trainer

STEPS, EPOCHS = 6, 4  # steps of an epoch


def die() -> None:
    """What kill -9 does."""
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner, name, nth, halfway=False):
    """Dies when ``owner.name`` is called for the nth time; with ``halfway`` inside of the write that it makes."""

    def arm():
        function, calls = getattr(owner, name), []

        def wrapper(*args, **kwargs):
            calls.append(None)
            if len(calls) == nth:
                if not halfway:
                    die()
                path, write = args

                def cut_off(file):
                    write(_Counter(file))

                return function(path, cut_off)
            return function(*args, **kwargs)

        setattr(owner, name, wrapper)

    return arm


class _Counter:
    """A file that dies in the middle of what is written to it."""

    def __init__(self, file):
        self.file = file

    def write(self, content):
        self.file.write(bytes(content)[: len(content) // 2])
        self.file.flush()
        die()

    def __getattr__(self, name):
        return getattr(self.file, name)


CASES = {
    "while the folder is made": before(run_folder, "atomic_write", 2),
    "in the first step": before(Trainer, "_step", 1),
    "in the middle of an epoch": before(Trainer, "_step", STEPS + 3),
    "before metrics are written": before(RunFolder, "append_metrics", 2),
    "between metrics and checkpoint": before(RunFolder, "save", 3),
    "between best and last": before(RunFolder, "save", 2),
    "while a checkpoint is written": before(pyro_spvae.checkpoint, "atomic_write", 3, halfway=True),
    "before a checkpoint is renamed": before(os, "replace", 6),
    "while the test split is evaluated": before(train_module, "_results", 1),
    "before the results are written": before(train_module, "write_pictures", 1),
}
TIMES = (0.15, 0.4, 0.8)  # seconds after which runs are killed from outside, wherever they are


def run(action, after=None) -> int:
    """Exit status of an action in a process of its own: negative if it was killed."""
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: Path) -> None:
    """All cases."""
    torch.set_num_threads(1)
    config = TrainConfig(
        data=str(folder / "data.npy"),
        units=1,
        latent_dim=2,
        hidden=(4,),
        particles=2,
        batch_size=16,
        epochs=EPOCHS,
        patience=EPOCHS,
        samples=4,
        schedule="cosine",
        preprocess="dequantize",
    )
    report = {"whole": [run(lambda: train_module.train(config, folder / "whole"))]}
    cases = CASES | {f"after {seconds} seconds": seconds for seconds in TIMES}
    for name, moment in cases.items():
        out = folder / name

        def killed(moment=moment, out=out):
            if callable(moment):
                moment()
            train_module.train(config, out)

        ends = [run(killed, None if callable(moment) else moment)]
        if not out.exists():  # nothing was there yet
            ends.append(run(lambda out=out: train_module.train(config, out)))
        elif not RunFolder(out).is_finished:
            ends.append(run(lambda out=out: train_module.resume(out)))
        report[name] = ends
    (folder / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
Runs that are killed (SIGKILL) at chosen moments and resumed, each in a process of its own, one by command in two.

Started as a program, which loads everything once and then forks: ``python -m tests.training.killer FOLDER``. It leaves
``FOLDER/<name>`` for every case, ``FOLDER/whole`` and ``FOLDER/whole of two`` for runs that were never stopped (the
latter is asked for twice), and ``FOLDER/report.json`` with how each process ended.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch._dynamo  # noqa: F401  # which the first optimiser of each process would import

import pyro_spvae.checkpoint
import pyro_spvae.training.train as train_module
from pyro_spvae.commands import app
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
    "before the results are written": before(train_module, "_write_pictures", 1),
}
TIMES = (0.1, 0.2, 0.4)  # seconds after which runs are killed from outside, wherever they are


def fork(action, **environment: str) -> int:
    """Starts an action in a process of its own."""
    child = os.fork()
    if child == 0:
        try:
            os.environ.update(environment)
            action()
        except SystemExit as error:
            os._exit(error.code if isinstance(error.code, int) else 1)
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return child


def end(child: int) -> int:
    """Exit status of a process: negative if it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(action, after=None) -> int:
    """Exit status of an action, killed after some seconds if it is to be."""
    child = fork(action)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    return end(child)


def run_two(action) -> int:
    """Exit status of both of two processes that share an action; where the first is killed, the other is too."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    address = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    first, second = (fork(action, RANK=rank, LOCAL_RANK=rank, **address) for rank in ("0", "1"))
    status = end(first)
    if status < 0:
        os.kill(second, signal.SIGKILL)
    other = end(second)
    return status if other in (status, -signal.SIGKILL) else other


def command(*args) -> Callable[[], None]:
    """Training by the command line."""
    return lambda: app(["train", *map(str, args), "--quiet"])


def main(folder: Path) -> None:
    """All cases."""
    torch.set_num_threads(1)
    # they would take longer than all the rest, and no case depends on them
    train_module._write_pictures = lambda *args: None
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

    def go_on(moment, out, start, train, resume):
        """How a run and what is done after it ends."""

        def killed():
            if callable(moment):
                moment()
            train()

        ends = [start(killed) if callable(moment) else run(killed, moment)]
        if not out.exists():  # nothing was there yet
            ends.append(start(train))
        elif not RunFolder(out).is_finished:
            ends.append(start(resume))
        return ends

    report = {"whole": [run(lambda: train_module.train(config, folder / "whole"))]}
    for name, moment in (CASES | {f"after {seconds} seconds": seconds for seconds in TIMES}).items():
        out = folder / name
        train = functools.partial(train_module.train, config, out)
        report[name] = go_on(moment, out, run, train, functools.partial(train_module.resume, out))

    # in two processes
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    whole, two = (("--config", folder / "config.json", "--out", folder / name) for name in ("whole of two", "two"))
    report["whole of two"] = [run_two(command(*whole)), run_two(command(*whole))]  # the folder exists then
    resume = command("--resume", folder / "two")
    report["two"] = go_on(CASES["in the middle of an epoch"], folder / "two", run_two, command(*two), resume)
    (folder / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Runs that are killed (SIGKILL) at chosen moments, for processes that are forked to die."""

from __future__ import annotations

import dataclasses
import os
import signal

import pyro_spvae.checkpoint
import pyro_spvae.training.train as train_module
from pyro_spvae.training import run_folder
from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.trainer import Trainer
from tests.training.cases import TINY

STEPS, EPOCHS = 6, 3  # steps of an epoch
CONFIG = dataclasses.replace(
    TINY, epochs=EPOCHS, patience=EPOCHS, samples=4, schedule="cosine", preprocess="dequantize"
)  # fmt: skip


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
                return function(path, lambda file: write(_CutOff(file)))
            return function(*args, **kwargs)

        setattr(owner, name, wrapper)

    return arm


def die():
    """What kill -9 does."""
    os.kill(os.getpid(), signal.SIGKILL)


class _CutOff:
    """A file whose process dies in the middle of what is written to it."""

    def __init__(self, file):
        self.file = file

    def write(self, content):
        self.file.write(bytes(content)[: len(content) // 2])
        self.file.flush()
        die()

    def __getattr__(self, name):
        return getattr(self.file, name)


MOMENTS = {
    "while the folder is made": before(run_folder, "atomic_write", 2),
    "in the first step": before(Trainer, "_step", 1),
    "in the middle of an epoch": before(Trainer, "_step", STEPS + 3),
    "before metrics are written": before(RunFolder, "append_metrics", 2),
    "between metrics and checkpoint": before(RunFolder, "save", 3),
    "between best and last": before(RunFolder, "save", 2),
    "while a checkpoint is written": before(pyro_spvae.checkpoint, "atomic_write", 3, halfway=True),
    "before a checkpoint is renamed": before(os, "replace", 6),
    "while the test split is evaluated": before(train_module, "_results", 1),
    "before pictures are drawn": before(train_module, "_write_pictures", 1),
    "before the results are written": before(train_module, "_write_pictures", 2),
    "before it is said that there are results": before(train_module, "_say_finished", 1),
}

GOING_ON = {  # of a run that is finished
    "before its results count as old": before(RunFolder, "write_json", 1),
    "before its configuration is written": before(RunFolder, "write_json", 2),
    **{
        name: MOMENTS[name]
        for name in (
            "in the middle of an epoch",
            "between metrics and checkpoint",
            "while the test split is evaluated",
            "before it is said that there are results",
        )
    },
}


def act(moment, action, *args):
    """What is done until a moment, if one is named; without pictures, which would take longer than all the rest."""
    train_module._write_pictures = lambda *args: None
    if moment is not None:
        (MOMENTS | GOING_ON)[moment]()
    action(*args)

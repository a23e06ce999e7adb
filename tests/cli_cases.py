# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Calling the command line, and data files to call it with."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
from typer.testing import CliRunner

from pyro_spvae.commands import app

QUICK = ("--epochs", "2", "--samples", "10", "--hidden", "8", "--units", "2", "--latent-dim", "3")
FILES = {
    "config.json",
    "data.json",
    "metrics.jsonl",
    "results.json",
    "last.pt",
    "best.pt",
    "log.txt",
    "figures",
}


def invoke(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def train(*args):
    result = invoke("train", *args)
    assert result.exit_code == 0, result.output
    return result


def python(*args, **options):
    """Runs Python in a process of its own."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYRO_SPVAE")}
    environment |= {"COLUMNS": "100", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, **options)


def processes(number, module, *args, **options):
    """Runs a module in several processes, as torchrun does."""
    return python(
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", number, "-m", module, *args), **options
    )


def write_files(folder):
    """Data files, good and bad."""
    random = np.random.default_rng(0)
    folder.mkdir()
    grey = random.random((40, 6, 5)).astype(np.float32)
    np.save(folder / "grey.npy", grey)
    np.savez(folder / "colour.npz", random.integers(0, 256, (40, 3, 5, 6), dtype=np.uint8))
    np.save(folder / "table.npy", random.normal(size=(40, 5)))
    np.save(folder / "column.npy", random.normal(size=(40, 1)))
    np.save(folder / "pair.npy", random.random((40, 2, 4, 4)))
    broken = grey.copy()
    broken[3, 2, 1] = np.nan
    np.save(folder / "nan.npy", broken)
    np.save(folder / "none.npy", grey[:0])
    np.save(folder / "pickle.npy", np.array([{"a": 1}, None], dtype=object), allow_pickle=True)
    np.save(folder / "huge.npy", random.normal(size=(40, 4)) * 1e30)
    (folder / "empty.npy").touch()
    (folder / "key.json").write_text('{"latentdim": 3}')
    (folder / "type.json").write_text('{"units": "four"}')
    return folder

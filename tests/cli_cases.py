# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Calling the command line, processes of its own, and data files to call it with."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from typer.testing import CliRunner

from pyro_spvae.commands import app, main

QUICK = ("--epochs", "2", "--samples", "10", "--hidden", "8", "--units", "2", "--latent-dim", "3")
FILES = {"config.json", "data.json", "metrics.jsonl", "status.json", "results.json", "log.txt", "figures"}
FILES |= {"last.pt", "best.pt"}
PLAIN = {"COLUMNS": "100", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}

# processes are forked from one that has imported once what takes each of them seconds
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["torch._dynamo", "pydantic", "sklearn.datasets", "pyro_spvae.training.train", "pyro_spvae.reproduce", __name__]
)


def invoke(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


def train(*args):
    result = invoke("train", *args)
    assert result.exit_code == 0, result.output
    return result


def refused(*args, started=False):
    """What a command says that ends with exit code 2: one line; alone, unless it had started."""
    result = invoke(*args)
    assert result.exit_code == 2 and "Error" not in result.stdout, result.output
    assert started or not result.stdout
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    return result.stderr.removeprefix("Error: ")


def python(*args, **options):
    """Runs a new interpreter."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYRO_SPVAE")} | PLAIN
    command = [sys.executable, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, **options)


class Forked:
    """
    An action in processes of its own, as many as ``number`` with what torchrun tells each. With ``after``, they are
    killed after some seconds. If one fails but by a refusal, the others are killed too.

    :ivar list codes: exit codes, negative of the signal for those that were killed.
    """

    def __init__(self, action, *args, number=1, after=None, cwd="."):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = str(free.getsockname()[1])
        launcher = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": str(number)}
        with tempfile.TemporaryDirectory() as folder:
            started = []
            for rank in map(str, range(number)):
                environment = PLAIN if number == 1 else PLAIN | launcher | {"RANK": rank, "LOCAL_RANK": rank}
                started.append(_FORKS.Process(target=_act, args=(action, args, f"{folder}/{rank}", cwd, environment)))
                started[-1].start()
            if after is not None:
                started[0].join(after)
                started[0].kill()
            for process in started:
                process.join()
                if process.exitcode not in (0, 2):
                    for other in started:
                        other.kill()
            self.codes = [process.exitcode for process in started]
            self.stdout, self.stderr = (
                "".join(path.read_text() for path in sorted(Path(folder).glob(f"*.{end}"))) for end in ("out", "err")
            )

    def succeed(self):
        assert not any(self.codes), self.stderr
        return self


def _act(action, args, output, cwd, environment):
    multiprocessing.set_start_method("fork", force=True)  # or locks of those that are killed are warned of at the end
    torch.set_num_threads(1)
    os.environ.update(environment)
    os.chdir(cwd)
    for number, end in ((1, "out"), (2, "err")):
        with open(f"{output}.{end}", "w") as file:
            os.dup2(file.fileno(), number)
    action(*args)


def command(*args):
    """The program ``pyro-spvae``, to be forked."""
    with contextlib.suppress(ValueError):
        sys.path.remove("")  # which a program that is installed has not
    sys.argv = ["pyro-spvae", *map(str, args)]
    main()


def write_files(folder):
    """Data files, good and bad."""
    random = np.random.default_rng(0)
    folder.mkdir()
    grey = random.random((40, 6, 5)).astype(np.float32)
    broken = grey.copy()
    broken[3, 2, 1] = np.nan
    arrays = {
        "grey": grey,
        "table": random.normal(size=(40, 5)),
        "column": random.normal(size=(40, 1)),
        "pair": random.random((40, 2, 4, 4)),
        "nan": broken,
        "none": grey[:0],
        "pickle": np.array([{"a": 1}, None], dtype=object),
        "huge": random.normal(size=(40, 4)) * 1e30,
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=True)
    np.savez(folder / "colour.npz", random.integers(0, 256, (40, 3, 5, 6), dtype=np.uint8))
    lines = [f"{random.normal():.4f},{'ab'[i % 2]},{i % 7 or ''}" for i in range(40)]
    (folder / "mixed.csv").write_text("\n".join(["height,group,visits", *lines]) + "\n")
    (folder / "empty.npy").touch()
    (folder / "key.json").write_text('{"latentdim": 3}')
    (folder / "type.json").write_text('{"units": "four"}')
    return folder

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Runs the tutorials; ``python -m tests.notebooks`` runs them, or those named behind it, in full and writes
their outputs into the files."""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# kernels of tests are forked from a process that has imported once what takes each of them seconds
_FORKS = multiprocessing.get_context("forkserver")
_PRELOADED = ["torch._dynamo", "sklearn.datasets", "pyro_spvae.training.train", "ipykernel.kernelapp", __name__]
_DIGITS = 900  # images, of which 400 are for training; half of what there are


class ThisPython(KernelSpecManager):
    """Knows one kernel: that of the running interpreter, whatever kernels are installed for the user or the system."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name=kernel_name, language="python")


class ForkedKernel:
    """A kernel in a forked process, with what ``jupyter_client`` asks of a ``subprocess.Popen``."""

    stdin = stdout = stderr = None

    def __init__(self, connection: str, env: dict[str, str], cwd: str) -> None:
        _FORKS.set_forkserver_preload(_PRELOADED)
        self.process = _FORKS.Process(target=_run_kernel, args=(connection, env, cwd))
        self.process.start()

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run_kernel(connection: str, env: dict[str, str], cwd: str) -> None:
    """A kernel to which scikit-learn has only some of its digits."""
    import sklearn.datasets
    from ipykernel.kernelapp import IPKernelApp

    digits = sklearn.datasets.load_digits()
    digits.images, digits.target = digits.images[:_DIGITS], digits.target[:_DIGITS]
    sklearn.datasets.load_digits = lambda: digits
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    IPKernelApp.launch_instance(["-f", connection])


class ForkingManager(AsyncKernelManager):
    """Forks its kernel."""

    async def _async_launch_kernel(self, kernel_cmd: list[str], **kw: Any) -> None:
        self.provisioner.process = ForkedKernel(self.connection_file, kw["env"], kw["cwd"])
        self._reconcile_connection_info(self.provisioner.connection_info)


def read(path: Path) -> NotebookNode:
    """The notebook, checked against the format's schema."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def execute(notebook: NotebookNode, folder: Path, smoke_test: bool) -> NotebookNode:
    """
    A copy of the notebook with the outputs of a fresh run.

    :param NotebookNode notebook: what to run; unchanged.
    :param Path folder: working directory of the run, and the place of IPython's and Jupyter's own files.
    :param bool smoke_test: set ``CI``, with which the tutorials shorten their loops; fewer digits; a forked kernel.
    :raises nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    env = {name: value for name, value in os.environ.items() if name not in ("CI", "MPLBACKEND")}
    env["IPYTHONDIR"] = str(folder / ".ipython")
    # tqdm's advice on a missing widget package is true, but no part of a tutorial
    env["PYTHONWARNINGS"] = ",".join(filter(None, [env.get("PYTHONWARNINGS"), "ignore:IProgress not found"]))
    if smoke_test:
        env["CI"] = "1"
    connection = str(folder / "kernel.json")
    manager = (ForkingManager if smoke_test else AsyncKernelManager)(
        kernel_spec_manager=ThisPython(), connection_file=connection
    )
    client = NotebookClient(
        copy.deepcopy(notebook),
        km=manager,
        timeout=None,
        # limits of a kernel that hangs, which no slow machine reaches
        startup_timeout=3600,
        iopub_timeout=3600,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    return client.execute(env=env, cleanup_kc=True)  # a manager that was passed in would be left running


def scrub(notebook: NotebookNode) -> NotebookNode:
    """The notebook without what differs from machine to machine; changed in place."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for place, cell in enumerate(notebook.cells):
        cell.metadata = nbformat.from_dict({})
        cell.id = f"cell-{place:02d}"
    return notebook


def main() -> None:
    """Runs notebooks in full and rewrites them: those that are named, such as 09_tables, or all."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *(path.stem for path in NOTEBOOKS)], metavar="NAME")
    names = parser.parse_args().names
    for path in NOTEBOOKS:
        if names and path.stem not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            notebook = scrub(execute(read(path), Path(folder), smoke_test=False))
        nbformat.validate(notebook)
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main()

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What the verbs share: opening a run, choosing rows, drawing by a seed, and writing what was found."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_spvae import distributed, plots
from pyro_spvae.checkpoint import atomic_write
from pyro_spvae.data import DATA_SETS, DataSet, Rows
from pyro_spvae.models import SPVAE
from pyro_spvae.training.build import CACHE
from pyro_spvae.training.lean import lean
from pyro_spvae.training.run import Run, open_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Report = Callable[[str], None]
Arrays = dict[str, NDArray[Any]]

SPLITS = ("test", "validation", "train")


def silent(line: str) -> None:
    """Takes a line of report and drops it."""


@dataclass(frozen=True, eq=False)
class Selection:
    """
    Rows that a run is asked about.

    :ivar DataSet data: the data set, preprocessed as in training.
    :ivar Rows rows: one of its splits.
    :ivar str split: which.
    :ivar str label: the split, behind the name of the data set if it is not the run's own; for file names.
    """

    data: DataSet
    rows: Rows
    split: str
    label: str


@dataclass(frozen=True, eq=False)
class Query:
    """
    A run that was opened to be asked.

    :ivar Run run: with its model on the device that was chosen.
    :ivar int seed: of what is drawn.
    :ivar torch.device device: where the model is.
    :ivar Path folder: where files go; made when the first is written.
    :ivar callable report: takes lines of text about what was written.
    """

    run: Run
    seed: int
    device: torch.device
    folder: Path
    report: Report

    @classmethod
    def open(
        cls,
        verb: str,
        path: str | os.PathLike[str],
        *,
        seed: int | None,
        device: str | None,
        out: str | os.PathLike[str] | None,
        report: Report,
        several_processes: bool = False,
    ) -> Query:
        """
        Opens a run; the options are those that all verbs have.

        :param str verb: name of the folder in the run that files go to unless ``out`` is given.
        :param path: the run folder.
        :param int seed: the run's by default.
        :param str device: see :func:`pyro_spvae.distributed.choose_device`; that of the run's configuration by default.
        :param out: folder for the files; made if it is not there.
        :param bool several_processes: whether the verb shares its work out among processes.
        :raises ValueError: if it is no run, or an option is unfit.
        """
        if distributed.launched() and not several_processes:
            raise ValueError(f"{verb} runs in one process, but several were launched; start it without torchrun")
        run = open_run(path)
        seed = run.config.seed if seed is None else seed
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise ValueError(f"seed is {seed!r}; an integer from 0 to 2^63 - 1 is needed")
        place = distributed.choose_device(run.config.device if device is None else device)
        folder = run.path / verb if out is None else Path(out)
        _check_folder(folder)
        run.spvae.to(place)
        return cls(run, seed, place, folder, report)

    @property
    def spvae(self) -> SPVAE:
        """The run's model."""
        return self.run.spvae

    def select(
        self, data: str | None, data_dir: str | os.PathLike[str] | None, download: bool, split: str
    ) -> Selection:
        """
        Rows to ask about.

        :param str data: name of a data set, or path of a file; the run's own by default.
        :param data_dir: folder of data sets that are not bundled; that of the run by default.
        :param bool download: whether missing files may be fetched.
        :param str split: ``test``, ``validation`` or ``train``.
        :raises ValueError: if there are no such data, or they are not of the model's kind.
        """
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; accepted are {', '.join(SPLITS)}")
        if data is not None and data not in DATA_SETS and Path(data).expanduser().exists():
            data = str(Path(data).expanduser().absolute())  # as the configuration has it
        found = self.run.data(data, data_dir, download)
        own = data is None or (self.run.record["name"] is not None and data == self.run.config.data)
        label = split if own else f"{_safe(found.name)}-{split}"
        return Selection(found, getattr(found, split).cached(CACHE), split, label)

    def count(self, selection: Selection, num: int | None, default: int | None = None) -> int:
        """
        How many rows to take, from the first.

        :param int num: how many are asked for; ``None`` for ``default``, or all if there are fewer.
        :raises ValueError: if there are not so many.
        """
        available = len(selection.rows)
        if num is None:
            return available if default is None else min(default, available)
        check_positive("num", num)
        if num > available:
            raise ValueError(
                f"num is {num}, but the split {selection.split} of {selection.data.name} has {available} rows"
            )
        return num

    def place(self, x: Tensor) -> Tensor:
        """A tensor on the model's device and of its type."""
        return x.to(self.device, next(self.spvae.parameters()).dtype)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """What is drawn inside follows from the seed; torch's generators outside are left alone."""
        devices = [self.device] if self.device.type == "cuda" else []
        with lean(), torch.no_grad(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.seed)
            yield

    def range(self) -> Arrays:
        """The ends of the range of the values, as arrays."""
        values = self.run.values
        return {"low": np.float32(values.low).reshape(()), "high": np.float32(values.high).reshape(())}

    def write(
        self,
        name: str,
        arrays: Mapping[str, NDArray[Any]] | None = None,
        results: Mapping[str, Any] | None = None,
        figure: Figure | None = None,
    ) -> None:
        """
        Writes ``name.npz``, ``name.json`` and ``name.png``, each at one go, and reports where they are.

        :raises ValueError: if that cannot be.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"the folder {self.folder} cannot be made: {error.strerror or error}") from error
        if arrays is not None:
            stored: dict[str, Any] = dict(arrays)
            self._write(f"{name}.npz", lambda path: atomic_write(path, lambda file: np.savez(file, **stored)))
        if results is not None:
            text = json.dumps(results, indent=2, allow_nan=False) + "\n"
            self._write(f"{name}.json", lambda path: atomic_write(path, lambda file: file.write(text.encode())))
        if figure is not None:
            self._write(f"{name}.png", lambda path: plots.save(figure, path))

    def _write(self, name: str, write: Callable[[Path], object]) -> None:
        write(self.folder / name)
        self.report(f"written to  {self.folder / name}")

    def name(self, *parts: str | None, **options: tuple[object, object]) -> str:
        """
        A file name from what matters, with the options that were set to something else than they are by default.

        :param parts: texts; ``None`` is left out.
        :param options: for each its value and its default.
        """
        found = [part for part in parts if part]
        options["seed"] = (self.seed, self.run.config.seed)
        found += [f"{name}-{value}" for name, (value, default) in options.items() if value != default]
        return "-".join(found)


def to_array(x: Tensor) -> NDArray[Any]:
    """A tensor as an array."""
    return x.detach().cpu().numpy()


def check_positive(name: str, value: object) -> None:
    """
    :raises ValueError: for anything but a positive integer.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}; a positive integer is needed")


def _check_folder(folder: Path) -> None:
    """Refuses a folder that cannot be written to before anything is computed."""
    for path in (folder, *folder.parents):
        if os.path.lexists(path):
            if not path.is_dir():
                raise ValueError(f"out is {folder}, but {path} is no folder")
            if not os.access(path, os.W_OK):
                raise ValueError(f"out is {folder}, but the folder {path} is not writable")
            return


def _safe(name: str) -> str:
    """The name of a data set, that of a file without its ending, as part of a file name."""
    return re.sub(r"[^\w.+-]+", "-", Path(name).stem).strip("-.") or "data"

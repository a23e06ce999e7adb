# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What commands share that ask a run: opening it, choosing rows, drawing by a seed, and writing what was found."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_spvae import checks, distributed, plots
from pyro_spvae.checkpoint import atomic_write
from pyro_spvae.checks import positive_integer
from pyro_spvae.commands.options import Report, RowOptions, RunOptions, Split
from pyro_spvae.data import DATA_SETS, DataSet, Rows
from pyro_spvae.data.frames import decoded
from pyro_spvae.data.table_files import is_table_file, read_frame
from pyro_spvae.evaluating import block, evaluating
from pyro_spvae.models import SPVAE
from pyro_spvae.training.reading import CACHE
from pyro_spvae.training.run import Run, open_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Selection:
    """
    Rows that a run is asked about.

    :ivar DataSet data: the data set, preprocessed as in training.
    :ivar Rows rows: one of its splits.
    :ivar str split: which, or ``all``.
    :ivar Path file: the table that the rows are numbered in, if they are those of one.
    :ivar str label: the split, behind the name of the data set if it is not the run's own; for file names.
    """

    data: DataSet
    rows: Rows
    split: str
    label: str
    file: Path | None = None

    @property
    def described(self) -> str:
        """The rows in a message."""
        return self.data.name if self.split == "all" else f"the split {self.split} of {self.data.name}"


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
        cls, command: str, path: str | os.PathLike[str], how: RunOptions, several_processes: bool = False
    ) -> Query:
        """
        Opens a run.

        :param str command: name of the folder in the run that files go to unless another is given.
        :param path: the run folder.
        :param RunOptions how: seed and device are the run's by default; the folder is made if it is not there.
        :param bool several_processes: whether the command shares its work out among processes.
        :raises ValueError: if it is no run, or an option is unfit.
        """
        if distributed.launched() and not several_processes:
            raise ValueError(f"{command} runs in one process, but several were launched; start it without torchrun")
        run = open_run(path)
        seed = checks.seed(run.config.seed if how.seed is None else how.seed)
        place = distributed.choose_device(run.config.device if how.device is None else how.device)
        folder = run.path / command if how.out is None else Path(how.out)
        _check_folder(folder)
        run.spvae.to(place)
        return cls(run, seed, place, folder, how.report)

    @property
    def spvae(self) -> SPVAE:
        """The run's model."""
        return self.run.spvae

    def select(self, options: RowOptions) -> Selection:
        """
        Rows to ask about.

        :param RowOptions options: data and their folder are the run's own by default.
        :raises ValueError: if there are no such data, or they are not of the model's kind.
        """
        data, split = options.data, options.split
        if split is not None and split not in get_args(Split):
            raise ValueError(f"split is {split!r}; accepted are {', '.join(get_args(Split))}")
        if data is not None and data not in DATA_SETS and Path(data).expanduser().exists():
            data = str(Path(data).expanduser().absolute())  # as the configuration has it
        own = data is None or (self.run.record["name"] is not None and data == self.run.config.data)
        if split is None:
            split = "test" if data is None or data in DATA_SETS else "all"
        whole = split == "all"
        found = self.run.data(data, options.data_dir, options.download, options.missing, undivided=whole)
        label = split if own else f"{_safe(found.name)}-{split}"
        rows = getattr(found, "test" if whole else split).cached(CACHE)
        path = Path((self._own_file(split) if own else data) or "").expanduser()
        return Selection(found, rows, split, label, path if is_table_file(path) else None)

    def _own_file(self, split: str) -> str | None:
        """What holds a split of the run's own data; ``None`` of all rows where these are of several files."""
        config = self.run.config
        of_splits = {"validation": config.validation_data, "test": config.test_data}
        if split == "all" and any(of_splits.values()):
            return None
        return of_splits.get(split) or config.data

    def count(self, selection: Selection, num: int | None, default: int | None = None) -> int:
        """
        How many rows to take, from the first.

        :param int num: how many are asked for; ``None`` for ``default``, or all if there are fewer.
        :raises ValueError: if there are not so many.
        """
        available = len(selection.rows)
        if num is None:
            return available if default is None else min(default, available)
        num = positive_integer("num", num)
        if num > available:
            raise ValueError(f"num is {num}, but {selection.described} has {available} rows")
        return num

    def read(self, selection: Selection, stop: int, start: int = 0) -> tuple[Tensor, Tensor | None]:
        """Rows on the model's device and of its type, and the mask of entries that are not missing, if any are."""
        return block(self.spvae, selection.rows, None, start, stop)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """What is drawn inside follows from the seed; torch's generators outside are left alone."""
        with evaluating(self.spvae, self.seed):
            yield

    def answer(self, name: str, arrays: Arrays, picture: Callable[[float, float], Figure]) -> Arrays:
        """
        Writes arrays with the range of their values, ``low`` and ``high``, and for images a picture.

        :param callable picture: from the ends of the range to a figure.
        :returns: what was written.
        """
        low, high = self.run.values.low, self.run.values.high
        arrays = arrays | {"low": np.array(low, np.float32), "high": np.array(high, np.float32)}
        self.write(name, arrays, figure=picture(low, high) if self.run.is_image else None)
        return arrays

    def write_rows(self, name: str, x: Tensor) -> None:
        """
        Writes rows of a table ``[N, D]`` as ``name.csv``, in the names of its columns and categories, and reports where
        it is; nothing of images, and where columns are not known.

        :raises ValueError: if that cannot be.
        """
        if self.run.columns is not None:
            self.write_table(name, decoded(x, self.run.columns))

    def write_completed(self, name: str, selection: Selection, x: Tensor, observed: Tensor) -> None:
        """
        Writes completed rows of a table as ``name.csv``: those of the file, with all of its columns, in which entries
        that were not seen are filled in; where they are of no file, as :meth:`write_rows`.

        :param Tensor x: the first of the selected rows, ``[n, D]``.
        :param Tensor observed: ``bool``, likewise, True = as in the file.
        :raises ValueError: if that cannot be.
        """
        import pandas

        columns = self.run.columns
        if columns is None or selection.file is None:
            self.write_rows(name, x)
            return
        frame = read_frame(selection.file, texts=None).iloc[selection.rows.numbers[: len(x)].numpy()]
        completed, seen = decoded(x, columns), to_array(observed)
        frame = frame.reset_index(drop=True).astype(object)
        for place, column in enumerate(columns):
            values = pandas.Series(list(np.asarray(completed[column.name])), dtype=object)  # the digits of their type
            frame[column.name] = frame[column.name].where(seen[:, place], values)
        self.write_table(name, frame)

    def table_name(self, kind: str, name: str, usual: str) -> str:
        """
        What a table is called: its kind where the name of its arrays is the usual one, else both, so that the answer to
        another question has another name.
        """
        return kind if name == usual else f"{kind}-{name}"

    def remove_further(self, name: str, number: int) -> None:
        """Removes ``name-N.csv`` with N above ``number``, which are of an earlier answer that had more of them."""
        for path in self.folder.glob(f"{name}-*.csv"):
            last = path.stem.removeprefix(f"{name}-")
            if last.isdecimal() and int(last) > number:
                path.unlink()

    def write_table(self, name: str, frame: Any) -> None:
        """
        Writes a DataFrame as ``name.csv`` at one go, and reports where it is.

        :raises ValueError: if that cannot be.
        """
        text = frame.to_csv(index=False, lineterminator="\n")
        self._make_folder()
        self._write(f"{name}.csv", lambda path: atomic_write(path, lambda file: file.write(text.encode())))

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
        self._make_folder()
        if arrays is not None:
            stored: dict[str, Any] = dict(arrays)
            self._write(f"{name}.npz", lambda path: atomic_write(path, lambda file: np.savez(file, **stored)))
        if results is not None:
            text = json.dumps(results, indent=2, allow_nan=False) + "\n"
            self._write(f"{name}.json", lambda path: atomic_write(path, lambda file: file.write(text.encode())))
        if figure is not None:
            self._write(f"{name}.png", lambda path: plots.save(figure, path))

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"the folder {self.folder} cannot be made: {error.strerror or error}") from error

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


def _check_folder(folder: Path) -> None:
    """Refuses a folder that cannot be written to before anything is computed."""
    for path in (folder, *folder.parents):
        if os.path.lexists(path):
            if not path.is_dir():
                raise ValueError(f"out is {folder}, but {path} is no folder")
            try:  # which tells more than its permissions
                tempfile.TemporaryDirectory(dir=path).cleanup()
            except OSError:
                raise ValueError(f"out is {folder}, but the folder {path} is not writable") from None
            return


def _safe(name: str) -> str:
    """The name of a data set, that of a file without its ending, as part of a file name."""
    return re.sub(r"[^\w.+-]+", "-", Path(name).stem).strip("-.") or "data"

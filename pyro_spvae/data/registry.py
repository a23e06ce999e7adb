# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""One front door: a data set by its name, or by the path of a user's own file."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_spvae.checks import one_of
from pyro_spvae.data.column import Column
from pyro_spvae.data.columns_table import blocks_of
from pyro_spvae.data.dataset import MISSING, DataSet
from pyro_spvae.data.digits import load_digits
from pyro_spvae.data.files import FILE_SUFFIXES, load_file
from pyro_spvae.data.mixed_texts import text_notes
from pyro_spvae.data.published_sets import (
    load_caltech101_silhouettes,
    load_frey_faces,
    load_histopathology,
    load_omniglot_burda,
    load_static_mnist,
)
from pyro_spvae.data.tables import is_frame
from pyro_spvae.data.torchvision_sets import (
    load_cifar10,
    load_fashion_mnist,
    load_mnist,
    load_omniglot,
    load_svhn,
)

Loader = Callable[[Path | None, int, bool], DataSet]

DATA_SETS: dict[str, Loader] = {
    "digits": load_digits,
    "mnist": load_mnist,
    "fashion_mnist": load_fashion_mnist,
    "omniglot": load_omniglot,
    "svhn": load_svhn,
    "cifar10": load_cifar10,
    "static_mnist": load_static_mnist,
    "omniglot_burda": load_omniglot_burda,
    "caltech101_silhouettes": load_caltech101_silhouettes,
    "frey_faces": load_frey_faces,
    "histopathology": load_histopathology,
}
"""Every data set that has a name, and the function of ``(data_dir, seed, download)`` that loads it."""


def load_data(
    name_or_path: Any,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    download: bool = False,
    missing: str = "auto",
    validation: str | os.PathLike[str] | None = None,
    test: str | os.PathLike[str] | None = None,
    kinds: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    na: Sequence[str] = (),
    shape: Sequence[int] | None = None,
    columns: Sequence[Column] | None = None,
    undivided: bool = False,
    report: Callable[[str], None] | None = None,
) -> DataSet:
    """Load a data set.

    Example::

        >>> from pyro_spvae.data import load_data
        >>> digits = load_data("digits")
        >>> digits.train.shape, digits.values.levels
        (torch.Size([1297, 1, 8, 8]), 17)

    :param name_or_path: a name in ``DATA_SETS``; the path of a ``.csv``, ``.csv.gz``, ``.tsv``, ``.data``,
        ``.parquet``, ``.npy``, ``.npz`` or ``.pt`` file or of a folder of images (see ``load_file``); or a pandas
        DataFrame. What follows ``missing`` is for these.
    :param data_dir: folder of the standard data sets' files, in torchvision's layout.
    :param int seed: seed of the splits that the data themselves do not come with.
    :param bool download: whether missing files of a standard data set may be fetched; nothing is by default.
    :param str missing: ``"nan"`` to take NaN in a user's own file as entries that are missing, ``"none"`` to refuse it;
        by default it is taken so in tables and refused in images. Data sets that have a name lack no entries.
    :param validation: the file of the rows to validate by, where ``name_or_path`` is that of the rows to train by.
    :param test: likewise the file of the rows to test by.
    :param kinds: kinds of columns of a table by name, such as ``{"age": "count"}``, or families of distributions, such
        as ``gamma``; the others are chosen, see :func:`~pyro_spvae.data.kinds.describe_columns`.
    :param drop: names of columns to leave out.
    :param na: texts that mean that an entry of a table is missing, such as ``["n/a", "NULL", "?"]``, beside those of
        empty cells, ``NA`` and ``NaN``.
    :param shape: rows of a table are flat images of this height and width, or channels, height and width.
    :param columns: what the columns are, if that is known, as from the data set that a model was trained on; columns of
        a file are found by their names.
    :param bool undivided: draw no splits; each is all rows, in the order of the file.
    :param callable report: takes sentences about columns that may not be what they were taken for, such as those of
        numbers with a few texts among them; by default they are warnings.
    :raises ValueError: if there is no such data set or file, a file it needs is missing, or its content is unfit.
    """
    one_of("missing", missing, MISSING)
    drop, na = check_options(kinds, drop, na)
    options: dict[str, Any] = {"seed": seed, "missing": missing, "kinds": kinds, "drop": drop, "na": na, "shape": shape}
    options |= {"columns": columns, "undivided": undivided}
    of_files: dict[str, Any] = {"validation": validation, "test": test}
    if is_frame(name_or_path) or any(is_frame(rows) for rows in of_files.values()):
        for split, rows in {"train": name_or_path, **of_files}.items():
            if rows is not None and not is_frame(rows):
                raise ValueError(f"the rows of the split {split} are {rows!r}, but others are a DataFrame; give one")
        found = load_file(name_or_path, **options, **of_files)
        return found if columns is not None else _told(found, kinds, report)
    name = os.fspath(name_or_path)
    if name in DATA_SETS:
        given = {"kinds": kinds, "drop": drop, "na": na, "shape": shape, **of_files}
        for option, value in given.items():
            if value:
                raise ValueError(f"{option} is given, but {name} is no file of one's own; leave it out")
        data = DATA_SETS[name](None if data_dir is None else Path(data_dir).expanduser(), seed, download)
        return data.undivided() if undivided else data
    path = Path(name).expanduser()
    try:
        if name and path.is_dir() or path.name.lower().endswith(FILE_SUFFIXES):
            others: dict[str, Any] = {
                split: None if own is None else Path(own).expanduser() for split, own in of_files.items()
            }
            found = load_file(path, **options, **others)
            return found if columns is not None else _told(found, kinds, report)
        exists = bool(name) and path.exists()
    except OSError as error:  # a name that is no path, a folder that may not be read
        raise ValueError(f"the data {name!r} cannot be read: {error.strerror or error}.") from None
    if exists:
        raise ValueError(
            f"the data file {name} is of an unknown kind; {', '.join(FILE_SUFFIXES)} files and folders of images can "
            "be read."
        )
    near = difflib.get_close_matches(name, DATA_SETS, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(
        f"{name!r} is no known data set; {hint}give one of {', '.join(DATA_SETS)}, or the path of a "
        f"{', '.join(FILE_SUFFIXES)} file or of a folder of images."
    )


def _told(data: DataSet, kinds: Mapping[str, str] | None, report: Callable[[str], None] | None) -> DataSet:
    """Tells of columns that were chosen to be of categories for a few texts among numbers."""
    for note in () if data.columns is None else text_notes(data.columns, blocks_of(data), kinds or ()):
        if report is None:
            warnings.warn(note, stacklevel=3)
        else:
            report(note)
    return data


def check_options(kinds: Any, drop: Any, na: Any = ()) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """
    :returns: the names of the columns that are to be dropped, and the texts that mean missing.
    :raises ValueError: if ``kinds`` is no dict of texts, ``drop`` is no name, or list of names, of columns, or ``na``
        is no text, or list of texts.
    """
    if kinds is not None and not (
        isinstance(kinds, Mapping) and all(isinstance(text, str) for pair in kinds.items() for text in pair)
    ):
        raise ValueError(
            f"kinds is {kinds!r}; a dict from names of columns to kinds is needed, as in {{'age': 'count'}}"
        )
    names, texts = ((given,) if isinstance(given, str) else given for given in (drop, na))
    for option, given, listed, what in (("drop", drop, names, "names of columns"), ("na", na, texts, "texts")):
        if not isinstance(listed, Sequence) or not all(isinstance(name, str) for name in listed):
            raise ValueError(f"{option} is {given!r}; a list of {what} is needed")
    return tuple(names), tuple(texts)

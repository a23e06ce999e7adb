# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A user's own data: a table, arrays in a ``.npy``, ``.npz`` or ``.pt`` file, or a folder of images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_spvae.data.array_files import read_arrays, type_name
from pyro_spvae.data.column import Column, numbered
from pyro_spvae.data.column_summary import ColumnSummary
from pyro_spvae.data.dataset import SPLITS, DataSet
from pyro_spvae.data.image_folder import read_image_folder
from pyro_spvae.data.kinds import listed
from pyro_spvae.data.learned import learned
from pyro_spvae.data.preprocessing import MAX_LEVELS
from pyro_spvae.data.rows import Rows, together
from pyro_spvae.data.splits import shuffled_split
from pyro_spvae.data.table_files import TABLE_SUFFIXES, is_table_file
from pyro_spvae.data.table_sets import learned_of, named_columns, read_numbers, read_tables, rounded
from pyro_spvae.data.values import Values, is_grey_levels

FILE_SUFFIXES = (*TABLE_SUFFIXES, ".npy", ".npz", ".pt")

_HELD_OUT = 10  # one row in ten makes a held-out split
_FEW_LEVELS = 16  # bytes up to this value are taken for levels of their own, and not for dark 8-bit images


def load_file(
    path: Any,
    *,
    seed: int = 0,
    missing: str = "auto",
    validation: Path | None = None,
    test: Path | None = None,
    kinds: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    na: Sequence[str] = (),
    shape: Sequence[int] | None = None,
    columns: Sequence[Column] | None = None,
    undivided: bool = False,
) -> DataSet:
    """Load a data set from a table, a ``.npy``, ``.npz`` or ``.pt`` file, or from a folder of images.

    **Tables.** For ``.csv``, ``.tsv``, ``.data`` and ``.parquet`` files see
    :func:`~pyro_spvae.data.table_files.read_frame`; texts become categories, see
    :func:`~pyro_spvae.data.frames.coded`. The rows hold the file's own units, and the numbers 0, 1, .. of categories.

    **Arrays.** A file holds a single array of any name; or else one named ``x``; or else the splits ``train``,
    ``validation`` (or ``valid``, ``val``) and ``test``, each also with ``x_`` before it. A split that it lacks is drawn
    from the rows of the array or of ``train`` by ``seed``, a tenth of them each. A ``.pt`` file holds one tensor, or a
    dict of tensors with these names.

    **Labels**, an integer for each row, are ``labels`` beside a single array or ``x``, and ``train_labels``,
    ``validation_labels`` and ``test_labels`` beside splits; rows that are drawn from ``train`` keep theirs. All other
    arrays are left alone.

    **Shapes.** ``[N, H, W]`` and ``[N, C, H, W]`` are images, ``[N, D]`` is a table, whose columns are called
    ``column 1``, ``column 2`` and so on, and described by :func:`~pyro_spvae.data.kinds.describe_columns`. With
    ``shape``, rows of a table are flat images.

    **Images.** For a folder see :func:`~pyro_spvae.data.image_folder.read_image_folder`.

    **Memory.** ``.npy`` files are mapped into memory and read row by row when rows are asked for, so they may be larger
    than it (those in another byte order than the machine's are read once). ``.pt`` files are mapped too, and may be as
    large as memory. All others are read once.

    **Kind of values**, from type and range over all splits, of entries that are not missing:

    - booleans, and numbers of any type that are all 0 or 1: 2 levels;
    - bytes (uint8) with a value above 16: 256 levels, because an 8-bit image need not contain its brightest level;
    - other integers from 0 to at most 65,535: as many levels as the largest value needs;
    - floats in [0, 1]: continuous between 0 and 1;
    - other floats, and integers outside those bounds: continuous between the smallest and the largest that occur.

    :param path: the file or folder; objects are never unpickled from it. Or a pandas DataFrame.
    :param int seed: seed of the splits that the file lacks.
    :param str missing: see :class:`~pyro_spvae.data.DataSet`.
    :param validation: a file of the rows to validate by, if ``path`` holds one split alone.
    :param test: likewise of those to test by.
    :param kinds: kinds of columns of a table by name, or families of distributions; the others are chosen.
    :param drop: names of columns to leave out.
    :param na: texts of a table that mean that an entry is missing, beside those that always do.
    :param shape: height and width of flat images, or channels, height and width.
    :param columns: what the columns are, if that is known: those of a file are found by their names.
    :param bool undivided: draw no splits; each is all rows, in the order of the file.
    :raises ValueError: if the file is missing or cannot be read, holds no array that fits, too few rows to split,
        labels that are not an integer for each row, or values that are not finite numbers; or columns do not fit.
    """
    paths = {split: own for split, own in zip(SPLITS, (path, validation, test), strict=True) if own is not None}
    name = path.name if isinstance(path, Path) else "DataFrame"
    of_table = not isinstance(path, Path) or is_table_file(path)
    for own in paths.values():
        if (not isinstance(own, Path) or is_table_file(own)) != of_table:
            raise ValueError(f"the splits are in {name} and {own.name}, but files of one kind are needed")
    known, labels = columns, dict[str, Tensor]()
    if na and not of_table:
        raise ValueError(f"na is {list(na)}, texts of a table, but {name} holds no texts; leave it out")
    if of_table and shape is None:
        return _table_set(read_tables(paths, kinds, drop, known, na), path, name, seed, missing, known, undivided)
    elif of_table:
        found = read_numbers(paths, drop, na)
    else:
        found, labels = _arrays(paths)
    if shape is not None:
        found = {split: _shaped(_called(paths.get(split, path)), x, shape) for split, x in found.items()}
    flat, dtype = found["train"].dim() == 2, found["train"].dtype
    names: list[str] = []
    if not flat and (kinds or (drop and not of_table)):
        raise ValueError(f"{'kinds' if kinds else 'drop'} names columns, but {name} holds images, which have none")
    if flat:
        found, names = _without(found, drop, None if known is None else len(known))
    rows = _all_rows(found, labels) if undivided else _split_rows(path, found, labels, seed)
    values = _kind_of_values(dtype, list(rows.values()))
    number = rows["train"].shape[1]
    if flat and known is not None and len(known) != number:
        raise ValueError(f"the {_called(path)} has {number} columns, but {len(known)} are needed")
    columns = ([Column(own, "real") for own in names] if known is None else known) if flat else None  # for messages
    data = DataSet(name, rows["train"], rows["validation"], rows["test"], values, missing, columns)
    if known is not None or not flat:
        return data
    return data.described(learned_of(named_columns(found, names, kinds, f"the {_called(path)}"), data.train))


def _table_set(
    tables: tuple[dict[str, list[Tensor]], tuple[Column, ...], list[ColumnSummary]],
    path: Any,
    name: str,
    seed: int,
    missing: str,
    known: Sequence[Column] | None,
    undivided: bool,
) -> DataSet:
    """What :func:`load_file` returns of tables, of which it is known what they hold."""
    exact, columns, summary = tables
    found = {split: rounded(x) for split, x in exact.items()}
    rows = _all_rows(found, {}) if undivided else _split_rows(path, found, {}, seed)
    ends = [float(np.float32(end)) for own in summary for end in (own.low, own.high) if own.seen]
    whole = all(own.whole for own in summary)
    low, high = (min(ends), max(ends)) if ends else (0.0, 0.0)
    values = _kind(torch.int64 if whole else torch.float32, low, high, whole and low >= 0 and high <= 1)
    finite = math.isfinite(low) and math.isfinite(high) and all(own.seen == own.entries for own in summary)
    train, validation, test = (rows[split] for split in SPLITS)
    data = DataSet(name, train, validation, test, values, missing, columns, checked=finite)
    if known is None:
        index = None if train.index is None else torch.from_numpy(np.sort(train.index.numpy()))  # as memory is
        seen = (column if index is None else column.index_select(0, index) for column in exact["train"])
        data = data.described(list(map(learned, columns, seen)))
    return data


def _called(path: Any) -> str:
    if not isinstance(path, Path):
        return "DataFrame"
    return f"data {'folder' if path.is_dir() else 'file'} {path}"


def _arrays(paths: Mapping[str, Path]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Arrays and labels by split, of one file or folder or of one for each split."""
    found: dict[str, Tensor] = {}
    labels: dict[str, Tensor] = {}
    for split, path in paths.items():
        own, own_labels = (read_image_folder(path), {}) if path.is_dir() else read_arrays(path)
        if len(paths) == 1:
            return own, own_labels
        if list(own) != ["train"]:
            raise ValueError(f"the {_called(path)} holds {' and '.join(own)}, but the one split {split} is needed")
        found[split] = own["train"]
        labels |= {split: own_labels["train"]} if own_labels else {}
        if (found[split].dtype, found[split].shape[1:]) != (found["train"].dtype, found["train"].shape[1:]):
            given = ", ".join(f"{name} {type_name(x)} {list(x.shape)}" for name, x in found.items())
            raise ValueError(f"the files of the splits must share type and row shape, but they are {given}")
    return found, labels


def _shaped(what: str, x: Tensor, shape: Sequence[int]) -> Tensor:
    """Rows of a table as images ``[N, C, H, W]``."""
    if len(shape) not in (2, 3):
        raise ValueError(f"shape is {list(shape)}; height and width, or channels, height and width, are needed")
    image = (1, *shape)[-3:]
    if x.dim() == 4 and tuple(x.shape[1:]) == image:
        return x
    if x.dim() != 2 or x.shape[1] != math.prod(shape):
        raise ValueError(
            f"shape is {list(shape)}, {math.prod(shape)} entries, but rows of the {what} have the shape "
            f"{list(x.shape[1:])}"
        )
    return x.unflatten(1, image)


def _without(found: dict[str, Tensor], drop: Sequence[str], wanted: int | None) -> tuple[dict[str, Tensor], list[str]]:
    """Tables without some of their columns, and the names of the others; where so many are wanted, it may be done."""
    number = found["train"].shape[1]
    names = [numbered(i) for i in range(number)]
    unknown = [name for name in drop if name not in names]
    if not drop or wanted == number:
        return found, names
    if unknown or len(set(drop)) == number:
        raise ValueError(f"drop is {', '.join(drop)}, but the columns are {listed(names)}; name some of them")
    kept = [place for place, name in enumerate(names) if name not in drop]
    return {split: x[:, kept] for split, x in found.items()}, [names[place] for place in kept]


def _all_rows(found: dict[str, Tensor], labels: dict[str, Tensor]) -> dict[str, Rows]:
    """All rows in the place of each split."""
    of_splits = {split: Rows(x, stream=SPLITS.index(split), labels=labels.get(split)) for split, x in found.items()}
    return dict.fromkeys(SPLITS, together([of_splits[split] for split in SPLITS if split in of_splits]))


def _split_rows(path: Any, found: dict[str, Tensor], labels: dict[str, Tensor], seed: int) -> dict[str, Rows]:
    """All three splits, those that are missing drawn from ``train``: row numbers of the one array, no copies."""
    missing = [split for split in SPLITS if split not in found]
    rows = {split: Rows(x, stream=SPLITS.index(split), labels=labels.get(split)) for split, x in found.items()}
    if not missing:
        return {split: rows[split] for split in SPLITS}
    number = len(found["train"])
    if number < _HELD_OUT:
        raise ValueError(
            f"the {_called(path)} has {number} rows to draw the "
            f"{' and '.join(missing)} split from, but at least {_HELD_OUT} are needed."
        )
    held_out = number // _HELD_OUT
    sizes = [number - held_out * len(missing)] + [held_out] * len(missing)
    for split, index in zip(["train", *missing], shuffled_split(number, sizes, seed), strict=True):
        rows[split] = Rows(found["train"], index, stream=SPLITS.index(split), labels=labels.get("train"))
    return {split: rows[split] for split in SPLITS}


def _kind_of_values(dtype: torch.dtype, splits: list[Rows]) -> Values:
    """See ``load_file``; ``dtype`` is the type that the values had in the file."""
    # After the conversion to float32, whose rounding may pass the bounds that the file's own type has.
    low, high, binary = math.inf, -math.inf, True
    for block in itertools.chain.from_iterable(rows.scan("reading") for rows in splits):
        missing = block.isnan() if dtype.is_floating_point else None
        if missing is not None and bool(missing.any()):
            block = block[~missing]
        if block.numel():
            low, high = min(low, float(block.min())), max(high, float(block.max()))
            binary = binary and is_grey_levels(block, 2)
    return _kind(dtype, low, high, binary)


def _kind(dtype: torch.dtype, low: float, high: float, binary: bool) -> Values:
    if binary:
        return Values.grey_levels(2)
    if not dtype.is_floating_point and 0 <= low and high < MAX_LEVELS:
        return Values.grey_levels(256 if dtype == torch.uint8 and high > _FEW_LEVELS else int(high) + 1)
    if 0 <= low and high <= 1:
        return Values(low=0, high=1)
    return Values(low=low, high=high, bounded=False)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Tables of one file, or of a file for each split, as numbers with columns."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_spvae.data.column import Column
from pyro_spvae.data.column_summary import ColumnSummary
from pyro_spvae.data.frames import are_number_objects, coded, encoded, number_name, texts_of
from pyro_spvae.data.kinds import chosen_columns, first_in, listed
from pyro_spvae.data.learned import learned
from pyro_spvae.data.rows import Rows
from pyro_spvae.data.table_files import is_typed_file, named_frame, read_frame

_BLOCK = 2**22  # values that are looked at together
_TURNED = 4096  # rows
_HELD = 2**28  # values that are held together


def read_tables(
    paths: Mapping[str, Any],
    kinds: Mapping[str, str] | None = None,
    drop: Sequence[str] = (),
    columns: Sequence[Column] | None = None,
    na: Sequence[str] = (),
) -> tuple[dict[str, list[Tensor]], tuple[Column, ...], list[ColumnSummary]]:
    """
    The tables of files that share their columns, in any order.

    :param paths: files by split, or DataFrames.
    :param kinds: kinds or families by name of column; the others are chosen from all files together.
    :param drop: columns to leave out.
    :param columns: what the columns are, if that is known; then nothing is chosen, and columns that are to be dropped
        need not be there.
    :param na: further texts that mean that an entry is missing.
    :returns: by split columns ``[N]``, float64, NaN = missing, not to be written to; what the columns are,
        with nothing learned yet; and what they hold.
    :raises ValueError: if a file cannot be read, or columns do not fit.
    """
    if columns is not None:
        frames = {split: _frame(path, (), texts_of(columns), na) for split, path in paths.items()}
        tables = {
            split: list(encoded(frame, columns, _called(paths[split]), known=drop).unbind(1))
            for split, frame in frames.items()
        }
        found = [ColumnSummary() for _ in columns]
        for table in tables.values():
            for summary, column in zip(found, table, strict=True):
                summary.look(column)
        return tables, tuple(columns), found
    frame, lengths = _together(paths, drop, na, alike=True)
    values, found, categories, kinds = coded(frame, kinds)
    parts = [column.split(lengths) for column in values]
    find = first_in((_called(path), [own[place] for own in parts]) for place, path in enumerate(paths.values()))
    chosen = chosen_columns(found, list(frame.columns), kinds, categories, find)
    check_seen(found, _called(next(iter(paths.values()))))
    return {split: [own[place] for own in parts] for place, split in enumerate(paths)}, chosen, found


def read_numbers(paths: Mapping[str, Any], drop: Sequence[str] = (), na: Sequence[str] = ()) -> dict[str, Tensor]:
    """
    Tables of numbers alone, in an integer type if all of them are whole and none is missing: bytes if they fit.

    :raises ValueError: if a file cannot be read, or a column holds something else.
    """
    frame, lengths = _together(paths, drop, na)
    for name, kind in frame.dtypes.items():
        if kind.kind not in "iufb":
            raise ValueError(f"the column {name!r} of {_called(paths['train'])} holds other things than numbers")
    values = torch.from_numpy(frame.to_numpy(dtype="float64", na_value=math.nan).copy())
    if bool((values == values.floor()).all()) and bool((values.abs() < 2**31).all()):
        values = values.to(torch.uint8 if 0 <= values.min() and values.max() <= 255 else torch.int32)
    return dict(zip(paths, values.split(lengths), strict=True))


def _together(
    paths: Mapping[str, Any], drop: Sequence[str], na: Sequence[str], alike: bool = False
) -> tuple[Any, list[int]]:
    """
    The rows of all files in one frame, and how many each has.

    :param bool alike: whether columns that hold texts in one of them are read as texts in all.
    """
    import pandas

    frames = [_frame(path, drop, (), na) for path in paths.values()]
    names = list(frames[0].columns)
    for frame, path in zip(frames[1:], list(paths.values())[1:], strict=True):
        if sorted(frame.columns) != sorted(names):
            raise ValueError(
                f"{_called(path)} has the columns {listed(list(frame.columns))}, but that of train has {listed(names)}"
            )
    texts = {name for frame in frames for name in names if _holds_texts(frame[name])}
    if alike and texts:
        frames = [
            _texts_alike(path, frame, texts, drop, na) for path, frame in zip(paths.values(), frames, strict=True)
        ]
    whole = frames[0] if len(frames) == 1 else pandas.concat([frame[names] for frame in frames], ignore_index=True)
    return whole, [len(frame) for frame in frames]


def _texts_alike(path: Any, frame: Any, texts: Collection[str], drop: Sequence[str], na: Sequence[str]) -> Any:
    """
    A table whose columns hold texts where another one's do: those of a text file as they stand in it, truth values as
    well, and numbers of others by their names, so that one category has one name in all files, and at any time.
    """
    others = [name for name in texts if not _is_text(frame[name])]
    if not others:
        return frame
    if isinstance(path, Path) and not is_typed_file(path):
        return read_frame(path, drop, texts, na)
    named = {
        name: frame[name].astype(object).map(number_name, na_action="ignore")
        for name in others
        if not _holds_texts(frame[name])
    }
    return frame.assign(**named)


def _holds_texts(series: Any) -> bool:
    """Whether a column holds texts or truth values, which become categories by their names."""
    import pandas

    types = pandas.api.types
    if types.is_bool_dtype(series.dtype) or isinstance(series.dtype, pandas.CategoricalDtype):
        return True
    return not (types.is_numeric_dtype(series.dtype) or are_number_objects(series) or bool(series.isna().all()))


def _is_text(series: Any) -> bool:
    """Whether a column holds texts and nothing else."""
    import pandas

    return pandas.api.types.infer_dtype(series, skipna=True) in ("string", "empty")


def _frame(path: Any, drop: Sequence[str], texts: Collection[str], na: Sequence[str]) -> Any:
    return read_frame(path, drop, texts, na) if isinstance(path, Path) else named_frame(path, drop, na)


def _called(path: Any) -> str:
    return f"the data file {path}" if isinstance(path, Path) else "the DataFrame"


def named_columns(
    sources: Mapping[str, Tensor], names: Sequence[str], kinds: Mapping[str, str] | None, what: str
) -> tuple[Column, ...]:
    """
    The columns of arrays ``[N, D]``, with nothing learned yet; read a part at a time.

    :param sources: by split.
    :param str what: what they are called in messages.
    :raises ValueError: if a column does not fit.
    """
    found = [ColumnSummary() for _ in names]
    for source in sources.values():
        size = max(1, _BLOCK // len(names))
        for start in range(0, len(source), size):
            block = source[start : start + size].to(torch.float64)
            for summary, column in zip(found, block.unbind(1), strict=True):
                summary.look(column)
    called = {split: what if len(sources) == 1 else f"{split} of {what}" for split in sources}
    find = first_in((called[split], source.unbind(1)) for split, source in sources.items())
    chosen = chosen_columns(found, names, kinds, find=find)
    check_seen(found, what)
    return chosen


def check_seen(found: Sequence[ColumnSummary], what: str) -> None:
    """
    :raises ValueError: if more entries are missing than are seen.
    """
    entries, seen = (sum(getattr(summary, name) for summary in found) for name in ("entries", "seen"))
    if entries > 2 * seen:
        raise ValueError(
            f"{what} has more holes than values: {entries - seen:,} of its {entries:,} entries are "
            "missing; leave out the columns that are nearly empty by --drop NAME, drop=['NAME'] in Python"
        )


def rounded(columns: Sequence[Tensor]) -> Tensor:
    """Columns as the rows of a table in 32-bit floats, a few at a time, which the processor's cache holds."""
    rows = np.empty((len(columns[0]), len(columns)), dtype=np.float32)
    arrays = [column.numpy() for column in columns]
    with np.errstate(over="ignore"):
        for start in range(0, len(rows), _TURNED):
            for place, array in enumerate(arrays):
                rows[start : start + _TURNED, place] = array[start : start + _TURNED]
    return torch.from_numpy(rows)


def learned_of(columns: Sequence[Column], rows: Rows) -> tuple[Column, ...]:
    """Columns with what training rows are, some columns at a time, see :func:`~pyro_spvae.data.learned.learned`."""
    together = max(1, _HELD // len(rows))
    found: list[Column] = []
    for first in range(0, len(columns), together):
        some = columns[first : first + together]
        size = max(1, _BLOCK // len(columns))
        blocks = [block[:, first : first + len(some)] for block in rows.blocks(size)]
        x = torch.cat(blocks)
        found += [learned(column, x[:, place]) for place, column in enumerate(some)]
    return tuple(found)

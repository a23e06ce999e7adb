# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Files that hold tables, read as pandas' DataFrames: comma- or tab-separated texts, and Parquet."""

from __future__ import annotations

import csv
import gzip
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from pyro_spvae.data.column import numbered
from pyro_spvae.data.kinds import ColumnNames, check_names, listed
from pyro_spvae.data.mixed_texts import is_number

TABLE_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".data", ".parquet")

_FIRST = 2**20  # letters

MISSING_TEXTS = ("", "NA", "NaN", "nan")
"""What stands in a text file where an entry is missing."""


def is_table_file(path: Path) -> bool:
    """Whether a file is a table by its name."""
    return path.name.lower().endswith(TABLE_SUFFIXES)


def is_typed_file(path: Path) -> bool:
    """Whether a table knows the types of its columns, as texts do not."""
    return path.name.lower().endswith(".parquet")


def read_frame(path: Path, drop: Sequence[str] = (), texts: Collection[str] | None = (), na: Sequence[str] = ()) -> Any:
    """
    The table of a file as a DataFrame whose columns have names, each one name.

    **Texts.** ``.csv`` and ``.data`` are comma-separated, ``.tsv`` tab-separated, in UTF-8; ``.csv.gz`` and ``.tsv.gz``
    are packed. The first line is a header unless each of its fields is a number, or the file's name ends in ``.data``;
    without one columns are called ``column 1``, ``column 2`` and so on, and so is a column whose name is empty. Cells
    that are empty, NA or NaN are missing. Empty lines are skipped.

    **Parquet** needs pyarrow.

    :param drop: names of columns to leave out.
    :param texts: names of columns that are read as texts even if they hold numbers; ``None`` for all, with cells as
        they stand in the file, of which none is missing. Parquet files know what theirs are.
    :param na: further texts that stand where an entry is missing, in any column.
    :raises ValueError: in one sentence, if the file cannot be read, is empty, its rows have different lengths, two of
        its columns have one name, or a column that is to be dropped is none of them.
    """
    name = path.name.lower()
    if not path.is_file():
        raise ValueError(f"there is no data file {path}.")
    with _readable(path):
        if is_typed_file(path):
            return named_frame(_parquet(path), drop, na)
        separator = "\t" if ".tsv" in name[-7:] else ","
        return _text(path, separator, not name.endswith(".data"), drop, texts, na)


def named_frame(frame: Any, drop: Sequence[str] = (), na: Sequence[str] = ()) -> Any:
    """
    A DataFrame whose columns are called by texts, without those that are to be dropped.

    :param na: texts, and texts of numbers, that stand where an entry is missing, in any column.

    :raises ValueError: if it is empty, two columns have one name, or one that is to be dropped is none of them.
    """
    if not frame.size:
        raise _Refused(f"the table holds no values: {frame.shape[0]} rows of {frame.shape[1]} columns.")
    names = [str(name) if str(name).strip() else numbered(i) for i, name in enumerate(frame.columns)]
    check_names(names)
    frame = frame.set_axis(names, axis=1).drop(columns=list(_dropped(names, drop)))
    return frame.apply(_without, args=(na,)) if na else frame


def _without(series: Any, na: Sequence[str]) -> Any:
    """A column in which what means missing is; if only numbers are left beside it, one of numbers."""
    import pandas

    types = pandas.api.types
    if types.is_numeric_dtype(series.dtype) and not types.is_bool_dtype(series.dtype):
        return series.mask(series.isin([float(text) for text in na if is_number(text)]))
    missing = series.astype(str).isin(na) & series.notna()
    if not missing.any():
        return series
    if isinstance(series.dtype, pandas.CategoricalDtype):
        return series.cat.remove_categories([value for value in series.cat.categories if str(value) in na])
    rest = series.mask(missing)
    numbers = pandas.to_numeric(rest, errors="coerce")
    return numbers if (numbers.isna() == rest.isna()).all() else rest


class _Refused(ValueError):
    """A sentence about the file that needs no more explanation."""


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever goes wrong inside is told in one sentence that names the file."""
    try:
        yield
    except _Refused as error:
        raise ValueError(str(error)) from None
    except ColumnNames as error:
        raise ValueError(f"the data file {path} is refused: {error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"the data file {path} is no text in UTF-8 (byte {error.object[error.start]:#04x}); save it in UTF-8."
        ) from None
    except Exception as error:  # damaged bytes surface as almost any error of gzip, zlib, pandas or pyarrow
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"the data file {path} cannot be read as a table ({reason}).") from None


def _parquet(path: Path) -> Any:
    import pandas

    try:
        import pyarrow  # noqa: F401  # what pandas says without it names two packages
    except ImportError:
        raise _Refused(f"the data file {path} needs pyarrow to be read: pip install pyro-spvae[parquet]") from None
    return pandas.read_parquet(path, engine="pyarrow")


def _text(
    path: Path,
    separator: str,
    may_have_header: bool,
    drop: Sequence[str],
    texts: Collection[str] | None,
    na: Sequence[str],
) -> Any:
    import pandas

    first = next(_lines(path, separator), None)
    if first is None:
        raise _Refused(f"the data file {path} is empty.")
    fields = first[1]
    if len(fields) == 1 and len(by_semicolons := next(csv.reader(fields, delimiter=";"))) > 1:
        raise _Refused(
            f"the first line of the data file {path} is one field, and {len(by_semicolons)} if semicolons separate "
            "them; save it with commas, or give the DataFrame of pandas.read_csv(.., sep=';', decimal=',') in Python."
        )
    missing = [*MISSING_TEXTS, *na]
    has_header = may_have_header and not _are_numbers(fields, missing)
    names = [name.strip() if has_header and name.strip() else numbered(i) for i, name in enumerate(fields)]
    check_names(names)
    dropped = _dropped(names, drop)
    options: dict[str, Any] = {
        "sep": separator,
        "header": 0 if has_header else None,
        "names": names,
        "index_col": False,
        "usecols": [name for name in names if name not in dropped] if dropped else None,
        "dtype": dict.fromkeys((name for name in names if texts is None or name in texts), str) or None,
        "keep_default_na": False,
        "na_values": [] if texts is None else missing,
        "skipinitialspace": _has_spaces(path, separator),  # a fifth of the time
        "encoding": "utf-8",
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pandas.errors.ParserWarning)  # of fields that it would leave out
            warnings.simplefilter("error", pandas.errors.DtypeWarning)
            try:
                frame = pandas.read_csv(path, **options)
            except pandas.errors.DtypeWarning:  # parts of a column were numbers, and others texts
                frame = pandas.read_csv(path, **options, low_memory=False)
    except (pandas.errors.ParserError, pandas.errors.ParserWarning):
        _check_lengths(path, separator, len(names))
        raise
    if not len(frame):
        raise _Refused(f"the data file {path} has a header and no rows.")
    # a row that is too short is filled up with missing entries, the last one among them
    if dropped or frame[names[-1]].isna().any():
        _check_lengths(path, separator, len(names))
    return frame


def _check_lengths(path: Path, separator: str, needed: int) -> None:
    """
    :raises ValueError: if a row has another number of fields than needed; it says which line.
    """
    for line, fields in _lines(path, separator):
        if len(fields) != needed:
            raise _Refused(
                f"the rows of the data file {path} have different lengths: line {line} has {len(fields)} "
                f"field{'' if len(fields) == 1 else 's'}, the first line {needed}."
            )


def _lines(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not empty, as texts, each with the number of the line that it starts in."""
    with _opened(path) as file:
        rows, line = csv.reader(file, delimiter=separator, skipinitialspace=True), 1
        for fields in rows:
            if fields and (len(fields) > 1 or fields[0].strip()):
                yield line, fields
            line = rows.line_num + 1


def _has_spaces(path: Path, separator: str) -> bool:
    """Whether fields begin with spaces, as its first ones tell."""
    with _opened(path) as file:
        return f"{separator} " in file.read(_FIRST)


def _opened(path: Path) -> IO[str]:
    packed = path.name.lower().endswith(".gz")
    return cast("IO[str]", (gzip.open if packed else open)(path, "rt", encoding="utf-8-sig", newline=""))


def _are_numbers(fields: Sequence[str], missing: Sequence[str]) -> bool:
    """Whether a line holds numbers, and perhaps missing entries, and nothing else."""
    known = [field.strip() for field in fields if field.strip() not in missing]
    try:
        return bool([float(field) for field in known])
    except ValueError:
        return False


def _dropped(names: Sequence[str], drop: Sequence[str]) -> set[str]:
    unknown = [name for name in drop if name not in names]
    if unknown:
        raise _Refused(f"drop names the column {unknown[0]!r}, but the columns are {listed(names)}")
    if set(drop) == set(names):
        raise _Refused(f"drop names all of the columns, {listed(names)}; leave one")
    return set(drop)

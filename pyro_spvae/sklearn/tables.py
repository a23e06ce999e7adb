# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Between what scikit-learn's users give, arrays and DataFrames, and data sets with columns."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_spvae.data import Column, DataSet, Rows, Values
from pyro_spvae.data.frames import are_number_objects, encoded, missing_of, texts_of
from pyro_spvae.data.kinds import listed
from pyro_spvae.data.mixed_texts import text_notes
from pyro_spvae.data.splits import shuffled_split
from pyro_spvae.data.table_sets import learned_of, named_columns, read_tables
from pyro_spvae.data.tables import is_frame

_HELD_OUT = 10  # one row in ten is watched
_WHAT = "X"


def described(X: Any, kinds: Mapping[str, str] | None) -> tuple[Tensor, tuple[Column, ...]]:
    """
    A table that is new, as numbers ``[N, D]`` with NaN where entries are missing, and what its columns are.

    :param X: a float64 array, whose columns are called x0, x1 and so on, or a DataFrame.
    :param kinds: kinds of columns that are given, by name.
    :raises ValueError: if columns do not fit.
    """
    if is_frame(X):
        found, columns, _ = read_tables({"train": X}, kinds)
        for note in text_notes(columns, [found["train"]], kinds or ()):
            warnings.warn(note, stacklevel=2)
        return torch.stack(list(found["train"]), 1), columns
    x = _tensor(X)
    return x, named_columns({"train": x}, [f"x{place}" for place in range(x.shape[1])], kinds, _WHAT)


def numbers(X: Any, columns: Sequence[Column]) -> Tensor:
    """
    A table with known columns as numbers, likewise. Columns of a DataFrame are found by name, if its names are theirs;
    else, as those of an array, by place. Both hold what the fitted table held, of categories that are numbers these.

    :raises ValueError: if a value does not fit, or an array stands for texts.
    """
    names = [column.name for column in columns]
    if is_frame(X):
        own = list(map(str, X.columns))
        return encoded(X.set_axis(own if sorted(own) == sorted(names) else names, axis=1), columns, _WHAT)
    if not any(column.is_coded and not _are_codes(column) for column in columns):
        return _tensor(X)
    for column in columns:
        if column.is_coded and texts_of([column]):
            raise ValueError(
                f"X is an array, but the column {column.name!r} has the categories {listed(column.categories)}, which "
                "an array of numbers does not hold; give a DataFrame"
            )
    import pandas

    return encoded(pandas.DataFrame(X, columns=names), columns, _WHAT)


def _are_codes(column: Column) -> bool:
    """Whether the categories of a column are called as they are numbered."""
    return column.categories == tuple(map(str, range(len(column.categories))))


def in_units(values: NDArray[np.float64], columns: Sequence[Column]) -> NDArray[np.float64]:
    """Numbers ``[.., D]`` of which categories are what they are called, numbers as well."""
    found = values.copy()
    for place, column in enumerate(columns):
        if column.is_coded and not _are_codes(column):
            found[..., place] = np.array(column.categories, dtype=np.float64)[found[..., place].astype(np.intp)]
    return found


def _tensor(X: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.array(X, order="C"))  # a copy: arrays may be read-only, or run backwards


def data_set(x: Tensor, columns: Sequence[Column], seed: int) -> DataSet:
    """
    Rows to train by, and a tenth of them to watch, without those of which nothing is seen; units of columns are learned
    from all of them.

    :raises ValueError: if there are fewer than two.
    """
    x = x[~x.isnan().all(1)].float()
    if len(x) < 2:
        raise ValueError(f"X has {len(x)} rows with an entry that is seen; at least 2 are needed to fit and to watch")
    held_out = max(1, len(x) // _HELD_OUT)
    train, watched = (Rows(x, index) for index in shuffled_split(len(x), [len(x) - held_out, held_out], seed))
    seen = x[~x.isnan()]
    values = Values(low=float(seen.min()), high=float(seen.max()), bounded=False)
    return DataSet(_WHAT, train, watched, watched, values).described(learned_of(columns, Rows(x)))


def entries(X: Any, columns: Sequence[Column]) -> list[list[Any] | None]:
    """
    What a DataFrame's columns hold where their numbers are 0, 1, ..: values of its own types; ``None`` for columns
    whose numbers are their values, and of arrays.
    """
    if not is_frame(X):
        return [None] * len(columns)
    return [
        _entries(X.iloc[:, place], column.categories) if column.is_coded else None
        for place, column in enumerate(columns)
    ]


def _entries(series: Any, categories: Sequence[str]) -> list[Any]:
    import pandas

    types = pandas.api.types
    numeric = types.is_numeric_dtype(series.dtype) and not types.is_bool_dtype(series.dtype)
    if numeric or are_number_objects(series):
        return [float(text) for text in categories]
    texts = isinstance(series.dtype, pandas.CategoricalDtype)
    known = {str(value): value for value in (series.cat.categories if texts else series.dropna().unique())}
    return [known[text] for text in categories]


def as_frame(x: NDArray[np.float64], columns: Sequence[Column], known: Sequence[list[Any] | None]) -> Any:
    """Numbers ``[N, D]`` as a DataFrame of what the columns hold, see :func:`entries`."""
    import pandas

    named = zip(columns, x.T, known, strict=True)
    return pandas.DataFrame({column.name: _held(values, column, own) for column, values, own in named})


def filled_frame(
    X: Any, values: NDArray[np.float64], columns: Sequence[Column], known: Sequence[list[Any] | None]
) -> Any:
    """
    A DataFrame whose missing entries hold what their numbers are.

    Columns keep their types, but for numbers that are no categories: these become float64.

    :param values: ``[N, D]``, looked at where entries are missing.
    """
    import pandas

    found, names = X.copy(), list(map(str, X.columns))
    by_name = sorted(names) == sorted(column.name for column in columns)
    for place, (column, own) in enumerate(zip(columns, known, strict=True)):
        at = names.index(column.name) if by_name else place
        series = X.iloc[:, at]
        holes = missing_of(series)
        if not holes.any():
            continue
        if own is None:
            numeric = series.where(~holes, np.nan).to_numpy(dtype=np.float64, na_value=np.nan)
            changed = pandas.Series(np.where(holes, values[:, place], numeric), index=X.index)
        else:
            changed = _filled(series, holes, _held(values[holes, place], column, own), own)
        found.isetitem(at, changed)
    return found


def _filled(series: Any, holes: NDArray[np.bool_], values: list[Any], known: list[Any]) -> Any:
    """A column of categories with values in its holes, of its own type if that holds them."""
    import pandas

    if isinstance(series.dtype, pandas.CategoricalDtype):
        own = list(series.cat.categories)
        if not set(values) <= set(own):
            series = series.cat.set_categories([*known, *(value for value in own if value not in known)])
    elif holes.all() and series.dtype.kind in "Of":  # which pandas gives columns of nothing
        return pandas.Series(values, index=series.index)
    changed = series.copy()
    try:
        changed.iloc[np.flatnonzero(holes)] = values
    except (TypeError, ValueError):
        changed = series.astype(object)
        changed.iloc[np.flatnonzero(holes)] = values
    return changed


def _held(values: NDArray[np.float64], column: Column, known: list[Any] | None) -> Any:
    if known is None:
        return values.astype(np.int64) if column.kind == "count" else values
    return [known[int(code)] for code in values]


def as_array(frame: Any) -> NDArray[Any]:
    """The values of a DataFrame, float64 where all are numbers, else objects."""
    import pandas

    is_numeric = pandas.api.types.is_numeric_dtype
    return frame.to_numpy(dtype=np.float64 if all(map(is_numeric, frame.dtypes)) else object)

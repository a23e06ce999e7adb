# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Between pandas' DataFrames, in which categories have names, and numbers ``[N, D]``, in which they are numbered."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_spvae.data.column import Column
from pyro_spvae.data.column_summary import MANY, ColumnSummary
from pyro_spvae.data.kinds import few_numbers, kind_and_family, listed
from pyro_spvae.data.mixed_texts import how_to_say, is_number, odd_texts

_SPAN = 10_000  # of numbers that are looked up in a table
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_FEW_TEXTS = 10  # up to which nobody takes texts for names of rows
_Categories = dict[str, tuple[str, ...]]


def coded(
    frame: Any, kinds: Mapping[str, str] | None = None
) -> tuple[list[Tensor], list[ColumnSummary], _Categories, dict[str, str]]:
    """
    A DataFrame as numbers: texts and truth values become the numbers of their categories, in the order of the alphabet;
    so do numbers that are few, at most 10 whole ones in a row that are not negative or two of any sort, in their order.

    :param kinds: kinds or families that are given by name of column; those of categories make categories of any column,
        the others of none.
    :returns: columns ``[N]``, float64, NaN = missing, not to be written to; what they hold; categories by name of
        column; and the kinds given, with those of numbers that became categories, and of pandas' own ordered ones.
    :raises ValueError: for texts that are too many for categories, and columns of something else, such as dates.
    """
    found: dict[str, str] = dict(kinds or {})
    categories: _Categories = {}
    columns, summary = [], []
    for name in frame.columns:
        kind = kind_and_family(name, found[name])[0] if name in found else None
        of_categories = kind in ("binary", "categorical", "ordinal")
        values, texts, ordered = _numbers_or_texts(frame[name], name)
        if texts:
            if kind is not None and not of_categories:
                text = _text(values, texts, True)
                raise ValueError(f"the column {name!r} is said to be {kind}, but holds text, such as {text}")
            _check_texts(name, texts, int(np.isfinite(values).sum()), not of_categories)
            if ordered:
                found.setdefault(name, "ordinal")
            elif kind == "ordinal":
                values, texts = _by_number(values, texts)
            categories[name] = texts
            own = ColumnSummary().look_at(values)
        else:
            own = ColumnSummary().look_at(values, whole=getattr(frame[name].dtype, "kind", "O") in "iu")
            distinct = own.distinct or []
            few = own.whole and own.low >= 0 and few_numbers(own)
            if distinct and (of_categories or (kind is None and (len(distinct) == 2 or few))):
                if len(distinct) == 1:
                    distinct = [*distinct, distinct[0] + 1] if of_categories else distinct
                categories[name] = tuple(map(number_name, distinct))
                found.setdefault(name, "binary" if len(distinct) == 2 else "ordinal")
                values = _places(values, distinct, own)
                if not own.infinite:
                    own = ColumnSummary.of_codes(len(own.distinct or ()), own.seen, own.entries)
        columns.append(_tensor(values))
        summary.append(own)
    return columns, summary, categories, found


def _by_number(values: NDArray[np.float64], texts: tuple[str, ...]) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Texts in the order of the numbers in them, so that 9 is before 10 and 12+; else in that of the alphabet."""
    order = sorted(range(len(texts)), key=lambda place: (_in_parts(texts[place]), texts[place]))
    new = np.argsort(np.array(order)).astype(np.float64)
    seen = np.isfinite(values)
    return np.where(seen, new[np.where(seen, values, 0).astype(int)], values), tuple(texts[place] for place in order)


def _in_parts(text: str) -> list[tuple[bool, float, str]]:
    """A text by whose parts it is sorted: numbers, which are first, and what is between them."""
    parts = [part for part in re.split(r"((?:(?<![\w.])-)?\d+(?:\.\d+)?)", text) if part]
    return [(False, float(part), "") if _NUMBER.fullmatch(part) else (True, 0.0, part) for part in parts]


def _places(values: NDArray[np.float64], distinct: Sequence[float], own: ColumnSummary) -> NDArray[np.float64]:
    """The place of each value among the distinct ones, in order; what is not finite stays as it is."""
    if own.whole and own.seen == own.entries and own.high - own.low < _SPAN:
        place = np.zeros(int(distinct[-1] - own.low) + 1)
        place[(np.array(distinct) - own.low).astype(np.intp)] = np.arange(len(distinct))
        return place[(values - own.low).astype(np.intp)]
    return np.where(np.isfinite(values), np.searchsorted(distinct, values), values)


def _tensor(values: NDArray[np.float64]) -> Tensor:
    """An array as a tensor that shares its memory, which nobody writes to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of arrays of pandas' own
        return torch.from_numpy(values)


def encoded(frame: Any, columns: Sequence[Column], what: str, known: Sequence[str] = ()) -> Tensor:
    """
    The numbers of a DataFrame that has columns by name, in any order.

    :param columns: what they are.
    :param str what: what the frame is called in messages.
    :param known: names of further columns that it may have, which are left out.
    :returns: ``[N, D]``, float64, NaN = missing; columns lie together in memory.
    :raises ValueError: if a column is missing, unknown or there twice, or holds a category that it does not have.
    """
    given = [str(name) for name in frame.columns]
    wanted = [column.name for column in columns]
    for name in wanted:
        if given.count(name) != 1:
            there = "has two columns" if name in given else "lacks the column"
            raise ValueError(f"{what} {there} {name!r}; the columns {listed(wanted)} are needed, each once")
    others = [name for name in given if name not in wanted and name not in known]
    if others:
        raise ValueError(f"{what} has the unknown column {others[0]!r}; the columns are {listed(wanted)}")
    found = [_encoded(frame.iloc[:, given.index(column.name)], column, what) for column in columns]
    return torch.from_numpy(np.stack(found)).T


def decoded(x: Tensor, columns: Sequence[Column]) -> Any:
    """
    Numbers ``[N, D]`` as a DataFrame with the columns' names, and the names of categories; missing entries are NaN.

    Counts and categories are taken for the nearest whole numbers, which means that lie between some need.
    """
    import pandas

    found = {}
    for column, values in zip(columns, x.detach().cpu().unbind(1), strict=True):
        array = values.numpy()
        if column.is_coded:
            there = np.isfinite(array)
            texts = np.array([*column.categories, None], dtype=object)
            codes = np.clip(np.rint(np.where(there, array, 0)), 0, len(column.categories) - 1).astype(int)
            found[column.name] = texts[np.where(there, codes, -1)]
        elif column.kind == "count":
            found[column.name] = pandas.array(np.rint(array.astype(np.float64)), dtype="Float64").astype("Int64")
        else:
            found[column.name] = array.astype(np.float32)  # as data sets hold it: the shortest text that tells it
    return pandas.DataFrame(found)


def texts_of(columns: Sequence[Column]) -> list[str]:
    """Names of the columns whose categories are no numbers, so that a file is not to be read as if they were."""
    return [column.name for column in columns if column.is_coded and not all(map(_is_number_name, column.categories))]


def number_name(value: float) -> str:
    """What a number is called as a category."""
    return str(int(value)) if value == int(value) else repr(float(value))


def _is_number_name(text: str) -> bool:
    try:
        return number_name(float(text)) == text
    except (ValueError, OverflowError):
        return False


def _numbers_or_texts(series: Any, name: str) -> tuple[NDArray[np.float64], tuple[str, ...], bool]:
    """Numbers, or those of categories and what these are called; and whether categories have an order of their own."""
    import pandas

    types = pandas.api.types
    if isinstance(series.dtype, pandas.CategoricalDtype):
        if "" in series.cat.categories:
            series = series.cat.remove_categories([""])
        texts = tuple(str(value) for value in series.cat.categories)
        codes = series.cat.codes.to_numpy()
        return np.where(codes < 0, np.nan, codes), texts, bool(series.cat.ordered)
    if are_number_objects(series):
        series = pandas.to_numeric(series.astype(object).where(series.notna(), np.nan).map(float))
    if types.is_bool_dtype(series.dtype) or not types.is_numeric_dtype(series.dtype):
        missing = missing_of(series)
        if types.is_datetime64_any_dtype(series.dtype) or types.is_timedelta64_dtype(series.dtype):
            raise ValueError(f"the column {name!r} holds dates or times; give numbers, or drop it")
        if missing.all():
            return np.full(len(series), np.nan), (), False
        codes, values = pandas.factorize(series[~missing].astype(str), sort=True)
        numbers = np.full(len(series), np.nan)
        numbers[~missing] = codes
        return numbers, tuple(map(str, values)), False
    if types.is_complex_dtype(series.dtype):
        raise ValueError(f"the column {name!r} holds complex numbers; give real ones, or drop it")
    return series.to_numpy(dtype=np.float64, na_value=np.nan), (), False


def missing_of(series: Any) -> NDArray[np.bool_]:
    """Which entries of a column are missing: those that pandas says, and texts without a letter."""
    found: NDArray[np.bool_] = (series.isna() | (series.astype(object) == "")).to_numpy(dtype=bool)
    return found


def are_number_objects(series: Any) -> bool:
    """Whether a column of objects holds numbers alone, such as Python's or ``Decimal``, besides what is missing."""
    import pandas

    if series.dtype != object:
        return False
    seen = series[series.notna()]
    if pandas.api.types.infer_dtype(seen) in ("integer", "floating", "mixed-integer-float", "decimal"):
        return True
    return bool(len(seen)) and all(isinstance(value, (Real, Decimal)) and not isinstance(value, bool) for value in seen)


def _text(values: NDArray[np.float64], texts: Sequence[str], new: bool) -> str:
    """The first text that is no number, and where it is, and what to do about it in a table that is new, or not."""
    odd = [code for code, text in enumerate(texts) if not is_number(text)] or range(len(texts))
    rows = np.flatnonzero(np.isin(values, odd))
    text = texts[int(values[rows[0]])] if len(rows) else texts[odd[0]]
    where = f" in row {rows[0]}" if len(rows) else ""
    few = odd_texts(texts)
    how = f"say so by {how_to_say(few)}" if new else "leave its cell empty"
    hint = f"; if that means that an entry is missing, {how}" if text in few else ""
    return f"{text!r}{where}{hint}"


def _check_texts(name: str, texts: Sequence[str], seen: int, differ: bool) -> None:
    number = len(texts)
    rare = differ and number > _FEW_TEXTS and 2 * number > seen
    if number > MANY or rare:
        many = f"more than {MANY}" if number > MANY else f"nearly as many as its {seen:,} entries"
        odd = odd_texts(texts)
        if odd:
            called = ", ".join(map(repr, odd))
            raise ValueError(
                f"the column {name!r} holds {number - len(odd):,} different numbers, and the text{'s'[: len(odd) - 1]} "
                f"{called}; if {'they mean' if len(odd) > 1 else 'that means'} that an entry is missing, say so by "
                f"{how_to_say(odd)}"
            )
        raise ValueError(
            f"the column {name!r} holds {number:,} different texts, such as {texts[0]!r}, {many}; leave it out by "
            f"--drop {name!r}, drop=[{name!r}] of load_data, or from a DataFrame"
        )
    if number == 1:
        raise ValueError(
            f"the column {name!r} holds the text {texts[0]!r} alone; leave it out by --drop {name!r}, drop=[{name!r}] "
            "of load_data, or from a DataFrame"
        )


def _encoded(series: Any, column: Column, what: str) -> NDArray[np.float64]:
    values, texts, _ = _numbers_or_texts(series, column.name)
    seen = np.isfinite(values)
    if not column.is_coded:
        if texts:
            text = _text(values, texts, False)
            raise ValueError(f"the {column.kind} column {column.name!r} of {what} holds the text {text}")
        return values
    distinct = np.unique(values[seen])
    if not texts:
        texts = tuple(map(number_name, distinct.tolist()))
        values = np.where(seen, np.searchsorted(distinct, values), values)
        distinct = np.arange(len(texts), dtype=np.float64)
    code = {text: number for number, text in enumerate(column.categories)}
    for number in distinct.astype(int):  # pandas' own categories need not occur
        if texts[number] not in code:
            row = int((values == number).argmax())
            raise ValueError(
                f"the {column.kind} column {column.name!r} of {what} holds {texts[number]!r} in row {row}; its "
                f"categories are {listed(column.categories)}"
            )
    if not len(distinct):
        return values
    numbers = np.array([code.get(text, -1) for text in texts], dtype=np.float64)
    return np.where(seen, numbers[np.where(seen, values, 0).astype(int)], values)

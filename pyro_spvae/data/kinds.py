# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Which kind of values each column of a table holds: chosen from the data, or given and checked."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from pyro_spvae.data.column import KIND_OF, Column, Family, Kind
from pyro_spvae.data.column_summary import MANY, ColumnSummary, summaries
from pyro_spvae.data.learned import learned_from

FEW = 10  # categories that numbers are taken for, at most
_TIMES = 5  # that each of them then occurs, in the mean
_COVERED = 0.5  # of (0, 1) by proportions
_SKEWED = 1.0  # skewness from which values are looked at on a logarithmic scale
_LEAST, _LARGEST = (float(getattr(np.finfo(np.float32), name)) for name in ("tiny", "max"))
_LOST = 1e-3  # of a standard deviation, which 32-bit floats may lose

#: where the first value of a column is that is wrong, by the column's place and a function of its values: a text such
#: as "-1 in row 3"
Find = Callable[[int, Callable[[Tensor], Tensor]], str]

_NEEDED: dict[Kind, str] = {
    "positive": "numbers above 0",
    "proportion": "numbers between 0 and 1, both ends excluded,",
    "count": "whole numbers from 0",
}


def describe_columns(
    values: Tensor,
    names: Sequence[str],
    kinds: Mapping[str, str] | None = None,
    categories: Mapping[str, Sequence[str]] | None = None,
) -> tuple[Column, ...]:
    """
    Describes the columns of a table: kinds that are given, and for all others the first that fits of

    - **categories that have names** (``categories``): binary if there are two of them, else categorical;
    - one value alone: real, with a warning;
    - 0 and 1: binary;
    - the whole numbers 0 to k - 1, at most 10, each of which occurs, in the mean five times or more: ordinal;
    - other whole numbers that are not negative: count;
    - numbers inside of (0, 1) whose range is at least 0.5: proportion;
    - numbers above 0 whose skewness is above 1 and larger than that of their logarithms: positive;
    - real; with a warning where 10 distinct values or fewer occur, in the mean five times or more, on which densities
      grow without limit.

    In files and DataFrames, numbers of two values and few whole ones in a row are numbered as categories first, so that
    they become binary or ordinal whatever the values are.

    Location, scale and frequencies are those of the rows given, see :func:`~pyro_spvae.data.learned.learned`.

    Example::

        >>> from pyro_spvae.data import describe_columns
        >>> columns = describe_columns(torch.tensor([[0.0, 1.5], [1.0, -2.0], [1.0, torch.nan]]), ["sex", "change"])
        >>> [(column.name, column.kind) for column in columns]
        [('sex', 'binary'), ('change', 'real')]

    :param Tensor values: ``[N, D]``, in the table's units; numbers 0, 1, .. of categories; NaN is missing.
    :param names: of the columns.
    :param kinds: kinds, or families of distributions such as ``gamma`` and ``student-t``, by name of column.
    :param categories: what 0, 1, .. are called, by name of column.
    :raises ValueError: if names or kinds are unknown, a column is all missing, or its values contradict its kind.
    """
    found = summaries(values)
    find = first_in([("", values.unbind(1))])
    columns = learned_from(chosen_columns(found, names, kinds, categories, find), values)
    for note in notes(columns, found):
        warnings.warn(note, stacklevel=2)
    return columns


def chosen_columns(
    found: Sequence[ColumnSummary],
    names: Sequence[str],
    kinds: Mapping[str, str] | None = None,
    categories: Mapping[str, Sequence[str]] | None = None,
    find: Find = lambda place, wrong: "",
) -> tuple[Column, ...]:
    """
    The columns of :func:`describe_columns` from summaries; nothing is learned yet.

    :param callable find: finds values that are refused, see :func:`first_in`.
    """
    kinds, categories = kinds or {}, categories or {}
    if len(names) != len(found):
        raise ValueError(f"names has {len(names)} names, but the table has {len(found)} columns")
    check_names(names)
    for what, given in (("kinds", kinds), ("categories", categories)):
        for name in given:
            if name not in names:
                raise ValueError(f"{what} names the column {name!r}, but the columns are {listed(names)}")
    return tuple(
        _column(summary, name, kinds.get(name), tuple(categories.get(name, ())), partial(find, place))
        for place, (summary, name) in enumerate(zip(found, names, strict=True))
    )


def first_in(tables: Iterable[tuple[str, Sequence[Tensor]]]) -> Find:
    """
    What finds a value in tables, and says where it is.

    :param tables: what each is called in a message, and its columns ``[N]``.
    """

    def find(place: int, wrong: Callable[[Tensor], Tensor]) -> str:
        for called, columns in tables:
            rows = wrong(columns[place]).nonzero()
            if len(rows):
                row = int(rows[0])
                return f"{float(columns[place][row]):g} in row {row}{called and f' of {called}'}"
        return ""

    return find


class ColumnNames(ValueError):
    """Names that no table has."""


def check_names(names: Sequence[str]) -> None:
    """
    :raises ColumnNames: if two columns have one name.
    """
    counts = Counter(names)
    twice = [name for name in names if counts[name] > 1]
    if twice:
        raise ColumnNames(f"two columns have the name {twice[0]!r}; each needs a name of its own")


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names for a message, the first of them if there are many."""
    text = ", ".join(names[:most])
    return text if len(names) <= most else f"{text}, .. ({len(names)} in all)"


def kind_and_family(name: str, given: str) -> tuple[Kind, Family | None]:
    """
    What the word for a column is: a kind, or a family that picks the kind.

    :raises ValueError: if it is neither.
    """
    word: Any = given
    if word in get_args(Kind):
        return word, None
    if word in KIND_OF:
        return KIND_OF[word], word
    families = [family for family in KIND_OF if family not in get_args(Kind)]
    raise ValueError(
        f"the kind of the column {name!r} is {given!r}; known are {', '.join(get_args(Kind))}, and the families "
        f"{', '.join(families)}"
    )


def few_numbers(summary: ColumnSummary) -> bool:
    """
    Whether the whole numbers of a column are taken for categories: few ones that follow each other, as grades do. Where
    some between them are left out, as in small counts, others may be to come.
    """
    distinct = list(summary.distinct or ())
    number = len(distinct)
    return 1 < number <= FEW and number * _TIMES <= summary.seen and distinct[-1] - distinct[0] == number - 1


_Own = Callable[[Callable[[Tensor], Tensor]], str]


def _column(summary: ColumnSummary, name: str, given: str | None, categories: tuple[str, ...], find: _Own) -> Column:
    if summary.infinite:
        where = _first(find, torch.isinf)
        raise ValueError(f"the column {name!r} holds {summary.infinite:,} infinite values{where}; all must be finite")
    if not summary.seen:
        raise ValueError(f"all {summary.entries:,} entries of the column {name!r} are missing; drop it")
    if max(abs(summary.low), abs(summary.high)) > _LARGEST:
        where = _first(find, lambda x: x.abs() > _LARGEST)
        raise ValueError(
            f"the column {name!r} holds values from {summary.low:g} to {summary.high:g}{where}, but 32-bit floats end "
            f"at {_LARGEST:.2g}; divide it by a constant, or take its logarithm"
        )
    kind, family = (_chosen(summary, categories), None) if given is None else kind_and_family(name, given)
    column: dict[str, Any] = {"name": name, "kind": kind, "family": family}
    if kind in ("binary", "categorical", "ordinal"):
        return Column(**column, categories=_categories(summary, name, kind, categories, find))
    if categories and given is not None:
        raise ValueError(f"the column {name!r} is said to be {kind}, but holds text, such as {categories[0]!r}")
    low, high, whole = summary.low, summary.high, summary.whole
    to_zero = kind in ("positive", "proportion") and low > 0 >= _held(low)
    if to_zero or (kind == "proportion" and high < 1 <= _held(high)):
        where = _first(find, lambda x: (x > 0) & (x < _LEAST) if to_zero else (x < 1) & (x.float() >= 1))
        raise ValueError(
            f"the column {name!r} is said to be {kind}, but holds values from {low:.10g} to {high:.10g}{where}, which "
            f"32-bit floats take for {0 if to_zero else 1}; give "
            + ("its logarithm" if kind == "positive" else "the logarithm of x / (1 - x)")
            + ", which is real"
        )
    fits = {"positive": low > 0, "proportion": low > 0 and high < 1, "count": low >= 0 and whole}.get(kind, True)
    if not fits:
        outside: dict[Kind, Callable[[Tensor], Tensor]] = {
            "positive": lambda x: x <= 0,
            "proportion": lambda x: (x <= 0) | (x >= 1),
            "count": lambda x: (x < 0) | (x != x.floor()) & ~x.isnan(),
        }
        raise ValueError(
            f"the column {name!r} is said to be {kind}, but holds "
            + (f"values from {low:g} to {high:g}" if kind != "count" or low < 0 else "other numbers than whole ones")
            + f"{_first(find, outside[kind])}; {_NEEDED[kind]} are needed"
        )
    deviation = summary.moments.deviation
    if summary.loss > _LOST * deviation and len(summary.distinct or "many") > 1:
        raise ValueError(
            f"the column {name!r} holds values up to {max(abs(low), abs(high)):.4g} with the standard deviation "
            f"{deviation:.4g}, which 32-bit floats hold to {summary.loss:.2g} only; subtract a constant from it, or "
            "drop it"
        )
    return Column(**column)


def _held(value: float) -> float:
    """A value as 32-bit floats hold it, of which those that are next to 0 count as 0."""
    return float(np.float32(value)) if abs(value) >= _LEAST else 0.0


def _chosen(summary: ColumnSummary, categories: tuple[str, ...]) -> Kind:
    if categories:
        return "binary" if len(categories) == 2 else "categorical"
    distinct, low, high = summary.distinct, _held(summary.low), _held(summary.high)
    if distinct is not None and len(distinct) == 1:
        return "real"
    if distinct == [0, 1]:
        return "binary"
    if summary.whole:
        codes = distinct is not None and distinct == list(range(len(distinct))) and few_numbers(summary)
        return "ordinal" if codes else "count" if low >= 0 else "real"
    if low > 0 and high < 1 and high - low >= _COVERED:
        return "proportion"
    skewness = summary.moments.skewness
    if low > 0 and skewness > _SKEWED and skewness > abs(summary.logarithms.skewness):
        return "positive"
    return "real"


def _first(find: _Own, wrong: Callable[[Tensor], Tensor]) -> str:
    """The first value that is wrong, as part of a sentence."""
    text = find(wrong)
    return text and f", as {text}"


def _categories(
    summary: ColumnSummary, name: str, kind: Kind, categories: tuple[str, ...], find: _Own
) -> tuple[str, ...]:
    """Names of the codes that occur, which are those numbers themselves unless there are others."""
    if kind == "binary" and len(categories) > 2:
        raise ValueError(
            f"the column {name!r} is said to be binary, but has the {len(categories)} categories "
            f"{listed(categories)}; two are needed"
        )
    codes = summary.whole and summary.low >= 0
    number = len(categories) or max(int(summary.high) + 1 if codes else 0, 2)
    if not codes or summary.high >= number or (kind == "binary" and number > 2):
        top = 2 if kind == "binary" else number if codes else math.inf
        where = _first(find, lambda x: ((x < 0) | (x != x.floor()) | (x >= top)) & ~x.isnan())
        wanted = "0 and 1" if kind == "binary" else f"the numbers 0 to {number - 1} of categories"
        raise ValueError(
            f"the column {name!r} is said to be {kind}, but holds values from {summary.low:g} to {summary.high:g}"
            f"{where}; {wanted if codes else 'the numbers 0, 1, .. of categories'} are needed"
        )
    if number > MANY:
        raise ValueError(f"the {kind} column {name!r} has {number} categories; at most {MANY} are accepted")
    return categories or tuple(map(str, range(number)))


def notes(columns: Sequence[Column], found: Sequence[ColumnSummary]) -> Iterator[str]:
    """Sentences about columns whose density can grow without limit."""
    for column, summary in zip(columns, found, strict=True):
        distinct = summary.distinct
        if not column.is_density or distinct is None or len(distinct) > FEW:
            continue
        if len(distinct) == 1:
            yield (
                f"the {column.kind} column {column.name!r} has the one value {distinct[0]:g}, on which its density "
                "grows without limit; drop it"
            )
        elif len(distinct) * _TIMES <= summary.seen:
            yield (
                f"the {column.kind} column {column.name!r} has {len(distinct)} distinct values alone, on which its "
                "density grows without limit; it may be ordinal or categorical"
            )

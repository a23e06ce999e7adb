# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The columns of a table in aligned lines: names, kinds, families, what was seen, and what is to be known of them."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Sequence

from torch import Tensor

from pyro_spvae.data.column import Column
from pyro_spvae.data.column_summary import ColumnSummary
from pyro_spvae.data.dataset import SPLITS, DataSet
from pyro_spvae.data.kinds import notes
from pyro_spvae.data.mixed_texts import text_notes

_HEADINGS = ("columns", "kind", "family", "seen", "range or categories")
_MOST = 100  # lines
_WIDE = 60  # letters of categories


def blocks_of(data: DataSet) -> Iterator[tuple[Tensor, ...]]:
    """All rows of a table, once each, a part at a time, as columns."""
    splits = {id(getattr(data, split)): split for split in SPLITS}  # of an undivided one they are the same
    for split in splits.values():
        for block in getattr(data, split).scan(f"describing {split}"):
            yield block.unbind(1)


def columns_table(data: DataSet, given: Container[str] = (), kept: bool = True) -> list[str]:
    """
    A line for each column of a table, and sentences about those whose densities can grow without limit, and those of
    categories that may be numbers.

    :param DataSet data: one that has columns.
    :param given: names of columns whose kinds were not chosen.
    :param bool kept: whether columns that are not shown stand in ``data.json``.
    """
    assert data.columns is not None
    found = [ColumnSummary() for _ in data.columns]
    for block in blocks_of(data):
        for summary, column in zip(found, block, strict=True):
            summary.look(column)
    told = [*notes(data.columns, found), *text_notes(data.columns, blocks_of(data), given)]
    return table(data.columns, found, kept) + [f"note        {note}" for note in told]


def table(columns: Sequence[Column], found: Sequence[ColumnSummary], kept: bool = True) -> list[str]:
    """Lines under headings, of at most 100 columns."""
    cells = [_HEADINGS] + [
        (column.name, column.kind, str(column.family), f"{summary.seen:,}", _range(column, summary))
        for column, summary in zip(columns, found, strict=True)
    ][:_MOST]
    widths = [max(len(line[place]) for line in cells) for place in range(len(_HEADINGS) - 1)]
    lines = [
        "  ".join([*(f"{cell:{'>' if place == 3 else '<'}{widths[place]}}" for place, cell in enumerate(line[:-1]))])
        + f"  {line[-1]}"
        for line in cells
    ]
    more = f".. {len(columns) - _MOST:,} more{', see data.json' if kept else ''}"
    return lines if len(columns) <= _MOST else [*lines, more]


def _range(column: Column, summary: ColumnSummary) -> str:
    if column.is_coded:
        text = ", ".join(column.categories)
        return text if len(text) <= _WIDE else f"{text[:_WIDE]}.. ({len(column.categories)} in all)"
    return "nothing" if math.isinf(summary.low) else f"{summary.low:g} to {summary.high:g}"

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The columns of a table in aligned lines: names, kinds, families, what was seen, and what is to be known of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pyro_spvae.data.column import Column
from pyro_spvae.data.column_summary import ColumnSummary
from pyro_spvae.data.dataset import SPLITS, DataSet
from pyro_spvae.data.kinds import notes

_HEADINGS = ("columns", "kind", "family", "seen", "range or categories")
_MOST = 100  # lines
_WIDE = 60  # letters of categories


def columns_table(data: DataSet) -> list[str]:
    """
    A line for each column of a table, and sentences about those whose densities can grow without limit.

    :param DataSet data: one that has columns.
    """
    assert data.columns is not None
    found = [ColumnSummary() for _ in data.columns]
    for split in SPLITS:
        rows = getattr(data, split)
        for block in rows.scan(f"describing {split}"):
            for summary, column in zip(found, block.unbind(1), strict=True):
                summary.look(column)
    return table(data.columns, found) + [f"note        {note}" for note in notes(data.columns, found)]


def table(columns: Sequence[Column], found: Sequence[ColumnSummary]) -> list[str]:
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
    return lines if len(columns) <= _MOST else [*lines, f".. {len(columns) - _MOST:,} more, see data.json"]


def _range(column: Column, summary: ColumnSummary) -> str:
    if column.is_coded:
        text = ", ".join(column.categories)
        return text if len(text) <= _WIDE else f"{text[:_WIDE]}.. ({len(column.categories)} in all)"
    return "nothing" if math.isinf(summary.low) else f"{summary.low:g} to {summary.high:g}"

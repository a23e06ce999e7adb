# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Columns of numbers among which a few texts stand, which may mean that an entry is missing."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Container, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from pyro_spvae.data.column import Column

_CODE = re.compile(r"[+-]?0\d")
_FEW = 10  # texts
_PART = 0.5  # of the entries that are seen, which are numbers


def is_number(text: str) -> bool:
    """Whether a text is a finite number, and no code such as 007."""
    try:
        return math.isfinite(float(text)) and not _CODE.match(text)
    except ValueError:
        return False


def odd_texts(texts: Sequence[str]) -> list[str]:
    """Those that are no numbers, if they are few, and two others at least are numbers; else none."""
    odd = [text for text in texts if not is_number(text)]
    return odd if len(odd) <= min(_FEW, len(texts) - 2) else []


def how_to_say(texts: Sequence[str]) -> str:
    """How a user says that these texts mean that an entry is missing."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(texts)
    return f"--na {line.getvalue()!r}, na={list(texts)!r} in Python"


def odd_note(name: str, kind: str, texts: Sequence[str], counts: Sequence[int]) -> str | None:
    """
    A sentence about a column that became one of categories for a few texts among numbers; ``None`` for all others.

    :param str name: of the column.
    :param str kind: what it became.
    :param texts: names of its categories.
    :param counts: how often each occurs.
    """
    odd = odd_texts(texts)
    numbers = sum(count for text, count in zip(texts, counts, strict=True) if text not in odd)
    if not odd or numbers < _PART * sum(counts):
        return None
    called = ", ".join(map(repr, odd))
    one = len(odd) == 1
    return (
        f"the column {name!r} holds {numbers:,} numbers and the text{'' if one else 's'} {called}, so that it is taken "
        f"for {kind}; if {'that means' if one else 'they mean'} that an entry is missing, say so by {how_to_say(odd)}"
    )


def text_notes(
    columns: Sequence[Column], blocks: Iterable[Sequence[Tensor]], given: Container[str] = ()
) -> Iterator[str]:
    """
    Sentences of :func:`odd_note` about the columns of a table, and of the order of texts that are said to have one.

    :param blocks: parts of the table, each its columns ``[N]`` of numbers of categories, NaN = missing.
    :param given: names of columns whose kinds were not chosen.
    """
    for column in columns:
        if column.name in given and column.kind == "ordinal" and not all(map(is_number, column.categories)):
            yield (
                f"the categories of the ordinal column {column.name!r} are in the order "
                f"{', '.join(column.categories)}; if that is not theirs, number them, or give a DataFrame with an "
                "ordered Categorical"
            )
    odd = [place for place, column in enumerate(columns) if column.name not in given and odd_texts(column.categories)]
    counts = {place: torch.zeros(len(columns[place].categories), dtype=torch.int64) for place in odd}
    for block in blocks if odd else ():
        for place in odd:
            codes = block[place].detach().cpu()
            codes = codes[~codes.isnan()].long()
            counts[place] += torch.bincount(codes, minlength=len(counts[place]))
    for place in odd:
        column = columns[place]
        note = odd_note(column.name, column.kind, column.categories, counts[place].tolist())
        if note is not None:
            yield note

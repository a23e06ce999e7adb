# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What contenders are compared by: log-likelihoods of the same rows, and entries that are hidden from all alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.tables_data import Array, Split

HIDDEN = 0.1  # of the entries
MOST_ROWS = 500  # of the test rows, the first, whose entries are hidden


@dataclass(frozen=True, eq=False)
class Outcome:
    """
    What a contender did with a split.

    :ivar nats: log-likelihood of every test row, in the table's units, ``[N]``; ``None`` if it has none.
    :ivar validation: those of the validation rows, by which defaults may be chosen.
    :ivar filled: the rows of :func:`hidden`, completed, ``[n, D]``; ``None`` if it completes none.
    :ivar int parameters: number of free parameters, where that is known.
    :ivar str chosen: what was chosen by validation, or from the data.
    :ivar float cpu: CPU seconds of the process to fit it, choices included.
    :ivar float wall: seconds by the clock, likewise.
    :ivar list curve: CPU seconds of training, mean nats of validation and test rows (NaN where not known).
    """

    nats: Array | None = None
    validation: Array | None = None
    filled: Array | None = None
    parameters: int | None = None
    chosen: str = ""
    cpu: float = 0.0
    wall: float = 0.0
    curve: list[tuple[float, float, float]] = field(default_factory=list)


def hidden(split: Split) -> tuple[Array, NDArray[np.bool_]]:
    """
    Test rows and which of their entries are hidden: a tenth of those that are seen, of every row at most all but one.
    A function of the split alone, so that they are the same for all contenders.

    :returns: ``[n, D]``, NaN = missing; ``bool [n, D]``, True = hidden.
    """
    x = split.test[:MOST_ROWS]
    seen = ~np.isnan(x)
    drawn = np.random.default_rng(split.seed).random(x.shape)
    mask = seen & (drawn < HIDDEN)
    for row in np.flatnonzero((seen & ~mask).sum(1) == 0):
        mask[row, np.argmax(np.where(seen[row], drawn[row], -1))] = False
    return x, mask


def with_holes(split: Split) -> Array:
    """The rows of :func:`hidden` as contenders see them."""
    x, mask = hidden(split)
    return np.where(mask, np.nan, x)


def imputation(split: Split, filled: Array) -> dict[str, list[float]]:
    """
    Errors at hidden entries.

    :param filled: completed rows, ``[n, D]``.
    :returns: ``squared``: squared errors of numbers, in units of the column's standard deviation among training rows;
        ``hits``: whether categories were met.
    """
    x, mask = hidden(split)
    _, scale = split.units()
    numbers, coded = mask & ~split.coded, mask & split.coded
    squared = (((filled - x) / scale)[numbers] ** 2).tolist()
    return {"squared": squared, "hits": (filled == x)[coded].astype(float).tolist()}


def record(split: Split, method: str, outcome: Outcome, threads: int) -> dict[str, Any]:
    """An outcome as plain values for JSON, scored; see :class:`Outcome`."""
    values = asdict(outcome)
    filled = values.pop("filled")
    scores = {"squared": [], "hits": []} if filled is None else imputation(split, filled)
    nats = {name: values.pop(name) for name in ("nats", "validation")}
    return {
        "table": split.table,
        "seed": split.seed,
        "data": split.data.fingerprint(),
        "method": method,
        **{name: None if own is None else [round(x, 6) for x in own.tolist()] for name, own in nats.items()},
        **{name: [round(value, 6) for value in own] for name, own in scores.items()},
        "threads": threads,
        **values,
    }


def paired(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    r"""
    Mean of the differences of pairs, ours less theirs, and its standard error :math:`s / \sqrt{N}`.

    :raises ValueError: if they are not as many, or fewer than two.
    """
    if len(ours) != len(theirs) or len(ours) < 2:
        raise ValueError(f"there are {len(ours)} and {len(theirs)} rows; as many, and at least two, are needed")
    differences = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    return float(differences.mean()), float(differences.std(ddof=1) / math.sqrt(len(differences)))

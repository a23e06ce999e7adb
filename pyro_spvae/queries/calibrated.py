# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""How well hidden entries were predicted: figures by column and over all, beside those of the columns' marginals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_spvae.data import Column
from pyro_spvae.queries.marginals import Marginal
from pyro_spvae.queries.scores import inside

Figures = dict[str, float | int | str | None]

LEVELS = (0.5, 0.9)  # of central intervals
_NUMBERS = ("real", "positive", "proportion", "count")


@dataclass(frozen=True, eq=False)
class Entries:
    """
    Hidden entries, in the order of rows and columns.

    :ivar Tensor row: number of the row, int64 ``[entry]``; the others are alike.
    :ivar Tensor column: number of the entry in the flattened row.
    :ivar Tensor value: what was hidden, float64 like those that follow.
    :ivar Tensor mean: of the draws.
    :ivar Tensor best: the most probable category; of numbers the mean, rounded.
    :ivar Tensor crps: see :func:`pyro_spvae.queries.scores.fair_crps`; of categories without an order it means nothing.
    :ivar Tensor pit: see :func:`pyro_spvae.queries.scores.randomised_pit`; likewise.
    :ivar Tensor log_likelihood: given the seen entries of its row, nats; NaN for images.
    """

    COMPUTED: ClassVar = ("value", "mean", "best", "crps", "pit", "log_likelihood")

    row: Tensor
    column: Tensor
    value: Tensor
    mean: Tensor
    best: Tensor
    crps: Tensor
    pit: Tensor
    log_likelihood: Tensor


@dataclass(frozen=True, eq=False)
class Calibration:
    """
    How well entries that were hidden are predicted, by draws and densities given the seen ones of their row.

    Figures are dicts of numbers, ``None`` where they do not apply or nothing was hidden; those that end in
    ``_baseline`` are what the column's own marginal would get: mean, most frequent category and distribution of the
    training rows.

    - ``hidden``: number of entries.
    - ``rmse`` of the mean of draws, of numbers, in the column's unit; ``rmse_relative`` in standard deviations of the
      training rows.
    - ``accuracy`` of the most probable category.
    - ``crps`` of all but categorical columns, in the column's unit (of binary ones the Brier score);
      ``crps_relative`` in standard deviations.
    - ``log_likelihood``: mean log p(entry | seen entries of its row), nats.
    - ``inside_50``, ``inside_90``: how often the central interval of 50 % and of 90 % holds the truth, of all but
      categorical columns. Ties of discrete values are broken at random in proportion, so that both are met by a right
      model, see :func:`pyro_spvae.queries.scores.randomised_pit`.

    :ivar overall: over all columns, relative figures alone where these have units of their own; with ``rows`` that have
        hidden entries, ``log_likelihood_joint``, the mean over them of log p(hidden entries | seen ones), nats, and its
        ``standard_error``.
    :ivar by_column: the same of each column, with its ``column`` (name) and ``kind``; empty for images.
    :ivar Entries entries: all hidden entries.
    :ivar Tensor log_likelihood_joint: of each row, nats, float64 ``[data]``; 0 where nothing is hidden.
    :ivar Tensor has_pit: which entries have an order, ``bool [entry]``.
    :ivar dict options: ``holdout``, ``draws``, ``seed``.

    Example::

        >>> spn = SPN(whole(2), units=1, leaves=2, likelihood=Normal())
        >>> calibration = spn.calibration(torch.randn(50, 2), holdout=0.2, draws=20)
        >>> len(calibration.by_column), calibration.overall["hidden"] == len(calibration.has_pit)
        (2, True)
    """

    overall: Figures
    by_column: list[Figures]
    entries: Entries
    log_likelihood_joint: Tensor
    has_pit: Tensor
    options: dict[str, Any]

    @staticmethod
    def make(
        entries: Entries,
        joint: Tensor,
        columns: Sequence[Column],
        marginals: Sequence[Marginal],
        is_table: bool,
        known: bool,
        **options: Any,
    ) -> Calibration:
        """
        :param Tensor joint: log-likelihood of the hidden entries of each row.
        :param columns: what each entry of a row is.
        :param marginals: of each, the baselines.
        :param bool is_table: whether columns have units of their own, and densities are known entry by entry.
        :param bool known: whether the families of the columns are those of the likelihood, with which marginals'
            log-likelihoods can be compared.
        """
        terms = _Terms(entries, columns, marginals, is_table and known)
        own = [terms.where(entries.column == number).figures() for number in range(len(columns))] if is_table else []
        names: list[Figures] = [{"column": column.name, "kind": column.kind} for column in columns]
        overall = terms.figures()
        if is_table:  # units differ
            overall |= dict.fromkeys(("rmse", "rmse_baseline", "crps", "crps_baseline"))
        there = torch.zeros(len(joint), dtype=torch.bool).index_fill(0, entries.row, True)
        joint_seen = joint[there]
        error = float(joint_seen.std() / len(joint_seen) ** 0.5) if len(joint_seen) > 1 else None
        overall |= {
            "rows": len(joint_seen),
            "log_likelihood_joint": float(joint_seen.mean()),
            "standard_error": error,
        }
        by_column = [name | figures for name, figures in zip(names, own, strict=False)]
        return Calibration(overall, by_column, entries, joint, terms.ordered, options)

    def to_dict(self) -> dict[str, Any]:
        """Figures as plain values, for JSON."""
        return self.options | {"overall": self.overall, "by_column": self.by_column}

    def frame(self) -> Any:
        """Figures by column, as a pandas DataFrame with a row for each."""
        import pandas

        return pandas.DataFrame(self.by_column)

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value}" for name, value in self.options.items())
        figures = ", ".join(
            f"{name}={value:.3g}" for name, value in self.overall.items() if isinstance(value, float) and value
        )
        return f"Calibration({given}, hidden={self.overall['hidden']}: {figures})"


class _Terms:
    """Terms of the means that figures are, ``[entry]`` each, NaN where they do not apply."""

    def __init__(
        self, entries: Entries, columns: Sequence[Column], marginals: Sequence[Marginal], densities: bool
    ) -> None:
        kinds = [column.kind for column in columns]
        of = entries.column
        numbers, coded, ordered = (
            torch.tensor([kind in known for kind in kinds])[of]
            for known in (_NUMBERS, ("binary", "categorical", "ordinal"), (*_NUMBERS, "binary", "ordinal"))
        )
        mean, scale, mode = (
            torch.tensor([getattr(own, name) for own in marginals], dtype=torch.float64)[of]
            for name in ("mean", "scale", "mode")
        )
        scale = scale.masked_fill(scale == 0, math.nan)
        crps, log = torch.full_like(entries.value, math.nan), torch.full_like(entries.value, math.nan)
        for number in of.unique().tolist():
            own = of == number
            crps[own] = marginals[number].crps(entries.value[own])
            log[own] = marginals[number].log_prob(entries.value[own]) if densities else math.nan
        self.ordered = ordered
        value, pit = entries.value, entries.pit
        squares = {"rmse": (entries.mean - value).square(), "rmse_baseline": (mean - value).square()}
        squares |= {name.replace("rmse", "rmse_relative"): found / scale.square() for name, found in squares.items()}
        scores = {"crps": entries.crps, "crps_baseline": crps}
        scores |= {name.replace("crps", "crps_relative"): found / scale for name, found in scores.items()}
        right = {"accuracy": entries.best == value, "accuracy_baseline": (mode == value)}
        within = {f"inside_{round(100 * level)}": inside(pit, level) for level in LEVELS}

        def of_those(found: dict[str, Tensor], which: Tensor) -> dict[str, Tensor]:
            return {name: term.double().masked_fill(~which, math.nan) for name, term in found.items()}

        self.terms = {
            **of_those(squares, numbers),
            **of_those(right, coded & ~mode.isnan()),
            **of_those(scores, ordered),
            "log_likelihood": entries.log_likelihood,
            "log_likelihood_baseline": log,
            **of_those(within, ordered),
        }

    def where(self, which: Tensor) -> _Terms:
        """Those of some entries."""
        found = object.__new__(_Terms)
        found.ordered = self.ordered[which]
        found.terms = {name: term[which] for name, term in self.terms.items()}
        return found

    def figures(self) -> Figures:
        """Their means; of squares the roots."""
        found: Figures = {"hidden": len(self.ordered)}
        for name, term in self.terms.items():
            known = term[~term.isnan()]
            mean = float(known.mean()) if len(known) else None
            found[name] = mean if mean is None or not name.startswith("rmse") else mean**0.5
        return found

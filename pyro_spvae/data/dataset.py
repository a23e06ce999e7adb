# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a data set is: rows to train, validate and test by, and what kind of values they hold."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_spvae.checks import NotFinite, instances, one_of
from pyro_spvae.data.column import Column, own_names
from pyro_spvae.data.preprocessing import preprocessing
from pyro_spvae.data.rows import Rows, together
from pyro_spvae.data.seeds import noise_seed
from pyro_spvae.data.table_sets import learned_of
from pyro_spvae.data.values import Nats, Values, is_grey_levels

SPLITS = ("train", "validation", "test")
MISSING = ("auto", "none", "nan")
_GREY_ROWS = 4096  # converted at a time
_THINNING = 5  # stream of seeds
_FINGERPRINT_ROWS = 64


@dataclass(frozen=True, eq=False, init=False, repr=False)
class DataSet:
    """Rows for training, for early stopping and for the final figure, and the kind of values they hold.

    :param str name: what reports call it.
    :param Rows train: rows `[N, *event]`; event is (C, H, W) for images, (D,) for tables. A tensor of any real type is
        wrapped, and read as float32.
    :param Rows validation: likewise.
    :param Rows test: likewise.
    :param Values values: what kind of values the three hold.
    :param str missing: ``"nan"`` to take NaN as entries that are missing, which training and evaluation leave out of
        the likelihood; ``"none"`` if none may be; by default ``"nan"`` for tables, ``"none"`` for images.
    :param columns: what the columns of a table are, a :class:`~pyro_spvae.data.Column` each; ``None`` for images and
        arrays that are no table.
    :param bool checked: whether it is known that no value is missing and all are of that kind.
    :raises ValueError: if a split is empty, differs from the others in its event shape, or holds NaN that is not taken
        as missing, nothing else than NaN, infinities or values other than ``values`` states; or if there is not one of
        ``columns`` for each column.

    Example::

        >>> from pyro_spvae.data import DataSet, Values
        >>> x = torch.randint(0, 17, (100, 1, 8, 8)).float()
        >>> images = DataSet("mine", x[:80], x[80:90], x[90:], Values.grey_levels(17))
        >>> images.event_shape, images.is_image, images.train.shape
        (torch.Size([1, 8, 8]), True, torch.Size([80, 1, 8, 8]))
        >>> images.preprocessed("dequantize").values.described()
        "values from 0 to 1, made of grey levels 0 to 16 by 'dequantize'"
    """

    name: str
    train: Rows
    validation: Rows
    test: Rows
    values: Values
    missing: str
    columns: tuple[Column, ...] | None

    def __init__(
        self,
        name: str,
        train: Rows | Tensor,
        validation: Rows | Tensor,
        test: Rows | Tensor,
        values: Values,
        missing: str = "auto",
        columns: Sequence[Column] | None = None,
        checked: bool = False,
    ) -> None:
        if one_of("missing", missing, MISSING) == "auto":
            missing = "nan" if len(train.shape) == 2 else "none"
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "missing", missing)
        for stream, (split, x) in enumerate(zip(SPLITS, (train, validation, test), strict=True)):
            if x.dim() not in (2, 4) if isinstance(x, Tensor) else len(x.shape) not in (2, 4):
                raise ValueError(
                    f"{split} of the data set {name!r} has shape {list(x.shape)}, but [N, C, H, W] or [N, D] is needed."
                )
            if math.prod(x.shape) == 0:
                raise ValueError(f"{split} of the data set {name!r} has shape {list(x.shape)}; it must not be empty.")
            object.__setattr__(self, split, Rows(x, stream=stream) if isinstance(x, Tensor) else x)
            rows = getattr(self, split)
            if rows.event_shape != self.train.event_shape:
                raise ValueError(
                    f"{split} of the data set {name!r} has rows of shape {list(rows.event_shape)}, but those of train "
                    f"have {list(self.train.event_shape)}."
                )
        # what columns are is known before values are looked at, which are told of by the names
        object.__setattr__(self, "columns", None if columns is None else self._checked_columns(columns))
        for split in SPLITS:
            rows = getattr(self, split)
            if rows.preprocessing is None and not checked:
                holes = self._check_values(split, rows)
                if holes != rows.missing:
                    object.__setattr__(self, split, rows.changed(missing=holes))

    def _check_values(self, split: str, rows: Rows) -> bool:
        """Whether entries are missing."""
        where, values = f"{split} of the data set {self.name!r}", self.values
        start, holes, broken, whole, low, high = 0, 0, NotFinite(), True, math.inf, -math.inf
        for x in rows.scan(f"checking {split}"):
            missing = x.isnan()
            broken.look(x.isinf() if self.missing == "nan" else ~x.isfinite(), start)
            holes, start = holes + int(missing.sum()), start + len(x)
            if holes:
                x = x[~missing]
            if x.numel():
                whole = whole and (values.levels is None or is_grey_levels(x, values.levels))
                low, high = min(low, float(x.min())), max(high, float(x.max()))
        if broken.row is not None:
            hint = " (give --missing nan to take NaN as missing, missing='nan' in Python)"
            if not self.is_image:
                hint = " (leave out --missing none to take NaN as missing, missing='none' in Python)"
            hint = hint if holes and self.missing == "none" else ""
            text = broken.text(self.numbered(rows, broken.row), own_names(self.columns))
            raise ValueError(f"{where} holds {text}, but all must be finite{hint}.")
        if holes == math.prod(rows.shape):
            raise ValueError(f"{where} holds nothing but NaN, so that all entries are missing; some must be seen.")
        if values.levels is not None and not whole:
            levels = values.levels
            first = self._first(rows, lambda x: ~((x >= 0) & (x < levels) & (x == x.floor())) & ~x.isnan())
            raise ValueError(f"{where} holds values other than its {self.described_values()}{first}.")
        if low < values.low or high > values.high:
            raise ValueError(
                f"{where} runs from {low:g} to {high:g}, but its values are stated to lie between {values.low:g} and "
                f"{values.high:g}{self._first(rows, lambda x: (x < values.low) | (x > values.high))}."
            )
        return holes > 0

    def _first(self, rows: Rows, wrong: Callable[[Tensor], Tensor]) -> str:
        """Of a table, which value is the first that is wrong, as the end of a sentence."""
        start = 0
        if self.columns is None:
            return ""
        for x in rows.scan("looking for it"):
            found = wrong(x).nonzero()
            if len(found):
                row, place = found[0].tolist()
                numbered = self.numbered(rows, start + row)
                name = self.columns[place].name
                return f", as {x[row, place]:g} in row {start + row}{numbered and f' ({numbered})'}, column {name!r}"
            start += len(x)
        return ""

    def numbered(self, rows: Rows, row: int) -> str:
        """What a row is called in what the rows are some of; an empty text where they are all of it."""
        if rows.index is None:
            return ""
        return f"row {int(rows.index[row])} of the {'array' if own_names(self.columns) is None else 'table'}"

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one row: (C, H, W) for images, (D,) for tables."""
        return self.train.event_shape

    @property
    def is_image(self) -> bool:
        """Whether a row is an image, `[C, H, W]`, and not a row of a table, `[D]`."""
        return len(self.event_shape) == 3

    @property
    def has_holes(self) -> bool:
        """Whether entries of any split are missing."""
        return any(getattr(self, split).missing for split in SPLITS)

    def described_values(self) -> str:
        """The kind of the values in words."""
        return self.values.described(self.is_image, self.columns)

    def bits_per_dim(self, log_likelihood: Nats) -> Nats | None:
        """A log-likelihood in bits for each dimension, see :meth:`Values.bits_per_dim`."""
        return self.values.bits_per_dim(log_likelihood, self.event_shape)

    def preprocessed(self, name: str, seed: int = 0) -> DataSet:
        """
        The same rows, transformed when they are read, see :func:`pyro_spvae.data.preprocessing.preprocessing`.

        :param str name: ``none``, ``integers``, ``dequantize``, ``binarize``, ``binarize-static``, ``paper`` or
            ``paper-discrete``.
        :param int seed: seed of the noise that does not change.
        :raises ValueError: for an unknown name, values that it cannot transform, rows that are transformed already, or
            a scale of whole rows where entries are missing.
        """
        if any(getattr(self, split).preprocessing is not None for split in SPLITS):
            raise ValueError(f"the data set {self.name!r} is preprocessed already; start from its own values")
        step = preprocessing(name, self.values, self.name)
        if step is None:
            return self
        if step.whole_rows and self.has_holes:
            raise ValueError(
                f"preprocess is {name!r}, which scales each row by its smallest and largest value, but entries of the "
                f"data set {self.name!r} are missing; give another one, such as 'none'"
            )
        changed = {}
        for stream, split in enumerate(SPLITS):
            changed[split] = getattr(self, split).changed(preprocessing=step, seed=seed, stream=stream)
        return self._with(values=step.values, **changed)

    def thinned(self, fraction: float, seed: int = 0) -> DataSet:
        """
        The same data set with part of its rows for training and validation, drawn at random; test rows stay whole.
        What columns have learned is learned again, from the rows that are left to train by.

        Smaller fractions of one seed are parts of larger ones.

        :param float fraction: above 0, at most 1; at least one row of both is kept.
        :param int seed: seed of the draw.
        :raises ValueError: for a fraction out of range.
        """
        if not 0 < fraction <= 1:
            raise ValueError(f"fraction is {fraction!r}; a number above 0 and at most 1 is needed")
        if fraction == 1:
            return self
        changed: dict[str, Rows] = {}
        for number, split in enumerate(SPLITS[:2]):
            rows = getattr(self, split)
            generator = torch.Generator().manual_seed(noise_seed(seed, number, _THINNING))
            kept = max(1, round(fraction * len(rows)))
            changed[split] = rows.part(torch.randperm(len(rows), generator=generator, device="cpu")[:kept])
        columns = None if self.columns is None else learned_of(self.columns, changed["train"])
        return self._with(columns=columns, **changed)

    def undivided(self) -> DataSet:
        """
        The same rows as a data set of which each split is all of them: in the order of the file where splits were drawn
        from one, else those to train, validate and test by in turn. Each row keeps its noise.
        """
        return self._with(**dict.fromkeys(SPLITS, together([getattr(self, split) for split in SPLITS])))

    def described(self, columns: Sequence[Column]) -> DataSet:
        """The same table with descriptions of its columns."""
        return self._with(columns=self._checked_columns(columns))

    def _checked_columns(self, columns: Sequence[Column]) -> tuple[Column, ...]:
        """
        :raises ValueError: unless there is one for each column of a table.
        """
        instances("columns", columns, Column)
        if self.is_image or len(columns) != self.event_shape[0]:
            raise ValueError(
                f"columns are {len(columns)}, but rows of the data set {self.name!r} have the shape "
                f"{list(self.event_shape)}; one for each column of a table is needed"
            )
        return tuple(columns)

    def stated_as(self, values: Values) -> DataSet:
        """The same rows with another kind of values, which they are known to be of."""
        return self._with(values=values)

    def as_measured(self) -> DataSet:
        """
        Values of which nothing is known but which occur, for likelihoods that take whole numbers for values like all
        others: no grey levels, of which those figures follow that compare codes, and no limits.
        """
        return self._with(values=Values(low=self.values.low, high=self.values.high, bounded=False))

    def in_grey(self) -> DataSet:
        """
        Colour images of 256 levels as grey ones, ``(19595 R + 38470 G + 7471 B + 2^15) // 2^16`` (ITU-R 601-2 luma, as
        PIL's mode L has it). The grey images are held in memory, a byte a pixel.

        :raises ValueError: unless rows are images with three channels of 256 levels.
        """
        if self.is_image and self.event_shape[0] == 1:
            return self
        if not self.is_image or self.event_shape[0] != 3 or self.values.levels != 256:
            raise ValueError(
                f"grey is asked for, but the data set {self.name!r} has rows of shape {list(self.event_shape)}; "
                "images with three channels of 256 grey levels are needed"
            )
        if self.has_holes:
            raise ValueError(f"grey is asked for, but entries of the data set {self.name!r} are missing; leave it out")
        changed = {}
        for split in SPLITS:
            rows = getattr(self, split)
            grey = rows.source.new_empty(len(rows), 1, *self.event_shape[1:], dtype=torch.uint8)
            for start in range(0, len(rows), _GREY_ROWS):
                red, green, blue = rows.raw(slice(start, start + _GREY_ROWS)).long().unbind(1)
                luma = (19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16
                grey[start : start + len(luma), 0] = luma.to(torch.uint8)
            changed[split] = Rows(grey, stream=rows.stream, labels=rows.labels)
        return self._with(**changed)

    def cached(self, limit: int) -> DataSet:
        """
        The same data set, transformed values held in memory where each split's take at most ``limit`` bytes.

        Training rows that are drawn anew for every batch are not held.
        """
        changed = {split: getattr(self, split).cached(limit) for split in SPLITS[1:]}
        return self._with(train=self.train if self.train.draws_anew else self.train.cached(limit), **changed)

    def fingerprint(self) -> str:
        """
        A digest by which data that changed are noticed: of sizes, kind of values, and the raw content of up to 64 rows
        of each split, evenly spaced.
        """
        sizes = {split: list(getattr(self, split).shape) for split in SPLITS}
        kind = {name: getattr(self.values, name) for name in ("low", "high", "levels", "scaled_from")}
        digest = hashlib.sha256(json.dumps([sizes, kind]).encode())
        for split in SPLITS:
            rows = getattr(self, split)
            number = min(_FINGERPRINT_ROWS, len(rows))
            index = torch.linspace(0, len(rows) - 1, number, dtype=torch.float64, device="cpu").round().long()
            digest.update(rows.raw(index).cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def _with(self, **changes: object) -> DataSet:
        """A copy whose values need no check."""
        other = copy.copy(self)
        for name, value in changes.items():
            object.__setattr__(other, name, value)
        return other

    def __repr__(self) -> str:
        rows = ", ".join(f"{split}={len(getattr(self, split))}" for split in SPLITS)
        holes = f", missing={self.missing!r}" if self.has_holes else ""
        return (
            f"DataSet({self.name!r}, {rows}, event_shape={tuple(self.event_shape)}, {self.described_values()}{holes})"
        )

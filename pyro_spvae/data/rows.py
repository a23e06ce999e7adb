# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Rows that are read when they are asked for."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any, SupportsIndex

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_spvae.data.preprocessing import Preprocessing
from pyro_spvae.data.seeds import noise_seed

_SCANNED = 2**22  # values that are looked at together
_LONG = 2**30  # values, which take seconds to look at
# torch 2.6 selects rows of these only under another name of their bytes
_SELECTED_AS = {
    torch.uint16: torch.int16,
    torch.uint32: torch.int32,
    torch.uint64: torch.int64,
    torch.float8_e4m3fn: torch.uint8,
    torch.float8_e5m2: torch.uint8,
}
_FRESH = 100  # stream of the noise of rows, apart from those of training


class Rows:
    """
    Rows of a data set: of one source, some of them, transformed, as float32 when they are read.

    ``rows[5:9]`` and ``rows[index]`` (int64) are tensors ``[n, *event_shape]``, ``rows[:]`` is everything. Nothing else
    is held than the source, which may share the memory of a file (``torch.from_numpy(numpy.memmap(...))``); what is
    read is on its device, whatever torch's default device is, and numbers of rows are on the CPU. The noise
    of preprocessing is a function of the seed, the split and the row's number, so that a row has the same value
    whenever and with whichever others it is read; :meth:`draw` gives training its fresh noise.

    :param Tensor source: ``[N, *event]`` of any real type; not copied.
    :param Tensor index: numbers of the rows meant, int64; all by default.
    :param Preprocessing preprocessing: the transformation, or ``None``.
    :param int seed: seed of its noise.
    :param int stream: number of the split.
    :param bool missing: whether entries are missing, which are NaN in the source, and remain so whatever the
        preprocessing. What is made of these rows does not look at them, see :func:`select`.
    :param Tensor labels: the class of each row of ``source``, integers ``[N]``; not looked at in training.
    :param Tensor drawn_as: of each row of ``source`` the number of a split and that of a row in it, int64 ``[N, 2]``,
        whose noise it has; by default those of ``stream`` and of the row itself.
    :raises ValueError: if ``source`` holds no real rows, or ``labels`` are no integers or not as many as it has rows.

    Example::

        >>> from pyro_spvae.data import Rows
        >>> rows = Rows(torch.arange(20, dtype=torch.uint8).reshape(10, 2), index=torch.tensor([1, 3, 5]))
        >>> rows.shape, rows[1:]
        (torch.Size([3, 2]), tensor([[ 6.,  7.],
                [10., 11.]]))
    """

    dtype = torch.float32

    def __init__(
        self,
        source: Tensor,
        index: Tensor | None = None,
        preprocessing: Preprocessing | None = None,
        seed: int = 0,
        stream: int = 0,
        missing: bool = False,
        labels: Tensor | None = None,
        drawn_as: Tensor | None = None,
    ) -> None:
        if source.dim() < 2 or source.is_complex():
            raise ValueError(f"source is {source.dtype} of shape {list(source.shape)}; real rows [N, ..] are needed")
        self.source = source
        self.index = None if index is None else index.cpu()
        self.preprocessing = preprocessing
        self.seed = seed
        self.stream = stream
        self.missing = missing
        self.drawn_as = drawn_as
        if labels is not None:
            check_labels("labels", labels, len(source))
            labels = labels.cpu().to(torch.int64)
        self._source_labels = labels
        self._cache: Tensor | None = None

    def __len__(self) -> int:
        return len(self.source if self.index is None else self.index)

    @property
    def event_shape(self) -> torch.Size:
        """Shape of a row."""
        return self.source.shape[1:]

    @property
    def shape(self) -> torch.Size:
        """Number of rows, and shape of a row."""
        return torch.Size((len(self), *self.event_shape))

    @property
    def labels(self) -> Tensor | None:
        """The class of each of these rows, int64 ``[n]`` on the CPU; ``None`` if they have none."""
        if self._source_labels is None or self.index is None:
            return self._source_labels
        return self._source_labels[self.index]

    @property
    def numbers(self) -> Tensor:
        """The number of each of these rows in its source, int64 ``[n]`` on the CPU."""
        return self._numbers(slice(None))

    @property
    def draws_anew(self) -> bool:
        """Whether :meth:`draw` differs from reading."""
        return self.preprocessing is not None and self.preprocessing.draws_anew

    def __getitem__(self, item: slice | Tensor | SupportsIndex) -> Tensor:
        if not isinstance(item, (slice, Tensor)):
            number = operator.index(item)
            number += len(self) if number < 0 else 0
            if not 0 <= number < len(self):
                raise IndexError(f"row {operator.index(item)} of {len(self)}")
            return self[number : number + 1][0]
        if isinstance(item, Tensor):
            item = item.cpu()  # where numbers of rows are, wherever the source is
        if self._cache is not None:
            return self._cache[item].clone()
        x = self._read(item)
        if self.preprocessing is None:
            return x
        return self._transformed(x, self._fixed_noise(item))

    def __iter__(self) -> Iterator[Tensor]:
        return (self[number] for number in range(len(self)))

    def draw(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """
        Rows for training: with noise from the generator where the preprocessing draws anew, as they are otherwise.

        :param Tensor index: positions among these rows, int64.
        """
        if self.preprocessing is None or not self.preprocessing.draws_anew:
            return self[index]
        x = self._read(index.cpu())
        noise = self.preprocessing.noise
        return self._transformed(x, None if noise is None else noise(x.shape, generator).to(x.device))

    def blocks(self, size: int) -> Iterator[Tensor]:
        """Consecutive blocks of at most ``size`` rows."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def scan(self, what: str) -> Iterator[Tensor]:
        """
        All rows, few megabytes at a time, with a progress bar on terminals where it takes long.

        :param str what: name of the bar.
        """
        size = max(1, _SCANNED // math.prod(self.event_shape))
        long = math.prod(self.shape) > _LONG
        with tqdm(total=len(self), desc=what, unit="row", unit_scale=True, disable=None if long else True) as bar:
            for block in self.blocks(size):
                yield block
                bar.update(len(block))

    def changed(self, **arguments: Any) -> Rows:
        """The same rows, made with some other arguments."""
        names = ("source", "index", "preprocessing", "seed", "stream", "missing", "drawn_as")
        own = {name: getattr(self, name) for name in names} | {"labels": self._source_labels}
        return Rows(**(own | arguments))

    def tensor(self) -> Tensor:
        """All rows at once."""
        return self[:]

    def part(self, index: Tensor) -> Rows:
        """
        Some of these rows, each with the value that it has here.

        :param Tensor index: positions among these rows, int64.
        """
        index = index.cpu()
        rows = self.changed(index=self._numbers(index))
        rows._cache = None if self._cache is None else self._cache[index]
        return rows

    def cached(self, limit: int) -> Rows:
        """
        The same rows, their transformed values held in memory if these take at most ``limit`` bytes.

        Rows that are not transformed stay as they are: to read them is as cheap.
        """
        if self.preprocessing is None or 4 * math.prod(self.shape) > limit:
            return self
        rows = self.changed()
        rows._cache = torch.empty(self.shape, dtype=torch.float32, device=self.source.device)
        start = 0
        for block in self.blocks(1024):
            rows._cache[start : start + len(block)] = block
            start += len(block)
        return rows

    def raw(self, item: slice | Tensor) -> Tensor:
        """Rows of the source in its own type, not transformed; not to be written to."""
        rows = item if self.index is None else self.index[item]
        dtype = self.source.dtype
        return self.source.view(_SELECTED_AS.get(dtype, dtype))[rows].view(dtype)

    def _read(self, item: slice | Tensor) -> Tensor:
        # a copy always: the source may be a file that must not be written to
        return self.raw(item).to(torch.float32, copy=True)

    def _transformed(self, x: Tensor, noise: Tensor | None) -> Tensor:
        assert self.preprocessing is not None
        y = self.preprocessing.apply(x, noise)
        return torch.where(x.isnan(), x, y) if self.missing else y

    def _numbers(self, item: slice | Tensor) -> Tensor:
        """Row numbers in the source."""
        if self.index is not None:
            return self.index[item]
        return torch.arange(*item.indices(len(self)), device="cpu") if isinstance(item, slice) else item % len(self)

    def _fixed_noise(self, item: slice | Tensor) -> Tensor | None:
        assert self.preprocessing is not None
        draw = self.preprocessing.noise
        if draw is None:
            return None
        numbers = self._numbers(item)
        identity = self._identity(numbers)
        noise = torch.empty((len(numbers), *self.event_shape), dtype=torch.float32, device="cpu")
        generator = torch.Generator()
        for place, (stream, number) in enumerate(identity.tolist()):
            generator.manual_seed(noise_seed(self.seed, number, _FRESH + stream))
            noise[place] = draw(self.event_shape, generator)
        return noise.to(self.source.device)

    def _identity(self, numbers: Tensor) -> Tensor:
        """What noise of rows of the source depends on, see ``drawn_as``."""
        if self.drawn_as is not None:
            return self.drawn_as[numbers]
        return torch.stack([torch.full_like(numbers, self.stream), numbers], -1)

    def __repr__(self) -> str:
        name = "" if self.preprocessing is None else f", preprocessed by {self.preprocessing.name}"
        name += ", entries missing" if self.missing else ""
        name += "" if self._source_labels is None else ", with labels"
        return f"Rows({list(self.shape)} of {str(self.source.dtype).removeprefix('torch.')}{name})"


def together(parts: Sequence[Rows]) -> Rows:
    """
    All rows of several parts, each with the noise that it has there: in the order of their source where they share one
    and none is in two of them, else one part after the other, copied.
    """
    if len(parts) == 1:
        return parts[0]
    sources = {id(rows.source): rows.source for rows in parts}
    numbers = [rows.numbers for rows in parts]
    labels = [rows.labels for rows in parts]
    if len(sources) == 1 and all(rows.index is not None for rows in parts):
        (source,) = sources.values()
        index, order = torch.cat(numbers).sort()
        if len(index.unique()) == len(index):
            drawn_as = torch.zeros(len(source), 2, dtype=torch.int64, device="cpu")
            drawn_as[index] = torch.cat([rows._identity(own) for rows, own in zip(parts, numbers, strict=True)])[order]
            whole = None if len(index) == len(source) else index
            return parts[0].changed(index=whole, drawn_as=drawn_as, missing=any(rows.missing for rows in parts))
    drawn_as = torch.cat([rows._identity(own) for rows, own in zip(parts, numbers, strict=True)])
    known = [own for own in labels if own is not None]
    return parts[0].changed(
        source=torch.cat([rows.raw(slice(None)) for rows in parts]),
        index=None,
        drawn_as=drawn_as,
        missing=any(rows.missing for rows in parts),
        labels=torch.cat(known) if len(known) == len(parts) else None,
    )


def check_labels(name: str, labels: Any, rows: int) -> None:
    """
    :param str name: what labels are called in the message.
    :param labels: what may be the classes of rows.
    :param int rows: how many rows there are.
    :raises ValueError: unless they are a tensor of integers, one for each row.
    """
    given = f"a {type(labels).__name__}"
    if isinstance(labels, Tensor):
        number = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
        if number and labels.layout == torch.strided and labels.shape == (rows,):
            return
        given = f"{str(labels.dtype).removeprefix('torch.')} of shape {list(labels.shape)}"
    raise ValueError(f"{name} is {given}; a tensor of {rows} integers, one for each row, is needed")


def select(rows: Rows | Tensor, observed: Tensor | None, item: slice | Tensor) -> tuple[Tensor, Tensor | None]:
    """
    Some rows and the mask of their entries, ``bool`` and True = seen, or ``None`` if all are.

    :param rows: rows, of which entries may be missing, or a tensor.
    :param Tensor observed: ``bool``, broadcastable to ``rows``, True = seen.
    :param item: which rows.
    """
    x = rows[item]
    return x, seen_entries(rows, observed, item, x)


def seen_entries(rows: Rows | Tensor, observed: Tensor | None, item: slice | Tensor, x: Tensor) -> Tensor | None:
    """As the mask of :func:`select`, of rows that were read already."""
    if observed is not None:
        observed = observed.expand(rows.shape)[item]
    if isinstance(rows, Tensor) or not rows.missing:
        return observed
    seen = ~x.isnan()
    return seen if observed is None else seen & observed.to(seen.device)

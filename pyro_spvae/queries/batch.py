# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A batch of data as the leaves see it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pyro_spvae.checks import NotFinite
from pyro_spvae.circuits.leaf_view import LeafView
from pyro_spvae.data import Column, Values
from pyro_spvae.data.column import own_names
from pyro_spvae.data.ranges import check_ranges
from pyro_spvae.leaves import LeafGuide, LeafModel


@dataclass(frozen=True, eq=False)
class LeafBatch:
    """
    What model and guide see of a batch; both take it in the place of the data.

    :ivar Tensor x: the data, ``[data, *event_shape]``.
    :ivar Tensor patches: values ``[data, leaf, pixel]``; 0 where not seen.
    :ivar Tensor mask: pixels that count, ``bool`` broadcastable to ``patches``, or ``None`` if all do.
    :ivar Tensor seen: leaves that see anything, ``bool [data or 1, leaf]``, or ``None`` if all do.
    :ivar int first: number of the first row among those that were asked about, where these are few of them.

    Example::

        >>> spvae = SPVAE(poon_domingos((4, 4), delta=2), units=2, likelihood=Bernoulli())
        >>> batch = spvae.prepare(torch.zeros(5, 1, 4, 4))
        >>> batch.patches.shape, batch.mask  # [data, leaf, pixel]; all pixels count
        (torch.Size([5, 8, 4]), None)
    """

    x: Tensor
    patches: Tensor
    mask: Tensor | None
    seen: Tensor | None
    leaf: LeafModel = field(repr=False)
    first: int = 0
    _encoded: dict[LeafGuide, Any] | None = field(default=None, repr=False)

    @cached_property
    def features(self) -> Tensor:
        """What the guide's networks see, ``[data, leaf, feature]``, 0 where not seen; made when they are asked for."""
        features, counted = self.leaf.features(self.patches), self.leaf.feature_mask(self.mask)
        return (
            features if counted is None else torch.where(counted, features, 0.0)
        )  # those of the value 0 may be others

    @property
    def rows(self) -> int:
        """Number of data; while torch's tracer records, a tensor, so that a program serves batches of any size."""
        return self.x.shape[0]

    def encoding(self, guide: LeafGuide) -> Any:
        """What a guide needs to know of the batch; computed once if the batch is :meth:`kept`. ``None`` where the guide
        states no site."""
        if guide.states_nothing:
            return None
        if self._encoded is None:
            return guide.encode(self.features)
        if guide not in self._encoded:
            self._encoded[guide] = guide.encode(self.features)
        return self._encoded[guide]

    def kept(self) -> LeafBatch:
        """The same batch, which keeps encodings: for as long as parameters stay as they are."""
        return self if self._encoded is not None else replace(self, _encoded={})

    def anew(self) -> LeafBatch:
        """The same batch, of which nothing is encoded yet, nor will be kept."""
        return self if self._encoded is None else replace(self, _encoded=None)

    @staticmethod
    def make(
        view: LeafView,
        leaf: LeafModel,
        like: Tensor,
        x: Tensor,
        observed: Tensor | None,
        check_values: bool,
        values: Values | None = None,
        columns: Sequence[Column] | None = None,
    ) -> LeafBatch:
        """
        Checks a batch and cuts it into patches.

        :param LeafView view: which entries each leaf sees.
        :param LeafModel leaf: knows features and supports.
        :param Tensor like: of the model's type, on its device.
        :param Tensor x: data.
        :param Tensor observed: ``bool``, broadcastable to ``x``, True = seen.
        :param bool check_values: whether values are looked at.
        :param Values values: the kind that they must be of then.
        :param columns: what the columns of a table are, by whose names values are told of.
        """
        check_shapes(view.event_shape, like, x, observed)
        patches = view(x)  # [B, L, P]
        mask, seen = view.mask, None
        if observed is not None:
            pixels = view(observed.expand(torch.broadcast_shapes(observed.shape, view.event_shape)))  # [(B), L, P]
            mask = pixels if view.mask is None else pixels & view.mask
            seen = mask.any(-1)
        if check_values:
            counted = (patches.new_ones((), dtype=torch.bool) if mask is None else mask).expand_as(patches)
            finite = torch.isfinite(x)  # every entry is in a leaf
            if not bool((finite if observed is None else finite | ~observed).all()):
                raise ValueError(_not_finite(x, observed, columns))
            if values is not None:
                if columns is None or values.bounded:
                    values.check(x, observed)
                else:
                    check_ranges(columns, x, observed)
            leaf.check(patches, counted)
        if mask is not None:
            patches = torch.where(mask, patches, 0.0)
        return LeafBatch(x, patches, mask, seen, leaf)


def _not_finite(x: Tensor, observed: Tensor | None, columns: Sequence[Column] | None) -> str:
    """How many seen entries are no numbers, and where the first of them is; leaves may share entries."""
    found = NotFinite().look(~x.isfinite() if observed is None else ~x.isfinite() & observed)
    return (
        f"x holds {found.text(names=own_names(columns))}; finite values are needed (mark missing entries by "
        "observed=False, as in observed=~x.isnan())"
    )


def check_shapes(event: Sequence[int], like: Tensor, x: Tensor, observed: Tensor | None) -> None:
    """
    :param event: shape of a datum.
    :param Tensor like: of the model's type, on its device.
    :raises ValueError: if ``x`` or ``observed`` has another shape or device than the model needs, or holds no rows.
    :raises TypeError: if one of them has another type.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x is a {type(x).__name__}; a torch.Tensor is needed")
    expected = "[data, " + ", ".join(map(str, event)) + "]"
    if x.dim() != len(event) + 1 or x.shape[1:] != event:
        raise ValueError(f"x has shape {list(x.shape)}; the model's region graph and channels need {expected}")
    if len(x) == 0:
        raise ValueError(f"x holds no data; at least one row of shape {list(event)} is needed")
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}; floating point is needed (x.float())")
    dtype, device = like.dtype, like.device
    if x.dtype != dtype:
        raise TypeError(f"x has dtype {x.dtype}, the model {dtype}; convert one of them, as in x.to({dtype})")
    if x.device != device:
        raise ValueError(
            f"x is on the device {x.device}, the model on {device}; move one of them, as in x.to('{device}')"
        )
    if observed is None:
        return
    if not isinstance(observed, Tensor) or observed.dtype != torch.bool:
        raise TypeError("observed must be a bool tensor, True = seen")
    try:
        fits = torch.broadcast_shapes(observed.shape, x.shape) == x.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"observed has shape {list(observed.shape)}; it must broadcast to the shape of x, {list(x.shape)}"
        )
    if observed.device != device:
        raise ValueError(
            f"observed is on the device {observed.device}, the model on {device}; move it, as in "
            f"observed.to('{device}')"
        )


def batches(x: Tensor, observed: Tensor | None, rows: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Data and their masks, ``rows`` at a time."""
    seen = None if observed is None else observed.expand(x.shape)
    for start in range(0, len(x), rows):
        block = slice(start, start + rows)
        yield x[block], None if seen is None else seen[block]

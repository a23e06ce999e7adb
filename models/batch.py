# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A batch of data as the leaves see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pyro_spvae.models.spvae import SPVAE


@dataclass(frozen=True, eq=False)
class LeafBatch:
    """
    :ivar int rows: number of data.
    :ivar Tensor patches: values ``[data, leaf, pixel]``; 0 where not seen.
    :ivar Tensor features: what the guide's networks see, same shape; 0 where not seen.
    :ivar Tensor mask: pixels that count, ``bool`` broadcastable to ``patches``, or ``None`` if all do.
    :ivar Tensor seen: leaves that see anything, ``bool [data or 1, leaf]``, or ``None`` if all do.
    """

    rows: int
    patches: Tensor
    features: Tensor
    mask: Tensor | None
    seen: Tensor | None

    @staticmethod
    def make(spvae: SPVAE, x: Tensor, observed: Tensor | None, check_values: bool) -> LeafBatch:
        """Checks a batch and cuts it into patches."""
        check_shapes(spvae, x, observed)
        view = spvae.view
        patches = view(x)  # [B, L, P]
        mask, seen = view.mask, None
        if observed is not None:
            pixels = view(observed.expand(torch.broadcast_shapes(observed.shape, view.event_shape)))  # [(B), L, P]
            mask = pixels if view.mask is None else pixels & view.mask
            seen = mask.any(-1)
        if check_values:
            counted = torch.ones_like(patches, dtype=torch.bool) if mask is None else mask.expand_as(patches)
            finite = torch.isfinite(patches) | ~counted
            if not bool(finite.all()):
                raise ValueError(
                    f"x holds {int((~finite).sum())} NaN or infinite values; finite values are needed "
                    "(mark missing entries by observed=False)"
                )
            spvae.leaf.check(patches, counted)
        if mask is not None:
            patches = torch.where(mask, patches, torch.zeros_like(patches))
        features = spvae.leaf.features(patches)
        return LeafBatch(len(x), patches, features, mask, seen)


def check_shapes(spvae: SPVAE, x: Tensor, observed: Tensor | None) -> None:
    """
    :raises ValueError: if ``x`` or ``observed`` has another shape or device than the model needs, or holds no rows.
    :raises TypeError: if one of them has another type.
    """
    event = spvae.event_shape
    if not isinstance(x, Tensor):
        raise TypeError(f"x is a {type(x).__name__}; a torch.Tensor is needed")
    expected = "[data, " + ", ".join(map(str, event)) + "]"
    if x.dim() != len(event) + 1 or x.shape[1:] != event:
        raise ValueError(f"x has shape {list(x.shape)}; the model's region graph and channels need {expected}")
    if len(x) == 0:
        raise ValueError(f"x holds no data; at least one row of shape {list(event)} is needed")
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}; floating point is needed (x.float())")
    parameter = next(spvae.parameters(), x)
    dtype, device = parameter.dtype, parameter.device
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

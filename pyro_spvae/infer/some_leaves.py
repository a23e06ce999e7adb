# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A handler under which a program for some of the leaves states sites for all of them."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_spvae.distributions.joined import SomeLeaves
from pyro_spvae.infer.site import is_subsample


class SomeLeavesMessenger(Messenger):
    """
    Inside, values have ``n`` leaves; the sites that handlers outside see have all of them, with value and log-density
    0 for the others. The observation ``"x"`` is not stated: :attr:`observation` holds its distribution, so that
    several programs can state it together, under the :meth:`handlers` of each.

    :param Tensor index: numbers of the leaves, int64 ``[n]``.
    :param int leaves: number of all leaves.
    :param str suffix: added to the names of sites.
    """

    def __init__(self, index: Tensor, leaves: int, suffix: str = "") -> None:
        super().__init__()
        self.index = index
        self.leaves = leaves
        self.suffix = suffix
        self.observation: SomeLeaves | None = None
        self.mask: Any = None  # of all leaves, or one for all
        self.scale: Any = 1.0
        self._stated: list[SomeLeaves | None] = []  # of the sites that are being stated

    def _pyro_sample(self, msg: Any) -> None:
        self._stated.append(None)
        if is_subsample(msg) or msg["done"]:
            return
        fn = SomeLeaves(msg["fn"], self.index, self.leaves)
        mask, scale = (self._of_all(msg[key]) for key in ("mask", "scale"))
        if msg["name"] == "x":
            self.observation, self.mask, self.scale = fn, mask, scale
            if msg["value"] is None:
                # nobody sees the value: it is drawn where all leaves are joined
                nothing = torch.zeros((), device=self.index.device)
                msg["value"] = nothing.expand(msg["fn"].batch_shape + msg["fn"].event_shape)
            msg["done"] = msg["stop"] = True
            return
        msg["name"] += self.suffix
        msg["fn"] = self._stated[-1] = fn
        msg["mask"], msg["scale"] = mask, scale

    def _of_all(self, value: Any) -> Any:
        """A mask or scale of the program's leaves ``[.., n]`` as one of all, 1 for the others; or one for all."""
        if not isinstance(value, Tensor) or not value.dim() or value.size(-1) == 1:
            return value
        return value.new_ones(*value.shape[:-1], self.leaves).index_copy(-1, self.index, value)

    def handlers(self) -> list[Any]:
        """Handlers that give the observation of all leaves what the program's own gave to that of its leaves."""
        found: list[Any] = []
        if self.mask is not None:
            mask: Any = self._own(self.mask, True)
            found.append(poutine.mask(mask=mask))
        if isinstance(self.scale, Tensor) or self.scale != 1.0:
            found.append(poutine.scale(scale=self._own(self.scale, 1.0)))
        return found

    def _own(self, value: Any, other: Any) -> Tensor:
        """A value for the program's leaves, and another for the others, ``[.., leaf]``."""
        own = torch.zeros(self.leaves, dtype=torch.bool, device=self.index.device).index_fill(0, self.index, True)
        value = torch.as_tensor(value, device=own.device)
        return torch.where(own, value, torch.as_tensor(other, dtype=value.dtype, device=own.device))

    def _pyro_post_sample(self, msg: Any) -> None:
        # handlers outside have recorded the value of all leaves, and may have put another distribution in the place of
        # this one; the program goes on with its own
        own = self._stated.pop()
        if own is not None and msg["value"] is not None:
            msg["value"] = own.gather(msg["value"])

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Draws of some variables that several data share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.conditionals.pixels import pixels_unread
from pyro_spvae.queries.programs import prior_sites
from pyro_spvae.queries.quiet import forked
from pyro_spvae.queries.root import Root

_TREE = "tree"


@dataclass(frozen=True)
class Held:
    """
    Variables of which a number of data share one draw.

    :ivar tuple sites: latent sites; the induced tree is always one of them where there is more than one copy.
    :ivar int copies: data that share a draw.
    """

    sites: tuple[str, ...]
    copies: int

    @staticmethod
    def make(root: Root, hold: Sequence[str], copies: int, num: int, given: Mapping[str, Any] | None) -> Held:
        """
        :raises ValueError: for sites that are unknown or depend on others, or copies that do not divide the data.
        """
        copies, names = checks.positive_integer("copies", copies), (hold,) if isinstance(hold, str) else tuple(hold)
        if num % copies:
            raise ValueError(f"copies is {copies}, which does not divide num, {num}")
        if copies == 1:
            if names:
                raise ValueError(f"hold names {', '.join(names)}, but copies is 1; at least 2 data share a draw")
            return Held((), 1)
        if given:
            raise ValueError(f"copies is {copies}, but given fixes {', '.join(given)}; one of them is needed")
        with forked(root._reference().device):
            order = [name for name in prior_sites(root, 1, 1) if name in root.latents]
        for name in names:
            checks.latent_site("hold names", name, order)
        for name in order[: max((order.index(name) + 1 for name in names), default=0)]:
            if name not in names:
                raise ValueError(
                    f"hold names {', '.join(names)}, but not {name!r}, which the model draws before; name it too"
                )
        return Held(names, copies)

    def draw(self, root: Root, rows: int) -> dict[str, Tensor]:
        """Values by site, those of the tree among them, for so many data; nothing if there are no copies."""
        if self.copies == 1:
            return {}
        with pixels_unread():
            trace: Any = poutine.trace(root.model).get_trace(num=rows // self.copies)
        shape = torch.Size((rows // self.copies, root.num_leaves))
        found = {_TREE: trace.nodes[_TREE]["value"]}
        for name in self.sites:
            value = trace.nodes[name]["value"]
            found[name] = value.expand(*shape, *root.latents[name].event_shape)
        return {name: value.repeat_interleave(self.copies, 0) for name, value in found.items()}

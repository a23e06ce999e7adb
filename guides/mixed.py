# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The guide of regions with leaves of several kinds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_spvae.guides.leaf import LeafGuide
from pyro_spvae.guides.no_latents import NoLatents
from pyro_spvae.infer.some_leaves import SomeLeavesMessenger
from pyro_spvae.nn.mixture import check_counts, leaf_index
from pyro_spvae.nn.part import check_part


class MixedGuide(LeafGuide):
    """
    A guide for each part of a :class:`~pyro_spvae.models.MixedLeaf`; :class:`~pyro_spvae.guides.NoLatents` for a part
    without latent variables.

    :param parts: leaf guides, each for its own leaves.
    :param Sequence[int] counts: as those of the leaf.
    """

    def __init__(self, parts: Sequence[LeafGuide], counts: Sequence[int] | None = None) -> None:
        super().__init__()
        for part in parts:
            check_part("an entry of parts", part, LeafGuide)
        # unlike a plain list it hands on Pyro's context to the parts
        self.parts: Any = PyroModule[nn.ModuleList](list(parts))  # type: ignore[arg-type]
        self.counts = check_counts(counts, len(parts))

    def build(self, leaves: int, pixels: int, latent_dim: int, **more: Any) -> None:
        """Binds the parts."""
        for place, index in enumerate(leaf_index(self.counts, leaves)):
            self.register_buffer(f"index_{place}", index, persistent=False)  # moves to the module's device
        for part, index in zip(self.parts, self.index, strict=True):
            part.bind(leaves=len(index), pixels=pixels, latent_dim=latent_dim, **more)

    def encode(self, x: Tensor) -> tuple[Any, ...]:
        """What each part needs to know of its leaves' features."""
        return tuple(part.encode(x.index_select(-2, index)) for part, index in zip(self.parts, self.index, strict=True))

    def forward(self, encoding: tuple[Any, ...]) -> None:
        """States the latent sites of the parts."""
        for place, (part, index, known) in enumerate(zip(self.parts, self.index, encoding, strict=True)):
            if isinstance(part, NoLatents):
                continue
            with SomeLeavesMessenger(index, self.sizes["leaves"], f"_{place}" if place else ""):
                part(known)

    @property
    def index(self) -> list[Tensor]:
        """Numbers of the leaves of each part."""
        return [getattr(self, f"index_{place}") for place in range(len(self.counts))]

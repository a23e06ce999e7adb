# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Regions with leaves of several kinds side by side, such as VAEs and tractable leaves, in one circuit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_spvae.distributions.joined import JoinedLeaves
from pyro_spvae.guides.leaf import LeafGuide
from pyro_spvae.infer.some_leaves import SomeLeavesMessenger
from pyro_spvae.models.leaf import LeafModel
from pyro_spvae.nn.mixture import check_counts, leaf_index
from pyro_spvae.nn.part import check_part


class MixedLeaf(LeafModel):
    """
    Several leaf programs by turns: of the leaves of every region the first ``counts[0]`` follow the first program, the
    next ``counts[1]`` the second, and so on (the further work that the SPVAE poster names).

    Latent sites have the names that the programs give them, those of the second with ``_1`` behind them, those of the
    third with ``_2``. The guide is a :class:`~pyro_spvae.guides.MixedGuide` with as many parts.

    :param parts: leaf models, each over its own leaves.
    :param Sequence[int] counts: leaves of a region that follow each of them; one each by default. They add up to the
        circuit's leaves a region, or divide it and are repeated.
    :raises ValueError: for counts that do not fit, or latent variables of several sizes.

    Example::

        leaf = MixedLeaf([VAE(Bernoulli()), FactorizedLeaf(Bernoulli())])
        guide = MixedGuide([NormalGuide(), NoLatents()])
        SPVAE(poon_domingos((28, 28), delta=4), units=2, leaf=leaf, guide=guide)
    """

    def __init__(self, parts: Sequence[LeafModel], counts: Sequence[int] | None = None) -> None:
        super().__init__()
        for part in parts:
            check_part("an entry of parts", part, LeafModel)
        self._guide_sizes: dict[str, int] = {}
        for part in parts:
            for name, size in part.guide_sizes.items():
                if self._guide_sizes.setdefault(name, size) != size:
                    sizes = sorted({size, self._guide_sizes[name]})
                    raise ValueError(f"parts have latent variables of the sizes {sizes}; one size for all is needed")
        self.latent_dim = self._guide_sizes.get("latent_dim", 0)
        # unlike a plain list it hands on Pyro's context to the parts
        self.parts: Any = PyroModule[nn.ModuleList](list(parts))  # type: ignore[arg-type]
        self.counts = check_counts(counts, len(parts))

    def build(self, leaves: int, pixels: int, **more: Any) -> None:
        """Binds the parts."""
        for place, index in enumerate(leaf_index(self.counts, leaves)):
            self.register_buffer(f"index_{place}", index, persistent=False)  # moves to the module's device
        for part, index in zip(self.parts, self.index, strict=True):
            part.bind(leaves=len(index), pixels=pixels, **more)

    @property
    def guide_sizes(self) -> dict[str, int]:
        """Those of all parts."""
        return self._guide_sizes

    @property
    def wanted_rows(self) -> int:  # type: ignore[override]
        """The most that any part wants."""
        return max(part.wanted_rows for part in self.parts)

    def connect(self, guide: LeafGuide, patches: Callable[[Tensor], Tensor], mask: Tensor | None) -> None:
        """Shows each part its own guide and leaves."""
        guides = getattr(guide, "parts", None)
        if guides is None:  # a guide of a user's own, which is not made of parts
            return
        for part, own, index in zip(self.parts, guides, self.index, strict=True):
            part.connect(own, _Patches(patches, index), _some(mask, index, self.sizes["leaves"]))

    def initialise(self, features: Tensor) -> None:
        """Shows each part the features of its own leaves."""
        for part, index in zip(self.parts, self.index, strict=True):
            part.initialise(features.index_select(-2, index))

    def forward(self, x: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """States the latent sites of the parts, and ``x`` of all leaves."""
        observations = []
        for place, (part, index) in enumerate(zip(self.parts, self.index, strict=True)):
            some = SomeLeavesMessenger(index, self.sizes["leaves"], f"_{place}" if place else "")
            with some:
                part(None if x is None else x.index_select(-2, index), _some(mask, index, self.sizes["leaves"]))
            assert some.observation is not None
            observations.append(some.observation)
        return pyro.sample("x", JoinedLeaves(observations), obs=x)

    def features(self, x: Tensor) -> Tensor:
        """What each part's own leaves see."""
        result = torch.empty_like(x)
        for part, index in zip(self.parts, self.index, strict=True):
            result = result.index_copy(-2, index, part.features(x.index_select(-2, index)))
        return result

    def check(self, x: Tensor, mask: Tensor) -> None:
        for part, index in zip(self.parts, self.index, strict=True):
            part.check(x.index_select(-2, index), mask.index_select(-2, index))

    @property
    def index(self) -> list[Tensor]:
        """Numbers of the leaves of each part."""
        return [getattr(self, f"index_{place}") for place in range(len(self.counts))]


class _Patches:
    """Patches of some leaves."""

    def __init__(self, patches: Callable[[Tensor], Tensor], index: Tensor) -> None:
        self.patches, self.index = patches, index

    def __call__(self, x: Tensor) -> Tensor:
        return self.patches(x).index_select(-2, self.index)


def _some(mask: Tensor | None, index: Tensor, leaves: int) -> Tensor | None:
    if mask is None or mask.dim() < 2 or mask.size(-2) != leaves:
        return mask  # the same for all leaves
    return mask.index_select(-2, index)

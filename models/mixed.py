# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Regions with leaves of several kinds side by side, such as VAEs and tractable leaves, in one circuit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pyro
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_spvae import checks
from pyro_spvae.blocks import Latent
from pyro_spvae.distributions.joined import JoinedLeaves, SomeLeaves
from pyro_spvae.infer.some_leaves import SomeLeavesMessenger
from pyro_spvae.leaves import LeafGuide, LeafModel, LeafSubset
from pyro_spvae.leaves.leaf_subset import check_counts, leaf_index
from pyro_spvae.registry import make


class MixedLeaf(LeafModel):
    """
    Several leaf programs by turns: of the leaves of every region the first ``counts[0]`` follow the first program, the
    next ``counts[1]`` the second, and so on (the further work that the SPVAE poster names).

    Latent sites have the names that the programs give them, those of the second with ``_1`` behind them, those of the
    third with ``_2``. The guide is a :class:`~pyro_spvae.guides.MixedGuide` with as many parts, by default those that
    the programs ask for.

    :param parts: leaf models, each over its own leaves.
    :param Sequence[int] counts: leaves of a region that follow each of them; one each by default. They add up to the
        circuit's leaves a region, or divide it and are repeated.
    :raises ValueError: for counts that do not fit, or parts whose latent variables have one name.

    Example::

        >>> leaf = MixedLeaf([VAE(Bernoulli()), FactorizedLeaf(Bernoulli())])
        >>> guide = MixedGuide([NormalGuide(), LeafGuide()])
        >>> spvae = SPVAE(poon_domingos((8, 8), delta=4), units=2, leaf=leaf, guide=guide)
        >>> spvae.sample(3).shape
        torch.Size([3, 1, 8, 8])
    """

    def __init__(self, parts: Sequence[LeafModel], counts: Sequence[int] | None = None) -> None:
        super().__init__()
        checks.instances("parts", parts, LeafModel)
        self.counts = check_counts(counts, len(parts))
        # unlike a plain list it hands on Pyro's context to the parts
        modules: Any = PyroModule[nn.ModuleList]
        self.subsets: Any = modules([LeafSubset(part, place) for place, part in enumerate(parts)])
        self.tractable = all(part.tractable for part in parts)
        latents: dict[str, Latent] = {}
        for subset in self.subsets:
            for name, latent in subset.program.latents.items():
                if not subset.place and any(name.endswith(other.suffix) for other in self.subsets[1:]):
                    raise ValueError(f"the first part has the latent site {name!r}, whose end is another's; rename it")
                if name + subset.suffix in latents:
                    raise ValueError(f"parts have two latent sites {name + subset.suffix!r}; rename one of them")
                latents[name + subset.suffix] = latent
        self.latents = latents

    def build(self, leaves: int, pixels: int, **more: Any) -> None:
        """Binds the parts."""
        for subset, index in zip(self.subsets, leaf_index(self.counts, leaves), strict=True):
            subset.bind(index, leaves, pixels=pixels, **more)
        scopes = more.get("scopes")
        self.widths = [subset.program.count_features(pixels, scopes) for subset in self.subsets]

    def new_guide(self, **options: Any) -> LeafGuide:
        """A :class:`~pyro_spvae.guides.MixedGuide` of those that the parts ask for."""
        parts = [subset.program.new_guide(**options) for subset in self.subsets]
        guide: LeafGuide = make("guide", "mixed", parts=parts, counts=self.counts)
        return guide

    def meet(self, guide: LeafGuide, patches: Callable[[Tensor], Tensor], mask: Tensor | None) -> None:
        """
        Shows each part its own guide and leaves.

        :raises ValueError: if one guide stands for all leaves, of which only some have its latent variables.
        """
        parts = list(guide.by_part(len(self.subsets)))
        if self.latents and len(parts) > 1 and all(part is guide for part in parts):
            raise ValueError(
                f"guide is one {type(guide).__name__} for the leaves of all {len(parts)} parts; give a MixedGuide with "
                "one for each, LeafGuide() for those without latent variables"
            )
        for subset, own in zip(self.subsets, parts, strict=True):
            subset.program.meet(own, lambda x, subset=subset: subset.narrow(patches(x)), subset.narrow_mask(mask))

    def forward(self, x: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """States the latent sites of the parts, and ``x`` of all leaves."""
        observations: list[Any] = []
        with ExitStack() as stack:  # what parts give to their own observations
            for subset in self.subsets:
                with SomeLeavesMessenger(subset.index, subset.leaves, subset.suffix) as some:
                    subset.program(None if x is None else subset.narrow(x), subset.narrow_mask(mask))
                observations.append(some.observation)
                for handler in some.handlers():
                    stack.enter_context(handler)
            return pyro.sample("x", JoinedLeaves(observations), obs=x)

    def law(self, mask: Tensor | None = None) -> JoinedLeaves:
        """That of each part's own leaves, if all are tractable."""
        return JoinedLeaves(
            [
                SomeLeaves(subset.program.law(subset.narrow_mask(mask)), subset.index, subset.leaves)
                for subset in self.subsets
            ]
        )

    def check_closed_form(self) -> None:
        """
        :raises ValueError: if a part has no closed M-step.
        """
        for subset in self.subsets:
            subset.program.check_closed_form()

    def expected(self, patches: Tensor, weight: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """What EM has to know of data for each part, see :meth:`pyro_spvae.leaves.TractableLeaf.expected`."""
        found = []
        for subset in self.subsets:
            own = weight.index_select(-1, subset.index)
            found += subset.program.expected(subset.narrow(patches), own, subset.narrow_mask(mask))
        return found

    def maximise(self, sums: Iterator[Tensor], smoothing: float = 0.0, ridge: float = 0.0) -> None:
        """The M-step of each part."""
        for subset in self.subsets:
            subset.program.maximise(sums, smoothing, ridge)

    def count_features(self, pixels: int, scopes: Sequence[Sequence[int | None]] | None = None) -> int:
        """As many as the part has that has most; each part sees leaves of all regions."""
        return max(subset.program.count_features(pixels, scopes) for subset in self.subsets)

    def features(self, x: Tensor) -> Tensor:
        """What each part's own leaves see, and 0 behind it where others see more."""
        own = [subset.program.features(subset.narrow(x)) for subset in self.subsets]
        return self._joined(own, x.size(-2))

    def feature_mask(self, mask: Tensor | None) -> Tensor | None:
        """Those of each part's own leaves."""
        masks = [subset.program.feature_mask(subset.narrow_mask(mask)) for subset in self.subsets]
        if all(own is None for own in masks):
            return None
        leaves: int = self.subsets[0].leaves
        own = [
            torch.ones(len(subset.index), width, dtype=torch.bool, device=subset.index.device)
            if found is None
            else found.expand(torch.broadcast_shapes(found.shape, (len(subset.index), found.size(-1))))
            for subset, found, width in zip(self.subsets, masks, self.widths, strict=True)
        ]
        return self._joined(own, leaves)

    def _joined(self, parts: Sequence[Tensor], leaves: int) -> Tensor:
        """Values ``[.., leaf, feature]`` of the parts' own leaves as those of all."""
        lead = torch.broadcast_shapes(*(part.shape[:-2] for part in parts))
        size = max(part.size(-1) for part in parts)
        result = parts[0].new_zeros(*lead, leaves, size)
        for subset, part in zip(self.subsets, parts, strict=True):
            wide = nn.functional.pad(part, (0, size - part.size(-1))).expand(*lead, -1, -1)
            result = result.index_copy(-2, subset.index, wide)
        return result

    def check(self, x: Tensor, mask: Tensor) -> None:
        for subset in self.subsets:
            subset.program.check(subset.narrow(x), subset.narrow(mask))

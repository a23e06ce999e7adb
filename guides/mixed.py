# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The guide of regions with leaves of several kinds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_spvae import checks
from pyro_spvae.blocks import Latent
from pyro_spvae.infer.some_leaves import SomeLeavesMessenger
from pyro_spvae.leaves import LeafGuide, LeafSubset
from pyro_spvae.leaves.leaf_subset import check_counts, leaf_index, own_sites


class MixedGuide(LeafGuide):
    """
    A guide for each part of a :class:`~pyro_spvae.models.MixedLeaf`; :class:`~pyro_spvae.guides.LeafGuide` for a part
    without latent variables.

    :param parts: leaf guides, each for its own leaves.
    :param Sequence[int] counts: as those of the leaf.

    Example::

        >>> leaf = MixedLeaf([VAE(Bernoulli(), latent_dim=2), VAE(Bernoulli(), latent_dim=5)])
        >>> guide = MixedGuide([NormalGuide(), NormalGuide(hidden_dims=())])
        >>> spvae = SPVAE(poon_domingos((8, 8), delta=4), units=2, leaf=leaf, guide=guide)
        >>> {name: means.shape for name, means in spvae.embed(spvae.sample(3)).latents.items()}
        {'z': torch.Size([3, 8, 2]), 'z_1': torch.Size([3, 8, 5])}
    """

    def __init__(self, parts: Sequence[LeafGuide], counts: Sequence[int] | None = None) -> None:
        super().__init__()
        checks.instances("parts", parts, LeafGuide)
        self.counts = check_counts(counts, len(parts))
        # unlike a plain list it hands on Pyro's context to the parts
        modules: Any = PyroModule[nn.ModuleList]
        self.subsets: Any = modules([LeafSubset(part, place) for place, part in enumerate(parts)])

    def build(self, leaves: int, pixels: int, latents: Mapping[str, Latent], **more: Any) -> None:
        """Binds the parts."""
        for subset, index in zip(self.subsets, leaf_index(self.counts, leaves), strict=True):
            own = own_sites(latents, subset.place, len(self.subsets))
            subset.bind(index, leaves, pixels=pixels, latents=own, **more)

    def by_part(self, parts: int) -> Iterable[LeafGuide]:
        """
        Those of the parts.

        :raises ValueError: if there are not so many.
        """
        if parts != len(self.subsets):
            raise ValueError(f"the guide has {len(self.subsets)} parts, but the leaf {parts}; give one guide for each")
        return [subset.program for subset in self.subsets]

    def encode(self, x: Tensor) -> tuple[Any, ...]:
        """What each part needs to know of its leaves' features."""
        return tuple(subset.program.encode(subset.narrow(x)) for subset in self.subsets)

    def forward(self, encoding: tuple[Any, ...]) -> None:
        """States the latent sites of the parts."""
        for subset, known in zip(self.subsets, encoding, strict=True):
            with SomeLeavesMessenger(subset.index, subset.leaves, subset.suffix):
                subset.program(known)

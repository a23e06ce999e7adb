# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What blocks that state the pixels of a leaf share: a likelihood, and what the guide's networks see of its values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_spvae import checks
from pyro_spvae.blocks.block import Block
from pyro_spvae.likelihoods.likelihood import Likelihood


class Observation(Block):
    """
    A block over the pixels of a leaf, which a likelihood checks and brings to features.

    :param Likelihood likelihood: of the pixels.
    """

    has_feature: Tensor | None

    def __init__(self, likelihood: Likelihood) -> None:
        super().__init__()
        checks.instance("likelihood", likelihood, Likelihood)
        self.likelihood = likelihood

    def keep_features(
        self, pixels: int, scopes: Sequence[Sequence[int | None]] | None = None, features: int | None = None
    ) -> int:
        """
        Keeps which features are its own, where leaves of another kind have more.

        :param int features: how many there are; by default as many as the likelihood has.
        :returns: this number.
        """
        own = self.likelihood.count_features(pixels, scopes)
        features = own if features is None else features
        fewer = torch.arange(features) < own if own < features else None
        self.register_buffer("has_feature", fewer, persistent=False)
        return features

    def features(self, x: Tensor) -> Tensor:
        """Pixel values brought to about [0, 1] for the guide's networks; 0 where other leaves have more features."""
        return self._widened(self.likelihood.features(x))

    def count_features(self, pixels: int, scopes: Sequence[Sequence[int | None]] | None = None) -> int:
        """As many as the likelihood has."""
        return self.likelihood.count_features(pixels, scopes)

    def feature_mask(self, mask: Tensor | None) -> Tensor | None:
        """Which features count where some pixels do; not those that only other leaves have."""
        own = self.likelihood.feature_mask(mask)
        return self.has_feature if own is None else self._widened(own)

    def _widened(self, features: Tensor) -> Tensor:
        more = 0 if self.has_feature is None else self.has_feature.size(-1) - features.size(-1)
        return nn.functional.pad(features, (0, more)) if more else features

    def check(self, x: Tensor, mask: Tensor) -> None:
        """
        :raises ValueError: if a value of ``x`` with ``mask`` set is outside the support.
        """
        self.likelihood.check(x, mask)

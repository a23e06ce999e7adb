# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The guide of leaves that have nothing to infer."""

from __future__ import annotations

from typing import Any

from pyro_spvae.guides.leaf import LeafGuide


class NoLatents(LeafGuide):
    """
    States no site: the guide of leaves without latent variables, such as :class:`~pyro_spvae.models.FactorizedLeaf`.
    :class:`~pyro_spvae.models.SPVAE` takes it by itself.
    """

    def build(self, leaves: int, pixels: int) -> None:
        """There are no parameters."""

    def forward(self, encoding: Any) -> None:
        """States nothing."""

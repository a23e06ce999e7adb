# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The standard normal prior."""

from __future__ import annotations

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from pyro_spvae.distributions import LeafStandardNormal
from pyro_spvae.priors.prior import Prior


class StandardNormal(Prior):
    r""":math:`p(z) = N(0, I)` for every leaf; no parameters."""

    _reference: Tensor

    def build(self, leaves: int, latent_dim: int) -> None:
        # carries the module's dtype and device; nothing to save
        self.register_buffer("_reference", torch.zeros(()), persistent=False)

    def forward(self) -> TorchDistribution:
        latent_dim, reference = self.sizes["latent_dim"], self._reference
        return LeafStandardNormal(latent_dim, dtype=reference.dtype, device=reference.device)

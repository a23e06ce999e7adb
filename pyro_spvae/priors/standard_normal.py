# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The standard normal prior."""

from __future__ import annotations

import torch
from pyro.distributions import Normal
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from pyro_spvae.distributions import LeafStandardNormal
from pyro_spvae.priors.prior import Prior


class StandardNormal(Prior):
    r""":math:`p(z) = N(0, I)` for every leaf, events of any shape; no parameters."""

    _reference: Tensor

    def build(self, leaves: int, event_shape: tuple[int, ...]) -> None:
        # carries the module's dtype and device; nothing to save
        self.register_buffer("_reference", torch.zeros(()), persistent=False)

    def forward(self) -> TorchDistribution:
        event, reference = self.sizes["event_shape"], self._reference
        if len(event) == 1:
            return LeafStandardNormal(event[0], dtype=reference.dtype, device=reference.device)
        return Normal(reference, torch.ones_like(reference)).expand(event).to_event(len(event))

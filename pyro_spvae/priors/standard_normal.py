# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The standard normal prior."""

from __future__ import annotations

import math

import torch
from pyro.distributions import Normal
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor

from pyro_spvae.distributions import LeafStandardNormal, Shaped
from pyro_spvae.priors.prior import Prior


class StandardNormal(Prior):
    r""":math:`p(z) = N(0, I)` for every leaf, events of any shape; no parameters.

    Example::

        >>> prior = StandardNormal().bind(leaves=2, event_shape=(3,))
        >>> prior().log_prob(torch.zeros(2, 3))  # nats
        tensor([-2.7568, -2.7568])
    """

    _reference: Tensor

    def build(self, leaves: int, event_shape: tuple[int, ...]) -> None:
        # carries the module's dtype and device; nothing to save
        self.register_buffer("_reference", torch.zeros(()), persistent=False)

    def forward(self) -> TorchDistribution:
        event, reference = self.sizes["event_shape"], self._reference
        if not event:
            return Normal(reference, torch.ones_like(reference))
        law = LeafStandardNormal(math.prod(event), dtype=reference.dtype, device=reference.device)
        return law if len(event) == 1 else Shaped(law, event)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Priors of latent variables: modules whose call returns a distribution over ``z``."""

from __future__ import annotations

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from pyro_spvae.distributions import LeafStandardNormal
from pyro_spvae.nn import Part

__all__ = ["Prior", "StandardNormal"]


class Prior(Part, nn.Module):
    """
    A distribution over the latent vector of every leaf.

    Subclasses make their parameters in ``build(leaves, latent_dim)``; their call returns a distribution with event
    ``[latent]`` and a batch shape broadcastable to ``[.., leaf]``. Arguments of a constructor are kept as attributes of
    the same names, so that a model with the prior can be saved.

    Example::

        class LearnedNormal(Prior):
            def build(self, leaves, latent_dim):
                self.loc = nn.Parameter(torch.zeros(leaves, latent_dim))

            def forward(self):
                return dist.Normal(self.loc, 1.0).to_event(1)
    """

    def build(self, leaves: int, latent_dim: int) -> None:
        """Makes the parameters; the default has none."""

    def forward(self) -> TorchDistribution:
        """The prior distribution."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(self)")


class StandardNormal(Prior):
    r""":math:`p(z) = N(0, I)` for every leaf; no parameters."""

    _reference: Tensor

    def build(self, leaves: int, latent_dim: int) -> None:
        # carries the module's dtype and device; nothing to save
        self.register_buffer("_reference", torch.zeros(()), persistent=False)

    def forward(self) -> TorchDistribution:
        latent_dim, reference = self.sizes["latent_dim"], self._reference
        return LeafStandardNormal(latent_dim, dtype=reference.dtype, device=reference.device)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The one idea: a block is a module whose call returns a distribution."""

from __future__ import annotations

from typing import Any

from pyro.distributions.torch_distribution import TorchDistribution
from torch.distributions import constraints

from pyro_spvae.part import Part


class Block(Part):
    """
    A module whose call returns a distribution: given nothing (a prior), features of data (a posterior), or values of
    latent variables (a conditional, or the pixels).

    Batch shapes broadcast to ``[.., data, leaf]``; events have the shape that the block is bound with. A block knows
    its network's outputs and how its values are drawn; the program that states it knows neither.

    :cvar Constraint support: of one value of an event; what a declared latent variable takes over.

    Example::

        class LearnedNormal(Block):
            def build(self, leaves, event_shape):
                self.loc = nn.Parameter(torch.zeros(leaves, *event_shape))

            def forward(self):
                return dist.Normal(self.loc, 1.0).to_event(1)
    """

    support: Any = constraints.real

    def forward(self, *inputs: Any) -> TorchDistribution:
        """The distribution given the inputs."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, ...)")

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The one idea: a block is a module whose call returns a distribution."""

from __future__ import annotations

from typing import Any

from pyro.distributions import Distribution
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
    :raises TypeError: if what the call returns is no distribution.
    :raises ValueError: if it is one of other events than the block is bound with.

    Example::

        >>> from pyro.distributions import Normal
        >>> class LearnedNormal(Block):
        ...     def build(self, leaves, event_shape):
        ...         self.loc = torch.nn.Parameter(torch.zeros(leaves, *event_shape))
        ...
        ...     def forward(self):
        ...         return Normal(self.loc, 1.0).to_event(1)
        >>> LearnedNormal().bind(leaves=2, event_shape=(3,))().sample((5,)).shape
        torch.Size([5, 2, 3])
    """

    support: Any = constraints.real

    def forward(self, *inputs: Any) -> TorchDistribution:
        """The distribution given the inputs."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, ...)")

    def __call__(self, *inputs: Any, **options: Any) -> TorchDistribution:
        law: TorchDistribution = super().__call__(*inputs, **options)
        name, kind = type(self).__name__, type(law).__name__
        if not isinstance(law, Distribution):
            raise TypeError(f"the block {name} returned a {kind}; one of pyro.distributions is needed")
        wanted = (self._sizes or {}).get("event_shape")
        if wanted is not None and law.event_shape != wanted:
            raise ValueError(
                f"the block {name} returned a {kind} of event shape {list(law.event_shape)}, but was bound with "
                f"{list(wanted)}; .to_event(n) makes its last n dimensions an event"
            )
        return law

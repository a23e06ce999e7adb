# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a prior is."""

from __future__ import annotations

from collections.abc import Callable

from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from pyro_spvae.nn import Part


class Prior(Part, nn.Module):
    """
    A distribution over the latent vector of every leaf.

    Subclasses make their parameters in ``build(leaves, latent_dim)``; their call returns a distribution with event
    ``[latent]`` and a batch shape broadcastable to ``[.., leaf]``. Arguments of a constructor are kept as attributes of
    the same names, so that a model with the prior can be saved. Mark ``forward`` as :func:`pyro_spvae.nn.memoized`
    where it costs something: it then runs once a step, and once in an evaluation.

    Example::

        class LearnedNormal(Prior):
            def build(self, leaves, latent_dim):
                self.loc = nn.Parameter(torch.zeros(leaves, latent_dim))

            def forward(self):
                return dist.Normal(self.loc, 1.0).to_event(1)
    """

    #: how many training rows :meth:`initialise` wants to see before the prior is used
    wanted_rows: int = 0

    def build(self, leaves: int, latent_dim: int) -> None:
        """Makes the parameters; the default has none."""

    def connect(
        self,
        posterior: Callable[[Tensor], TorchDistribution],
        features: Callable[[Tensor], Tensor],
        mask: Tensor | None = None,
    ) -> None:
        """
        Shows the prior its surroundings, once guide and prior are bound; the default looks at nothing.

        :param callable posterior: the guide's distribution of the latent vector given features ``[.., leaf, pixel]``.
        :param callable features: from data ``[rows, ..]`` to the features of their patches, ``[rows, leaf, pixel]``.
        :param Tensor mask: pixels that are no padding, ``bool [leaf, pixel]``, or ``None`` if none are.
        """

    def initialise(self, features: Tensor) -> None:
        """
        Starts from data; the default looks at nothing.

        :param Tensor features: those of at least :attr:`wanted_rows` training data, ``[rows, leaf, pixel]``.
        """

    def forward(self) -> TorchDistribution:
        """The prior distribution."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(self)")

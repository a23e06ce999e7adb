# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Leaves without latent variables, whose density is known in closed form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyro
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_spvae.leaves.leaf_model import LeafModel


class TractableLeaf(LeafModel):
    """
    Base class of leaves that are one distribution of their pixels, with free parameters and without latent variables.

    What is random given data is the induced tree alone, whose posterior a circuit has exactly, so that every query of
    :class:`~pyro_spvae.models.SPVAE` is exact, in one pass.

    Subclasses set :attr:`pixels` to a block whose call ``pixels(mask=mask)`` returns that distribution; for EM it also
    has ``check_closed_form``, ``expected`` and ``maximise``, see :class:`~pyro_spvae.conditionals.Pixels`.

    Example::

        >>> from pyro_spvae.leaves import TractableLeaf
        >>> class Independent(TractableLeaf):
        ...     def __init__(self, likelihood):
        ...         super().__init__()
        ...         self.pixels = Pixels(likelihood)
        >>> spn = SPN(whole(3), units=1, leaves=2, leaf=Independent(Bernoulli()))
        >>> x = torch.cartesian_prod(*[torch.arange(2.0)] * 3)
        >>> round(spn.log_prob(x).exp().sum().item(), 4)
        1.0
    """

    guide_name = "none"
    tractable = True

    def build(self, leaves: int, pixels: int, **shapes: Any) -> None:
        """Binds the block, which makes its parameters."""
        self.pixels.bind(leaves=leaves, pixels=pixels, **shapes)

    def forward(self, x: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """States ``x``."""
        return pyro.sample("x", self.law(mask), obs=x)

    def law(self, mask: Tensor | None = None) -> TorchDistribution:
        """The distribution of the patches, batch ``[.., leaf]``, of the pixels that count."""
        law: TorchDistribution = self.pixels(mask=mask)
        return law

    def check_closed_form(self) -> None:
        """
        :raises ValueError: if there is no closed M-step.
        """
        self.pixels.check_closed_form()

    def expected(self, patches: Tensor, weight: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """
        What EM has to know of data, given how much of each is of each leaf.

        :param Tensor patches: values ``[data, leaf, pixel]``, in the support also where not seen.
        :param Tensor weight: ``[data, leaf]``, at least 0.
        :param Tensor mask: pixels that count, ``bool`` broadcastable to ``patches``; all by default.
        :returns: tensors that may be added up over data.
        """
        found: list[Tensor] = self.pixels.expected(patches, weight, mask)
        return found

    def maximise(self, sums: Iterator[Tensor], smoothing: float = 0.0, ridge: float = 0.0) -> None:
        """
        The M-step, see :meth:`pyro_spvae.models.SPN.fit_em`.

        :param sums: those of :meth:`expected`, of which as many are taken.
        :param float smoothing: number of further data.
        :param float ridge: of covariances, in variances of the data.
        """
        self.pixels.maximise(sums, smoothing, ridge)

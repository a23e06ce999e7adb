# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What the model of a leaf is."""

from __future__ import annotations

from pyro.nn import PyroModule
from torch import Tensor

from pyro_spvae.nn import Part


class LeafModel(Part, PyroModule):
    """
    A generative program for the data of one leaf, written without plates.

    Subclasses set :attr:`latent_dim` (0 if nothing is latent), make their parameters in ``build(leaves, pixels)`` and
    state their sites in ``forward``: latent variables of any number and name, and the observation ``"x"``.
    :class:`~pyro_spvae.models.SPVAE` runs the program once for all leaves inside the plates ``data`` (dim -2) and
    ``leaf`` (dim -1), so that every tensor has shape ``[.., data, leaf, event]`` and parameters carry a leaf axis.
    """

    latent_dim: int

    def forward(self, x: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """
        States the sites of the leaf.

        :param Tensor x: observed patches ``[data, leaf, pixel]``, or ``None`` to generate.
        :param Tensor mask: ``bool``, broadcastable to ``[data, leaf, pixel]``: pixels that count. ``None``: all do.
        :returns: the patches.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, x=None, mask=None)")

    def features(self, x: Tensor) -> Tensor:
        """What the guide's networks see of the patches ``x``; by default the patches themselves."""
        return x

    def check(self, x: Tensor, mask: Tensor) -> None:
        """Raises a ValueError in one sentence where values of ``x`` with ``mask`` set cannot be observed."""

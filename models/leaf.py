# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What the model of a leaf is."""

from __future__ import annotations

from collections.abc import Callable

import pyro
from pyro.distributions.torch_distribution import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor

from pyro_spvae.distributions.autoregressive import check_whole
from pyro_spvae.guides.leaf import LeafGuide
from pyro_spvae.likelihoods import Likelihood
from pyro_spvae.nn import Part
from pyro_spvae.priors import Prior


class LeafModel(Part, PyroModule):
    """
    A generative program for the data of one leaf, written without plates.

    Subclasses set :attr:`latent_dim` (0 if nothing is latent), make their parameters in ``build(leaves, pixels)`` and
    state their sites in ``forward``: latent variables of any number and name, and the observation ``"x"``.
    :class:`~pyro_spvae.models.SPVAE` runs the program once for all leaves inside the plates ``data`` (dim -2) and
    ``leaf`` (dim -1), so that every tensor has shape ``[.., data, leaf, event]`` and parameters carry a leaf axis.
    """

    latent_dim: int

    #: registered name of the guide that is taken where none is given
    guide_name: str = "normal"

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

    @property
    def guide_sizes(self) -> dict[str, int]:
        """Sizes of the latent variables, which the guide is bound with; by default ``latent_dim``, if there are any."""
        return {"latent_dim": self.latent_dim} if self.latent_dim else {}

    #: how many training rows :meth:`initialise` wants to see before the leaf is used
    wanted_rows: int = 0

    def connect(self, guide: LeafGuide, patches: Callable[[Tensor], Tensor], mask: Tensor | None) -> None:
        """
        Shows the leaf its guide, once both are bound, for parts that both sides share; by default it looks at nothing.

        :param LeafGuide guide: the guide.
        :param callable patches: from data ``[rows, *event_shape]`` to patches ``[rows, leaf, pixel]``.
        :param Tensor mask: pixels that are no padding, ``bool [leaf, pixel]``, or ``None`` if none are.
        """

    def initialise(self, features: Tensor) -> None:
        """
        Starts from data; by default nothing does.

        :param Tensor features: those of :attr:`wanted_rows` training data, ``[rows, leaf, pixel]``.
        """

    def check(self, x: Tensor, mask: Tensor) -> None:
        """Raises a ValueError in one sentence where values of ``x`` with ``mask`` set cannot be observed."""


class LatentLeaf(LeafModel):
    """
    A leaf with latent variables of which the topmost has a prior that can be swapped, and pixels with a likelihood.

    Subclasses set :attr:`prior` and :attr:`likelihood`, and bind them.
    """

    prior: Prior
    likelihood: Likelihood

    @property
    def wanted_rows(self) -> int:  # type: ignore[override]
        """What the prior wants."""
        return self.prior.wanted_rows

    def connect(self, guide: LeafGuide, patches: Callable[[Tensor], Tensor], mask: Tensor | None) -> None:
        """Shows the prior the guide's encoder."""
        self.prior.connect(guide.posterior, _Features(self.features, patches), mask)

    def initialise(self, features: Tensor) -> None:
        """Shows the prior data."""
        self.prior.initialise(features)

    def features(self, x: Tensor) -> Tensor:
        """Patches brought to about [0, 1] by the likelihood."""
        return self.likelihood.features(x)

    def check(self, x: Tensor, mask: Tensor) -> None:
        self.likelihood.check(x, mask)
        decoder = getattr(self, "decoder", None)
        if getattr(decoder, "autoregressive", False):
            check_whole(mask)

    def draw_latent(self, name: str, distribution: TorchDistribution, size: int) -> Tensor:
        """
        States a latent site of a known size.

        :raises ValueError: if prior or guide have another.
        """
        if distribution.event_shape != (size,):
            raise ValueError(
                f"the latent size of the site '{name}' is {size}, but its prior has events of shape "
                f"{list(distribution.event_shape)}; {[size]} is needed"
            )
        z: Tensor = pyro.sample(name, distribution)
        if z.size(-1) != size:
            raise ValueError(
                f"the latent size of the site '{name}' is {size}, but the guide draws values of size {z.size(-1)}; one "
                "size is needed"
            )
        return z


class _Features:
    """From data to features of their patches."""

    def __init__(self, features: Callable[[Tensor], Tensor], patches: Callable[[Tensor], Tensor]) -> None:
        self.features, self.patches = features, patches

    def __call__(self, x: Tensor) -> Tensor:
        return self.features(self.patches(x))

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The mixture of Gaussians as a prior: the VampPrior paper's second baseline."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pyro_spvae import checks
from pyro_spvae.blocks.scale import positive_scale, raw_scale
from pyro_spvae.distributions import LeafNormalMixture
from pyro_spvae.priors.prior import Prior


class MixtureOfGaussians(Prior):
    r"""
    :math:`p(z) = \sum_k w_k N(z; \mu_k, \mathrm{diag}\, \sigma_k^2)` for every leaf, with means, standard deviations
    and weights learned (the MoG prior of Tomczak and Welling 2018, who do not say how it starts).

    Means start as normals of standard deviation ``spread``, components with the deviation that makes the variance of
    the whole one, as the standard normal's, and equal weights.

    :param int components: number of components of each leaf, K.
    :param float spread: standard deviation of the initial means, above 0 and below 1.
    :param float min_scale: smallest standard deviation of a component.
    :raises ValueError: for options out of range.

    Example::

        >>> prior = MixtureOfGaussians(components=10).bind(leaves=2, event_shape=(3,))
        >>> prior().log_prob(prior().sample((5,))).shape
        torch.Size([5, 2])
    """

    #: axis of the parameters along which leaves lie
    leaf_axis = 1

    def __init__(self, components: int = 500, spread: float = 0.5, min_scale: float = 1e-3) -> None:
        super().__init__()
        self.components = checks.positive_integer("components", components)
        if not checks.is_number(spread) or not 0 < spread < 1:
            raise ValueError(f"spread is {spread!r}; a number above 0 and below 1 is needed")
        if not checks.is_number(min_scale) or not 0 <= min_scale < 1:
            raise ValueError(f"min_scale is {min_scale!r}; a number of at least 0 and below 1 is needed")
        self.spread = spread
        self.min_scale = float(min_scale)

    def build(self, leaves: int, event_shape: tuple[int, ...]) -> None:
        """Makes means, unconstrained deviations ``[component, leaf, latent]`` and weights ``[component, leaf]``."""
        (latent_dim,) = vector("MixtureOfGaussians", event_shape)
        shape = (self.components, leaves, latent_dim)
        self.loc = nn.Parameter(self.spread * torch.randn(shape))
        scale = torch.full(shape, math.sqrt(1 - self.spread**2))
        self.raw_scale = nn.Parameter(raw_scale(scale, "softplus", self.min_scale))
        self.logits = nn.Parameter(torch.zeros(self.components, leaves))

    @property
    def weights(self) -> Tensor:
        """Weights of the components, ``[component, leaf]``."""
        return self.logits.softmax(0)

    def forward(self) -> LeafNormalMixture:
        mixture: LeafNormalMixture = self.kept(self._mixture)
        return mixture

    def _mixture(self) -> LeafNormalMixture:
        self.sizes  # noqa: B018, says so if there are none
        scale = positive_scale(self.raw_scale, "softplus", self.min_scale)
        return LeafNormalMixture(self.loc, scale, self.logits.log_softmax(0))


def vector(name: str, event_shape: tuple[int, ...]) -> tuple[int]:
    """
    :raises ValueError: if an event shape is not that of a vector.
    """
    if len(event_shape) != 1:
        raise ValueError(f"a {name} is a prior of vectors, but the latent variable has the shape {list(event_shape)}")
    return event_shape

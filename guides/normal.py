# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The diagonal normal guide: the inference network of a VAE (Kingma and Welling 2014)."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
from torch import Tensor

from pyro_spvae.distributions import LeafNormal
from pyro_spvae.guides.leaf import LeafGuide
from pyro_spvae.nn import StackedMLP, memoized, positive_scale
from pyro_spvae.nn.mlp import check_network
from pyro_spvae.nn.scale import check_scale


class NormalGuide(LeafGuide):
    r"""
    :math:`q(z \mid x) = N(\mu(x), \mathrm{diag}\, \sigma(x)^2)`, a network per leaf, each seeing its own patch.

    Site: ``"z"`` with event ``[latent]``.

    :param Sequence[int] hidden_dims: hidden layers of the encoder.
    :param str activation: activation of the hidden layers.
    :param str networks: ``"separate"`` mean and scale networks (the paper's form), or ``"shared"`` trunk, two heads.
    :param str scale: how the standard deviation is parameterised, see :func:`pyro_spvae.nn.positive_scale`:
        ``"softplus"``, or ``"precision"`` as in the paper's code (no wider than the standard normal prior).
    :param float min_scale: smallest standard deviation; 1e-3 by default, none for ``"precision"``.
    """

    def __init__(
        self,
        hidden_dims: Sequence[int] = (32, 32),
        activation: str = "softplus",
        networks: str = "separate",
        scale: str = "softplus",
        min_scale: float | None = None,
    ) -> None:
        super().__init__()
        check_network(hidden_dims, activation, networks)
        self.hidden_dims = tuple(hidden_dims)
        self.activation = activation
        self.networks = networks
        self.scale = scale
        self.min_scale = (1e-3 if scale == "softplus" else 0.0) if min_scale is None else float(min_scale)
        check_scale(scale, self.min_scale)

    def build(self, leaves: int, pixels: int, latent_dim: int) -> None:
        """Makes the encoder."""
        heads = (latent_dim, latent_dim)
        self.encoder = StackedMLP(leaves, pixels, self.hidden_dims, heads, self.activation, self.networks)

    @memoized
    def encode(self, x: Tensor) -> LeafNormal:
        """The distribution of ``z`` for features ``x [.., leaf, pixel]``."""
        loc, raw_scale = self.encoder(x)
        return LeafNormal(loc, positive_scale(raw_scale, self.scale, self.min_scale))

    def forward(self, encoding: LeafNormal) -> None:
        """States ``z``."""
        pyro.sample("z", encoding)

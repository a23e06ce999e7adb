# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The diagonal normal guide: the inference network of a VAE (Kingma and Welling 2014)."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
from torch import Tensor

from pyro_spvae.distributions import LeafNormal
from pyro_spvae.guides.leaf import LeafGuide
from pyro_spvae.nn import Network, memoized, positive_scale
from pyro_spvae.nn.mlp import network_or_mlp
from pyro_spvae.nn.scale import check_scale


class NormalGuide(LeafGuide):
    r"""
    :math:`q(z \mid x) = N(\mu(x), \mathrm{diag}\, \sigma(x)^2)`, a network per leaf, each seeing its own patch.

    Site: ``"z"`` with event ``[latent]``.

    :param Sequence[int] hidden_dims: hidden layers of the default encoder, (32, 32).
    :param str activation: activation of the hidden layers, ``"softplus"``.
    :param str networks: ``"separate"`` mean and scale networks (the paper's form, default), or ``"shared"`` trunk, two
        heads.
    :param str scale: how the standard deviation is parameterised, see :func:`pyro_spvae.nn.positive_scale`:
        ``"softplus"``, ``"precision"`` as in the SPVAE paper's code (no wider than the standard normal prior),
        ``"logvar"`` as in the VampPrior paper's, or ``"exp"``.
    :param float min_scale: smallest standard deviation; 1e-3 by default for ``"softplus"``, else none.
    :param Network encoder: from the features of a patch to mean and scale; by default an
        :class:`~pyro_spvae.nn.MLP` of ``hidden_dims``, ``activation`` and ``networks``.
    :raises ValueError: for options out of range, or if both an encoder and options of the default one are given.
    """

    shorthands = ("hidden_dims", "activation", "networks")

    def __init__(
        self,
        hidden_dims: Sequence[int] | None = None,
        activation: str | None = None,
        networks: str | None = None,
        scale: str = "softplus",
        min_scale: float | None = None,
        encoder: Network | None = None,
    ) -> None:
        super().__init__()
        self.encoder = network_or_mlp("encoder", encoder, hidden_dims, activation, networks)
        self.scale = scale
        self.min_scale = check_scale(scale, min_scale)

    def build(self, leaves: int, pixels: int, latent_dim: int, patch: tuple[int, ...] | None = None) -> None:
        """Binds the encoder."""
        self.encoder.bind(leaves=leaves, inputs=pixels, outputs=(latent_dim, latent_dim), input_shape=patch)

    @memoized
    def encode(self, x: Tensor) -> LeafNormal:
        """The distribution of ``z`` for features ``x [.., leaf, pixel]``."""
        loc, raw_scale = self.encoder(x)
        return LeafNormal(loc, positive_scale(raw_scale, self.scale, self.min_scale))

    def posterior(self, x: Tensor) -> LeafNormal:
        """The distribution of ``z``."""
        return self.encode(x)

    def forward(self, encoding: LeafNormal) -> None:
        """States ``z``."""
        pyro.sample("z", encoding)

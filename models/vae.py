# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The variational autoencoder as a leaf (Kingma and Welling 2014; eq. (3) of the SPVAE paper)."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
from torch import Tensor

from pyro_spvae.likelihoods import Likelihood
from pyro_spvae.models.decoding import decode
from pyro_spvae.models.leaf import LatentLeaf
from pyro_spvae.nn import Network
from pyro_spvae.nn.mlp import network_or_mlp
from pyro_spvae.nn.part import check_part, is_positive
from pyro_spvae.priors import Prior, StandardNormal


class VAE(LatentLeaf):
    r"""
    :math:`p(x, z) = p(z)\, p(x \mid f(z))` for every leaf: a prior, a decoder network and a likelihood.

    Sites: latent ``"z"`` with event ``[latent]``, observed ``"x"`` with event ``[pixel]``.

    :param Likelihood likelihood: the distribution of the pixels given the decoder's outputs.
    :param int latent_dim: size of ``z``.
    :param Sequence[int] hidden_dims: hidden layers of the default decoder, (32, 32).
    :param Prior prior: distribution of ``z``; standard normal by default.
    :param str activation: activation of the hidden layers, ``"softplus"``.
    :param str networks: ``"separate"`` (default): one decoder network for each parameter of the likelihood (the paper's
        form); ``"shared"``: one trunk with several heads.
    :param Network decoder: from ``z`` to the likelihood's parameters; by default an :class:`~pyro_spvae.nn.MLP` of
        ``hidden_dims``, ``activation`` and ``networks``.
    :raises ValueError: for options out of range, or if both a decoder and options of the default one are given.
    """

    shorthands = ("hidden_dims", "activation", "networks")

    def __init__(
        self,
        likelihood: Likelihood,
        latent_dim: int = 8,
        hidden_dims: Sequence[int] | None = None,
        prior: Prior | None = None,
        activation: str | None = None,
        networks: str | None = None,
        decoder: Network | None = None,
    ) -> None:
        super().__init__()
        if not is_positive(latent_dim):
            raise ValueError(f"latent_dim is {latent_dim!r}; a positive integer is needed")
        prior = StandardNormal() if prior is None else prior
        check_part("prior", prior, Prior)
        check_part("likelihood", likelihood, Likelihood)
        self.latent_dim = latent_dim
        self.prior = prior
        self.likelihood = likelihood
        self.decoder = network_or_mlp("decoder", decoder, hidden_dims, activation, networks)

    def build(self, leaves: int, pixels: int, patch: tuple[int, ...] | None = None) -> None:
        """Binds prior, likelihood and decoder."""
        self.prior.bind(leaves=leaves, latent_dim=self.latent_dim, pixels=pixels)
        self.likelihood.bind(leaves=leaves, pixels=pixels)
        self.decoder.bind(leaves=leaves, inputs=self.latent_dim, outputs=self.likelihood.heads, output_shape=patch)

    def forward(self, x: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """States ``z`` and ``x``."""
        z = self.draw_latent("z", self.prior(), self.latent_dim)
        return pyro.sample("x", decode(self.decoder, self.likelihood, (z,), mask), obs=x)

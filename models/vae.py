# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The variational autoencoder as a leaf (Kingma and Welling 2014; eq. (3) of the SPVAE paper)."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
from torch import Tensor

from pyro_spvae.likelihoods import Likelihood
from pyro_spvae.models.leaf import LeafModel
from pyro_spvae.nn import StackedMLP
from pyro_spvae.nn.mlp import check_network
from pyro_spvae.priors import Prior, StandardNormal


class VAE(LeafModel):
    r"""
    :math:`p(x, z) = p(z)\, p(x \mid f(z))` for every leaf: a prior, a decoder network and a likelihood.

    Sites: latent ``"z"`` with event ``[latent]``, observed ``"x"`` with event ``[pixel]``.

    :param Likelihood likelihood: the distribution of the pixels given the decoder's outputs.
    :param int latent_dim: size of ``z``.
    :param Sequence[int] hidden_dims: hidden layers of the decoder.
    :param Prior prior: distribution of ``z``; standard normal by default.
    :param str activation: activation of the hidden layers.
    :param str networks: ``"separate"``: one decoder network for each parameter of the likelihood (the paper's form);
        ``"shared"``: one trunk with several heads.
    """

    def __init__(
        self,
        likelihood: Likelihood,
        latent_dim: int = 8,
        hidden_dims: Sequence[int] = (32, 32),
        prior: Prior | None = None,
        activation: str = "softplus",
        networks: str = "separate",
    ) -> None:
        super().__init__()
        if isinstance(latent_dim, bool) or not isinstance(latent_dim, int) or latent_dim < 1:
            raise ValueError(f"latent_dim is {latent_dim!r}; a positive integer is needed")
        check_network(hidden_dims, activation, networks)
        self.latent_dim = latent_dim
        self.hidden_dims = tuple(hidden_dims)
        self.activation = activation
        self.networks = networks
        self.prior = StandardNormal() if prior is None else prior
        self.likelihood = likelihood

    def build(self, leaves: int, pixels: int) -> None:
        """Makes the decoder and binds prior and likelihood."""
        self.prior.bind(leaves=leaves, latent_dim=self.latent_dim)
        self.likelihood.bind(leaves=leaves, pixels=pixels)
        heads = self.likelihood.heads
        self.decoder = StackedMLP(leaves, self.latent_dim, self.hidden_dims, heads, self.activation, self.networks)

    def forward(self, x: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """States ``z`` and ``x``."""
        z = pyro.sample("z", self.prior())
        return pyro.sample("x", self.likelihood(self.decoder(z), mask), obs=x)

    def features(self, x: Tensor) -> Tensor:
        """Patches brought to about [0, 1] by the likelihood."""
        return self.likelihood.features(x)

    def check(self, x: Tensor, mask: Tensor) -> None:
        self.likelihood.check(x, mask)

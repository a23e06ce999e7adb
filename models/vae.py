# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The variational autoencoder as a leaf (Kingma and Welling 2014; eq. (3) of the SPVAE paper)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.blocks import Latent
from pyro_spvae.conditionals import Pixels
from pyro_spvae.leaves import LeafModel
from pyro_spvae.likelihoods import Likelihood
from pyro_spvae.nn import Network
from pyro_spvae.nn.defaults import networks_or_defaults
from pyro_spvae.priors import Prior, StandardNormal


class VAE(LeafModel):
    r"""
    Variational autoencoder, :math:`p(x, z) = p(z)\, p(x \mid f(z))` for every leaf: a prior, a decoder, a likelihood.

    Sites: latent ``"z"`` with event ``[latent]``, observed ``"x"`` with event ``[pixel]``.

    :param Likelihood likelihood: the distribution of the pixels given the decoder's outputs.
    :param int latent_dim: size of ``z``.
    :param Sequence[int] hidden_dims: hidden layers of the default decoder, (32, 32).
    :param Prior prior: distribution of ``z``; standard normal by default.
    :param str activation: activation of the hidden layers, ``"softplus"``.
    :param str networks: ``"separate"`` (default): one decoder network for each parameter of the likelihood (the paper's
        form); ``"shared"``: one trunk with several heads.
    :param Network decoder: from ``z`` to the likelihood's parameters, in the place of the default
        :class:`~pyro_spvae.nn.MLP`.
    :raises ValueError: for options out of range, or if both a decoder and options of the default one are given.

    Example::

        >>> leaf = VAE(Bernoulli(), latent_dim=2, hidden_dims=(16,))
        >>> vae = SPVAE(whole((8, 8)), units=1, leaf=leaf)
        >>> x = vae.sample(5)
        >>> x.shape
        torch.Size([5, 1, 8, 8])
        >>> vae.log_likelihood(x, num_samples=100).shape  # nats
        torch.Size([5])
    """

    guide_name = "normal"

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
        options = {"hidden_dims": hidden_dims, "activation": activation, "networks": networks}
        (decoder,) = networks_or_defaults({"decoder": decoder}, options)
        self.prior = StandardNormal() if prior is None else prior
        checks.instance("prior", self.prior, Prior)
        self.latents = {"z": Latent(checks.positive_integer("latent_dim", latent_dim), self.prior.support)}
        self.pixels = Pixels(likelihood, decoder)

    def build(self, leaves: int, pixels: int, **shapes: Any) -> None:
        """Binds prior and pixels."""
        event = self.latents["z"].event_shape
        self.prior.bind(leaves=leaves, event_shape=event, pixels=self.bound_features(pixels, **shapes))
        self.pixels.bind(leaves=leaves, pixels=pixels, inputs=event[0], **shapes)

    def forward(self, x: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """States ``z`` and ``x``."""
        z = pyro.sample("z", self.prior())
        return pyro.sample("x", self.pixels(z, mask=mask), obs=x)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The diagonal normal guide: the inference network of a VAE (Kingma and Welling 2014)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
from torch import Tensor

from pyro_spvae.blocks import Latent
from pyro_spvae.conditionals import Gaussian
from pyro_spvae.leaves import LeafGuide
from pyro_spvae.nn import Network
from pyro_spvae.nn.defaults import networks_or_defaults


class NormalGuide(LeafGuide):
    r"""
    Diagonal Gaussian guide, :math:`q(z \mid x) = N(\mu(x), \mathrm{diag}\, \sigma(x)^2)`, a network per leaf, each
    seeing its own patch.

    Site: ``"z"``, the one latent variable of the leaf.

    :param Sequence[int] hidden_dims: hidden layers of the default encoder, (32, 32).
    :param str activation: activation of the hidden layers, ``"softplus"``.
    :param str networks: ``"separate"`` mean and scale networks (the paper's form, default), or ``"shared"`` trunk, two
        heads.
    :param str scale: how the standard deviation is parameterised, see :func:`pyro_spvae.blocks.positive_scale`.
    :param float min_scale: smallest standard deviation; 1e-3 by default for ``"softplus"``, else none.
    :param Network encoder: from the features of a patch to mean and scale, in the place of the default
        :class:`~pyro_spvae.nn.MLP`.
    :raises ValueError: for options out of range, or if both an encoder and options of the default one are given.

    Example::

        >>> guide = NormalGuide(hidden_dims=(16,), networks="shared", scale="logvar")
        >>> spvae = SPVAE(poon_domingos((8, 8), delta=4), units=2, leaf=VAE(Bernoulli(), latent_dim=3), guide=guide)
        >>> spvae.draw_latents(spvae.sample(5), num_samples=7)["z"].shape
        torch.Size([7, 5, 8, 3])
    """

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
        options = {"hidden_dims": hidden_dims, "activation": activation, "networks": networks}
        (encoder,) = networks_or_defaults({"encoder": encoder}, options)
        self.z = Gaussian(encoder, scale, min_scale)

    def build(
        self, leaves: int, pixels: int, latents: Mapping[str, Latent], patch: tuple[int, ...] | None = None
    ) -> None:
        """Binds the encoder."""
        self.z.bind(leaves=leaves, inputs=pixels, event_shape=self.shape_of(latents, "z"), input_shape=patch)

    def encode(self, x: Tensor) -> Any:
        """The distribution of ``z`` for features ``x [.., leaf, pixel]``."""
        return self.z(x)

    posterior = encode

    def forward(self, encoding: Any) -> None:
        """States ``z``."""
        pyro.sample("z", encoding)

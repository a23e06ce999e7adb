# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The guide of weights that a stick breaks into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
from torch import Tensor

from pyro_spvae.blocks import Latent
from pyro_spvae.conditionals import Kumaraswamy
from pyro_spvae.distributions import StickWeights
from pyro_spvae.leaves import LeafGuide
from pyro_spvae.nn import Network
from pyro_spvae.nn.defaults import networks_or_defaults


class StickGuide(LeafGuide):
    r"""
    Stick-breaking guide: :math:`\pi` of independent fractions :math:`v_k \sim \mathrm{Kumaraswamy}(a_k(x), b_k(x))`
    (Nalisnick and Smyth 2017).

    Site: ``"pi"``, the one latent variable of the leaf.

    :param Sequence[int] hidden_dims: hidden layers of the default encoder, (32, 32); ``activation``: ``"softplus"``.
    :param Network encoder: from the features of a patch to both parameters of every fraction.
    :raises ValueError: if both an encoder and options of the default one are given.

    Example::

        >>> from pyro_spvae.guides import StickGuide
        >>> from pyro_spvae.models import SBVAE
        >>> sbvae = SPVAE(whole((8, 8)), units=1, leaf=SBVAE(Bernoulli(), truncation=5), guide=StickGuide((16,)))
        >>> draws = sbvae.draw_latents(sbvae.sample(3))["pi"]
        >>> bool(torch.allclose(draws.sum(-1), torch.ones(()))), bool((draws >= 0).all())
        (True, True)
    """

    def __init__(
        self, hidden_dims: Sequence[int] | None = None, activation: str | None = None, encoder: Network | None = None
    ) -> None:
        super().__init__()
        options = {"hidden_dims": hidden_dims, "activation": activation}
        (encoder,) = networks_or_defaults({"encoder": encoder}, options, shared=True)
        self.fractions = Kumaraswamy(encoder)

    def build(
        self, leaves: int, pixels: int, latents: Mapping[str, Latent], patch: tuple[int, ...] | None = None
    ) -> None:
        """Binds the encoder."""
        (pieces,) = self.shape_of(latents, "pi")
        self.fractions.bind(leaves=leaves, inputs=pixels, event_shape=(pieces - 1,), input_shape=patch)

    def encode(self, x: Tensor) -> Any:
        """The distribution of ``pi`` for features ``x [.., leaf, pixel]``."""
        return StickWeights(self.fractions(x))

    def forward(self, encoding: Any) -> None:
        """States ``pi``."""
        pyro.sample("pi", encoding)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The discrete variational autoencoder as a leaf (Rolfe 2017; Vahdat et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.blocks import LatentBits
from pyro_spvae.blocks.latent_bits import centred
from pyro_spvae.conditionals import Pixels
from pyro_spvae.distributions import OverlappingExponentials, Smoothing
from pyro_spvae.leaves import LeafModel
from pyro_spvae.likelihoods import Likelihood
from pyro_spvae.nn import Network
from pyro_spvae.nn.defaults import networks_or_defaults
from pyro_spvae.priors import IndependentBits, Prior


class DiscreteVAE(LeafModel):
    r"""
    Variational autoencoder of bits, :math:`p(x, z) = p(z)\, p(x \mid f(2 z - 1))`, with a directed or undirected prior.

    In training a smoothing transformation makes :math:`\zeta \sim r(\zeta \mid z)` of the bits, which model and guide
    depend on in their place (Vahdat et al. 2018, Figure 2); in evaluation mode the bits are themselves. With
    ``CircuitELBO(alpha=1, kl="analytic")`` the bound is the joint one, eq. (4), and with a Boltzmann machine that of
    eq. (6); sampled it is the marginal one, eq. (5).

    Sites: latent ``"z"``, a vector, and observed ``"x"``.

    :param Likelihood likelihood: the distribution of the pixels given the decoder's outputs.
    :param int latent_dim: number of bits.
    :param Prior prior: of the bits: :class:`~pyro_spvae.priors.IndependentBits`, the default,
        :class:`~pyro_spvae.priors.BitChain` or :class:`~pyro_spvae.priors.BoltzmannMachine`.
    :param Smoothing smoothing: ``OverlappingExponentials()`` by default; ``OverlappingExponentials(beta=(6, 14))`` is
        annealed, and ``Unsmoothed()`` leaves bits as they are throughout.
    :param Sequence[int] hidden_dims: of the default decoder, (32, 32); empty for a linear one. ``activation`` is tanh;
        ``normalise``: with batch normalisation.
    :param Network decoder: from the bits to the likelihood's parameters.
    :param bool from_mean: start at the mean of the training data, see :class:`~pyro_spvae.conditionals.Pixels`.
    :raises ValueError: for options out of range, or if both a decoder and options of the default one are given.

    Example::

        >>> from pyro_spvae.guides import DiscreteGuide
        >>> from pyro_spvae.models import DiscreteVAE
        >>> leaf = DiscreteVAE(Bernoulli(), latent_dim=4)
        >>> dvae = SPVAE(whole((8, 8)), units=1, leaf=leaf, guide=DiscreteGuide())
        >>> dvae.embed(dvae.sample(3)).latents["z"].shape  # probabilities of the bits
        torch.Size([3, 1, 4])
    """

    guide_name, prior_name = "discrete", "independent-bits"

    def __init__(
        self, likelihood: Likelihood, latent_dim: int = 16, prior: Prior | None = None,
        smoothing: Smoothing | None = None, hidden_dims: Sequence[int] | None = None, activation: str | None = None,
        normalise: bool | None = None, decoder: Network | None = None, from_mean: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        options = {"hidden_dims": hidden_dims, "activation": activation, "normalise": normalise}
        usual = {} if decoder is not None or activation is not None else {"activation": "tanh"}
        (decoder,) = networks_or_defaults({"decoder": decoder}, options | usual)
        self.prior = IndependentBits() if prior is None else prior
        self.smoothing = OverlappingExponentials() if smoothing is None else smoothing
        checks.instance("prior", self.prior, Prior)
        checks.instance("smoothing", self.smoothing, Smoothing)
        size = checks.positive_integer("latent_dim", latent_dim)
        self.bits = LatentBits(size, self.smoothing, self.prior.groups)
        self.latents = {"z": self.bits}
        self.pixels = Pixels(likelihood, decoder, from_mean)

    def build(self, leaves: int, pixels: int, **shapes: Any) -> None:
        """Binds prior and pixels."""
        event = self.bits.event_shape
        self.prior.bind(leaves=leaves, event_shape=event, pixels=self.bound_features(pixels, **shapes))
        self.pixels.bind(leaves=leaves, pixels=pixels, inputs=event[0], **shapes)

    def forward(self, x: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """States ``z`` and ``x``."""
        z = pyro.sample("z", self.bits.smooth(self.prior()))
        return pyro.sample("x", self.pixels(centred(z), mask=mask), obs=x)

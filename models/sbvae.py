# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The stick-breaking VAE as a leaf (Nalisnick and Smyth, ICLR 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.blocks import Latent
from pyro_spvae.conditionals import Pixels
from pyro_spvae.leaves import LeafModel
from pyro_spvae.likelihoods import Likelihood
from pyro_spvae.nn import Network
from pyro_spvae.nn.defaults import networks_or_defaults
from pyro_spvae.priors import StickBreaking


class SBVAE(LeafModel):
    r"""
    Stick-breaking VAE, :math:`p(x, \pi) = p(\pi)\, p(x \mid f(K \pi))`: the latent variable is the vector of weights
    that a stick breaks into, :math:`v_k \sim \mathrm{Beta}(1, \alpha_0)`, cut off after ``truncation`` pieces, K. The
    decoder sees them times K, which is a matter of scale, and of how fast it learns.

    Sites: latent ``"pi"``, on the simplex, and observed ``"x"``.

    :param Likelihood likelihood: the distribution of the pixels given the decoder's outputs.
    :param int truncation: number of pieces, at least 2.
    :param float alpha0: concentration; the paper's is 5 for MNIST, that of Nalisnick et al. 2016 is 1.
    :param Sequence[int] hidden_dims: hidden layers of the default decoder, (32, 32); ``activation`` is ``"softplus"``.
    :param Network decoder: from the weights to the likelihood's parameters.
    :raises ValueError: for options out of range, or if both a decoder and options of the default one are given.

    Example::

        >>> from pyro_spvae.guides import StickGuide
        >>> from pyro_spvae.models import SBVAE
        >>> sbvae = SPVAE(whole((8, 8)), units=1, leaf=SBVAE(Bernoulli(), truncation=5), guide=StickGuide())
        >>> weights = sbvae.embed(sbvae.sample(3)).latents["pi"]
        >>> weights.shape, bool(torch.allclose(weights.sum(-1), torch.ones(3, 1)))
        (torch.Size([3, 1, 5]), True)
    """

    guide_name = "sticks"

    def __init__(
        self, likelihood: Likelihood, truncation: int = 8, alpha0: float = 1.0,
        hidden_dims: Sequence[int] | None = None, activation: str | None = None, decoder: Network | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        (decoder,) = networks_or_defaults({"decoder": decoder}, {"hidden_dims": hidden_dims, "activation": activation})
        if checks.positive_integer("truncation", truncation) < 2:
            raise ValueError(f"truncation is {truncation}; at least 2 pieces are needed")
        self.prior = StickBreaking(alpha0)
        self.latents = {"pi": Latent(truncation, self.prior.support)}
        self.pixels = Pixels(likelihood, decoder)

    def build(self, leaves: int, pixels: int, **shapes: object) -> None:
        """Binds prior and pixels."""
        event = self.latents["pi"].event_shape
        self.prior.bind(leaves=leaves, event_shape=event)
        self.pixels.bind(leaves=leaves, pixels=pixels, inputs=event[0], **shapes)

    def forward(self, x: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """States ``pi`` and ``x``."""
        pi = pyro.sample("pi", self.prior())
        return pyro.sample("x", self.pixels(pi * pi.size(-1), mask=mask), obs=x)

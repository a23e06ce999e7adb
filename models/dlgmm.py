# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The deep latent Gaussian mixture model as a leaf (Nalisnick, Hertel and Smyth 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pyro
from pyro.distributions import Categorical
from torch import Tensor
from torch.distributions import constraints

from pyro_spvae import checks
from pyro_spvae.blocks import Latent
from pyro_spvae.conditionals import NormalComponents, Pixels
from pyro_spvae.distributions import log_stick_weights
from pyro_spvae.leaves import LeafModel
from pyro_spvae.likelihoods import Likelihood
from pyro_spvae.nn import Network
from pyro_spvae.nn.defaults import networks_or_defaults
from pyro_spvae.priors import Sticks


class DLGMM(LeafModel):
    r"""
    Deep latent Gaussian mixture, :math:`\pi \sim \mathrm{Dir}(\alpha),\ z \sim \sum_k \pi_k N(m_k, I),\ x \sim
    p(x \mid f(z))` for every datum, the weights by fractions ``v`` of a stick.

    Sites: latent ``"v"``, the component ``"c"`` and ``"z"``, and observed ``"x"``; ``summed=True`` sums ``"c"`` out.

    :param Likelihood likelihood: the distribution of the pixels given the decoder's outputs.
    :param int latent_dim: size of ``z``; ``components``, K, at least 2; ``alpha``: Dirichlet concentration.
    :param Sequence[float] means: :math:`m_k`, the same in every dimension; 0 by default.
    :param Sequence[int] hidden_dims: hidden layers of the default decoder, (32, 32); ``activation`` is ``"softplus"``.
    :param Network decoder: from ``z`` to the likelihood's parameters.
    :raises ValueError: for options out of range, or if both a decoder and options of the default one are given.

    Example::

        >>> from pyro_spvae.guides import MixtureGuide
        >>> from pyro_spvae.models import DLGMM
        >>> leaf = DLGMM(Bernoulli(), latent_dim=2, components=3)
        >>> dlgmm = SPVAE(whole((8, 8)), units=1, leaf=leaf, guide=MixtureGuide())
        >>> embedding = dlgmm.embed(dlgmm.sample(4))
        >>> embedding.components["c"].shape, bool(torch.allclose(embedding.components["c"].sum(-1), torch.ones(4, 1)))
        (torch.Size([4, 1, 3]), True)
    """

    guide_name = "mixture"

    def __init__(
        self, likelihood: Likelihood, latent_dim: int = 8, components: int = 5, alpha: float = 1.0,
        means: Sequence[float] | None = None, summed: bool = False, hidden_dims: Sequence[int] | None = None,
        activation: str | None = None, decoder: Network | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        (decoder,) = networks_or_defaults({"decoder": decoder}, {"hidden_dims": hidden_dims, "activation": activation})
        if checks.positive_integer("components", components) < 2:
            raise ValueError(f"components is {components}; at least 2 are needed")
        last, size = components - 1, checks.positive_integer("latent_dim", latent_dim)
        c = {} if checks.boolean("summed", summed) else {"c": Latent((), constraints.integer_interval(0, last))}
        self.latents = {"v": Latent(last, Sticks.support), **c, "z": Latent(size)}
        self.sticks, self.parts = Sticks(alpha=alpha), NormalComponents(means)
        self.pixels = Pixels(likelihood, decoder)

    def build(self, leaves: int, pixels: int, **shapes: object) -> None:
        """Binds all blocks."""
        fractions, event = (self.latents[name].event_shape for name in ("v", "z"))
        self.sticks.bind(leaves=leaves, event_shape=fractions)
        self.parts.bind(leaves=leaves, event_shape=event, components=fractions[0] + 1)
        self.pixels.bind(leaves=leaves, pixels=pixels, inputs=event[0], **shapes)

    def forward(self, x: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """States ``v``, ``c``, ``z`` and ``x``."""
        log_weights = partial(log_stick_weights, pyro.sample("v", self.sticks()))
        c = pyro.sample("c", Categorical(logits=log_weights())) if "c" in self.latents else None
        z = pyro.sample("z", self.parts.mixture(log_weights) if c is None else self.parts(c))
        return pyro.sample("x", self.pixels(z, mask=mask), obs=x)

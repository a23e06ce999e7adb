# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Two layers of latent variables as a leaf: the hierarchical VAE of the VampPrior paper, and Burda et al.'s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
from torch import Tensor

from pyro_spvae import checks
from pyro_spvae.blocks import Latent
from pyro_spvae.conditionals import Gaussian, Pixels
from pyro_spvae.leaves import LeafModel
from pyro_spvae.likelihoods import Likelihood
from pyro_spvae.nn import Network
from pyro_spvae.nn.defaults import networks_or_defaults
from pyro_spvae.priors import Prior, StandardNormal


class HVAE(LeafModel):
    r"""
    Hierarchical VAE, :math:`p(z_2)\, p(z_1 \mid z_2)\, p(x \mid z_1, z_2)` (Tomczak and Welling 2018, (11) to (13));
    with ``skip=False`` the pixels depend on :math:`z_1` alone, as in the two-layer model of Burda et al. 2016.

    Sites: latent ``"z2"`` and ``"z1"``, vectors, and observed ``"x"``.

    :param Likelihood likelihood: the distribution of the pixels given the decoder's outputs.
    :param int latent_dim: size of ``z1``; ``top_dim`` is that of ``z2``, the same by default.
    :param Sequence[int] hidden_dims: hidden layers of the default networks, (32, 32); ``activation`` is ``"softplus"``.
    :param Prior prior: distribution of ``z2``; standard normal by default.
    :param str scale: of ``z1``, see :func:`pyro_spvae.blocks.positive_scale`; ``min_scale`` is the smallest.
    :param Network conditional: from ``z2`` to mean and scale of ``z1``; ``decoder`` from ``z1``, ``z2`` to the pixels.
    :raises ValueError: for options out of range, or if all networks and options of the default ones are given.

    Example::

        >>> leaf = HVAE(Bernoulli(), latent_dim=3, top_dim=2)
        >>> hvae = SPVAE(whole((8, 8)), units=1, leaf=leaf, guide=HierarchicalGuide())
        >>> sorted((name, latent.event_shape) for name, latent in hvae.latents.items())
        [('z1', (3,)), ('z2', (2,))]
        >>> hvae.sample(4).shape
        torch.Size([4, 1, 8, 8])
    """

    guide_name, joint_networks = "hierarchical", ("decoder",)

    def __init__(
        self, likelihood: Likelihood, latent_dim: int = 8, top_dim: int | None = None,
        hidden_dims: Sequence[int] | None = None, prior: Prior | None = None, activation: str | None = None,
        scale: str = "softplus", min_scale: float | None = None, skip: bool = True,
        conditional: Network | None = None, decoder: Network | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.skip = checks.boolean("skip", skip)
        given = {"conditional": conditional, "decoder": decoder}
        options = {"hidden_dims": hidden_dims, "activation": activation}
        networks = networks_or_defaults(given, options, self.joint_networks if skip else (), shared=True)
        self.prior = StandardNormal() if prior is None else prior
        checks.instance("prior", self.prior, Prior)
        bottom = checks.positive_integer("latent_dim", latent_dim)
        top = bottom if top_dim is None else checks.positive_integer("top_dim", top_dim)
        self.latents = {"z2": Latent(top, self.prior.support), "z1": Latent(bottom)}
        self.z1 = Gaussian(networks[0], scale, min_scale)
        self.pixels = Pixels(likelihood, networks[1])

    def build(self, leaves: int, pixels: int, **shapes: Any) -> None:
        """Binds the blocks."""
        top, bottom = (latent.event_shape for latent in self.latents.values())
        self.prior.bind(leaves=leaves, event_shape=top, pixels=self.bound_features(pixels, **shapes))
        self.z1.bind(leaves=leaves, inputs=top[0], event_shape=bottom)
        self.pixels.bind(leaves=leaves, pixels=pixels, inputs=bottom + top if self.skip else bottom[0], **shapes)

    def forward(self, x: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """States ``z2``, ``z1`` and ``x``."""
        z2 = pyro.sample("z2", self.prior())
        z1 = pyro.sample("z1", self.z1(z2))
        return pyro.sample("x", self.pixels(*((z1, z2) if self.skip else (z1,)), mask=mask), obs=x)

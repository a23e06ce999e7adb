# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The deep latent Dirichlet process mixture as a leaf (Nalisnick, Hertel and Smyth 2016)."""

from __future__ import annotations

from collections.abc import Sequence

from pyro_spvae.likelihoods import Likelihood
from pyro_spvae.models.dlgmm import DLGMM
from pyro_spvae.nn import Network
from pyro_spvae.priors import Sticks


class DLDPMM(DLGMM):
    r"""
    Deep latent Dirichlet process mixture: :class:`~pyro_spvae.models.DLGMM` with the weights of a Dirichlet process,
    :math:`v_k \sim \mathrm{Beta}(1, \alpha_0)`, cut off after ``truncation`` components.

    :param Likelihood likelihood: the distribution of the pixels given the decoder's outputs.
    :param int latent_dim: size of ``z``; ``truncation`` is the number of components, at least 2.
    :param float alpha0: concentration of the process.
    :param others: as of :class:`~pyro_spvae.models.DLGMM`.
    :raises ValueError: for options out of range, or if both a decoder and options of the default one are given.

    Example::

        >>> from pyro_spvae.guides import MixtureGuide
        >>> from pyro_spvae.models import DLDPMM
        >>> leaf = DLDPMM(Bernoulli(), latent_dim=2, truncation=4)
        >>> dldpmm = SPVAE(whole((8, 8)), units=1, leaf=leaf, guide=MixtureGuide())
        >>> dldpmm.sample(3).shape, dldpmm.latents["v"].event_shape
        (torch.Size([3, 1, 8, 8]), (3,))
    """

    def __init__(
        self, likelihood: Likelihood, latent_dim: int = 8, truncation: int = 17, alpha0: float = 1.0,
        means: Sequence[float] | None = None, summed: bool = False, hidden_dims: Sequence[int] | None = None,
        activation: str | None = None, decoder: Network | None = None,
    ) -> None:  # fmt: skip
        if isinstance(truncation, int) and truncation < 2:
            raise ValueError(f"truncation is {truncation}; at least 2 components are needed")
        super().__init__(likelihood, latent_dim, truncation, 1.0, means, summed, hidden_dims, activation, decoder)
        self.sticks = Sticks(alpha0)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The tractable leaf: independent pixels with parameters of their own, as in vanilla sum-product networks."""

from __future__ import annotations

import pyro
from pyro.distributions.torch_distribution import TorchDistribution
from torch import Tensor, nn

from pyro_spvae.likelihoods import Likelihood
from pyro_spvae.models.leaf import LeafModel
from pyro_spvae.nn.part import check_part


class FactorizedLeaf(LeafModel):
    r"""
    :math:`p(x) = \prod_j p(x_j; \theta_j)` for every leaf: a likelihood whose parameters are free, with no decoder and
    no latent variable (the leaves of Poon and Domingos 2011).

    Site: observed ``"x"`` with event ``[pixel]``. What is random given data is the induced tree alone, whose posterior
    a circuit has exactly, so that every query of :class:`~pyro_spvae.models.SPVAE` is exact, in one pass.

    :param Likelihood likelihood: the distribution of the pixels given the parameters.
    :ivar ParameterList outputs: the parameters, a tensor ``[leaf, head]`` for each of ``likelihood.heads``, as a
        decoder would put them out; drawn by :meth:`pyro_spvae.likelihoods.Likelihood.initial_outputs`.
    """

    latent_dim = 0
    guide_name = "none"

    def __init__(self, likelihood: Likelihood) -> None:
        super().__init__()
        check_part("likelihood", likelihood, Likelihood)
        self.likelihood = likelihood

    def build(self, leaves: int, pixels: int) -> None:
        """Binds the likelihood and draws its parameters."""
        self.likelihood.bind(leaves=leaves, pixels=pixels)
        self.outputs = nn.ParameterList(self.likelihood.initial_outputs(leaves))

    def distribution(self, mask: Tensor | None = None) -> TorchDistribution:
        """
        The distribution of the patches, batch ``[leaf]``, event ``[pixel]``.

        :param Tensor mask: ``bool``, broadcastable to ``[data, leaf, pixel]``: pixels that count.
        """
        return self.likelihood(tuple(self.outputs), mask)

    def forward(self, x: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """States ``x``."""
        return pyro.sample("x", self.distribution(mask), obs=x)

    def features(self, x: Tensor) -> Tensor:
        """Patches brought to about [0, 1] by the likelihood."""
        return self.likelihood.features(x)

    def check(self, x: Tensor, mask: Tensor) -> None:
        self.likelihood.check(x, mask)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The tractable leaf: independent pixels with parameters of their own, as in vanilla sum-product networks."""

from __future__ import annotations

from pyro_spvae.conditionals import Pixels
from pyro_spvae.leaves import TractableLeaf
from pyro_spvae.likelihoods import Likelihood


class FactorizedLeaf(TractableLeaf):
    r"""
    Fully factorised leaf, :math:`p(x) = \prod_j p(x_j; \theta_j)`: a likelihood whose parameters are free, with no
    decoder and no latent variable (the leaves of Poon and Domingos 2011).

    Site: observed ``"x"`` with event ``[pixel]``. What is random given data is the induced tree alone, whose posterior
    a circuit has exactly, so that every query of :class:`~pyro_spvae.models.SPVAE` is exact, in one pass.

    :param Likelihood likelihood: the distribution of the pixels given the parameters, ``pixels.outputs``.

    Example::

        >>> spn = SPVAE(whole(2), units=1, leaves=3, leaf=FactorizedLeaf(Categorical(levels=4)))
        >>> x = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0))
        >>> round(spn.log_likelihood(x, num_samples=1).exp().sum().item(), 4)  # exact: a mixture of three
        1.0
    """

    pixels: Pixels

    def __init__(self, likelihood: Likelihood) -> None:
        super().__init__()
        self.pixels = Pixels(likelihood)

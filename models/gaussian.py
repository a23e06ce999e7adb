# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The Gaussian leaf: a multivariate Normal distribution of the columns of a region, without latent variables."""

from __future__ import annotations

from pyro_spvae.conditionals import NormalPixels
from pyro_spvae.leaves import TractableLeaf
from pyro_spvae.likelihoods import Likelihood, Normal


class GaussianLeaf(TractableLeaf):
    r"""
    Multivariate Normal leaf, :math:`p(x) = N(x; \mu, \Sigma)` over the columns of its region, with a full covariance or
    one of low rank plus diagonal, a factor analyser whose latent variable is integrated out. Over
    :func:`~pyro_spvae.circuits.whole` regions a circuit of such leaves is a mixture of Gaussians.

    In a table of columns of several kinds (:class:`~pyro_spvae.likelihoods.Columns`) the real columns and the
    logarithms of the positive ones, those whose family is Normal or log-normal, are jointly Normal in units of their
    own deviations, and each other column is independent of them and of each other, of its own family; densities are
    those of the values in the table.

    Site: observed ``"x"`` with event ``[pixel]``. Exact with missing entries: marginals, conditional draws and means.
    Trained by gradient or by EM (:meth:`pyro_spvae.models.SPN.fit_em`), from clusters of the training rows.

    :param int rank: of the covariance up to a diagonal, smaller than the number of columns; ``None``, the default, for
        a full covariance, 0 for independent columns.
    :param Likelihood likelihood: of the columns, ``Normal()`` by default; at least one of them is Normal or log-normal.
    :raises ValueError: for a rank that is no whole number from 0.

    Example::

        >>> mixture = SPN(whole(3), units=1, leaves=2, leaf=GaussianLeaf())
        >>> x = torch.randn(100, 3)
        >>> history = mixture.fit_em(x, epochs=5, ridge=1e-2)
        >>> seen = torch.tensor([True, True, False])
        >>> mixture.log_prob(x, seen).shape  # of the seen entries, exact
        torch.Size([100])
        >>> mixture.impute(x, seen).shape  # draws of the others given them
        torch.Size([1, 100, 3])
    """

    pixels: NormalPixels

    def __init__(self, rank: int | None = None, likelihood: Likelihood | None = None) -> None:
        super().__init__()
        self.pixels = NormalPixels(Normal() if likelihood is None else likelihood, rank)

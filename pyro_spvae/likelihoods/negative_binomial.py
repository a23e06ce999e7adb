# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The negative binomial likelihood of counts."""

from __future__ import annotations

from pyro_spvae.likelihoods.families.count import NegativeBinomialFamily
from pyro_spvae.likelihoods.of_family import OfFamily, check_above_zero


class NegativeBinomial(OfFamily):
    r"""
    Counts that vary more than Poisson variables, with a learned mean and dispersion each; outputs of 0 are one of mean
    :math:`m` and variance :math:`s^2`, or hardly more than :math:`m` where that is smaller.

    :param float location: :math:`m`, about the mean of pixels.
    :param float scale: :math:`s`, about their standard deviation.
    :raises ValueError: for a location or scale that is not above 0.

    Example::

        >>> likelihood = NegativeBinomial(location=3.0, scale=4.0).bind(leaves=1, pixels=2)
        >>> law = likelihood((torch.zeros(1, 2), torch.zeros(1, 2)))
        >>> law.mean.round(decimals=3), law.variance.round(decimals=3)
        (tensor([[3., 3.]]), tensor([[16., 16.]]))
    """

    of = "counts"
    same_at_all_pixels = True
    accepts = "the integers 0, 1, 2, .."
    family = NegativeBinomialFamily()

    def __init__(self, location: float = 1.0, scale: float = 2.0) -> None:
        check_above_zero(location)
        super().__init__(location, scale)

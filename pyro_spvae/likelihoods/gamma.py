# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The Gamma likelihood of positive pixels."""

from __future__ import annotations

from pyro_spvae.likelihoods.families.positive import GammaFamily
from pyro_spvae.likelihoods.of_family import OfFamily, check_above_zero


class Gamma(OfFamily):
    r"""
    Positive pixels of a Gamma distribution, with a learned mean and relative deviation each; outputs of 0 are one of
    mean :math:`m` and standard deviation :math:`s`.

    :param float location: :math:`m`, about the mean of pixels.
    :param float scale: :math:`s`, about their standard deviation.
    :raises ValueError: for a location or scale that is not above 0.

    Example::

        >>> likelihood = Gamma(location=3.0, scale=2.0).bind(leaves=1, pixels=2)
        >>> law = likelihood((torch.zeros(1, 2), torch.zeros(1, 2)))
        >>> law.mean.round(decimals=3), law.variance.round(decimals=3)
        (tensor([[3., 3.]]), tensor([[4., 4.]]))
    """

    of = "positive"
    same_at_all_pixels = True
    accepts = "finite numbers above 0"
    family = GammaFamily()

    def __init__(self, location: float = 1.0, scale: float = 1.0) -> None:
        check_above_zero(location)
        super().__init__(location, scale)

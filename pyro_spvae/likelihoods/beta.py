# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The Beta likelihood of proportions."""

from __future__ import annotations

from pyro_spvae import checks
from pyro_spvae.likelihoods.families.proportion import BetaFamily
from pyro_spvae.likelihoods.of_family import OfFamily


class Beta(OfFamily):
    r"""
    Proportions of a Beta distribution, with a learned mean and sum of concentrations each; outputs of 0 are one of mean
    :math:`m` and standard deviation :math:`s`, by default almost the uniform distribution.

    :param float location: :math:`m`, about the mean of pixels, between 0.001 and 0.999.
    :param float scale: :math:`s`, about their standard deviation.
    :raises ValueError: for a location outside, or a scale that is not above 0.

    Example::

        >>> likelihood = Beta(location=0.3, scale=0.1).bind(leaves=1, pixels=2)
        >>> law = likelihood((torch.zeros(1, 2), torch.zeros(1, 2)))
        >>> law.mean.round(decimals=3), law.variance.sqrt().round(decimals=3)
        (tensor([[0.3000, 0.3000]]), tensor([[0.1000, 0.1000]]))
    """

    of = "real"
    same_at_all_pixels = True
    accepts = "numbers between 0 and 1, these two left out"
    family = BetaFamily()

    def __init__(self, location: float = 0.5, scale: float = 0.2887) -> None:
        if not checks.is_number(location) or not 0.001 <= location <= 0.999:
            raise ValueError(f"location is {location!r}; a number from 0.001 to 0.999 is needed")
        super().__init__(location, scale)

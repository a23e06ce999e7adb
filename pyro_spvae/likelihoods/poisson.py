# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The Poisson likelihood of counts."""

from __future__ import annotations

from pyro_spvae.likelihoods.families.count import PoissonFamily
from pyro_spvae.likelihoods.of_family import OfFamily, check_above_zero


class Poisson(OfFamily):
    r"""
    Counts of a Poisson distribution with a learned rate each, :math:`m\, g(2 o s / m)` at an output :math:`o` with
    :math:`g(t) = \log_2(1 + 2^t)`: :math:`m` at an output of 0, where it grows by :math:`s` for each 1 of the output.

    :param float location: :math:`m`, about the mean of pixels.
    :param float scale: :math:`s`, about the standard deviation of their rates.
    :raises ValueError: for a location or scale that is not above 0.

    Example::

        >>> likelihood = Poisson(location=3.0).bind(leaves=1, pixels=2)
        >>> law = likelihood((torch.zeros(1, 2),))
        >>> law.mean.round(decimals=3), law.variance.round(decimals=3)
        (tensor([[3., 3.]]), tensor([[3., 3.]]))
    """

    of = "counts"
    same_at_all_pixels = True
    accepts = "the integers 0, 1, 2, .."
    family = PoissonFamily()

    def __init__(self, location: float = 1.0, scale: float = 1.0) -> None:
        check_above_zero(location)
        super().__init__(location, scale)

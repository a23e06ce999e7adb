# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The Student-t likelihood of real-valued pixels with heavy tails."""

from __future__ import annotations

from pyro_spvae.likelihoods.families.real import StudentTFamily
from pyro_spvae.likelihoods.of_family import OfFamily


class StudentT(OfFamily):
    r"""
    Real-valued pixels of Student's t distribution, with a learned location :math:`m + s\,o_1`, a scale in proportion to
    :math:`s\,g(o_2)` and degrees of freedom :math:`2.1 + 3.9\,g(o_3)` each, so that variances are finite; outputs of 0
    are one of mean :math:`m` and standard deviation :math:`s`. The factor is
    :math:`g(t) = a + (1 - a) \log_2(1 + 2^t)`, with a floor of 0.001 for scales.

    :param float location: :math:`m`, about where pixels are.
    :param float scale: :math:`s`, about their standard deviation.
    :raises ValueError: for a scale that is not above 0.

    Example::

        >>> likelihood = StudentT(location=3.0, scale=2.0).bind(leaves=1, pixels=2)
        >>> law = likelihood((torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 2)))
        >>> law.mean.round(decimals=3), law.variance.round(decimals=3)
        (tensor([[3., 3.]]), tensor([[4., 4.]]))
    """

    of = "real"
    same_at_all_pixels = True
    accepts = "finite real numbers"
    family = StudentTFamily()

    def __init__(self, location: float = 0.0, scale: float = 1.0) -> None:
        super().__init__(location, scale)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The log-normal likelihood of positive pixels."""

from __future__ import annotations

from pyro_spvae.likelihoods.families.positive import LogNormalFamily
from pyro_spvae.likelihoods.of_family import OfFamily


class LogNormal(OfFamily):
    r"""
    Positive pixels whose logarithms are Normal with a learned mean :math:`m + s\,o_1` and standard deviation
    :math:`s\,g(o_2)`, where :math:`g(t) = 0.001 + 0.999 \log_2(1 + 2^t)`.

    :param float location: :math:`m`, about where logarithms are.
    :param float scale: :math:`s`, about their standard deviation.
    :raises ValueError: for a scale that is not above 0.

    Example::

        >>> likelihood = LogNormal(location=1.0, scale=0.5).bind(leaves=1, pixels=2)
        >>> law = likelihood((torch.zeros(1, 2), torch.zeros(1, 2)))
        >>> draws = law.sample((10_000,)).log()
        >>> bool((draws.mean() - 1.0).abs() < 0.05), bool((draws.std() - 0.5).abs() < 0.05)
        (True, True)
    """

    of = "positive"
    same_at_all_pixels = True
    accepts = "finite numbers above 0"
    family = LogNormalFamily()

    def __init__(self, location: float = 0.0, scale: float = 1.0) -> None:
        super().__init__(location, scale)

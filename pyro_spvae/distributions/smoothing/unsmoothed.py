# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""No smoothing transformation."""

from __future__ import annotations

from typing import Any

from pyro_spvae.distributions.smoothing.smoothing import Smoothing


class Unsmoothed(Smoothing):
    """Leaves bits as they are, in training too: gradients through them are then an estimator's.

    Example::

        >>> from pyro_spvae.distributions import FactorialBernoulli, Unsmoothed
        >>> law = FactorialBernoulli(torch.zeros(3))
        >>> Unsmoothed()(law) is law
        True
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, law: Any) -> Any:
        """The distribution as it is."""
        return law

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""REINFORCE: the plain score function."""

from __future__ import annotations

from torch import Tensor

from pyro_spvae.infer.estimators.estimator import Estimator, ScoredStep


class Reinforce(Estimator):
    r"""
    The score function without a control variate (Williams 1992): :math:`\hat L\, \nabla \log q(z \mid x)`. Unbiased, of
    a variance that grows with the square of the bound.
    """

    def surrogate(self, step: ScoredStep) -> Tensor:
        return step.score(step.learning_signal)

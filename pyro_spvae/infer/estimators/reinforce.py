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

    Example::

        >>> from pyro_spvae.distributions import Unsmoothed
        >>> from pyro_spvae.guides import DiscreteGuide
        >>> from pyro_spvae.infer import Reinforce
        >>> from pyro_spvae.models import DiscreteVAE
        >>> leaf = DiscreteVAE(Bernoulli(), latent_dim=4, smoothing=Unsmoothed())
        >>> dvae = SPVAE(whole((4, 4)), units=1, leaf=leaf, guide=DiscreteGuide())
        >>> objective = CircuitELBO(1, estimator=Reinforce())
        >>> objective.differentiable_loss(dvae.model, dvae.guide, dvae.sample(10)).backward()
        >>> all(parameter.grad is not None for parameter in dvae.leaf_guide.parameters())
        True
    """

    def surrogate(self, step: ScoredStep) -> Tensor:
        return step.score(step.learning_signal)

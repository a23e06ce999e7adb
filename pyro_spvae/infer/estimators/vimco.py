# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""VIMCO: particles are each other's baselines."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_spvae.infer.estimators.estimator import Estimator, ScoredStep
from pyro_spvae.infer.estimators.means import leave_one_out, of_others


class VIMCO(Estimator):
    r"""
    Score function with the leave-one-out baseline of Mnih and Rezende (2016): the bound with the weight of one particle
    of one leaf replaced by the geometric mean of that leaf's others. Unbiased; needs at least two particles.

    Example::

        >>> from pyro_spvae.distributions import Unsmoothed
        >>> from pyro_spvae.guides import DiscreteGuide
        >>> from pyro_spvae.infer import VIMCO
        >>> from pyro_spvae.models import DiscreteVAE
        >>> leaf = DiscreteVAE(Bernoulli(), latent_dim=4, smoothing=Unsmoothed())
        >>> dvae = SPVAE(whole((4, 4)), units=1, leaf=leaf, guide=DiscreteGuide())
        >>> objective = CircuitELBO(5, estimator=VIMCO())
        >>> objective.differentiable_loss(dvae.model, dvae.guide, dvae.sample(10)).backward()
        >>> all(parameter.grad is not None for parameter in dvae.leaf_guide.parameters())
        True
    """

    least_particles = 2

    def surrogate(self, step: ScoredStep) -> Tensor:
        with torch.no_grad():
            if step.reduce == "root":
                baseline = leave_one_out(step.leaf, step.mean).unsqueeze(-1)
            else:
                baseline = step.bound_with(of_others(step.terms.log_weight))
            # infinite where the others have no weight, which does not depend on the particle either: any number will do
            signal = step.learning_signal - torch.where(baseline.isfinite(), baseline, 0.0)
        return step.score(signal)

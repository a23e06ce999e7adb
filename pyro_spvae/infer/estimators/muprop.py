# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""MuProp: a control variate from the mean field."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_spvae.infer.estimators.estimator import ScoredStep, bits_of, slope_of
from pyro_spvae.infer.estimators.nvil import Baseline


class MuProp(Baseline):
    r"""
    Score function with a first-order control variate about the means :math:`\mu = q(z = 1 \mid x)` of the bits (Gu et
    al. 2016), whose expectation is known:

    .. math:: (\hat L - h(z))\, \nabla \log q(z \mid x) + h'\, \nabla \mu, \qquad h(z) = \hat L(\mu) + h' (z - \mu),

    for each leaf with the others as they were drawn. Unbiased; one more pass of the decoder, forward and back. For
    guides of one latent site of independent bits.

    :param Sequence[int] hidden_dims: hidden layers of a baseline of what the control variate leaves over, as of
        :class:`NVIL`; ``None``: none, the default.

    Example::

        >>> from pyro_spvae.distributions import Unsmoothed
        >>> from pyro_spvae.guides import DiscreteGuide
        >>> from pyro_spvae.infer import MuProp
        >>> from pyro_spvae.models import DiscreteVAE
        >>> leaf = DiscreteVAE(Bernoulli(), latent_dim=4, smoothing=Unsmoothed())
        >>> dvae = SPVAE(whole((4, 4)), units=1, leaf=leaf, guide=DiscreteGuide())
        >>> objective = CircuitELBO(1, estimator=MuProp())
        >>> objective.differentiable_loss(dvae.model, dvae.guide, dvae.sample(10)).backward()
        >>> all(parameter.grad is not None for parameter in dvae.leaf_guide.parameters())
        True
    """

    def __init__(self, hidden_dims: Sequence[int] | None = None) -> None:
        super().__init__(hidden_dims)

    def surrogate(self, step: ScoredStep) -> Tensor:
        name, site = bits_of(step, "MuProp")
        logits, drawn = site["fn"].logits, site["value"]
        with torch.enable_grad():
            mean = logits.detach().sigmoid().requires_grad_()
            at_mean = step.weigh(name, mean)
            slope = slope_of(at_mean.mean(0), mean)  # particles are alike
            control = at_mean.detach().expand_as(step.terms.log_weight).clone().requires_grad_()
            bound = step.bound_with(control)
            by_control = slope_of(bound, control)  # [K, .., B, L]
        linear = by_control * (slope * (drawn - mean.detach())).sum(-1)
        left = step.learning_signal - bound.detach() - linear
        surrogate = (by_control.unsqueeze(-1) * slope * logits.sigmoid()).sum()
        if self.network is None:
            return step.score(left) + surrogate
        baseline = self.baseline(step)
        return step.score(left - baseline.detach()) + surrogate + self.learn(baseline, left)

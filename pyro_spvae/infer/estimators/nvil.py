# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""NVIL: a baseline that is learned from the data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_spvae.infer.estimators.estimator import Estimator, ScoredStep
from pyro_spvae.nn.mlp import MLP

_LEARNED = 0.1  # of the difference, by which the running average follows a batch


class Baseline(Estimator):
    r"""
    An estimator with a baseline that depends on the data: a network for each leaf, :math:`b_l(x_l)`, of what the leaf
    sees, plus a running average, c, that keeps what the network has to learn near 0. It is fitted to its target by
    squared error.

    :param Sequence[int] hidden_dims: hidden layers of the networks, with tanh; ``None``: no baseline.
    """

    hidden_dims: tuple[int, ...] | None
    average: Tensor
    seen: Tensor

    def __init__(self, hidden_dims: Sequence[int] | None) -> None:
        super().__init__()
        self.network = None if hidden_dims is None else MLP(hidden_dims, "tanh", "shared")
        self.hidden_dims = None if self.network is None else self.network.hidden_dims

    def build(self, leaves: int, pixels: int) -> None:
        """Makes networks and averages."""
        assert self.network is not None
        self.network.bind(leaves=leaves, inputs=pixels, outputs=(1,))
        self.process_buffers = ("average", "seen")
        self.register_buffer("average", torch.zeros(leaves))
        self.register_buffer("seen", torch.zeros(()))

    @property
    def is_sized(self) -> bool:
        """Whether there is a baseline."""
        return self.network is not None

    def baseline(self, step: ScoredStep) -> Tensor:
        """The baseline of every datum and leaf, ``[data, leaf]``, nats, differentiable in the network's parameters."""
        if self.network is None:
            raise ValueError("there is no baseline")
        if step.features is None:
            raise ValueError(
                f"{type(self).__name__} has a baseline of what a model's leaves see; give the model and guide of an "
                "SPVAE, or another estimator"
            )
        return self.network(step.features)[0].squeeze(-1) + self.average

    def learn(self, baseline: Tensor, target: Tensor) -> Tensor:
        """
        Moves the running average, and the part of the surrogate that fits the networks.

        :param Tensor baseline: ``[data, leaf]``.
        :param Tensor target: what it predicts, ``[particle, .., data, leaf]``.
        """
        target = target.detach()
        target = torch.where(target.isfinite(), target, baseline.detach())  # not fitted to weights of 0
        loss = 0.5 * (target - baseline).square().mean(tuple(range(target.dim() - 2))).sum()
        with torch.no_grad():
            mean = target.mean(tuple(range(target.dim() - 1)))
            rate = torch.where(self.seen > 0, _LEARNED, 1.0)  # starts at the first batch
            self.average.add_(rate * (mean - self.average))
            self.seen.fill_(1.0)
        return -loss


class NVIL(Baseline):
    r"""
    Score function with an input-dependent baseline (Mnih and Gregor 2014): the bound with a leaf's log-weight replaced
    by what is expected of it, :math:`b_l(x_l)`. Of a single leaf the signal is :math:`\hat L - b(x)`. Unbiased. The
    paper also divides signals by a running deviation, which this does not.

    :param Sequence[int] hidden_dims: hidden layers of the baseline, (100,) as in that paper.

    Example::

        >>> from pyro_spvae.distributions import Unsmoothed
        >>> from pyro_spvae.guides import DiscreteGuide
        >>> from pyro_spvae.infer import NVIL
        >>> from pyro_spvae.models import DiscreteVAE
        >>> leaf = DiscreteVAE(Bernoulli(), latent_dim=4, smoothing=Unsmoothed())
        >>> dvae = SPVAE(whole((4, 4)), units=1, leaf=leaf, guide=DiscreteGuide())
        >>> objective = CircuitELBO(1, estimator=NVIL())
        >>> objective.differentiable_loss(dvae.model, dvae.guide, dvae.sample(10)).backward()
        >>> all(parameter.grad is not None for parameter in dvae.leaf_guide.parameters())
        True
    """

    def __init__(self, hidden_dims: Sequence[int] = (100,)) -> None:
        if hidden_dims is None:
            raise ValueError("hidden_dims is None; NVIL needs a baseline, and without one is Reinforce")
        super().__init__(hidden_dims)

    def surrogate(self, step: ScoredStep) -> Tensor:
        baseline = self.baseline(step)
        with torch.no_grad():
            signal = step.learning_signal - step.bound_with(baseline)
        return step.score(signal) + self.learn(baseline, step.terms.log_weight)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What an estimator of gradients through latent variables without ``rsample`` is, and what it sees of a step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_spvae.distributions import FactorialBernoulli
from pyro_spvae.infer.estimators.means import renyi_mean, with_each_replaced
from pyro_spvae.infer.leaf_terms import LeafTerms
from pyro_spvae.infer.prepared import PreparesBatches, owner_of
from pyro_spvae.infer.tree_sums import root_rise
from pyro_spvae.part import Part


class Estimator(Part):
    r"""
    How the gradient of a bound's expectation, :math:`\nabla E_q[\hat L]`, goes through latent variables that the guide
    draws without ``rsample``: by their scores, :math:`(\hat L - b)\, \nabla \log q(z)`, with a control variate b, or
    through draws that are relaxed.

    An objective takes one, ``CircuitELBO(1, estimator=NVIL())``. Parameters of its own are made when it meets a model,
    and trained beside the model's. It changes gradients alone: without gradients a bound is that of the values
    themselves.

    :cvar bool unbiased: whether the gradient's expectation is that of the bound.
    :cvar int least_particles: how many the objective must draw.

    Example::

        >>> from pyro_spvae.infer import Estimator
        >>> class ScoreFunction(Estimator):  # without a control variate
        ...     unbiased = True
        ...
        ...     def surrogate(self, step):
        ...         return step.score(step.learning_signal)
        >>> CircuitELBO(num_particles=1, estimator=ScoreFunction()).estimator.least_particles
        1
    """

    unbiased = True
    least_particles = 1

    #: learning rate over that of the model, of parameters of its own
    lr_factor = 10.0

    def build(self, *args: Any, **sizes: Any) -> None:
        """There are no parameters."""

    @property
    def is_sized(self) -> bool:
        """Whether there are parameters, for the leaves of one model."""
        return type(self).build is not Estimator.build

    def relax(self, program: Callable[..., Any], guide: bool) -> Callable[..., Any]:
        """
        A program as it is run in training; by default as it is.

        :param callable program: model or guide.
        :param bool guide: which one.
        """
        return program

    def has_use(self, terms: LeafTerms, sites: Mapping[str, Any]) -> bool:
        """
        Whether there is anything for it to do.

        :param LeafTerms terms: what was drawn.
        :param dict sites: the guide's latent sites inside the leaf plate, as they were drawn.
        """
        return terms.score is not None

    def surrogate(self, step: ScoredStep) -> Tensor:
        """
        A scalar whose gradient is what the bound's own lacks, nats summed over the batch; its value does not matter.

        :param ScoredStep step: what was drawn, and what became of it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define surrogate(self, step)")


@dataclass
class ScoredStep:
    r"""
    What an estimator sees of a step.

    :ivar LeafTerms terms: log-weights and scores, ``[particle, .., data, leaf]``.
    :ivar Tensor root: the bound of every datum, ``[.., data]``.
    :ivar Tensor leaf: what it was made of: means over particles, ``[.., data, leaf]``; with ``reduce="root"`` the root
        of every particle, ``[particle, .., data]``.
    :ivar float alpha: order of the means over particles.
    :ivar str reduce: where particles are averaged.
    :ivar dict sites: the guide's latent sites inside the leaf plate, by name.
    :ivar callable weigh: from values of a site to log-weights, with the guide's parameters held constant.
    :ivar Tensor features: what the guide's networks see of the batch, ``[data, leaf, pixel]``; ``None`` where the
        programs are not those of a root.

    Example::

        >>> from pyro_spvae.infer import Estimator
        >>> class Centred(Estimator):  # by what the bound is without a particle's and leaf's own weight
        ...     def surrogate(self, step):
        ...         return step.score(step.learning_signal - step.bound_with(torch.zeros(())))
        >>> issubclass(Centred, Estimator)
        True
    """

    terms: LeafTerms
    root: Tensor
    leaf: Tensor
    alpha: float
    reduce: str
    sites: Mapping[str, Any]
    weigh: Callable[[str, Tensor], Tensor]
    features: Tensor | None

    def mean(self, log_weight: Tensor) -> Tensor:
        """The mean over particles, which stand in front."""
        return renyi_mean(log_weight, self.alpha)

    def bound_with(self, control: Tensor) -> Tensor:
        """
        The bound if the log-weight of each particle and leaf in turn were another one: what a control variate may be,
        since it does not depend on what that leaf has drawn.

        :param Tensor control: in the place of the log-weights, broadcastable to them.
        :returns: ``[particle, .., data, leaf]`` in nats, differentiable in ``control``.
        """
        log_weight = self.terms.log_weight.detach()
        control = control.expand(log_weight.shape)
        leaf, root = self.leaf.detach(), self.root.detach()
        if self.reduce == "root":
            roots = leaf.unsqueeze(-1) + root_rise(self.terms, log_weight, control - log_weight)
            return with_each_replaced(leaf.unsqueeze(-1).expand_as(roots), roots, self.mean)
        replaced = with_each_replaced(log_weight, control, self.mean)
        return root.unsqueeze(-1) + root_rise(self.terms, leaf, replaced - leaf)

    def score(self, signal: Tensor) -> Tensor:
        """The sum of scores times a signal that is held constant, ``[particle, .., data, leaf]``."""
        assert self.terms.score is not None
        return (self.terms.score * signal.detach()).sum()

    @property
    def learning_signal(self) -> Tensor:
        """The bound of every datum, for each particle and leaf, ``[.., data, 1]``."""
        return self.root.detach().unsqueeze(-1)


def bits_of(step: ScoredStep, who: str) -> tuple[str, Any]:
    """
    The one latent site of a guide, whose distribution is of independent bits, and its node.

    :param str who: the estimator, for the message.
    :raises ValueError: for other guides.
    """
    sites = list(step.sites.items())
    if len(sites) != 1 or not isinstance(sites[0][1]["fn"], FactorialBernoulli):
        found = ", ".join(f"{name} ({type(site['fn']).__name__})" for name, site in sites)
        raise ValueError(
            f"{who} takes guides of one latent site of independent bits (FactorialBernoulli), but the guide draws "
            f"{found}; VIMCO, NVIL and Reinforce take any"
        )
    return sites[0]


def meet(estimator: Estimator, model: Any) -> None:
    """
    Makes the parameters of an estimator that has not met a model yet, for the leaves of this one, and moves them to
    where the model's are.

    :raises ValueError: if it has parameters, and was made for a model of other sizes, or the model has no leaves that
        it could see.
    """
    if not estimator.is_sized:
        return
    owner = owner_of(model)
    if not isinstance(owner, PreparesBatches):
        if estimator._sizes is None:
            raise ValueError(
                f"{type(estimator).__name__} has parameters for each leaf of a model; give the model and guide of an "
                "SPVAE, or another estimator"
            )
        return
    if estimator._sizes is None:
        estimator.bind(**owner.leaf_sizes)
    wanted = {name: owner.leaf_sizes[name] for name in estimator.sizes}
    if estimator.sizes != wanted:
        raise ValueError(
            f"this {type(estimator).__name__} was made for a model of other sizes ({_listed(estimator.sizes)}; now "
            f"{_listed(wanted)}); construct another one"
        )
    own = next(itertools.chain(estimator.parameters(), estimator.buffers()), None)
    reference = next(owner.parameters(), None)
    if own is not None and reference is not None and (own.device, own.dtype) != (reference.device, reference.dtype):
        estimator.to(reference)


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in sizes.items())


def with_value(trace: Any, name: str, value: Tensor) -> Trace:
    """A copy of a trace in which a site has another value, and nothing is scored yet."""
    found = Trace()
    for key, node in trace.nodes.items():
        kept = {entry: what for entry, what in node.items() if not entry.endswith(("log_prob", "log_prob_sum"))}
        found.add_node(key, **(kept | ({"value": value} if key == name else {})))
    return found


def frozen_log_prob(name: str, site: Any) -> Tensor:
    r""":math:`\log q` of a value, whatever its support, with the guide's parameters held constant."""
    law = site["fn"].detach()
    law._validate_args = False
    found: Tensor = law.log_prob(site["value"])
    return found


def slope_of(value: Tensor, at: Tensor, keep: bool = False) -> Tensor:
    """The gradient of a sum; of a function that acts on each entry, its slope."""
    grad: partial[Any] = partial(torch.autograd.grad, create_graph=keep, retain_graph=True)
    return grad(value.sum(), at)[0]

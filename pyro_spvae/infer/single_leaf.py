# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Pyro's own ELBOs for circuits of a single leaf, where there is no tree to sum over."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO, RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.util import get_dependent_plate_dims, torch_sum
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_spvae.infer.closed_form import check_order
from pyro_spvae.infer.collapse import CollapseTreeMessenger
from pyro_spvae.infer.estimators import renyi_mean
from pyro_spvae.infer.objective_module import ObjectiveModule
from pyro_spvae.infer.prepared import prepared
from pyro_spvae.infer.site import is_drawn, is_subsample


class SingleLeafELBO(ObjectiveModule):
    """
    One of Pyro's ELBOs of a model and guide whose circuit has a single leaf, as a module whose call is the loss.

    Such a circuit has one induced tree, of probability 1. Its site is collapsed, so that the guide need not state it,
    and Pyro's estimator sees a plain latent variable model: under one seed ``Trace_ELBO`` gives the loss and the
    gradients of :class:`~pyro_spvae.infer.CircuitELBO` with ``alpha=1``, and ``RenyiELBO`` those with its own order.
    ``TraceMeanField_ELBO`` takes KL divergences in closed form where they are registered, as between normals, and
    samples the others, those to mixtures, without a word; ``CircuitELBO`` with ``kl="analytic"`` gives the same.
    ``TraceEnum_ELBO`` sums over enumerated sites, as ``CircuitELBO`` does.

    With several leaves these objectives would be wrong or none at all: the guide would have to draw the tree, of which
    they use one draw where ``CircuitELBO`` sums over all.

    :param callable model: a model, such as ``spvae.model``.
    :param callable guide: its guide.
    :param ELBO elbo: ``Trace_ELBO``, ``TraceEnum_ELBO``, ``TraceMeanField_ELBO`` or ``RenyiELBO``, with
        ``max_plate_nesting`` of 2 if particles are vectorised.
    :raises TypeError: for an objective of another class.

    The call raises a ValueError for several leaves; for a site of the guide without ``rsample``, which ``Trace_ELBO``
    and ``TraceEnum_ELBO`` take (by the score function); for an enumerated site, which the latter takes alone; and, with
    ``TraceMeanField_ELBO``, for a guide that draws latent variables in another order than the model.

    Example::

        >>> import pyro
        >>> from pyro.infer import Trace_ELBO
        >>> from pyro_spvae.infer import SingleLeafELBO
        >>> pyro.settings.set(module_local_params=True)
        >>> vae = SPVAE(whole((4, 4)), units=1, likelihood=Bernoulli())
        >>> loss = SingleLeafELBO(vae.model, vae.guide, Trace_ELBO())
        >>> x, losses = vae.sample(10), []
        >>> for module in (loss, CircuitELBO(alpha=1)(vae.model, vae.guide)):
        ...     pyro.set_rng_seed(0)
        ...     losses.append(module(x).item())
        >>> abs(losses[0] - losses[1]) < 1e-3
        True
    """

    elbo: Any

    def __init__(self, model: Any, guide: Any, elbo: ELBO) -> None:
        if type(elbo) not in _ACCEPTED:
            names = ", ".join(cls.__name__ for cls in _ACCEPTED)
            raise TypeError(f"objective is a {type(elbo).__name__}; CircuitELBO and Pyro's {names} are accepted")
        super().__init__(model, guide, elbo)
        # RenyiELBO has a loss for SVI only
        loss = getattr(elbo, "differentiable_loss", None)
        self._order_is_checked = False
        self._loss = loss if loss is not None else _DifferentiableRenyi(elbo).differentiable_loss  # type: ignore[arg-type]

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The negative bound in nats, summed over the data."""
        model, guide = self._pair
        name = type(self.elbo).__name__
        if not self._order_is_checked:
            with torch.random.fork_rng(devices=[]):
                self._check_order(*args, **kwargs)
        args, kwargs = prepared(model, guide, args, kwargs)
        return self._loss(_OneTree(name)(model), _Estimable(self.elbo)(guide), *args, **kwargs)

    def check_guide(self, *args: Any, **kwargs: Any) -> None:
        """
        Runs the guide alone, to learn what the call would raise of it before the model can be run.

        :raises ValueError: for a site without ``rsample``.
        """
        with poutine.block():
            _Estimable(self.elbo)(self._pair[1])(*args, **kwargs)

    def _check_order(self, *args: Any, **kwargs: Any) -> None:
        """Refuses a mean-field objective whose guide draws latent variables in another order than the model."""
        self._order_is_checked = True
        if not isinstance(self.elbo, TraceMeanField_ELBO):
            return
        with poutine.block():
            drawn = [_latents(_OneTree("TraceMeanField_ELBO")(program), *args, **kwargs) for program in self._pair]
        check_order("TraceMeanField_ELBO", *drawn)


class _DifferentiableRenyi:
    r"""
    The loss of Pyro's ``RenyiELBO`` as a tensor, from its own traces. With reparameterised sites autograd's gradient of
    the bound is the one that ``RenyiELBO.loss_and_grads`` leaves behind.
    """

    def __init__(self, elbo: RenyiELBO) -> None:
        self.elbo = elbo

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        log_weights = []
        for model_trace, guide_trace in self.elbo._get_traces(model, guide, args, kwargs):
            summed = get_dependent_plate_dims(model_trace.nodes.values())
            log_weight: Any = 0.0
            for sign, trace in ((1, model_trace), (-1, guide_trace)):
                for site in trace.nodes.values():
                    if site["type"] == "sample":
                        log_weight = log_weight + sign * torch_sum(site["log_prob"], summed)
            log_weights.append(log_weight)
        vectorised = self.elbo.vectorize_particles and self.elbo.num_particles > 1
        particles = log_weights[0] if vectorised else torch.stack(log_weights)
        return -renyi_mean(particles, self.elbo.alpha).sum()


def _latents(program: Any, *args: Any, **kwargs: Any) -> list[str]:
    """Names of the latent sites of a program, in its order."""
    trace: Any = poutine.trace(program).get_trace(*args, **kwargs)
    return [name for name, site in trace.nodes.items() if is_drawn(site) and "collapsed" not in site["infer"]]


class _OneTree(CollapseTreeMessenger):
    """Collapses the site of a tree of a single leaf, and refuses others."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def _pyro_sample(self, msg: Any) -> None:
        super()._pyro_sample(msg)
        tree = msg["infer"].get("collapsed")
        if tree is not None and tree.event_shape[0] > 1:
            raise ValueError(
                f"{self.name} cannot train a circuit of {tree.event_shape[0]} leaves, whose tree the guide would have "
                "to draw; CircuitELBO sums it out"
            )


class _Estimable(Messenger):
    """Refuses latent sites that an objective has no gradient for."""

    def __init__(self, elbo: Any) -> None:
        super().__init__()
        self.elbo = elbo

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or is_subsample(msg):
            return
        name = type(self.elbo).__name__
        enumerated = msg["infer"].get("enumerate") == "parallel"
        if enumerated and not isinstance(self.elbo, TraceEnum_ELBO):
            raise ValueError(
                f"{name} cannot train a guide whose site '{msg['name']}' is enumerated; CircuitELBO and TraceEnum_ELBO "
                "sum over its values"
            )
        scored = type(self.elbo) in (Trace_ELBO, TraceEnum_ELBO)
        if not (msg["fn"].has_rsample or enumerated or scored):
            raise ValueError(
                f"{name} cannot train a guide whose site '{msg['name']}' has no rsample; CircuitELBO has a "
                "gradient for it (VIMCO), with at least two particles"
            )


_ACCEPTED = (Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, RenyiELBO)

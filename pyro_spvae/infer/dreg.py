# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Doubly reparameterised gradients through a circuit."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import unwrap
from torch import Tensor

from pyro_spvae.distributions.kept import carried
from pyro_spvae.infer.enumerated import enumerate_dim
from pyro_spvae.infer.leaf_terms import LeafTerms
from pyro_spvae.infer.prepared import owner_of
from pyro_spvae.infer.site import LEAF_PLATE, is_drawn
from pyro_spvae.nn.leaf_conv import StatisticsUnmoved


class PathGradients:
    r"""
    Replaces the guide's score terms by reweighted path gradients (Tucker et al. 2019, generalised to circuits).

    The root :math:`\hat L` is multilinear in all :math:`w_{kl}`, so :math:`a_{kl} = \partial \hat L/\partial \log
    w_{kl}` has derivative :math:`a_{kl}(1 - a_{kl})`, and the guide's gradient is

    .. math:: \sum_{kl} \bigl(1 - \beta (1 - a_{kl})\bigr) a_{kl} \frac{\partial \log w_{kl}}{\partial z_{kl}}
              \frac{\partial z_{kl}}{\partial \phi},

    with :math:`\beta` the annealing scale of the guide's terms; :math:`a^2` when :math:`\beta = 1`. Implemented by an
    identity between guide and model whose backward multiplies by the first factor, and by scoring ``log q`` with the
    guide's parameters held constant.

    :param callable guide: the guide; run a second time (on the same values, parameters frozen) unless it is a single
        site whose distribution has ``detach``.
    """

    def __init__(self, guide: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._guide = guide
        self._args = tuple(map(_anew, args))  # the guide's other run encodes data by parameters that are constants
        self._kwargs = {name: _anew(value) for name, value in kwargs.items()}
        self._holders: list[dict[str, Tensor]] = []
        self._rerun: dict[str, Any] | None = None
        self._trace: Any = None
        self._wrap: Callable[[Any], Any] = lambda fn: fn

    def attach(self, guide_trace: Any, wrap: Callable[[Any], Any]) -> None:
        """Puts the identity between the values of ``guide_trace`` and all later users of that trace."""
        holder: dict[str, Tensor] = {}
        self._holders.append(holder)
        self._rerun = None
        self._trace = guide_trace
        self._wrap = wrap
        for name, site in guide_trace.nodes.items():
            if not is_drawn(site):
                continue
            if enumerate_dim(site) is not None:
                raise ValueError(
                    f"gradient='dreg' needs a guide whose sites are drawn, but site '{name}' is enumerated; use "
                    "gradient='iwae'"
                )
            if not any(frame.name == LEAF_PLATE for frame in site["cond_indep_stack"]):
                raise ValueError(
                    f"gradient='dreg' needs all latent sites inside the plate '{LEAF_PLATE}'; site '{name}' is outside"
                )
            if not site["fn"].has_rsample:
                raise ValueError(
                    f"gradient='dreg' needs a guide whose sites all have rsample, which site '{name}' has not; "
                    "use gradient='iwae'"
                )
            site["value"] = carried(site["value"], partial(_weighed, holder=holder, event_dim=site["fn"].event_dim))

    def log_prob(self, name: str, site: Any) -> Tensor:
        """``log q`` of a guide site as a function of the values alone, the guide's parameters held constant."""
        latent = [n for n, s in self._trace.nodes.items() if is_drawn(s)]
        if latent == [name] and hasattr(site["fn"], "detach"):
            return site["fn"].detach().log_prob(site["value"])
        if self._rerun is None:
            with poutine.block(), _frozen(self._guide, self._trace), StatisticsUnmoved():
                guide = poutine.replay(self._wrap(self._guide), trace=self._trace)
                self._rerun = dict(poutine.trace(guide).get_trace(*self._args, **self._kwargs).nodes)
        again = self._rerun[name]
        with (
            _frozen(self._guide, self._trace),
            StatisticsUnmoved(),
        ):  # a density may call networks only when it is asked for
            return again["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])

    def weigh(self, root: Tensor, terms: LeafTerms) -> None:
        """Fills in the factors of the backward pass, once the root is known and before ``backward`` runs."""
        if math.isnan(terms.guide_scale):
            raise ValueError("gradient='dreg' needs one poutine.scale for all sites of the guide; found several")
        (a,) = torch.autograd.grad(root.sum(), terms.log_weight, retain_graph=True)
        factor = 1 - terms.guide_scale * (1 - a)  # [K, .., B, L]
        if len(self._holders) == 1:
            self._holders[0]["factor"] = factor
        else:
            for holder, particle in zip(self._holders, factor, strict=True):
                holder["factor"] = particle


def _anew(value: Any) -> Any:
    """A batch that keeps encodings without them; other arguments as they are."""
    return value.anew() if hasattr(value, "anew") else value


def _weighed(value: Tensor, holder: dict[str, Tensor], event_dim: int) -> Tensor:
    weighed: Tensor = _WeighGradient.apply(value, holder, event_dim)
    return weighed


class _WeighGradient(torch.autograd.Function):
    """The identity; backward multiplies by ``holder["factor"]``."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, holder: dict[str, Tensor], event_dim: int) -> Tensor:
        ctx.holder, ctx.event_dim = holder, event_dim
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        factor = ctx.holder["factor"]
        factor = factor.reshape(factor.shape + (1,) * ctx.event_dim)
        if factor.dim() > grad.dim():  # one particle: the particle axis was added for the bound only
            factor = factor.squeeze(0)
        return grad * factor, None, None


@contextmanager
def _frozen(guide: Any, trace: Any) -> Iterator[None]:
    """Within the block the guide's parameters do not require gradients."""
    owner = owner_of(unwrap(guide))  # handlers do not change whose it is
    parameters: set[Any] = set() if owner is None else set(owner.parameters())
    for site in trace.nodes.values():
        if site["type"] == "param":
            value = site["value"]
            parameters.add(value.unconstrained() if hasattr(value, "unconstrained") else value)
    frozen = [parameter for parameter in parameters if parameter.is_leaf and parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        with warnings.catch_warnings():
            # pyro.module remarks on parameters that are frozen; they are, for a moment and on purpose
            warnings.filterwarnings("ignore", message=".*was not registered in the param store")
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)

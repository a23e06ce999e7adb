# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The objective of the DLGMM paper as printed, to be compared with the bounds of this package."""

from __future__ import annotations

import math
from typing import Any

import pyro
from pyro import poutine
from pyro.infer import ELBO
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_spvae import checks
from pyro_spvae.distributions import log_stick_weights, mean_stick_weights
from pyro_spvae.infer import collapse_tree
from pyro_spvae.infer.enumerated import enumerate_guide
from pyro_spvae.infer.site import PARTICLE_PLATE

_NESTING = 3  # plates of particles, data and leaves
_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class Eq1ELBO(ELBO):
    r"""
    Eq. (1) of Nalisnick, Hertel and Smyth 2016, for a single leaf :class:`~pyro_spvae.models.DLGMM` or
    :class:`~pyro_spvae.models.DLDPMM` with a :class:`~pyro_spvae.guides.MixtureGuide` that enumerates,

    .. math:: \sum_k E[\pi_k] \big(\log p(x \mid z_k) + E_{q_k}[\log p_k(z)]\big)
        - \sum_k D_{KL}(q(v_k) \| p(v_k)) - \log \sum_k \hat\pi_k\, q_k(z_k), \qquad z_k \sim q_k,

    with exact mean weights, weights :math:`\hat\pi` of drawn fractions, and divergences of fractions in closed form.
    The last term takes every component's density at its own draw, which is no entropy of the mixture: the
    bound is below the one that sums over components (:class:`~pyro_spvae.infer.CircuitELBO` with ``alpha=1``), and that
    below the mixture's. Averages over ``num_samples`` draws; one in the authors' code.

    :param int num_samples: number of draws, S.
    :raises ValueError: if it is no positive integer; when evaluated, for programs without the sites ``v``, ``c``, ``z``
        or with several leaves.
    """

    def __init__(self, num_samples: int = 1) -> None:
        super().__init__(num_particles=checks.positive_integer("num_samples", num_samples), max_plate_nesting=_NESTING)

    def bound(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """
        :returns: nats, ``[data]``.
        """
        model_trace, guide_trace = self._get_trace(model, guide, args, kwargs)
        if not {"v", "c", "z"} <= guide_trace.nodes.keys():
            raise ValueError("Eq1ELBO is of programs with the sites v, c and z; give a DLGMM that does not sum c out")
        v, z = (guide_trace.nodes[name] for name in ("v", "z"))
        prior, x = (model_trace.nodes[name] for name in ("z", "x"))
        if x["fn"].batch_shape[-1] != 1:
            raise ValueError(f"Eq1ELBO is of a single leaf, but there are {x['fn'].batch_shape[-1]}")
        mean = mean_stick_weights(v["fn"].mean).movedim(-1, 0)  # [K, S, B, 1]
        drawn = log_stick_weights(v["value"]).movedim(-1, 0)
        q, p = z["fn"], prior["fn"]
        standard = ((q.loc - p.loc).square() + q.scale.square()) / p.scale.square()
        cross = -(0.5 * standard + p.scale.log() + _HALF_LOG_TWO_PI).sum(-1)
        fit = (mean * (x["fn"].log_prob(x["value"]) + cross)).sum(0)
        entropy = -(drawn + q.log_prob(z["value"])).logsumexp(0)
        total = fit - kl_divergence(v["fn"], model_trace.nodes["v"]["fn"]) + entropy  # [S, B, 1]
        return total.mean(0).squeeze(-1)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The negative bound, summed over data."""
        return -self.bound(model, guide, *args, **kwargs).sum()

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The same as a number."""
        return float(self.differentiable_loss(model, guide, *args, **kwargs).detach())

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The same, with gradients left in the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return float(loss.detach())

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        guide_trace: Any = poutine.trace(enumerate_guide(self._plated(guide), _NESTING)).get_trace(*args, **kwargs)
        model = collapse_tree(poutine.replay(self._plated(model), trace=guide_trace))
        return poutine.trace(model).get_trace(*args, **kwargs), guide_trace

    def _plated(self, program: Any) -> Any:
        return pyro.plate(PARTICLE_PLATE, self.num_particles, dim=-_NESTING)(program)

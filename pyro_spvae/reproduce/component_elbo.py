# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The objective of the DLGMM paper as printed, to be compared with the bounds of this package."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_spvae import checks
from pyro_spvae.distributions import log_stick_weights, mean_stick_weights
from pyro_spvae.infer import CircuitELBO
from pyro_spvae.infer.enumerated import enumerate_guide
from pyro_spvae.infer.prepared import prepared

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


class Eq1ELBO(CircuitELBO):
    r"""
    Eq. (1) of Nalisnick, Hertel and Smyth 2016, for a single leaf :class:`~pyro_spvae.models.DLGMM` or
    :class:`~pyro_spvae.models.DLDPMM` with a :class:`~pyro_spvae.guides.MixtureGuide` that enumerates,

    .. math:: \sum_k E[\pi_k] \big(\log p(x \mid z_k) + E_{q_k}[\log p_k(z)]\big)
        - \sum_k D_{KL}(q(v_k) \| p(v_k)) - \log \sum_k \hat\pi_k\, q_k(z_k), \qquad z_k \sim q_k,

    with exact mean weights, weights :math:`\hat\pi` of drawn fractions, and exact divergences of fractions.
    The last term takes every component's density at its own draw, which is no entropy of the mixture: the
    bound is below the one that sums over components (:class:`~pyro_spvae.infer.CircuitELBO` with ``alpha=1``), and that
    below the mixture's. Averages over ``num_samples`` draws; one in the authors' code.

    :param int num_samples: number of draws, S.
    :raises ValueError: if it is no positive integer; when evaluated, for programs without the sites ``v``, ``c``,
        ``z``, with several leaves, or where a site is scaled (annealing, subsampling).
    """

    def __init__(self, num_samples: int = 1) -> None:
        super().__init__(checks.positive_integer("num_samples", num_samples), alpha=1.0, kl="analytic")

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The negative bound, summed over data, as a number."""
        return -float(self.bound(model, guide, *args, **kwargs).sum())

    def bound(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """
        :returns: nats, ``[data]``, without gradient.
        """
        with torch.no_grad():
            return self._per_datum(model, guide, *args, **kwargs)

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The negative bound, summed over data, with its gradient."""
        return -self._per_datum(model, guide, *args, **kwargs).sum()

    def _per_datum(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        args, kwargs = prepared(model, guide, args, kwargs)
        plate, nesting = self._vectorized_num_particles, self.max_plate_nesting
        guide_trace: Any = poutine.trace(enumerate_guide(plate(guide), nesting)).get_trace(*args, **kwargs)
        if not {"v", "c", "z"} <= guide_trace.nodes.keys():
            raise ValueError("Eq1ELBO is of programs with the sites v, c and z; give a DLGMM that does not sum c out")
        model_trace: Any = self._replay(plate(model), guide_trace, args, kwargs)
        v, z = (guide_trace.nodes[name] for name in ("v", "z"))
        prior, x = (model_trace.nodes[name] for name in ("z", "x"))
        if x["fn"].batch_shape[-1] != 1:
            raise ValueError(f"Eq1ELBO is of a single leaf, but there are {x['fn'].batch_shape[-1]}")
        for site in (v, z, prior, x):
            if isinstance(site["scale"], Tensor) or site["scale"] != 1:
                raise ValueError(
                    f"Eq1ELBO takes no scale, but site {site['name']} is scaled; train without warm-up or size"
                )
        mean = mean_stick_weights(v["fn"].mean).movedim(-1, 0)  # [K, (S), B, 1]
        drawn = log_stick_weights(v["value"]).movedim(-1, 0)
        if self.num_particles > 1 and mean.dim() < drawn.dim():
            mean = mean.unsqueeze(1)
        q, p = z["fn"], prior["fn"]
        standard = ((q.loc - p.loc).square() + q.scale.square()) / p.scale.square()
        cross = -(0.5 * standard + p.scale.log() + _HALF_LOG_TWO_PI).sum(-1)
        fit = (mean * (x["fn"].log_prob(x["value"]) + cross)).sum(0)
        entropy = -(drawn + q.log_prob(z["value"])).logsumexp(0)
        total = fit - kl_divergence(v["fn"], model_trace.nodes["v"]["fn"]) + entropy  # [(S), B, 1]
        return total.squeeze(-1) if self.num_particles == 1 else total.mean(0).squeeze(-1)

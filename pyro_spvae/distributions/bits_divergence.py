# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Divergences between distributions of latent bits, smoothed or not: those of the bits."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from pyro.distributions.util import broadcast_shape
from torch import Tensor

from pyro_spvae.circuits.numerics import softplus
from pyro_spvae.distributions.divergences import register_divergence
from pyro_spvae.distributions.factorial_bernoulli import FactorialBernoulli
from pyro_spvae.distributions.hierarchy import BinaryHierarchy, SmoothedHierarchy, groups
from pyro_spvae.distributions.smoothed_bernoulli import SmoothedBernoulli

OF_BITS = (FactorialBernoulli, SmoothedBernoulli, BinaryHierarchy, SmoothedHierarchy)


def bernoulli_divergence(q: Tensor, p: Tensor) -> Tensor:
    r"""
    The divergence of Bernoulli distributions from their logits, :math:`\sigma(\ell_q)(\ell_q - \ell_p) +
    \log(1 + e^{\ell_p}) - \log(1 + e^{\ell_q})` nats, entry by entry. Both logits may change sign: with that of
    :math:`q` made negative small divergences are not lost to rounding.
    """
    sign = torch.where(q.detach() > 0, -1.0, 1.0).to(q.dtype)
    q, p = sign * q, sign * p
    return q.sigmoid() * (q - p) + (softplus(p) - softplus(q))


def bits_divergence(q: Any, p: Any, value: Tensor) -> Tensor:
    r"""
    The divergence of two distributions of bits by groups, :math:`\sum_g \text{KL}(q(z_g \mid \zeta_{<g})\, \|\,
    p(z_g \mid \zeta_{<g}))` nats, ``[.., leaf]``, exact given the drawn values of earlier groups: the bound of the
    joint law (Vahdat et al. 2018, eq. 4), whatever the smoothing transformations.

    :param q: distribution of latent bits or of smoothed ones, see :func:`groups`.
    :param p: likewise; of one group, or of the groups of ``q``.
    :param Tensor value: drawn from ``q``.
    :raises ValueError: for other groups.
    """
    of_q, of_p = groups(q, value), groups(p, value)
    sizes, others = ([logits.shape[-1] for logits, _ in law] for law in (of_q, of_p))
    if sum(sizes) != sum(others) or (sizes != others and len(others) > 1):
        raise ValueError(
            f"{type(q).__name__} has groups of {sizes} bits and {type(p).__name__} of {others}; "
            "the same groups, or one group of p of as many bits, are needed"
        )
    parts = [logits for logits, _ in of_p] if sizes == others else of_p[0][0].split(sizes, -1)
    terms = [bernoulli_divergence(logits, other).sum(-1) for (logits, _), other in zip(of_q, parts, strict=True)]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total.expand(broadcast_shape(total.shape, q.batch_shape, p.batch_shape))


for _q, _p in itertools.product(OF_BITS, OF_BITS):
    register_divergence(_q, _p)(bits_divergence)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Divergences between distributions of latent bits, smoothed or not: those of the bits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
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

    Example::

        >>> from pyro_spvae.distributions import bernoulli_divergence
        >>> bernoulli_divergence(torch.tensor([0.0, 40.0]), torch.tensor([0.0, 0.0]))  # nothing, log 2
        tensor([0.0000, 0.6931])
    """
    sign = torch.where(q.detach() > 0, -1.0, 1.0).to(q.dtype)
    q, p = sign * q, sign * p
    return q.sigmoid() * (q - p) + (softplus(p) - softplus(q))


def bits_divergence(q: Any, p: Any, value: Tensor) -> Tensor:
    r"""
    The divergence of two distributions of bits in groups, by the conditional divergence of every bit,
    :math:`\sum_i \text{KL}(q(z_i \mid \zeta_{<g(i)})\, \|\, p(z_i \mid \zeta_{<h(i)}))` nats, ``[.., leaf]``, with
    the values that were drawn of the groups before its own, g(i) of ``q`` and h(i) of ``p``. Its expectation over
    these draws is the divergence: given the groups of ``q`` before it, a bit is independent of the others of its group,
    on which ``p`` may also make it depend. It is that of the joint law of bits and smoothed bits (Vahdat et al. 2018,
    eq. 4), whatever the smoothing transformations.

    :param q: distribution of latent bits or of smoothed ones, see :func:`groups`.
    :param p: likewise, of as many bits, in any groups.
    :param Tensor value: drawn from ``q``.
    :raises ValueError: for another number of bits.

    Example::

        >>> from pyro_spvae.distributions import FactorialBernoulli, bits_divergence
        >>> q, p = FactorialBernoulli(torch.full((2, 3), 40.0)), FactorialBernoulli(torch.zeros(2, 3))
        >>> bits_divergence(q, p, q.sample())  # 3 log 2
        tensor([2.0794, 2.0794])
    """
    of_q, of_p = ([logits for logits, _ in groups(law, value)] for law in (q, p))
    sizes, others = ([logits.shape[-1] for logits in law] for law in (of_q, of_p))
    if sum(sizes) != sum(others):
        raise ValueError(
            f"q, a {type(q).__name__}, has {sum(sizes)} bits and p, a {type(p).__name__}, has {sum(others)}; the same "
            "number is needed"
        )
    ends = sorted({*itertools.accumulate(sizes), *itertools.accumulate(others)})
    pairs = zip(_split(of_q, ends), _split(of_p, ends), strict=True)
    terms = [bernoulli_divergence(logits, other).sum(-1) for logits, other in pairs]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total.expand(broadcast_shape(total.shape, q.batch_shape, p.batch_shape))


def _split(parts: Sequence[Tensor], ends: Sequence[int]) -> Iterator[Tensor]:
    """Groups of logits cut at all ends, among which are their own."""
    start = 0
    for part in parts:
        stop = start + part.shape[-1]
        inside = [start, *(end for end in ends if start < end <= stop)]
        yield from part.split([high - low for low, high in itertools.pairwise(inside)], -1)
        start = stop


for _q, _p in itertools.product(OF_BITS, OF_BITS):
    register_divergence(_q, _p)(bits_divergence)

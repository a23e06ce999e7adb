# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Divergences of factorial and hierarchical posteriors of bits from a Boltzmann machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.nn.functional import softplus

from pyro_spvae.circuits.numerics import at_least_single
from pyro_spvae.distributions.bernoulli import LeafBernoulli
from pyro_spvae.distributions.boltzmann.boltzmann import Boltzmann
from pyro_spvae.distributions.boltzmann.machine import Machine
from pyro_spvae.distributions.boltzmann.smoothed import SmoothedBoltzmann
from pyro_spvae.distributions.divergences import register_divergence
from pyro_spvae.distributions.factorial_bernoulli import FactorialBernoulli
from pyro_spvae.distributions.hierarchy import BinaryHierarchy, SmoothedHierarchy, groups
from pyro_spvae.distributions.leaf import full_precision
from pyro_spvae.distributions.smoothed_bernoulli import SmoothedBernoulli

_Groups = Callable[[Any, Tensor], Sequence[tuple[Tensor, Tensor]]]


def cross_entropy(machine: Machine, mus: Sequence[Tensor], nus: Sequence[Tensor]) -> Tensor:
    r"""
    The expected energy under a posterior whose groups of bits are drawn one after the other, simplified (Vahdat et al.
    2018, eq. (6), there for two groups and the sides of a restricted machine),

    .. math:: E_q[E(z)] = -E\Big[\sum_g a_g^T \mu_g + \sum_{g < h} \nu_g^T J_{gh} \mu_h
        + \tfrac12 \sum_g \mu_g^T J_{gg} \mu_g\Big],

    up to the expectation over what was drawn. A group's bits are independent given those in front of it, so that
    their expectation :math:`\mu` stands for them; a group in front counts with what its own draw says, since later
    ones depend on it.

    :param Machine machine: of D units.
    :param list mus: by group, :math:`\mu_g = q(z_g = 1 \mid \zeta_{<g})`, ``[.., leaf, size]``; sizes add up to D.
    :param list nus: by group, :math:`\nu_g = q(z_g = 1 \mid \zeta_{\le g})`, the bits themselves where they are drawn.
    :returns: nats, ``[.., leaf]``.
    :raises ValueError: if sizes do not add up.

    Example::

        >>> from pyro_spvae.distributions.boltzmann import RestrictedMachine, cross_entropy
        >>> machine, z = RestrictedMachine(torch.zeros(1, 3), torch.ones(1, 1, 2)), torch.ones(1, 3)
        >>> cross_entropy(machine, [z], [z]), machine.energy(z)  # of bits that are certain
        (tensor([-2.]), tensor([-2.]))
    """
    sizes = [mu.size(-1) for mu in mus]
    if sum(sizes) != machine.size:
        raise ValueError(f"groups of {sizes} bits are given to a Boltzmann machine of {machine.size}; they must add up")
    start = 0
    total: Tensor | float = 0.0
    before = nus[0][..., :0]
    for mu, nu in zip(mus, nus, strict=True):
        stop = start + mu.size(-1)
        total = total - (machine.bias[:, start:stop] * mu).sum(-1) - machine.of_group(before, mu)
        if stop < machine.size:
            shape = torch.broadcast_shapes(before.shape[:-1], nu.shape[:-1])
            before = torch.cat([before.expand(*shape, start), nu.expand(*shape, stop - start)], -1)
        start = stop
    assert isinstance(total, Tensor)
    return total


def bit_entropy(logits: Tensor) -> Tensor:
    r""":math:`\sum_j \log(1 + e^{\ell_j}) - \ell_j\, \mathrm{sigmoid}(\ell_j)`, ``[..]`` in nats, of ``[.., bit]``."""
    return (softplus(logits) - logits * logits.sigmoid()).sum(-1)


def divergence_of_groups(
    groups: Sequence[tuple[Tensor, Tensor]], model: Boltzmann | SmoothedBoltzmann, smoothing: Any = None
) -> Tensor:
    r"""
    The divergence of bits, :math:`\log Z - \sum_g H(q_g) + E_q[E(z)]`: everything in closed form given the earlier
    groups' draws but :math:`\log Z`, which the machine's law knows.

    :param list groups: logits given the groups in front, and the value drawn, both ``[.., leaf, size]``.
    :param model: the law of the bits, or of their smoothed form.
    :param smoothing: what values are drawn by, with ``posterior(logits, value)``; ``None`` if they are bits.
    :returns: nats, ``[.., leaf]``.
    """
    with full_precision(model.machine.bias):
        dtype = model.machine.bias.dtype
        logits = [at_least_single(own).to(dtype) for own, _ in groups]
        values = [value.to(dtype) for _, value in groups]
        if smoothing is not None and len(groups) > 1:
            values = [smoothing.posterior(own, value) for own, value in zip(logits, values, strict=True)]
        entropy = sum(bit_entropy(own) for own in logits)
        return cross_entropy(model.machine, [own.sigmoid() for own in logits], values) + model.log_z - entropy


def register_boltzmann(guide: type, groups: _Groups) -> None:
    """
    Registers the divergence of a class of posteriors of bits from Boltzmann machines, smoothed or not.

    :param type guide: its instances may have a ``smoothing``.
    :param callable groups: from one and its value to logits and values by group.

    Example::

        >>> from pyro_spvae.distributions import Boltzmann, FactorialBernoulli, divergence, groups
        >>> from pyro_spvae.distributions.boltzmann import register_boltzmann
        >>> class Bits(FactorialBernoulli):
        ...     pass
        >>> register_boltzmann(Bits, groups)
        >>> q, p = Bits(torch.zeros(1, 4)), Boltzmann(torch.zeros(1, 4), torch.zeros(1, 2, 2))
        >>> divergence(q, p, q.sample()).abs().item() < 1e-5  # the same law
        True
    """
    for model in (Boltzmann, SmoothedBoltzmann):

        @register_divergence(guide, model)
        def _(q: Any, p: Any, value: Tensor) -> Tensor:
            found = divergence_of_groups(groups(q, value), p, getattr(q, "smoothing", None))
            return found.expand(broadcast_shape(found.shape, q.batch_shape, p.batch_shape))


def _one_group(q: LeafBernoulli, value: Tensor) -> list[tuple[Tensor, Tensor]]:
    if q.pixel_mask is not None:
        raise NotImplementedError("bits that do not count have no divergence from a machine in which all interact")
    return [(q.logits, value)]


register_boltzmann(LeafBernoulli, _one_group)  # of a program of one's own, whose bits nothing smooths
for _law in (FactorialBernoulli, SmoothedBernoulli, BinaryHierarchy, SmoothedHierarchy):
    register_boltzmann(_law, groups)

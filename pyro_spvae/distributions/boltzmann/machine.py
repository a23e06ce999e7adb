# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Energies of Boltzmann machines, restricted and general, with a leaf axis."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import softplus
from typing_extensions import Self

from pyro_spvae.circuits.numerics import at_least_single
from pyro_spvae.distributions.leaf import full_precision


@dataclass(frozen=True)
class Machine:
    r"""
    The energy :math:`E(z) = -a^T z - \frac12 z^T J z` of D bits for every leaf, :math:`J` symmetric without a diagonal.

    Units fall into *few*, whose states can be listed, and *many* that are independent given these, so that they can be
    summed out: :math:`\log \sum_{z_m} e^{-E} = a_f^T z_f + \frac12 z_f^T J_{ff} z_f
    + \sum_j \log(1 + e^{a_j + (J_{mf} z_f)_j})`.

    :ivar Tensor bias: :math:`a`, ``[leaf, D]``.
    :ivar Tensor weight: couplings, see the subclasses.

    Example::

        >>> from pyro_spvae.distributions.boltzmann import Machine, RestrictedMachine, log_normaliser
        >>> machine = RestrictedMachine(torch.zeros(1, 3), torch.ones(1, 1, 2))
        >>> z = torch.cartesian_prod(*[torch.arange(2.0)] * 3).unsqueeze(1)  # all states, [8, leaf, D]
        >>> isinstance(machine, Machine), round((-machine.energy(z) - log_normaliser(machine)).exp().sum().item(), 4)
        (True, 1.0)
    """

    bias: Tensor
    weight: Tensor

    @property
    def leaves(self) -> int:
        """Number of leaves, each with a machine of its own."""
        return self.bias.size(0)

    @property
    def size(self) -> int:
        """Number of units, D."""
        return self.bias.size(1)

    @property
    def few(self) -> slice:
        """The units whose states are listed."""
        raise NotImplementedError

    @property
    def many(self) -> slice:
        """All others, which are independent given these."""
        raise NotImplementedError

    @property
    def listed(self) -> int:
        """Number of units whose states are listed."""
        return len(range(self.size)[self.few])

    def interaction(self, z: Tensor) -> Tensor:
        r""":math:`\frac12 z^T J z`, ``[.., leaf]``, of values ``[.., leaf, D]``."""
        return self.of_group(z[..., :0], z)

    def energy(self, z: Tensor) -> Tensor:
        r""":math:`E(z)`, ``[.., leaf]`` in nats, of values ``[.., leaf, D]``."""
        return -(z * self.bias).sum(-1) - self.interaction(z)

    def of_group(self, before: Tensor, own: Tensor) -> Tensor:
        r"""
        The interaction of a group of units with the units in front of it and inside of it,
        :math:`b^T J_{bg} o + \frac12 o^T J_{gg} o`.

        :param Tensor before: values of the units in front of the group, ``[.., leaf, units]``; there may be none.
        :param Tensor own: those of the group, ``[.., leaf, units]``.
        :returns: ``[.., leaf]``.
        """
        raise NotImplementedError

    def field(self, z: Tensor) -> Tensor:
        r""":math:`a + J z`, log-odds of each unit given all others, ``[leaf, D]``, of values ``[leaf, D]``."""
        raise NotImplementedError

    def few_interaction(self, states: Tensor) -> Tensor:
        """The interaction among the few, ``[state, leaf or 1]``, of states ``[state, few]``."""
        raise NotImplementedError

    def fields(self, states: Tensor) -> Tensor:
        """Log-odds of the many given the few, ``[.., leaf, many]``, of states of these, ``[.., leaf or 1, few]``."""
        raise NotImplementedError

    def log_weights(self, states: Tensor) -> Tensor:
        r""":math:`\log \sum_{z_m} e^{-E(z_f, z_m)}`, ``[state, leaf]``, of states of the few ``[state, few]``."""
        own = states @ self.bias[:, self.few].T + self.few_interaction(states)
        return own + softplus(self.fields(states.unsqueeze(1))).sum(-1)

    def second_moments(self, chains: Tensor) -> Tensor:
        """Mean products of units over states ``[leaf, chain, D]``, of those that interact, in the shape of weights."""
        raise NotImplementedError

    def expected_energy(self, chains: Tensor) -> Tensor:
        """The mean of E over states ``[leaf, chain, D]``, ``[leaf]``; differentiable in parameters at little cost."""
        with torch.no_grad(), full_precision(self.bias):
            states = chains.to(self.bias.dtype)
            first, second = states.mean(1), self.second_moments(states)
        return -(self.bias * first).sum(-1) - (self.weight * second).sum((-2, -1))

    def tempered(self, inverse_temperatures: Tensor) -> Self:
        """
        Machines at several inverse temperatures, by which energies are scaled: every leaf stands once for each,
        ``[leaf * temperature, ..]``.
        """
        number = len(inverse_temperatures)
        scale = inverse_temperatures.to(self.weight).repeat(self.leaves).unsqueeze(-1)
        return replace(
            self,
            bias=self.bias.repeat_interleave(number, 0) * scale,
            weight=self.weight.repeat_interleave(number, 0) * scale.unsqueeze(-1),
        )

    def detach(self) -> Self:
        """The machine cut from the graph."""
        return replace(self, bias=self.bias.detach(), weight=self.weight.detach())

    def precise(self, dtype: torch.dtype | None = None) -> Self:
        """The machine in another type, by default in at least single precision."""
        if dtype is None:
            return replace(self, bias=at_least_single(self.bias), weight=at_least_single(self.weight))
        return replace(self, bias=self.bias.to(dtype), weight=self.weight.to(dtype))


@dataclass(frozen=True)
class RestrictedMachine(Machine):
    """
    A restricted (bipartite) machine: units of the left side, the first ones, interact with those of the right alone,
    :math:`E(z) = -a^T z - z_l^T W z_r`.

    :ivar Tensor weight: :math:`W`, ``[leaf, left, right]``.

    Example::

        >>> from pyro_spvae.distributions.boltzmann import RestrictedMachine
        >>> machine = RestrictedMachine(torch.zeros(1, 3), torch.ones(1, 1, 2))  # one unit and two
        >>> machine.energy(torch.ones(1, 3))
        tensor([-2.])
    """

    @property
    def left(self) -> int:
        """Number of units of the left side."""
        return self.weight.size(1)

    @property
    def few(self) -> slice:
        """The smaller side."""
        left = self.left
        return slice(0, left) if left <= self.weight.size(2) else slice(left, None)

    @property
    def many(self) -> slice:
        """The larger side."""
        left = self.left
        return slice(left, None) if left <= self.weight.size(2) else slice(0, left)

    @property
    def to_many(self) -> Tensor:
        """Couplings from the few to the many, ``[leaf, few, many]``."""
        return self.weight if self.few.start == 0 else self.weight.mT

    def of_group(self, before: Tensor, own: Tensor) -> Tensor:
        left, start = self.left, before.size(-1)
        stop = start + own.size(-1)
        if stop <= left:  # pairs count where their second unit stands, which is on the right
            return torch.zeros_like(own[..., 0])
        known = before if start >= left else torch.cat([before, own], -1) if start else own
        right = own[..., max(left - start, 0) :]
        weight = self.weight[:, :, max(start - left, 0) : stop - left]
        return (_product(known[..., :left], weight) * right).sum(-1)

    def field(self, z: Tensor) -> Tensor:
        to_left, to_right = z[..., self.left :], z[..., : self.left]
        return self.bias + torch.cat([_product(to_left, self.weight.mT), _product(to_right, self.weight)], -1)

    def few_interaction(self, states: Tensor) -> Tensor:
        return states.new_zeros(len(states), 1)

    def fields(self, states: Tensor) -> Tensor:
        return self.bias[:, self.many] + _product(states, self.to_many)

    def second_moments(self, chains: Tensor) -> Tensor:
        left, right = chains[..., : self.left], chains[..., self.left :]
        return torch.bmm(left.mT, right) / chains.size(1)


@dataclass(frozen=True)
class GeneralMachine(Machine):
    """
    A general machine, in which all pairs of units interact; all of them are listed.

    :ivar Tensor weight: the couplings :math:`J_{ij}` of pairs i < j in the upper triangle, ``[leaf, D, D]``; whatever
        stands elsewhere does not count and has no gradient.

    Example::

        >>> from pyro_spvae.distributions.boltzmann import GeneralMachine
        >>> couplings = torch.tensor([[[0.0, 2.0], [0.0, 0.0]]])
        >>> GeneralMachine(torch.ones(1, 2), couplings).energy(torch.ones(1, 2))  # -(1 + 1) - 2
        tensor([-4.])
    """

    @property
    def few(self) -> slice:
        """All units."""
        return slice(0, None)

    @property
    def many(self) -> slice:
        """None."""
        return slice(self.size, None)

    @property
    def couplings(self) -> Tensor:
        """The symmetric matrix J without a diagonal, ``[leaf, D, D]``."""
        upper = self.weight.triu(1)
        return upper + upper.mT

    def of_group(self, before: Tensor, own: Tensor) -> Tensor:
        start = before.size(-1)
        stop = start + own.size(-1)
        columns = self.weight[:, :stop, start:stop].triu(1 - start)  # pairs of which the second is in the group
        values = torch.cat([before, own], -1) if start else own
        return (_product(values, columns) * own).sum(-1)

    def field(self, z: Tensor) -> Tensor:
        return self.bias + _product(z, self.couplings)

    def few_interaction(self, states: Tensor) -> Tensor:
        return (_product(states.unsqueeze(1), self.weight.triu(1)) * states.unsqueeze(1)).sum(-1)

    def fields(self, states: Tensor) -> Tensor:
        return states.new_zeros(*states.shape[:-2], self.leaves, 0)

    def second_moments(self, chains: Tensor) -> Tensor:
        return (torch.bmm(chains.mT, chains) / chains.size(1)).triu(1)


def _product(values: Tensor, weight: Tensor) -> Tensor:
    """``[.., leaf, out]`` of values ``[.., leaf, in]`` and weights ``[leaf, in, out]``."""
    return torch.einsum("...ln,lnm->...lm", values, weight)

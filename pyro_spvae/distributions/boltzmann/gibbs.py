# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Gibbs sampling of Boltzmann machines in blocks, many chains at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_spvae.distributions.boltzmann.machine import GeneralMachine, Machine, RestrictedMachine

_LEVELS = 2**16
_BLOCK = 16  # units of a general machine whose fields one product gives


class Coins:
    r"""
    Bernoulli draws from 16 random bits each, at a third of the cost of a uniform number.

    A coin is 1 where :math:`(k + v) / 2^{16} < p`, with :math:`k` an integer of its own and :math:`v` uniform in [0, 1)
    and common to all coins of a call: each is Bernoulli(p) exactly, and they are independent but for what is decided
    within :math:`2^{-16}` of p.

    :param shape: of the coins of a call.
    :param Tensor like: of their type and device.
    """

    def __init__(self, shape: Sequence[int], like: Tensor) -> None:
        number = torch.Size(shape).numel()
        self._words = torch.empty((number + 3) // 4, dtype=torch.int64, device=like.device)
        self._levels = self._words.view(torch.int16)[:number].view(*shape)

    def throw(self, probs: Tensor, out: Tensor) -> Tensor:
        """
        Draws into ``out``.

        :param Tensor probs: probabilities; scaled in place.
        """
        self._words.random_(-(2**63), None)
        shift = torch.rand((), dtype=probs.dtype, device=probs.device).add_(_LEVELS // 2).neg_()
        torch.add(shift, probs, alpha=_LEVELS, out=probs)
        return torch.lt(self._levels, probs, out=out)


class Gibbs:
    """
    Gibbs sampling of a machine, which stays as it was when this was made.

    A sweep draws every unit once, given all others: of a restricted machine the right side given the left and the left
    given the right, each as one batched product; of a general machine one unit after the other.

    :param Machine machine: of one or several leaves.
    :param int chains: number of chains of each leaf.

    Example::

        >>> from pyro_spvae.distributions.boltzmann import Gibbs, RestrictedMachine
        >>> machine = RestrictedMachine(torch.zeros(1, 4), torch.ones(1, 2, 2))
        >>> sampler = Gibbs.of(machine, chains=10)
        >>> sampler.sweep(torch.zeros(1, 10, 4), sweeps=5).shape  # [leaf, chain, D]
        torch.Size([1, 10, 4])
    """

    def __init__(self, machine: Machine, chains: int) -> None:
        self.machine, self.chains = machine.detach().precise(), chains

    @staticmethod
    def of(machine: Machine, chains: int) -> Gibbs:
        """The sampler of a machine's kind."""
        return (
            RestrictedGibbs(machine, chains)
            if isinstance(machine, RestrictedMachine)
            else GeneralGibbs(machine, chains)
        )

    def independent(self, bias: Tensor) -> Tensor:
        """Independent units with biases ``[leaf, D]``, of every chain, ``[leaf, chain, D]``."""
        return torch.bernoulli(bias.to(self.machine.bias).sigmoid().unsqueeze(1).expand(-1, self.chains, -1))

    def sweep(self, states: Tensor, sweeps: int, scale: float = 1.0, bias: Tensor | None = None) -> Tensor:
        """
        The states after some sweeps.

        :param Tensor states: ``[leaf, chain, D]``, bool or numbers.
        :param float scale: what couplings are scaled by.
        :param Tensor bias: in the place of the machine's, ``[leaf, D]``.
        :returns: of the machine's type, ``[leaf, chain, D]``.
        """
        raise NotImplementedError


class RestrictedGibbs(Gibbs):
    """Block Gibbs sampling of a restricted machine, in memory that is kept from call to call."""

    machine: RestrictedMachine

    def __init__(self, machine: Machine, chains: int) -> None:
        super().__init__(machine, chains)
        weight = self.machine.weight
        self.to_right, self.to_left = weight.contiguous(), weight.mT.contiguous()
        shapes = [(len(weight), chains, units) for units in weight.shape[1:]]
        self._left, self._right = (weight.new_empty(shape) for shape in shapes)
        self._left_probs, self._right_probs = (weight.new_empty(shape) for shape in shapes)
        self._left_coins, self._right_coins = (Coins(shape, weight) for shape in shapes)

    def halves(self, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Biases ``[leaf, D]`` of either side, ``[leaf, 1, side]``."""
        left = self.machine.left
        return bias[:, None, :left], bias[:, None, left:]

    def draw_right(self, left: Tensor, scale: float, bias: Tensor) -> Tensor:
        """
        The right side given the left, ``[leaf, chain, right]``; in memory that the next call uses again.

        :param float scale: what couplings are scaled by.
        :param Tensor bias: ``[leaf, 1, right]``.
        """
        field = torch.baddbmm(bias, left, self.to_right, alpha=scale, out=self._right_probs)
        return self.throw_right(field.sigmoid_())

    def throw_right(self, probs: Tensor) -> Tensor:
        """The right side of these probabilities, which are overwritten, likewise."""
        return self._right_coins.throw(probs, self._right)

    def draw_left(self, right: Tensor, scale: float, bias: Tensor) -> Tensor:
        """The left side given the right, likewise."""
        field = torch.baddbmm(bias, right, self.to_left, alpha=scale, out=self._left_probs)
        return self._left_coins.throw(field.sigmoid_(), self._left)

    def sweep(self, states: Tensor, sweeps: int, scale: float = 1.0, bias: Tensor | None = None) -> Tensor:
        left_bias, right_bias = self.halves(self.machine.bias if bias is None else bias)
        left = self._left.copy_(states[..., : self.machine.left])
        right = self._right.copy_(states[..., self.machine.left :])
        for _ in range(sweeps):
            right = self.draw_right(left, scale, right_bias)
            left = self.draw_left(right, scale, left_bias)
        return torch.cat([left, right], -1)


class GeneralGibbs(Gibbs):
    """
    Gibbs sampling of a general machine, one unit after the other in all chains; the fields of a block of units come
    from one product, and are corrected for the units of the block that have been drawn.
    """

    machine: GeneralMachine

    def __init__(self, machine: Machine, chains: int) -> None:
        super().__init__(machine, chains)
        self.couplings = self.machine.couplings

    def sweep(self, states: Tensor, sweeps: int, scale: float = 1.0, bias: Tensor | None = None) -> Tensor:
        z = states.to(self.couplings.dtype).mT.contiguous()  # [leaf, D, chain]
        couplings = self.couplings * scale
        bias = (self.machine.bias if bias is None else bias).unsqueeze(-1)
        for _ in range(sweeps):
            for start in range(0, z.size(1), _BLOCK):
                block = slice(start, start + _BLOCK)
                rows = couplings[:, block]  # [leaf, B, D]
                field = torch.baddbmm(bias[:, block], rows, z)
                thresholds = torch.rand_like(field).logit_()  # a unit is on where its field is above
                old = z[:, block].clone()
                for place in range(rows.size(1)):
                    unit = slice(start + place, start + place + 1)
                    own, drawn = slice(place, place + 1), z[:, unit]
                    torch.gt(field[:, own], thresholds[:, own], out=drawn)
                    field[:, place + 1 :].addcmul_(rows[:, place + 1 :, unit], drawn - old[:, own])
        return z.mT.contiguous()

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Parallel tempering: chains of a Boltzmann machine at several inverse temperatures that exchange states."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_spvae.distributions.boltzmann.gibbs import Gibbs
from pyro_spvae.distributions.boltzmann.machine import Machine


def ladder(temperatures: int) -> list[float]:
    """Inverse temperatures from 1 down to 0, at equal distances; 1 alone if there is one temperature."""
    return [1.0 - place / max(1, temperatures - 1) for place in range(temperatures)]


def swap_log_probability(one: Tensor, other: Tensor, energies: Tensor, of_others: Tensor) -> Tensor:
    r"""
    The logarithm of the probability :math:`\min(1, e^{(\beta - \beta')(E - E')})` that chains exchange their states,
    which leaves :math:`\prod_t e^{-\beta_t E(z_t)}` invariant (Hukushima and Nemoto 1996).

    :param Tensor one: inverse temperatures :math:`\beta`.
    :param Tensor other: those of the others, :math:`\beta'`.
    :param Tensor energies: of the states, :math:`E`.
    :param Tensor of_others: those of the others, :math:`E'`.
    """
    return ((one - other) * (energies - of_others)).clamp(max=0.0)


def swap(states: Tensor, energies: Tensor, inverse_temperatures: Tensor, first: int) -> Tensor:
    """
    Offers every chain at the temperatures ``first``, ``first + 2``, .. an exchange with that at the next one, in place.

    :param Tensor states: 0 or 1, ``[leaf, temperature, chain, D]``.
    :param Tensor energies: those of the states, ``[leaf, temperature, chain]``.
    :param Tensor inverse_temperatures: ``[temperature]``.
    :returns: the states.
    """
    pairs = (states.size(1) - first) // 2
    if not pairs:
        return states
    one, other = (slice(first + place, first + 2 * pairs, 2) for place in range(2))
    log_probability = swap_log_probability(
        inverse_temperatures[one, None], inverse_temperatures[other, None], energies[:, one], energies[:, other]
    )
    accepted = torch.rand_like(log_probability).log() < log_probability  # [leaf, pair, chain]
    change = (states[:, other] - states[:, one]).mul_(accepted.unsqueeze(-1))
    states[:, one] += change
    states[:, other] -= change
    return states


def tempered_sweep(machine: Machine, states: Tensor, sweeps: int) -> Tensor:
    """
    States after sweeps of Gibbs sampling at each inverse temperature of the :func:`ladder`, each followed by exchanges
    between neighbours.

    :param Tensor states: ``[leaf, temperature, chain, D]``, bool or numbers.
    :returns: of the machine's type, of the same shape.

    Example::

        >>> from pyro_spvae.distributions.boltzmann import RestrictedMachine, tempered_sweep
        >>> machine = RestrictedMachine(torch.zeros(1, 4), torch.ones(1, 2, 2))
        >>> states = torch.zeros(1, 3, 10, 4)  # [leaf, temperature, chain, D]
        >>> tempered_sweep(machine, states, sweeps=2).shape
        torch.Size([1, 3, 10, 4])
    """
    leaves, temperatures, chains, size = states.shape
    machine = machine.detach().precise()
    states = states.reshape(leaves * temperatures, chains, size)
    if temperatures == 1:
        return Gibbs.of(machine, chains).sweep(states, sweeps).unsqueeze(1)
    betas = machine.bias.new_tensor(ladder(temperatures))
    sampler = Gibbs.of(machine.tempered(betas), chains)
    for sweep in range(sweeps):
        states = sampler.sweep(states, 1).reshape(leaves, temperatures, chains, size)
        energies = machine.energy(states.permute(1, 2, 0, 3)).permute(2, 0, 1)
        states = swap(states, energies, betas, sweep % 2).reshape(leaves * temperatures, chains, size)
    return states.reshape(leaves, temperatures, chains, size)

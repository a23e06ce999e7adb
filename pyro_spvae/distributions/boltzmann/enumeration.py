# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Normalisers, means and samples of Boltzmann machines that are exact, by listing states of the smaller side."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pyro_spvae.distributions.boltzmann.machine import Machine
from pyro_spvae.distributions.leaf import full_precision

#: units whose states can be listed at all
MOST_UNITS = 25
_AT_ONCE = 2**21  # numbers computed together


def log_normaliser(machine: Machine) -> Tensor:
    r"""
    :math:`\log Z = \log \sum_z e^{-E(z)}` exactly, by a log-sum-exp over the states of the smaller side (of a general
    machine over all states), in chunks; differentiable.

    :returns: nats, ``[leaf]``.
    :raises ValueError: if there are more than :math:`2^{25}` states.

    Example::

        >>> from pyro_spvae.distributions.boltzmann import RestrictedMachine, log_normaliser
        >>> machine = RestrictedMachine(torch.zeros(1, 4), torch.zeros(1, 2, 2))
        >>> log_normaliser(machine).exp().round(decimals=3)  # the number of states
        tensor([16.])
    """
    with full_precision(machine.bias):
        parts = [_part(machine, states) for states in chunks(machine)]
    return parts[0] if len(parts) == 1 else torch.stack(parts).logsumexp(0)


def chunks(machine: Machine, others: int = 1) -> Iterator[Tensor]:
    """
    All states of the units that are listed, in chunks ``[state, few]``.

    :param int others: how many times what is computed of a state is larger than ``[leaf, D]``.
    :raises ValueError: if there are too many.
    """
    units = machine.listed
    if units > MOST_UNITS:
        raise ValueError(
            f"a Boltzmann machine whose smaller side has {units} units is given, of which 2^{units} states would have "
            f"to be listed; at most 2^{MOST_UNITS} can be, estimate log Z by annealed importance sampling"
        )
    step = max(1, _AT_ONCE // (machine.leaves * machine.size * others))
    for start in range(0, 2**units, step):
        yield bits(start, min(start + step, 2**units), units, machine.bias)


def bits(start: int, stop: int, units: int, like: Tensor) -> Tensor:
    """The binary digits of numbers, the lowest first, ``[number, unit]``."""
    numbers = torch.arange(start, stop, device=like.device).unsqueeze(-1)
    places = torch.arange(units, device=like.device)
    return ((numbers >> places) & 1).to(like.dtype)


def mean(machine: Machine) -> Tensor:
    """The means of all units, ``[leaf, D]``, exactly."""
    with torch.no_grad(), full_precision(machine.bias):
        total = torch.zeros_like(machine.bias)
        log_z = log_normaliser(machine)
        for states in chunks(machine):
            probs = (machine.log_weights(states) - log_z).exp()  # [state, leaf]
            total[:, machine.few] += probs.T @ states
            total[:, machine.many] += torch.einsum("sl,slm->lm", probs, machine.fields(states.unsqueeze(1)).sigmoid())
    return total


def sample(machine: Machine, number: int) -> Tensor:
    """Independent draws, ``[leaf, number, D]``: states of the smaller side, then the units of the other given these."""
    with torch.no_grad(), full_precision(machine.bias):
        probs = torch.cat([machine.log_weights(states) for states in chunks(machine)]).softmax(0)
        index = torch.multinomial(probs.T, number, replacement=True)  # [leaf, number]
        drawn = machine.bias.new_empty(machine.leaves, number, machine.size)
        places = torch.arange(machine.listed, device=index.device)
        few = ((index.unsqueeze(-1) >> places) & 1).to(drawn.dtype)
        drawn[..., machine.few] = few
        if machine.listed < machine.size:
            drawn[..., machine.many] = torch.bernoulli(machine.fields(few.transpose(0, 1)).sigmoid()).transpose(0, 1)
    return drawn


def _part(machine: Machine, states: Tensor) -> Tensor:
    """The logarithm of the sum over a chunk of states; with gradients it is computed anew for them."""
    weights = (machine.bias, machine.weight)
    if not torch.is_grad_enabled() or len(states) == 2**machine.listed or not any(w.requires_grad for w in weights):
        return machine.log_weights(states).logsumexp(0)
    part: Tensor = checkpoint(lambda *_: machine.log_weights(states).logsumexp(0), *weights, use_reentrant=False)
    return part

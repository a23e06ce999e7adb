# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Small Boltzmann machines, all of whose states are listed, and what is computed of these by definition."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from pyro_spvae.distributions.boltzmann import Boltzmann, GeneralMachine, Machine, RestrictedMachine

KINDS = {"restricted": True, "general": False}


def machine(restricted: bool = True, left: int = 3, right: int = 3, leaves: int = 2, scale: float = 1.0) -> Machine:
    """One with normals as parameters."""
    size = left + right
    bias = 0.7 * torch.randn(leaves, size)
    if restricted:
        return RestrictedMachine(bias, scale * torch.randn(leaves, left, right))
    return GeneralMachine(bias, scale * torch.randn(leaves, size, size))


def law(made: Machine, **options: Any) -> Boltzmann:
    """The law of a machine, normalised."""
    return Boltzmann(made.bias, made.weight, restricted=isinstance(made, RestrictedMachine), **options)


def every(size: int) -> Tensor:
    """All states, ``[2^size, size]``."""
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=size)))


def energies(made: Machine, z: Tensor) -> Tensor:
    """Energies ``[.., leaf]`` of states ``[.., size]``, term by term."""
    left = made.weight.size(1)
    total = -(z @ made.bias.T)
    for i, j in itertools.combinations(range(made.size), 2):
        if isinstance(made, GeneralMachine):
            total = total - z[..., i : i + 1] * z[..., j : j + 1] * made.weight[:, i, j]
        elif i < left <= j:
            total = total - z[..., i : i + 1] * z[..., j : j + 1] * made.weight[:, i, j - left]
    return total


def masses(made: Machine) -> Tensor:
    """Probabilities of all states, ``[state, leaf]``."""
    return (-energies(made, every(made.size))).softmax(0)


def frequencies(states: Tensor) -> Tensor:
    """Of all states, ``[state, leaf]``, among some ``[leaf, chain, D]``."""
    size = states.size(-1)
    number = (states.long() * 2 ** torch.arange(size - 1, -1, -1)).sum(-1)
    counts = [torch.bincount(own, minlength=2**size) for own in number]
    return torch.stack(counts, -1) / states.size(1)


def check_frequencies(states: Tensor, probs: Tensor) -> None:
    """Independent states ``[leaf, chain, D]`` are draws from probabilities ``[state, leaf]``."""
    deviation = (probs * (1 - probs) / states.size(1)).sqrt()
    assert ((frequencies(states) - probs).abs() < 4.5 * deviation + 1e-12).all()

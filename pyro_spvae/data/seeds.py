# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Seeds for many independent draws: noise that is a function of what it is for, not of what was drawn before."""

from __future__ import annotations

from operator import index

import torch

_MASK = 0xFFFFFFFF
_START = 12  # stream of initial parameters


def noise_seed(seed: int, counter: int, stream: int) -> int:
    """
    A seed for one of many independent draws.

    Torch's CPU generator uses 32 bits of a seed. Counters below 2^32 get different ones: the last step is a
    permutation of 32-bit numbers (MurmurHash3's finaliser), which also keeps neighbours far apart.

    :param int seed: the run's seed.
    :param int counter: number of the draw.
    :param int stream: what is drawn.
    """
    seed, counter, stream = index(seed), index(counter), index(stream)  # arithmetic of NumPy's integers overflows
    start = _mix(_mix(_mix(seed & _MASK) ^ (seed >> 32)) + 0x9E3779B9 * (stream + 1))
    return _mix(start + counter)


def start_seed(seed: int) -> int:
    """
    The run's seed as generators of 32 bits take it: the same below 2^32, and one that differs from that of the low 32
    bits above.

    :param int seed: the run's seed.
    """
    return seed if seed <= _MASK else noise_seed(seed, 0, _START)


def start_noise(seed: int, device: torch.device) -> None:
    """
    ``torch.manual_seed`` for draws on the CPU and on one device, which every step of training can pay for: that of all
    devices formats the stack for those that are not in use.

    :param int seed: what the generators start at.
    :param device: where draws are made.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _mix(h: int) -> int:
    h &= _MASK
    h = (h ^ (h >> 16)) * 0x85EBCA6B & _MASK
    h = (h ^ (h >> 13)) * 0xC2B2AE35 & _MASK
    return h ^ (h >> 16)

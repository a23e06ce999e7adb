# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
Numbers next to 0 that a processor is slow with count as 0 where models are trained and asked.

Below 1.2e-38 in magnitude a single-precision number is denormal, and an operation on it can take many times as
long. Gradients are full of them: the responsibility of a leaf, or the importance weight of a sample, that another is
ahead of by a hundred nats.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_SMALLEST = sys.float_info.min  # that is not denormal
_EACH = 2**16  # elements of a tensor that make a thread of their own worth while for torch


def are_flushed() -> bool:
    """Whether this thread takes denormal numbers for 0."""
    return _SMALLEST * 0.5 == 0


@contextmanager
def flushed() -> Iterator[None]:
    """
    Within the block this thread takes denormal numbers for 0, where its processor can; afterwards as before. Blocks may
    lie within each other. Threads that torch has made for its operations go on as they were made, see
    :func:`flush_in_threads`.
    """
    before = are_flushed()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def flush_in_threads() -> None:
    """
    Makes torch's threads for operations on the processor now, such that they take denormal numbers for 0 as long as
    they live. They have this from the thread that made them, so that it is too late if torch has some already. For
    processes that are ours alone: whatever else the process computes in them is meant too.
    """
    with flushed():
        torch.zeros(_EACH * torch.get_num_threads())

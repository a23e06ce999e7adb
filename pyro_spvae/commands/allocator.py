# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What the C library does with memory that was freed."""

from __future__ import annotations

import ctypes

# of glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 2**30  # bytes of a tensor whose memory is kept


def keep_freed_memory() -> bool:
    """
    Lets this process keep memory that was freed, where the C library is glibc, as long as it runs.

    Otherwise each tensor of more than some hundred thousand bytes is new memory, which the system fills with zeros page
    by page and takes back a moment later: of a step of a hidden tree over 784 pixels, 64 units, a third of the time.

    :returns: whether it does.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc, or no Linux
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, 2**31 - 1))

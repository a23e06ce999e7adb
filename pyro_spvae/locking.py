# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""One thread at a time where process-wide state is changed for a moment."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_GATE, _LOCK = threading.Lock(), threading.Lock()
_INSIDE = threading.local()


@contextmanager
def alone() -> Iterator[None]:
    """
    Within the block, or a function that this decorates, no other thread asks a model or takes a step of training.

    Pyro's handlers, validation flags, settings and parameter store belong to the process, and so do torch's generators
    and default type; the mode of a module belongs to all who use it. Threads wait for each other here, whatever their
    models are. A thread that is inside may enter again. What a user runs in Pyro's own handlers is not protected.
    """
    if getattr(_INSIDE, "now", False):
        yield
        return
    with _GATE:  # who waits for the lock holds the gate, so that a thread which comes again at once is behind it
        _LOCK.acquire()
    _INSIDE.now = True
    try:
        yield
    finally:
        _INSIDE.now = False
        _LOCK.release()

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""One process at a time that trains in a run folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyro_spvae import distributed

fcntl: Any
try:
    import fcntl
except ImportError:  # as on Windows
    fcntl = None

_LOCKED = "data.json"  # which is there from the start, and not written again


@contextmanager
def trained_by_one(path: Path) -> Iterator[None]:
    """
    Within the block nobody else trains in a run folder; of several processes the first one sees to it. The lock goes
    with the process, however that ends, and leaves no file. There is none where the system has none.

    :raises ValueError: if another process trains there.
    """
    held: list[int] = []
    distributed.on_main(lambda: held.extend(_locked(path)))
    try:
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)


def check_not_trained(path: Path) -> None:
    """
    :raises ValueError: if a process trains in a run folder.
    """
    for descriptor in _locked(path):
        os.close(descriptor)


def _locked(path: Path) -> list[int]:
    """The open file that holds the lock, if there can be one."""
    if fcntl is None:
        return []
    try:
        descriptor = os.open(path / _LOCKED, os.O_RDWR)
    except OSError:  # as of a folder that may not be written to
        return []
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise ValueError(f"the run {path} is being trained by another process; wait for it, or stop it") from None
        return []  # of a file system without locks
    return [descriptor]

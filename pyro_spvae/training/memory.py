# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Whether the parameters of a model that is still to be made fit into memory."""

from __future__ import annotations

import os
from pathlib import Path

from pyro_spvae.circuits import RegionGraph
from pyro_spvae.likelihoods import Likelihood

_BYTES = {"float32": 4, "float64": 8}
_OF_GRADIENTS = 4  # times the parameters: they, their gradient, and two moments of Adam
_OF_EM = 2  # they, and what is expected of data
_GIB = 2**30


def available_bytes() -> int | None:
    """
    Memory that a process may still take: what Linux says is available, else all that the machine has; ``None`` where
    neither is known.
    """
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def check_tables(
    text: str, likelihood: Likelihood, regions: RegionGraph, leaves: int, channels: int, precision: str, gradients: bool
) -> None:
    """
    Refuses leaves of free parameters that are too many: of a likelihood with a probability for each level so many as
    there are levels, of each pixel in each leaf.

    :param str text: the likelihood as it was configured.
    :param Likelihood likelihood: one of it, which is not bound.
    :param RegionGraph regions: the structure.
    :param int leaves: of each leaf region.
    :param int channels: of a position.
    :param str precision: ``"float32"`` or ``"float64"``.
    :param bool gradients: whether parameters are trained by gradients, which have a memory of their own.
    :raises ValueError: if they take more than is available.
    """
    pixels = channels * max(map(len, regions.leaf_scopes))
    likelihood.bind(leaves=1, pixels=pixels, channels=channels)
    number = sum(likelihood.heads) * regions.num_leaf_regions * leaves
    needed = number * _BYTES[precision] * (_OF_GRADIENTS if gradients else _OF_EM)
    available = available_bytes()
    if available is None or needed <= available:
        return
    levels = getattr(likelihood, "levels", None)
    size = f"{number:,} parameters"
    if levels is not None:
        size += f", {levels:,} levels of {pixels * regions.num_leaf_regions:,} pixels in {leaves} leaves each"
    with_what = "their gradient and the optimiser's moments" if gradients else "what EM expects of data"
    raise ValueError(
        f"likelihood is {text!r}: {size}, take {needed / _GIB:,.1f} GiB with {with_what}, and "
        f"{available / _GIB:,.1f} GiB are available; take fewer units, or a likelihood whose parameters do not grow "
        "with the levels, such as 'discretized-logistic'"
    )

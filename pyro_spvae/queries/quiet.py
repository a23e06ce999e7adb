# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Evaluation of data that have been checked already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch

from pyro_spvae.blocks import held, in_mode
from pyro_spvae.infer.local_param import LocalParamMessenger
from pyro_spvae.infer.param_store import check_param_store
from pyro_spvae.infer.tracing import check_not_traced
from pyro_spvae.locking import alone


@contextmanager
def quiet(root: Any) -> Iterator[None]:
    """
    Within the block a model is in evaluation mode and its parameters do not change; there is no validation, no record
    in Pyro's parameter store, and no other thread, see :func:`pyro_spvae.locking.alone`.
    """
    check_not_traced("a query")
    with alone():
        check_param_store(root)
        with (
            in_mode(root, training=False),
            held(root),
            pyro.validation_enabled(False),
            pyro.settings.context(module_local_params=True),
            LocalParamMessenger(),
            _constant(root),
        ):
            yield


@contextmanager
def _constant(root: Any) -> Iterator[None]:
    """Parameters need no gradient: those of networks are no statements then, each of which costs time."""
    parameters = [parameter for parameter in root.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextmanager
def forked(device: torch.device) -> Iterator[None]:
    """Within the block random numbers are drawn as ever; after it the generators are where they were before."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        state = torch.mps.get_rng_state() if device.type == "mps" else None
        yield
        if state is not None:
            torch.mps.set_rng_state(state)

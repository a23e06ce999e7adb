# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Training and evaluation mode of modules for the length of a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def in_mode(module: Any, training: bool) -> Iterator[None]:
    """
    Within the block a module and all inside it are in training or in evaluation mode, which decides whose statistics
    batch normalisation uses and which it learns; after it each is in the mode it was in.

    :param Module module: anything that is no module stays as it is.
    :param bool training: which mode.
    """
    parts = list(module.modules()) if isinstance(module, nn.Module) else []
    changed = [part for part in parts if part.training is not training]
    for part in changed:
        part.training = training
    try:
        yield
    finally:
        for part in changed:
            part.training = not training

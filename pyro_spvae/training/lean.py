# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Pyro's settings for training and evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyro
from pyro.infer.util import is_validation_enabled


@contextmanager
def lean() -> Iterator[None]:
    """Pyro without validation and without the global parameter store; its settings are put back at the end."""
    validating = is_validation_enabled()
    pyro.enable_validation(False)
    try:
        with pyro.settings.context(module_local_params=True):
            yield
    finally:
        pyro.enable_validation(validating)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What results were computed with."""

from __future__ import annotations

import platform

import pyro
import torch

from pyro_spvae import __version__


def versions() -> dict[str, str]:
    """Versions of the package and of what its numbers depend on."""
    return {
        "pyro_spvae": __version__,
        "pyro": pyro.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }

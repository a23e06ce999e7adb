# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The command line; it only reads options and calls the library, and imports torch only where a command needs it."""

from pyro_spvae.cli import queries as _queries  # noqa: F401 (adds its commands)
from pyro_spvae.cli import reproduce as _reproduce  # noqa: F401
from pyro_spvae.cli import train as _train  # noqa: F401
from pyro_spvae.cli.app import app, main

__all__ = ["app", "main"]

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The objective that a configuration names."""

from __future__ import annotations

from pyro_spvae.infer import CircuitELBO
from pyro_spvae.training.config import FitConfig


def build_objective(config: FitConfig) -> CircuitELBO:
    """The bound of a configuration."""
    return CircuitELBO(config.particles, alpha=config.order, gradient=config.gradient, reduce=config.reduce)

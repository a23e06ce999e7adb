# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Blocks given features or latent variables: posteriors, conditionals and pixels; one file a kind."""

from pyro_spvae.conditionals.gaussian import Gaussian
from pyro_spvae.conditionals.pixels import Pixels

__all__ = ["Gaussian", "Pixels"]

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Blocks given features or latent variables: posteriors, conditionals and pixels; one file a kind."""

from pyro_spvae.conditionals.bits import Bits
from pyro_spvae.conditionals.components import Components, NormalComponents
from pyro_spvae.conditionals.gaussian import Gaussian
from pyro_spvae.conditionals.kumaraswamy import Kumaraswamy
from pyro_spvae.conditionals.local_group import LocalGroup
from pyro_spvae.conditionals.normal_pixels import NormalPixels
from pyro_spvae.conditionals.of_latent import conditional
from pyro_spvae.conditionals.pixels import Pixels

__all__ = [
    "Bits",
    "Components",
    "Gaussian",
    "Kumaraswamy",
    "LocalGroup",
    "NormalComponents",
    "NormalPixels",
    "Pixels",
    "conditional",
]

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Smoothing transformations: binary latent variables as continuous ones, through which gradients pass."""

from pyro_spvae.distributions.smoothing.exponentials import OverlappingExponentials
from pyro_spvae.distributions.smoothing.logistics import OverlappingLogistics
from pyro_spvae.distributions.smoothing.power import PowerFunctions
from pyro_spvae.distributions.smoothing.registry import register_smoothing, smoothed
from pyro_spvae.distributions.smoothing.smoothing import Smoothing
from pyro_spvae.distributions.smoothing.spike_and_exponential import SpikeAndExponential
from pyro_spvae.distributions.smoothing.unsmoothed import Unsmoothed

__all__ = [
    "OverlappingExponentials",
    "OverlappingLogistics",
    "PowerFunctions",
    "Smoothing",
    "SpikeAndExponential",
    "Unsmoothed",
    "register_smoothing",
    "smoothed",
]

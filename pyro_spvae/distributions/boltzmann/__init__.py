# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Boltzmann machines of bits: energies, samplers, normalisers, laws of bits and of their smoothed forms."""

from pyro_spvae.distributions.boltzmann.annealed_importance import LogNormaliser, annealed_importance_sampling
from pyro_spvae.distributions.boltzmann.boltzmann import Boltzmann
from pyro_spvae.distributions.boltzmann.divergence import cross_entropy, register_boltzmann
from pyro_spvae.distributions.boltzmann.enumeration import log_normaliser
from pyro_spvae.distributions.boltzmann.gibbs import Gibbs
from pyro_spvae.distributions.boltzmann.machine import GeneralMachine, Machine, RestrictedMachine
from pyro_spvae.distributions.boltzmann.smoothed import SmoothedBoltzmann
from pyro_spvae.distributions.boltzmann.tempering import tempered_sweep

__all__ = [
    "Boltzmann",
    "GeneralMachine",
    "Gibbs",
    "LogNormaliser",
    "Machine",
    "RestrictedMachine",
    "SmoothedBoltzmann",
    "annealed_importance_sampling",
    "cross_entropy",
    "log_normaliser",
    "register_boltzmann",
    "tempered_sweep",
]

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Priors of latent variables: modules whose call returns a distribution over ``z``; one file a kind."""

from pyro_spvae.priors.bernoulli import BitChain, IndependentBits
from pyro_spvae.priors.boltzmann_machine import BoltzmannMachine
from pyro_spvae.priors.mixture_of_gaussians import MixtureOfGaussians
from pyro_spvae.priors.prior import Prior
from pyro_spvae.priors.standard_normal import StandardNormal
from pyro_spvae.priors.sticks import StickBreaking, Sticks
from pyro_spvae.priors.vamp import VampPrior

__all__ = [
    "BitChain",
    "IndependentBits",
    "BoltzmannMachine",
    "MixtureOfGaussians",
    "Prior",
    "StandardNormal",
    "StickBreaking",
    "Sticks",
    "VampPrior",
]

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Generative programs: one file a system."""

from pyro_spvae.leaves import LeafModel
from pyro_spvae.models.discrete_vae import DiscreteVAE
from pyro_spvae.models.dldpmm import DLDPMM
from pyro_spvae.models.dlgmm import DLGMM
from pyro_spvae.models.dvaepp import DVAEpp
from pyro_spvae.models.factorized import FactorizedLeaf
from pyro_spvae.models.gaussian import GaussianLeaf
from pyro_spvae.models.hvae import HVAE
from pyro_spvae.models.mixed import MixedLeaf
from pyro_spvae.models.sbvae import SBVAE
from pyro_spvae.models.spn import SPN, Explanation
from pyro_spvae.models.spvae import SPVAE
from pyro_spvae.models.vae import VAE
from pyro_spvae.queries import Embedding

__all__ = [
    "DVAEpp",
    "DLDPMM",
    "DLGMM",
    "HVAE",
    "SBVAE",
    "SPN",
    "SPVAE",
    "VAE",
    "DiscreteVAE",
    "Embedding",
    "Explanation",
    "FactorizedLeaf",
    "GaussianLeaf",
    "LeafModel",
    "MixedLeaf",
]

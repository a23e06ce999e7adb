# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Blocks, modules whose call returns a distribution; the latent variables they are stated for; their life cycle."""

from pyro_spvae.blocks.block import Block
from pyro_spvae.blocks.from_data import DataMean, DataOutputs, FromData
from pyro_spvae.blocks.latent import Latent
from pyro_spvae.blocks.latent_bits import LatentBits
from pyro_spvae.blocks.life_cycle import held, in_mode, parts
from pyro_spvae.blocks.program import Program, unstated
from pyro_spvae.blocks.scale import positive_scale

__all__ = [
    "Block",
    "DataMean",
    "DataOutputs",
    "FromData",
    "Latent",
    "LatentBits",
    "Program",
    "held",
    "in_mode",
    "parts",
    "positive_scale",
    "unstated",
]

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Inference programs: one file a family."""

from pyro_spvae.guides.discrete import DiscreteGuide
from pyro_spvae.guides.dvaepp import DVAEppGuide
from pyro_spvae.guides.hierarchical import HierarchicalGuide
from pyro_spvae.guides.mixed import MixedGuide
from pyro_spvae.guides.mixture import MixtureGuide
from pyro_spvae.guides.normal import NormalGuide
from pyro_spvae.guides.sticks import StickGuide
from pyro_spvae.leaves import LeafGuide

__all__ = [
    "DVAEppGuide",
    "DiscreteGuide",
    "HierarchicalGuide",
    "LeafGuide",
    "MixedGuide",
    "MixtureGuide",
    "NormalGuide",
    "StickGuide",
]

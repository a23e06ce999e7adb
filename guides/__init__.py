# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Inference programs: one file a family."""

from pyro_spvae.guides.leaf import LeafGuide
from pyro_spvae.guides.normal import NormalGuide

__all__ = ["LeafGuide", "NormalGuide"]

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What programs of a leaf are, and how several of them share the leaves."""

from pyro_spvae.leaves.leaf_guide import LeafGuide
from pyro_spvae.leaves.leaf_model import LeafModel
from pyro_spvae.leaves.leaf_subset import LeafSubset
from pyro_spvae.leaves.tractable_leaf import TractableLeaf

__all__ = ["LeafGuide", "LeafModel", "LeafSubset", "TractableLeaf"]

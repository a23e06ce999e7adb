# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Structure of sum-product networks and exact inference in them; knows leaf log-densities only, needs torch only."""

from .builders import poon_domingos, quad_tree, random_binary_tree, whole
from .chow_liu import chow_liu
from .circuit import Circuit
from .learning import learn_regions
from .region_graph import Partition, RegionGraph

__all__ = [
    "Circuit",
    "Partition",
    "RegionGraph",
    "chow_liu",
    "learn_regions",
    "poon_domingos",
    "quad_tree",
    "random_binary_tree",
    "whole",
]

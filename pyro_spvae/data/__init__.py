# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Data sets: bundled, standard ones on disk, and a user's own array files."""

from pyro_spvae.data.dataset import DataSet, Values
from pyro_spvae.data.preprocessing import dequantize
from pyro_spvae.data.registry import DATA_SETS, load_data

__all__ = ["DATA_SETS", "DataSet", "Values", "dequantize", "load_data"]

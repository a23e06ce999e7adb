# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Data sets: bundled, standard ones on disk, and a user's own files."""

from pyro_spvae.data.column import Column
from pyro_spvae.data.dataset import DataSet
from pyro_spvae.data.kinds import describe_columns
from pyro_spvae.data.learned import learned
from pyro_spvae.data.preprocessing import dequantize
from pyro_spvae.data.registry import DATA_SETS, load_data
from pyro_spvae.data.rows import Rows
from pyro_spvae.data.values import Values

__all__ = ["DATA_SETS", "Column", "DataSet", "Rows", "Values", "dequantize", "describe_columns", "learned", "load_data"]

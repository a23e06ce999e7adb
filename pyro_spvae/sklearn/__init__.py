# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Estimators for scikit-learn: densities of tables, and imputation of their missing entries."""

from pyro_spvae.sklearn.density import SPVAEDensity
from pyro_spvae.sklearn.imputer import SPVAEImputer

__all__ = ["SPVAEDensity", "SPVAEImputer"]

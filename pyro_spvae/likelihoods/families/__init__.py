# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""How a decoder's outputs become the distributions of columns, in the columns' own units; one file a kind."""

from pyro_spvae.likelihoods.families.coded import BernoulliFamily, CategoricalFamily, OrdinalFamily
from pyro_spvae.likelihoods.families.count import NegativeBinomialFamily, PoissonFamily
from pyro_spvae.likelihoods.families.family import ColumnFamily, Unit
from pyro_spvae.likelihoods.families.positive import GammaFamily, LogNormalFamily
from pyro_spvae.likelihoods.families.proportion import BetaFamily
from pyro_spvae.likelihoods.families.real import NormalFamily, StudentTFamily

#: by the name that a column gives
COLUMN_FAMILIES: dict[str, ColumnFamily] = {
    "normal": NormalFamily(),
    "student-t": StudentTFamily(),
    "log-normal": LogNormalFamily(),
    "gamma": GammaFamily(),
    "beta": BetaFamily(),
    "poisson": PoissonFamily(),
    "negative-binomial": NegativeBinomialFamily(),
    "bernoulli": BernoulliFamily(),
    "categorical": CategoricalFamily(),
    "ordinal": OrdinalFamily(),
}

__all__ = ["COLUMN_FAMILIES", "ColumnFamily", "Unit"]

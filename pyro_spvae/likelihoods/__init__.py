# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
Likelihoods: modules whose call turns a decoder's outputs into a distribution over pixels; one file a kind.
"""

from pyro_spvae.likelihoods.bernoulli import Bernoulli
from pyro_spvae.likelihoods.beta import Beta
from pyro_spvae.likelihoods.beta_binomial import BetaBinomial
from pyro_spvae.likelihoods.binomial import Binomial
from pyro_spvae.likelihoods.categorical import Categorical
from pyro_spvae.likelihoods.columns import Columns
from pyro_spvae.likelihoods.discretized_logistic import DiscretizedLogistic
from pyro_spvae.likelihoods.discretized_logistic_mixture import DiscretizedLogisticMixture
from pyro_spvae.likelihoods.gamma import Gamma
from pyro_spvae.likelihoods.likelihood import Likelihood
from pyro_spvae.likelihoods.log_normal import LogNormal
from pyro_spvae.likelihoods.low_rank_categorical import LowRankCategorical
from pyro_spvae.likelihoods.negative_binomial import NegativeBinomial
from pyro_spvae.likelihoods.normal import Normal
from pyro_spvae.likelihoods.poisson import Poisson
from pyro_spvae.likelihoods.student_t import StudentT

__all__ = [
    "Bernoulli",
    "Beta",
    "BetaBinomial",
    "Binomial",
    "Categorical",
    "Columns",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Gamma",
    "Likelihood",
    "LogNormal",
    "LowRankCategorical",
    "NegativeBinomial",
    "Normal",
    "Poisson",
    "StudentT",
]

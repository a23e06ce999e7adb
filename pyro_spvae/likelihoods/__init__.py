# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
Likelihoods: modules whose call turns a decoder's outputs into a distribution over pixels; one file a kind.
"""

from pyro_spvae.likelihoods.bernoulli import Bernoulli
from pyro_spvae.likelihoods.binomial import Binomial
from pyro_spvae.likelihoods.categorical import Categorical
from pyro_spvae.likelihoods.discretized_logistic import DiscretizedLogistic
from pyro_spvae.likelihoods.discretized_logistic_mixture import DiscretizedLogisticMixture
from pyro_spvae.likelihoods.likelihood import Likelihood
from pyro_spvae.likelihoods.normal import Normal

__all__ = [
    "Bernoulli",
    "Binomial",
    "Categorical",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Likelihood",
    "Normal",
]

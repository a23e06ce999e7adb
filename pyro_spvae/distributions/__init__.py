# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Distributions that Pyro and torch lack, and lean ones for leaves."""

from pyro_spvae.distributions.autoregressive import LeafAutoregressive
from pyro_spvae.distributions.bernoulli import LeafBernoulli
from pyro_spvae.distributions.beta import Beta
from pyro_spvae.distributions.binomial import LeafBinomial
from pyro_spvae.distributions.bits_divergence import bernoulli_divergence, bits_divergence
from pyro_spvae.distributions.boltzmann import Boltzmann, SmoothedBoltzmann
from pyro_spvae.distributions.categorical import LeafCategorical, LeafNominal
from pyro_spvae.distributions.columns import LeafColumns
from pyro_spvae.distributions.counts import LeafBetaBinomial, LeafNegativeBinomial, LeafPoisson
from pyro_spvae.distributions.discretized_logistic import LeafDiscretizedLogistic
from pyro_spvae.distributions.discretized_logistic_mixture import LeafDiscretizedLogisticMixture
from pyro_spvae.distributions.divergences import divergence, divergence_by_dimension, register_divergence
from pyro_spvae.distributions.elementwise import LeafElementwise
from pyro_spvae.distributions.factorial_bernoulli import FactorialBernoulli
from pyro_spvae.distributions.gaussian_mixture import LeafGaussianMixture
from pyro_spvae.distributions.hierarchy import BinaryHierarchy, SmoothedHierarchy, groups
from pyro_spvae.distributions.induced_tree import InducedTree
from pyro_spvae.distributions.kumaraswamy import Kumaraswamy
from pyro_spvae.distributions.level_mixture import LeafLevelMixture
from pyro_spvae.distributions.low_rank_normal import LeafLowRankNormal
from pyro_spvae.distributions.multivariate_normal import LeafMultivariateNormal
from pyro_spvae.distributions.normal import LeafNormal, LeafStandardNormal
from pyro_spvae.distributions.normal_columns import Coordinates, LeafNormalColumns
from pyro_spvae.distributions.normal_mixture import LeafNormalMixture
from pyro_spvae.distributions.ordinal import ordinal_log_probs
from pyro_spvae.distributions.positive import LeafGamma, LeafLogNormal
from pyro_spvae.distributions.proportions import LeafBeta
from pyro_spvae.distributions.shaped import Shaped
from pyro_spvae.distributions.smoothed_bernoulli import SmoothedBernoulli
from pyro_spvae.distributions.smoothing import (
    OverlappingExponentials,
    OverlappingLogistics,
    PowerFunctions,
    Smoothing,
    SpikeAndExponential,
    Unsmoothed,
    register_smoothing,
    smoothed,
)
from pyro_spvae.distributions.sticks import (
    StickWeights,
    log_stick_weights,
    mean_stick_weights,
    stick_fractions,
    stick_weights,
)
from pyro_spvae.distributions.student_t import LeafStudentT

__all__ = [
    "Beta",
    "BinaryHierarchy",
    "Coordinates",
    "FactorialBernoulli",
    "Boltzmann",
    "InducedTree",
    "Kumaraswamy",
    "LeafAutoregressive",
    "LeafBernoulli",
    "LeafBeta",
    "LeafBetaBinomial",
    "LeafBinomial",
    "LeafCategorical",
    "LeafNominal",
    "LeafColumns",
    "LeafDiscretizedLogistic",
    "LeafDiscretizedLogisticMixture",
    "LeafElementwise",
    "LeafGamma",
    "LeafGaussianMixture",
    "LeafLevelMixture",
    "LeafLogNormal",
    "LeafLowRankNormal",
    "LeafMultivariateNormal",
    "LeafNegativeBinomial",
    "LeafNormal",
    "LeafNormalColumns",
    "LeafNormalMixture",
    "LeafPoisson",
    "LeafStandardNormal",
    "LeafStudentT",
    "OverlappingExponentials",
    "OverlappingLogistics",
    "PowerFunctions",
    "Shaped",
    "SmoothedBernoulli",
    "SmoothedHierarchy",
    "Smoothing",
    "SpikeAndExponential",
    "SmoothedBoltzmann",
    "StickWeights",
    "Unsmoothed",
    "bernoulli_divergence",
    "bits_divergence",
    "divergence",
    "divergence_by_dimension",
    "groups",
    "log_stick_weights",
    "mean_stick_weights",
    "ordinal_log_probs",
    "register_divergence",
    "register_smoothing",
    "smoothed",
    "stick_fractions",
    "stick_weights",
]

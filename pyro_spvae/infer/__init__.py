# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Objectives and estimators for models with an induced tree, shaped as in :mod:`pyro.infer`."""

from pyro_spvae.infer.annealing import AnnealMessenger, anneal
from pyro_spvae.infer.bound_terms import BoundTerms, bound_terms
from pyro_spvae.infer.circuit_elbo import CircuitELBO
from pyro_spvae.infer.collapse import CollapseTreeMessenger, collapse_tree, sample_tree
from pyro_spvae.infer.em import ExpectedStatistics, expected_counts
from pyro_spvae.infer.estimators import (
    NVIL,
    REBAR,
    VIMCO,
    Concrete,
    Estimator,
    MuProp,
    Reinforce,
    StraightThrough,
    leave_one_out,
    renyi_mean,
)
from pyro_spvae.infer.kl_balance import KLBalance
from pyro_spvae.infer.latent_terms import LatentTerms
from pyro_spvae.infer.log_likelihood import log_likelihood
from pyro_spvae.infer.objective_module import ObjectiveModule
from pyro_spvae.infer.online_em import RunningStatistics
from pyro_spvae.infer.single_leaf import SingleLeafELBO

__all__ = [
    "NVIL",
    "REBAR",
    "VIMCO",
    "AnnealMessenger",
    "BoundTerms",
    "CircuitELBO",
    "CollapseTreeMessenger",
    "Concrete",
    "Estimator",
    "ExpectedStatistics",
    "KLBalance",
    "LatentTerms",
    "MuProp",
    "ObjectiveModule",
    "Reinforce",
    "RunningStatistics",
    "SingleLeafELBO",
    "StraightThrough",
    "anneal",
    "bound_terms",
    "collapse_tree",
    "expected_counts",
    "leave_one_out",
    "log_likelihood",
    "renyi_mean",
    "sample_tree",
]

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Estimators of a bound's gradient through latent variables without reparameterisation."""

from pyro_spvae.infer.estimators.estimator import Estimator, ScoredStep
from pyro_spvae.infer.estimators.means import leave_one_out, renyi_mean
from pyro_spvae.infer.estimators.muprop import MuProp
from pyro_spvae.infer.estimators.nvil import NVIL
from pyro_spvae.infer.estimators.rebar import REBAR
from pyro_spvae.infer.estimators.reinforce import Reinforce
from pyro_spvae.infer.estimators.relaxed import Concrete, StraightThrough
from pyro_spvae.infer.estimators.vimco import VIMCO

__all__ = [
    "NVIL",
    "REBAR",
    "VIMCO",
    "Concrete",
    "Estimator",
    "MuProp",
    "Reinforce",
    "ScoredStep",
    "StraightThrough",
    "leave_one_out",
    "renyi_mean",
]

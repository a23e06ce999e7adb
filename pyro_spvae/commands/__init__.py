# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
The commands, and the functions behind those that ask trained runs.

Each of these functions takes a run folder and the options of its command as keywords, asks the run's
:class:`~pyro_spvae.models.SPVAE`, writes arrays, figures and pictures, and returns what it found. Importing this does
not import torch; it is imported where a command needs it.
"""

from pyro_spvae.commands import dlgmm_paper, dvae_paper, dvaepp_paper, spvae_paper, vampprior_paper  # noqa: F401
from pyro_spvae.commands import training as _training  # noqa: F401 (adds its commands, as the others here)
from pyro_spvae.commands.app import app, main
from pyro_spvae.commands.drawing import impute, interpolate, reconstruct, sample
from pyro_spvae.commands.embedding import embed
from pyro_spvae.commands.evaluation import evaluate
from pyro_spvae.commands.listing import info

__all__ = ["app", "embed", "evaluate", "impute", "info", "interpolate", "main", "reconstruct", "sample"]

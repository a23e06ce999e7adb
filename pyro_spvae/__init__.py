# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Sum-product networks whose leaves are variational autoencoders, in Pyro.

The names below are looked up on first use (PEP 562), so that ``import pyro_spvae`` and the command line's help do not
wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from pyro_spvae._version import __version__

if TYPE_CHECKING:
    from pyro_spvae.blocks import Block, Latent
    from pyro_spvae.circuits import (
        Circuit,
        RegionGraph,
        chow_liu,
        learn_regions,
        poon_domingos,
        quad_tree,
        random_binary_tree,
        whole,
    )
    from pyro_spvae.conditionals import Gaussian, Pixels
    from pyro_spvae.distributions import InducedTree
    from pyro_spvae.guides import HierarchicalGuide, LeafGuide, MixedGuide, NormalGuide
    from pyro_spvae.infer import CircuitELBO, collapse_tree
    from pyro_spvae.infer.log_likelihood import log_likelihood
    from pyro_spvae.likelihoods import (
        Bernoulli,
        Beta,
        BetaBinomial,
        Binomial,
        Categorical,
        Columns,
        DiscretizedLogistic,
        DiscretizedLogisticMixture,
        Gamma,
        Likelihood,
        LogNormal,
        LowRankCategorical,
        NegativeBinomial,
        Normal,
        Poisson,
        StudentT,
    )
    from pyro_spvae.models import HVAE, SPN, SPVAE, VAE, FactorizedLeaf, GaussianLeaf, LeafModel, MixedLeaf
    from pyro_spvae.priors import BoltzmannMachine, MixtureOfGaussians, Prior, StandardNormal, VampPrior

__all__ = [
    "Bernoulli",
    "Beta",
    "BetaBinomial",
    "Binomial",
    "Block",
    "BoltzmannMachine",
    "Categorical",
    "Circuit",
    "CircuitELBO",
    "Columns",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "FactorizedLeaf",
    "GaussianLeaf",
    "Gamma",
    "Gaussian",
    "HVAE",
    "HierarchicalGuide",
    "InducedTree",
    "Latent",
    "LeafGuide",
    "LeafModel",
    "Likelihood",
    "LogNormal",
    "LowRankCategorical",
    "MixedGuide",
    "MixedLeaf",
    "MixtureOfGaussians",
    "NegativeBinomial",
    "Normal",
    "NormalGuide",
    "Pixels",
    "Poisson",
    "Prior",
    "RegionGraph",
    "SPN",
    "SPVAE",
    "StandardNormal",
    "StudentT",
    "VAE",
    "VampPrior",
    "__version__",
    "chow_liu",
    "collapse_tree",
    "learn_regions",
    "log_likelihood",
    "poon_domingos",
    "quad_tree",
    "random_binary_tree",
    "whole",
]

_HOME = {
    "Block": "blocks",
    "Latent": "blocks",
    "Circuit": "circuits",
    "RegionGraph": "circuits",
    "chow_liu": "circuits",
    "learn_regions": "circuits",
    "poon_domingos": "circuits",
    "quad_tree": "circuits",
    "random_binary_tree": "circuits",
    "whole": "circuits",
    "Gaussian": "conditionals",
    "Pixels": "conditionals",
    "InducedTree": "distributions",
    "HierarchicalGuide": "guides",
    "LeafGuide": "guides",
    "MixedGuide": "guides",
    "NormalGuide": "guides",
    "CircuitELBO": "infer",
    "collapse_tree": "infer",
    "log_likelihood": "infer",
    "Bernoulli": "likelihoods",
    "Beta": "likelihoods",
    "BetaBinomial": "likelihoods",
    "Binomial": "likelihoods",
    "Categorical": "likelihoods",
    "Columns": "likelihoods",
    "DiscretizedLogistic": "likelihoods",
    "DiscretizedLogisticMixture": "likelihoods",
    "Gamma": "likelihoods",
    "Likelihood": "likelihoods",
    "LogNormal": "likelihoods",
    "LowRankCategorical": "likelihoods",
    "NegativeBinomial": "likelihoods",
    "Normal": "likelihoods",
    "Poisson": "likelihoods",
    "StudentT": "likelihoods",
    "HVAE": "models",
    "SPN": "models",
    "SPVAE": "models",
    "VAE": "models",
    "FactorizedLeaf": "models",
    "GaussianLeaf": "models",
    "LeafModel": "models",
    "MixedLeaf": "models",
    "BoltzmannMachine": "priors",
    "MixtureOfGaussians": "priors",
    "Prior": "priors",
    "StandardNormal": "priors",
    "VampPrior": "priors",
}


if not TYPE_CHECKING:  # a type checker has the imports above, and reports every other name

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value  # the next access is a plain look-up
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Kinds of models and objectives whose training steps can be captured, and trainers of them."""

from __future__ import annotations

import warnings
from typing import Any

from pyro_spvae.data import load_data
from tests.training.cases import built, images, table, trainer_of
from tests.training.worker import people

DISCRETE = "discrete-vae(smoothing={})"
KINDS: dict[str, dict[str, Any]] = {
    "iwae": {},
    "dreg": {"gradient": "dreg"},
    "elbo in closed form": {"objective": "elbo", "kl": "analytic"},
    "renyi": {"objective": "renyi", "alpha": 0.5},
    "vr-max": {"objective": "vr-max"},
    "averaged at the root": {"reduce": "root"},
    "Pyro's Renyi objective": {"objective": "pyro-renyi-elbo", "structure": "whole"},
    "warm-up": {"warmup": 2},
    "balanced warm-up": {"objective": "elbo", "warmup": 3, "balance": True, "leaf": "hvae"},
    "cosine": {"schedule": "cosine"},
    "averaged weights": {"average": "ema", "schedule": "one-cycle"},
    "mean weights": {"average": "swa", "average_start": 0.3},
    "plateau": {"patience": 3, "lr": 0.5},
    "clip": {"clip": 0.5},
    "hide": {"hide": 0.3},
    "adamw": {"optimiser": "adamw", "weight_decay": 0.1, "schedule": "linear"},
    "normalised gradients": {"optimiser": "adam-normgrad"},
    "vamp": {"prior": "vamp(components=3)", "preprocess": "none"},
    "mixture prior": {"prior": "mixture-of-gaussians(components=3)"},
    "hvae": {"leaf": "hvae"},
    "annealed smoothing": {"leaf": DISCRETE.format("exponential(beta=(1, 8))")},
    "boltzmann machine": {"leaf": "discrete-vae", "prior": "boltzmann-machine"},
    "vimco": {"leaf": DISCRETE.format("none")},
    "nvil": {"leaf": DISCRETE.format("none"), "estimator": "nvil"},
    "rebar": {"leaf": DISCRETE.format("none"), "estimator": "rebar"},
    "muprop": {"leaf": DISCRETE.format("none"), "estimator": "muprop"},
    "concrete": {"leaf": DISCRETE.format("none"), "estimator": "concrete"},
    "enumerated components": {"leaf": "dlgmm", "structure": "whole"},
    "stick-breaking": {"leaf": "sbvae", "structure": "whole", "latent_dim": None},
    "without latent variables": {"leaf": "gaussian", "latent_dim": None},
    "mixed leaves": {"leaf": "vae+factorized", "units": 2},
    "hidden tree": {"structure": "chow-liu", "leaf": "factorized", "units": 3, "latent_dim": None},
}
OF_IMAGES: dict[str, dict[str, Any]] = {
    "batch normalisation": {"structure": "whole", "decoder": "pixelcnn(filters=2, layers=1)"},
    "logistic mixture": {"likelihood": "discretized-logistic-mixture", "structure": "whole"},
    "dvae++": {"leaf": "dvaepp(local_shape=(2, 4, 4))", "structure": "whole", "likelihood": "binomial"},
}
OF_COLUMNS: dict[str, dict[str, Any]] = {"columns with holes": {"likelihood": "columns"}}
ALL = [*KINDS, *OF_IMAGES, *OF_COLUMNS]


def trainer(name: str, report=lambda line: None, device="cpu", **options):
    """A trainer in float64, of batches of two sizes: three an epoch, or seven of the table with holes."""
    options = {"epochs": 4, "batch_size": 9, "precision": "float64", "race": "none"} | options
    if name in OF_COLUMNS:
        data = load_data(people())
    elif name in OF_IMAGES:
        data = images(side=16 if name == "dvae++" else 4)
    else:
        data = table()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a VampPrior's range, for rows that have none
        spvae, data, config = built(data, **({**KINDS, **OF_IMAGES, **OF_COLUMNS}[name] | options))
        return trainer_of(spvae.to(device), data, config, report=report)

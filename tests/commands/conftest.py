# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Tiny runs that all tests of commands use; none of them may change what training left there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.train import train

_TINY = {"epochs": 2, "samples": 10, "hidden": (8,), "units": 2, "latent_dim": 3, "seed": 5, "device": "cpu"}


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A run on images of 17 grey levels."""
    run = tmp_path_factory.mktemp("commands") / "digits"
    train(TrainConfig(**_TINY), run)
    return run


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    """A run on a table of five columns, in float64."""
    folder = tmp_path_factory.mktemp("commands")
    generator = torch.Generator().manual_seed(0)
    np.save(folder / "measured.npy", torch.randn(80, 5, generator=generator, dtype=torch.float64).numpy())
    train(TrainConfig(**_TINY, data=str(folder / "measured.npy"), precision="float64"), folder / "table")
    return folder / "table"

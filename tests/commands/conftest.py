# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Tiny runs that all tests of commands use; none of them may change what training left there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.cli_cases import QUICK, train


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run on images of 17 grey levels, what it printed, and the files that it left."""
    run = tmp_path_factory.mktemp("commands") / "digits"
    printed = train("digits", "--out", run, *QUICK, "--seed", 5, "--device", "cpu")
    return run, printed, {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def digits(trained):
    """The folder of that run."""
    return trained[0]


@pytest.fixture(scope="session")
def mixture(tmp_path_factory):
    """A run whose leaves are mixtures of three components."""
    run = tmp_path_factory.mktemp("commands") / "mixture"
    options = ("--leaf", "dlgmm(components=3,means=[-2,0,2])", "--seed", 5, "--device", "cpu", "--epochs", 1)
    train("digits", "--out", run, *options, "--samples", 5, "--hidden", 8, "--units", 2, "--latent-dim", 3)
    return run


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    """A run on a table of five columns, in float64."""
    folder = tmp_path_factory.mktemp("commands")
    generator = torch.Generator().manual_seed(0)
    np.save(folder / "measured.npy", torch.randn(80, 5, generator=generator, dtype=torch.float64).numpy())
    options = ("--seed", 5, "--device", "cpu", "--precision", "float64")
    train(folder / "measured.npy", "--out", folder / "table", *QUICK, *options)
    return folder / "table"

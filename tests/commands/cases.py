# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What tests of several commands ask of files and of runs."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.image import imread

from pyro_spvae.evaluating import lean
from pyro_spvae.training.run import open_run


def names(folder):
    """Names of the files in a folder."""
    return sorted(path.name for path in folder.iterdir())


def load(path):
    """The arrays in a file."""
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def assert_picture(path):
    """A PNG of sane size that is not blank."""
    assert path.read_bytes().startswith(b"\x89PNG")
    picture = imread(path)
    assert 100 <= picture.shape[0] <= 5000 and 100 <= picture.shape[1] <= 5000
    assert picture[..., :3].min() < 0.9


def asked(run, seed, question):
    """What ``question(spvae)`` returns when torch's generator starts at a seed."""
    spvae = open_run(run).spvae
    with lean(), torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        return question(spvae)


def rows(run, split="test"):
    """Rows of a split of the run's own data, as its model takes them."""
    opened = open_run(run)
    x = getattr(opened.data(), split)
    return x[: len(x)].to(next(opened.spvae.parameters()).dtype)


def same(found, wanted):
    """Whether an array has exactly the values of a tensor, and its type."""
    return found.dtype == wanted.numpy().dtype and np.array_equal(found, wanted.numpy())

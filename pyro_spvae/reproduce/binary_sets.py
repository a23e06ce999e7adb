# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Sets of binary images, drawn once, on which several papers report likelihoods."""

from __future__ import annotations

from pathlib import Path

from pyro_spvae.data.published_sets import STATIC_MNIST
from pyro_spvae.reproduce.published import BinarySet
from pyro_spvae.training.config import Preprocessing

#: what reports call them
TITLES = {"static_mnist": "static MNIST", "mnist": "MNIST, binarised by the seed", "omniglot_burda": "OMNIGLOT"}


def usual_data(data_dir: str | None) -> BinarySet:
    """Larochelle's files where they are, else MNIST, binarised by the seed."""
    try:
        STATIC_MNIST.locate(None if data_dir is None else Path(data_dir).expanduser(), download=False)
    except ValueError:
        return "mnist"
    return "static_mnist"


def preprocessing(data: BinarySet) -> Preprocessing:
    """What makes the images of a set black and white: nothing where they are, else one draw by the seed."""
    return "none" if data == "static_mnist" else "binarize-static"

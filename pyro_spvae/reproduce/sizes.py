# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Table 2 of the SPVAE paper: numbers of parameters, counted on models that are built."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pyro_spvae.data import DataSet
from pyro_spvae.data.values import Values
from pyro_spvae.reproduce.published import TABLE_1, SpvaeData
from pyro_spvae.reproduce.spvae import Experiment
from pyro_spvae.reproduce.spvae_recipes import Recipe
from pyro_spvae.training.build import build_model
from pyro_spvae.training.reading import modelled
from pyro_spvae.training.resolve import resolve

_SIDES: dict[SpvaeData, int] = {"mnist": 28, "svhn": 32, "cifar10": 32}


def parameters(experiment: Experiment) -> int:
    """Number of parameters of an experiment's model; needs no data."""
    side = _SIDES[experiment.data]
    blank = torch.zeros(2, 1, side, side, dtype=torch.uint8, device="cpu")
    data = DataSet(experiment.data, blank, blank, blank, Values.grey_levels(256))
    config = resolve(experiment.configuration(), data)
    return sum(parameter.numel() for parameter in build_model(config, modelled(config, data)).parameters())


def size_table(data: SpvaeData | None = None, recipe: Recipe = "tuned") -> Iterator[str]:
    """
    Lines of a Markdown table, ours beside the paper's.

    :param str data: data set; all by default.
    :param str recipe: whose sizes are counted; those of ``tuned`` and ``paper`` are the paper's.
    """
    yield "| data | pixels | model | latent | hidden | ours | paper |"
    yield "|---|---|---|---|---|---|---|"
    for (name, pixels, model), cell in TABLE_1.items():
        if data not in (None, name):
            continue
        experiment = Experiment(name, pixels, model, recipe=recipe)
        config = experiment.configuration()
        assert config.hidden is not None
        hidden = cell.hidden if model.startswith("conv") else config.hidden[0]
        count = parameters(experiment)
        yield f"| {name} | {pixels} | {model} | {config.latent_dim} | {hidden} | {count:,} | {cell.parameters:,}k |"

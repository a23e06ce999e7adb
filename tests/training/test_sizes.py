# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Sizes that are left open: those of VAEs over the cells of images, and of everything else."""

from __future__ import annotations

import dataclasses

import pytest

from pyro_spvae.training.build import build_model
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.reading import modelled
from pyro_spvae.training.resolve import resolve
from tests.training.cases import images, table

OPEN = TrainConfig()
OF_CELLS = {"units": 8, "leaves": 8, "weights": "cp", "latent_dim": 8, "hidden": (36,)}
USUAL = {"units": 4, "leaves": 4, "weights": "full", "latent_dim": 8, "hidden": (32, 32)}


def sizes(data, **options):
    config = resolve(dataclasses.replace(OPEN, **options), data)
    return {name: getattr(config, name) for name in USUAL}


def count(data, **options):
    config = resolve(dataclasses.replace(OPEN, **options), data)
    return sum(parameter.numel() for parameter in build_model(config, modelled(config, data)).parameters())


@pytest.mark.parametrize(
    ("side", "channels", "options", "width"),
    [
        (8, 1, {}, 36),
        (8, 1, {"structure": "quad-tree"}, 36),
        (28, 1, {}, 22),  # cells of 7 x 7
        (8, 3, {}, 22),  # three channels of 4 x 4
        (32, 3, {}, 17),
        (32, 1, {}, 21),
        (8, 1, {"delta": 2}, 36),  # no wider over less
        (32, 1, {"delta": (8, 4)}, 36),  # leaf regions are the smallest cells
        (5, 1, {}, 36),
    ],
)
def test_over_cells_leaves_are_more_and_as_wide_as_cells_allow(side, channels, options, width):
    data = images(side=side, channels=channels)
    assert sizes(data, **options) == OF_CELLS | {"hidden": (width,)}


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (table(), {"race": "none", "latent_dim": 8}),
        (images(side=8), {"structure": "whole"}),
        (images(side=8), {"structure": "learned"}),
        (images(side=8), {"network": "conv"}),
        (images(side=8), {"decoder": "conv"}),
        (images(side=8), {"leaf": "hvae"}),
        (images(side=8), {"leaf": "vae+factorized"}),
    ],
    ids=lambda options: " ".join(map(str, options.values())) if isinstance(options, dict) else "",
)
def test_other_sizes_are_as_they_were(data, options):
    assert sizes(data, **options) == USUAL


def test_leaves_without_networks_are_none_of_them():
    config = resolve(dataclasses.replace(OPEN, leaf="factorized"), images(side=8))
    assert (config.units, config.leaves, config.weights) == (4, 4, "full")


@pytest.mark.parametrize("given", [{"units": 2}, {"weights": "full"}, {"hidden": (5, 4)}, {"latent_dim": 3}])
def test_what_is_given_stays_and_the_rest_follows_the_rule(given):
    expected = OF_CELLS | given
    if "units" in given:
        expected["leaves"] = given["units"]
    assert sizes(images(side=8), **given) == expected


@pytest.mark.parametrize("levels", [2, 17, None])  # bernoulli, binomial, and normal, which has a second network
@pytest.mark.parametrize("side", [8, 28])
def test_no_more_parameters_than_four_leaves_of_two_layers(side, levels):
    data = images(levels=levels, side=side)
    before = count(data, units=4, weights="full", hidden=(32, 32))
    assert 0.85 * before < count(data) <= before

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""From configuration and data to a model."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from pyro_spvae.data import load_data
from pyro_spvae.likelihoods import Normal
from pyro_spvae.training.build import build_likelihood, build_model, build_regions, modelled, region_shape, resolve
from pyro_spvae.training.config import TrainConfig
from tests.training.cases import TINY, images, table

DATA = {
    "binary images": images(levels=2),
    "few levels": images(levels=17),
    "bytes": images(levels=256, channels=3, side=9),
    "floats": images(levels=None),
    "table": table(),
    "two columns": table(columns=2),
    "one column": table(columns=1),
}
RESOLVED = {
    "binary images": ("poon-domingos", "bernoulli"),
    "few levels": ("poon-domingos", "binomial"),
    "bytes": ("poon-domingos", "normal"),
    "floats": ("poon-domingos", "normal"),
    "table": ("random-binary-tree", "normal"),
    "two columns": ("random-binary-tree", "normal"),
    "one column": ("whole", "normal"),
}


@pytest.mark.parametrize("name", DATA)
def test_what_is_left_open_is_chosen_from_the_data(name):
    config = resolve(TINY, DATA[name])
    assert (config.structure, config.likelihood) == RESOLVED[name]
    assert config.leaves == config.units
    assert resolve(config, DATA[name]) == config  # nothing is left open
    unchanged = ("hidden", "latent_dim", "lr", "seed", "epochs", "particles")
    assert all(getattr(config, field) == getattr(TINY, field) for field in unchanged)


@pytest.mark.parametrize("name", DATA)
def test_the_model_fits_the_data_in_shape_dtype_and_support(name):
    data = DATA[name]
    config = resolve(TINY, data)
    modelled_data = modelled(config, data)
    spvae = build_model(config, modelled_data)
    for split in (modelled_data.train, modelled_data.test):
        spvae.check(split[:])
    assert spvae.event_shape == data.event_shape
    assert {p.dtype for p in spvae.parameters()} == {torch.float32}, "the configuration's, not torch's default"
    assert spvae.circuit.regions.shape == region_shape(data)
    assert spvae.sample(3).shape == (3, *data.event_shape)
    assert spvae.log_likelihood(modelled_data.test[:], num_samples=3).isfinite().all()


def test_cells_of_images_are_a_quarter_of_the_longer_side():
    assert resolve(TINY, images(side=20)).delta == 5
    assert resolve(TINY, images(side=21)).delta == 6  # rounded up
    assert resolve(TINY, images(side=8)).delta == 4  # at least 4
    assert resolve(TINY, images(side=3)).delta == 3  # at most the side


@pytest.mark.parametrize(
    ("structure", "options"),
    [
        ("poon-domingos", {"delta": 2}),
        ("quad-tree", {"delta": 2}),
        ("random-binary-tree", {"depth": 2, "repetitions": 3}),
        ("whole", {}),
    ],
)
def test_structure_options_reach_the_graph(structure, options):
    config = resolve(dataclasses.replace(TINY, structure=structure, **options), images())
    regions = build_regions(config, (4, 4))
    counts = {"poon-domingos": 4, "quad-tree": 4, "random-binary-tree": 12, "whole": 1}
    assert regions.counts(1)["leaf_regions"] == counts[structure]


def test_the_seed_decides_random_trees_and_parameters():
    def build(seed):
        config = resolve(dataclasses.replace(TINY, structure="random-binary-tree", seed=seed), images())
        torch.manual_seed(seed)
        return build_regions(config, (4, 4)).leaf_scopes, build_model(config, images()).state_dict()

    (scopes, state), (same_scopes, same_state), (other_scopes, other_state) = build(0), build(0), build(1)
    assert scopes == same_scopes != other_scopes
    assert all(torch.equal(state[key], same_state[key]) for key in state)
    assert any(not torch.equal(state[key], other_state[key]) for key in state)


def test_the_normal_knows_whether_its_data_lie_in_the_unit_interval():
    for data, mean in ((images(levels=256), "sigmoid"), (images(levels=None), "sigmoid"), (table(), "identity")):
        config = resolve(dataclasses.replace(TINY, likelihood="normal(min_scale=0.25)"), data)
        likelihood = build_likelihood(config, modelled(config, data).values)
        assert isinstance(likelihood, Normal) and (likelihood.mean, likelihood.min_scale) == (mean, 0.25)


@pytest.mark.parametrize(
    ("options", "levels", "preprocess", "likelihood"),
    [
        ({}, 2, "integers", "bernoulli"),
        ({}, 32, "integers", "binomial"),
        ({}, 33, "dequantize", "normal"),
        ({}, None, "none", "normal"),
        ({"likelihood": "normal"}, 4, "dequantize", "normal"),
        ({"likelihood": "binomial"}, 256, "integers", "binomial"),
        ({"likelihood": "categorical"}, 2, "integers", "categorical"),
        ({"preprocess": "binarize"}, 256, "binarize", "bernoulli"),
        ({"preprocess": "binarize-static"}, None, "binarize-static", "bernoulli"),
        ({"preprocess": "integers"}, 256, "integers", "binomial"),
        ({"preprocess": "dequantize"}, 2, "dequantize", "normal"),
        ({"preprocess": "paper"}, 256, "paper", "normal"),
        ({"preprocess": "none", "likelihood": "normal"}, 256, "none", "normal"),
    ],
)
def test_preprocessing_and_likelihood_are_chosen_to_fit(options, levels, preprocess, likelihood):
    data = images(levels=levels)
    config = resolve(dataclasses.replace(TINY, **options), data)
    assert (config.preprocess, config.likelihood) == (preprocess, likelihood)
    data = modelled(config, data)
    spvae = build_model(config, data)
    spvae.check(data.train[:])
    assert spvae.log_likelihood(data.test[:2], num_samples=2).isfinite().all()


def test_precision_is_that_of_the_parameters():
    config = resolve(dataclasses.replace(TINY, precision="float64"), images())
    assert {p.dtype for p in build_model(config, modelled(config, images())).parameters()} == {torch.float64}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"likelihood": "bernoulli"},
            "likelihood is 'bernoulli', but the values of digits are not only 0 and 1; accepted",
        ),
        ({"structure": "whole", "delta": 2}, "delta is 2, but the structure whole has no cells; leave it out"),
        ({"depth": 2}, "depth and repetitions describe random-binary-tree, but the structure is poon-domingos"),
        ({"repetitions": 2}, "depth and repetitions describe random-binary-tree, but the structure is poon-domingos"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        resolve(TrainConfig(**options), load_data("digits"))


@pytest.mark.parametrize("likelihood", ["binomial", "categorical", "bernoulli"])
def test_discrete_likelihoods_need_discrete_data(likelihood):
    with pytest.raises(
        ValueError, match=f"^likelihood is '{likelihood}', but the values of table are .*accepted (is|are) 'normal'"
    ):
        resolve(dataclasses.replace(TINY, likelihood=likelihood), table())

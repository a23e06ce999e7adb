# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""When a table's model is open, and what is tried then."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_spvae.data import DataSet, Values, load_data
from pyro_spvae.training.build import build_model
from pyro_spvae.training.candidates import as_stated, candidates, is_open, is_raced
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.hidden_trees import tree_training, tree_units
from pyro_spvae.training.reading import modelled
from pyro_spvae.training.resolve import resolve
from tests.training.cases import images, table

OPEN = TrainConfig()
FIT = {field.name for field in dataclasses.fields(FitConfig)}


def frame(rows=200, seed=0):
    """A table whose columns are of several kinds, two of them Normal."""
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "visits": random.poisson(4, rows),
            "town": random.choice(["Bonn", "Köln", "Ulm"], rows),
            "change": random.normal(size=rows),
            "weight": random.normal(size=rows),
        }
    )


def bits(rows=200, columns=5):
    x = torch.randint(2, (rows, columns), generator=torch.Generator().manual_seed(0)).float()
    train, watched, test = x.split([rows - 20, 10, 10])
    return DataSet("bits", train, watched, test, Values.grey_levels(2))


CLOSED = {
    "structure": "chow-liu",
    "leaf": "vae",
    "units": 4,
    "leaves": 4,
    "block": 2,
    "weights": "full",
    "tie": "shape",
    "delta": 4,
    "depth": 1,
    "repetitions": 2,
    "leaf_size": 2,
    "guide": "normal",
    "prior": "vampprior",
    "network": "conv",
    "decoder": "conv",
    "latent_dim": 3,
    "hidden": (8,),
    "activation": "relu",
    "networks": "shared",
    "objective": "elbo",
    "particles": 3,
    "gradient": "dreg",
    "reduce": "root",
    "estimator": "concrete",
    "beta": 0.5,
    "warmup": 2,
    "optimiser": "adamax",
    "clip": 1.0,
    "likelihood": "student-t",
}
STAYS = {
    "likelihood": "normal",
    "lr": 0.1,
    "batch_size": 16,
    "epochs": 3,
    "patience": 3,
    "schedule": "cosine",
    "hide": 0.2,
    "fraction": 0.5,
    "seed": 7,
    "missing": "nan",
    "validate_every": 3,
    "smoothing": 0.5,
    "ridge": 0.5,
    "samples": 3,
    "test_rows": 3,
    "precision": "float64",
    "kinds": "x0=real",
}


class TestOpen:
    @pytest.mark.parametrize("name", CLOSED)
    def test_what_is_said_of_the_model_ends_it(self, name):
        assert is_open(OPEN, table()) and not is_open(dataclasses.replace(OPEN, **{name: CLOSED[name]}), table())

    @pytest.mark.parametrize("name", STAYS)
    def test_what_is_said_of_data_and_training_does_not(self, name):
        assert is_raced(dataclasses.replace(OPEN, **{name: STAYS[name]}), table())

    def test_every_option_of_the_model_is_looked_at(self):
        panels = {field.name: field.metadata["panel"] for field in dataclasses.fields(TrainConfig)}
        of_model = {name for name, panel in panels.items() if panel in ("Model", "Objective")} - {"race"}
        dependent = {"alpha", "kl", "balance"}  # which need an objective that is named
        assert of_model - dependent == {name for name in CLOSED if panels[name] in ("Model", "Objective")}

    def test_images_and_single_columns_are_not(self):
        assert not is_open(OPEN, images()) and not is_open(OPEN, table(columns=1))
        assert is_open(OPEN, table(columns=2)) and is_open(OPEN, bits())

    def test_grey_images_of_many_levels_are(self):
        assert is_raced(OPEN, images(levels=256)) and is_raced(
            dataclasses.replace(OPEN, preprocess="integers"), images(64)
        )
        for other in (images(levels=32), images(levels=2), images(levels=None), images(levels=256, channels=3)):
            assert not is_open(OPEN, other)
        for given in (
            {"preprocess": "dequantize"},
            {"likelihood": "binomial"},
            {"structure": "quad-tree"},
            {"particles": 3},
        ):
            assert not is_open(dataclasses.replace(OPEN, **given), images(levels=256))

    def test_without_a_race_it_is_open_all_the_same(self):
        config = dataclasses.replace(OPEN, race="none")
        assert is_open(config, table()) and not is_raced(config, table())


class TestStated:
    """Options that are given on the command line count though they be the defaults."""

    @pytest.mark.parametrize("name", ["hidden", "guide", "latent_dim", "objective", "particles", "optimiser", "beta"])
    def test_of_the_model(self, name):
        assert as_stated(OPEN, {name}) == dataclasses.replace(OPEN, leaf="vae")

    @pytest.mark.parametrize("name", ["structure", "leaf", "units", "weights", "lr", "seed", "epochs", "likelihood"])
    def test_what_says_nothing(self, name):
        assert as_stated(OPEN, {name}) == OPEN and as_stated(OPEN, ()) == OPEN

    def test_a_tree_of_single_columns_has_networks_alone_where_they_are_named(self):
        tree = dataclasses.replace(OPEN, structure="chow-liu")
        assert resolve(as_stated(tree, {"structure", "optimiser"}), table()).leaf == "factorized"
        assert resolve(as_stated(tree, {"structure", "hidden"}), table()).leaf == "vae"

    def test_what_is_named_stays(self):
        named = dataclasses.replace(OPEN, leaf="factorized")
        assert as_stated(named, {"leaf", "optimiser", "hidden"}) == named


def options(data, **given):
    return {one.name: one.options for one in candidates(dataclasses.replace(OPEN, **given), data)}


def of_kind(found):
    """Trees, mixtures of Gaussian leaves, blocks; beside the one of independent columns."""
    alone = found.pop("independent columns")
    assert (alone["structure"], alone["leaf"], alone["leaves"]) == ("whole", "factorized", 1)
    trees = [one for one in found.values() if one["structure"] == "chow-liu" and "block" not in one]
    mixtures = [one for one in found.values() if one["structure"] == "whole"]
    blocks = [one for one in found.values() if "block" in one]
    assert len(trees) + len(mixtures) + len(blocks) == len(found)
    return trees, mixtures, blocks


class TestCandidates:
    def test_of_real_columns(self):
        trees, mixtures, blocks = of_kind(options(table(columns=12, rows=800)))
        assert all(one["leaf"] == "factorized" and one["weights"] == "cp" for one in trees) and trees
        assert all(one["optimiser"] == "em" and one["units"] == 1 for one in mixtures)
        kinds = [(one["leaf"].split("(")[0], one["leaves"]) for one in mixtures]
        assert ("gaussian", 1) in kinds and len(set(kinds)) > 2
        assert any("rank" in one["leaf"] for one in mixtures)
        assert [one["leaf"] for one in blocks] == ["vae+gaussian"]

    def test_few_columns_have_no_factors(self):
        _, mixtures, _ = of_kind(options(table(columns=3, rows=800)))
        assert mixtures and not any("rank" in one["leaf"] for one in mixtures)

    @pytest.mark.parametrize(
        "data", [bits(), load_data(pd.DataFrame(bits().train[:].numpy() > 0))], ids=["bits", "bool"]
    )
    def test_of_binary_columns(self, data):
        trees, mixtures, blocks = of_kind(options(data))
        assert trees and not mixtures and [one["leaf"] for one in blocks] == ["vae+factorized"]

    @pytest.mark.parametrize("holes", [False, True])
    def test_of_mixed_columns(self, holes):
        data = frame()
        if holes:
            data = data.where(np.random.default_rng(1).random(data.shape) < 0.8)
        trees, mixtures, blocks = of_kind(options(load_data(data)))
        assert trees and mixtures and [one["leaf"] for one in blocks] == ["vae+gaussian"]
        assert not of_kind(options(load_data(frame().drop(columns="weight"))))[1], "one Normal column is no Gaussian"

    def test_a_likelihood_that_is_given_says_what_columns_are(self):
        assert of_kind(options(bits(), likelihood="normal"))[1]
        assert not of_kind(options(table(), likelihood="bernoulli"))[1]

    def test_few_rows_have_few_components(self):
        few, many = (of_kind(options(table(columns=6, rows=rows)))[1] for rows in (20, 400))
        assert max(one["leaves"] for one in few) < max(one["leaves"] for one in many)

    def test_rows_are_those_of_the_fraction(self):
        data = load_data(frame(2000))
        assert options(data, fraction=0.05).keys() != options(data).keys()
        assert options(data, fraction=0.05).keys() == options(data.thinned(0.05)).keys()

    def test_names_are_different_and_all_can_be_built(self):
        data = load_data(frame(400))
        found = candidates(OPEN, data)
        assert len({one.name for one in found}) == len(found) > 4
        for one in found:
            config = resolve(one.of(OPEN), data)
            assert not is_open(one.of(OPEN), data) and config.race == "none"
            assert build_model(config, modelled(config, data)).event_shape == (4,)


class TestOptions:
    def test_those_of_training_that_are_given_win(self):
        data = table(columns=12, rows=800)
        given = {
            "smoothing": 0.7,
            "ridge": 0.02,
            "lr": 0.3,
            "schedule": "cosine",
            "batch_size": 11,
            "epochs": 9,
            "seed": 4,
        }
        config = dataclasses.replace(OPEN, likelihood="normal", **given)
        for one in candidates(config, data):
            own = one.of(config)
            taken = given | ({"lr": None, "schedule": "plateau"} if own.optimiser == "em" else {})
            assert {name: getattr(own, name) for name in given} == taken and own.likelihood == "normal"
            rest = {name: value for name, value in one.options.items() if name not in given}
            assert {name: getattr(own, name) for name in rest} == rest
        assert any({"smoothing", "ridge"} <= one.options.keys() for one in candidates(config, data))

    @pytest.mark.parametrize(("name", "value"), [("hide", 0.3), ("average", "ema"), ("validate_every", 2)])
    def test_nothing_is_hidden_from_em_which_has_no_average(self, name, value):
        config = dataclasses.replace(OPEN, **{name: value})
        found = [one.of(config) for one in candidates(config, table(columns=12, rows=800))]
        assert {one.optimiser for one in found} == {"adam", "adamw"}
        assert all(getattr(one, name) == value for one in found)
        without = [one.of(OPEN) for one in candidates(OPEN, table(columns=12, rows=800))]
        assert {one.optimiser for one in without} == {"adam", "adamw", "em"}
        assert all(one.particles == 1 for one in found if "vae" not in one.leaf)

    @pytest.mark.parametrize("data", [table(), bits(), load_data(frame())], ids=["real", "bits", "mixed"])
    def test_without_a_race_it_is_the_first(self, data):
        config = dataclasses.replace(OPEN, race="none", seed=3)
        assert resolve(config, data) == resolve(candidates(config, data)[0].of(config), data)
        assert resolve(config, data).leaf == "factorized" and resolve(config, data).structure == "chow-liu"


class TestTrees:
    def test_more_rows_more_units(self):
        found = [tree_units(rows) for rows in (1, 50, 500, 2000, 10**4, 10**6)]
        assert found == sorted(found) and found[0] == 4 and found[-1] > 16

    def test_weights_are_fewer_than_entries(self):
        """Of tables of which the smallest tree is not too large already."""
        for rows in (200, 600, 2000, 6000, 20_000):
            data = bits(rows=rows, columns=8)
            config = resolve(dataclasses.replace(OPEN, race="none"), data)
            spvae = build_model(config, modelled(config, data))
            assert config.units == tree_units(rows - 20)
            assert sum(parameter.numel() for parameter in spvae.parameters()) <= 8 * rows


class TestRates:
    """By default, of models with latent variables and without."""

    @pytest.mark.parametrize(
        ("given", "lr", "batch_size"),
        [
            ({"structure": "chow-liu"}, 0.03, 32),
            ({"leaf": "factorized"}, 0.03, 32),
            ({"leaf": "gaussian"}, 0.03, 32),
            ({"leaf": "gaussian", "optimiser": "em"}, None, 128),
            ({"leaf": "gaussian", "optimiser": "online-em"}, None, 128),
            ({"leaf": "vae"}, 0.005, 128),
            ({"leaf": "vae+factorized"}, 0.005, 128),
            ({"leaf": "factorized", "lr": 0.1, "batch_size": 7}, 0.1, 7),
            ({"leaf": "vae", "lr": 0.1, "batch_size": 7}, 0.1, 7),
        ],
    )
    def test_of_a_table(self, given, lr, batch_size):
        config = resolve(dataclasses.replace(OPEN, **given), table())
        assert (config.lr, config.batch_size) == (lr, batch_size)
        assert resolve(config, table()) == config

    def test_of_many_rows(self):
        config = dataclasses.replace(OPEN, leaf="factorized")
        assert resolve(config, bits(rows=2019)).batch_size == 32 and resolve(config, bits(rows=2020)).batch_size == 128
        assert resolve(dataclasses.replace(config, fraction=0.5), bits(rows=2020)).batch_size == 32

    def test_of_images(self):
        config = resolve(dataclasses.replace(OPEN, leaf="factorized"), images())
        assert (config.lr, config.batch_size) == (0.03, 128)
        config = resolve(OPEN, images())
        assert (config.lr, config.batch_size) == (0.005, 128)


class TestImages:
    def test_a_tree_and_a_circuit_of_vaes_are_compared_by_levels(self):
        tree, wide, vaes = (resolve(one.of(OPEN), images(levels=64)) for one in candidates(OPEN, images(levels=64)))
        assert (wide.units, tree.units) == (16, 4) and dataclasses.replace(wide, units=4, leaves=4) == tree
        assert (tree.structure, tree.leaf, tree.weights, tree.start) == ("chow-liu", "factorized", "cp", "clusters")
        assert (tree.likelihood, tree.optimiser, tree.schedule, tree.particles) == ("categorical", "adamw", "linear", 1)
        assert (vaes.structure, vaes.leaf, vaes.optimiser) == ("poon-domingos", "vae", "adam")
        assert tree.preprocess == vaes.preprocess == "integers"

    @pytest.mark.parametrize("levels, likelihood", [(2, "bernoulli"), (4, "categorical"), (64, "categorical")])
    def test_the_tree_comes_by_one_option(self, levels, likelihood):
        data = images(levels=levels)
        given = resolve(TrainConfig(structure="chow-liu"), data)
        assert (given.preprocess, given.likelihood, given.leaf) == ("integers", likelihood, "factorized")
        assert (given.optimiser, given.schedule, given.start) == ("adamw", "linear", "clusters")
        if levels == 64:
            assert dataclasses.replace(given, race="none") == resolve(TrainConfig(race="none"), data)

    def test_what_is_said_of_its_training_stays(self):
        own = {"epochs": 3, "schedule": "cosine", "particles": 2, "lr": 0.1, "batch_size": 8, "start": "random"}
        config = resolve(TrainConfig(structure="chow-liu", **own), images(levels=64))
        assert all(getattr(config, name) == value for name, value in own.items())
        em = resolve(TrainConfig(structure="chow-liu", optimiser="em"), images(levels=64))
        assert (em.optimiser, em.weight_decay, em.schedule, em.epochs) == ("em", 0.0, "plateau", 400)

    def test_continuous_and_colour_images_by_one_option(self):
        assert resolve(TrainConfig(structure="chow-liu"), images(levels=None)).likelihood == "normal"
        colour = resolve(TrainConfig(structure="chow-liu"), images(levels=64, channels=3))
        assert (colour.likelihood, colour.preprocess) == ("categorical", "integers")

    def test_vaes_over_blocks_of_a_tree_are_what_they_are_elsewhere(self):
        config = resolve(TrainConfig(structure="chow-liu", block=4), images(levels=64))
        assert (config.leaf, config.optimiser, config.epochs) == ("vae", "adam", 400)

    @pytest.mark.parametrize(
        "rows, levels, units",
        [(50_000, 256, 64), (47_000, 256, 64), (46_000, 256, 32), (10_000, 256, 16), (100, 256, 4)],
    )
    def test_units_of_leaves_with_many_parameters(self, rows, levels, units):
        assert tree_units(rows, levels) == units
        assert units == 4 or 1.7 * units**2 + levels * units <= rows / 2

    def test_epochs_of_images(self):
        found = [tree_training(rows, 128, image=True)["epochs"] for rows in (100, 1297, 50_000, 500_000)]
        assert found == [400, 149, 4, 4]

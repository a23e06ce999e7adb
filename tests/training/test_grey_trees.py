# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Hidden trees over pixels: what is refused in one sentence, and what is said of colours."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch

from pyro_spvae.commands import evaluate
from pyro_spvae.training import memory
from pyro_spvae.training.run import open_run
from tests.cli_cases import invoke, refused, train
from tests.training.cases import built, images

TREE = ("--structure", "chow-liu", "--preprocess", "integers", "--likelihood", "categorical", "--units", "2")
SHORT = ("--epochs", "1", "--batch-size", "32")
SEEN = torch.tensor(True)
NO_LATENTS = {"latent_dim": None, "hidden": (32, 32)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of images, and a tree that is trained on those of 12 levels."""
    folder, random = tmp_path_factory.mktemp("trees"), np.random.default_rng(0)
    base = random.integers(0, 9, (60, 1, 4, 3))
    arrays = {
        "grey": np.clip(base + random.integers(0, 4, (60, 1, 4, 3)), 0, 11),
        "colour": base + random.integers(0, 3, (60, 3, 4, 3)),
        "larger": np.zeros((5, 1, 5, 5), int),
        "more": np.arange(60).reshape(5, 1, 4, 3).repeat(6, 0),
        "fractions": np.full((30, 1, 4, 3), 0.5),
    }
    arrays["grey"][:12] = np.arange(12).reshape(12, 1, 1, 1)  # all levels
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array if name == "fractions" else array.astype(np.int64))
    train(folder / "grey.npy", *TREE, *SHORT, "--out", folder / "run")
    return folder


OTHERS = [  # file, and what is said of it
    ("larger", r"larger\.npy, whose rows have shape \[1, 5, 5\]; the model of .* needs \[1, 4, 3\]"),
    ("more", r"more\.npy, with 60 grey levels; the model of .* was trained on 12 grey levels"),
    ("fractions", r"fractions\.npy, with continuous values; the model of .* was trained on 12 grey levels"),
]


@pytest.mark.parametrize("verb", ["evaluate", "impute"])
@pytest.mark.parametrize(("name", "message"), OTHERS)
def test_data_of_another_kind(folder, verb, name, message):
    more = ("--out", folder / "out.png") if verb == "impute" else ()
    said = refused(verb, folder / "run", "--data", folder / f"{name}.npy", *more)
    assert re.search(message, said), said


def test_images_without_the_brightest_level(folder):
    """The largest value of a file is no more than what it happens to hold; black and white may be another thing."""
    x = np.load(folder / "grey.npy")
    dark = np.minimum(x, 8)
    np.save(folder / "dark.npy", dark)
    assert invoke("evaluate", folder / "run", "--data", folder / "dark.npy", "--out", folder / "of-dark").exit_code == 0
    found = json.loads((folder / "of-dark" / "dark-all.json").read_text())
    log_prob = open_run(folder / "run").spvae.log_prob(torch.from_numpy(dark).float())
    assert found["log_likelihood"] == pytest.approx(float(log_prob.detach().double().mean()), rel=1e-5)
    assert found["bits_per_dim"] == pytest.approx(-found["log_likelihood"] / 12 / math.log(2))
    np.save(folder / "two.npy", np.minimum(x, 1))
    assert "two.npy, with 2 grey levels; the model of" in refused(
        "evaluate", folder / "run", "--data", folder / "two.npy"
    )


@pytest.mark.parametrize("preprocess", ["none", "integers"])
@pytest.mark.parametrize("likelihood", ["normal", "student-t"])
def test_densities_of_grey_levels_are_no_codes(folder, tmp_path, likelihood, preprocess):
    options = (*TREE, "--likelihood", likelihood, "--preprocess", preprocess, "--start", "random", *SHORT)
    output = train(folder / "grey.npy", *options, "--out", tmp_path / "run").output
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert "bits/dim" not in output and results.get("bits_per_dim") is None
    again = evaluate(tmp_path / "run", data=str(folder / "grey.npy"), split="test", out=tmp_path / "out")
    assert again["log_likelihood"] == pytest.approx(results["log_likelihood"]) and again.get("bits_per_dim") is None


@pytest.mark.parametrize("likelihood", ["discretized-logistic", "beta-binomial(total_count=11)", "binomial"])
def test_trees_start_at_clusters_where_a_likelihood_can(folder, tmp_path, likelihood):
    train(folder / "grey.npy", *TREE, "--likelihood", likelihood, *SHORT, "--out", tmp_path / "run")
    start = json.loads((tmp_path / "run" / "config.json").read_text())["start"]
    assert start == ("clusters" if likelihood == "binomial" else "random")


VALUES = [
    (3.5, "x holds other values than whole numbers, but the model is a density of grey levels 0 to 11"),
    (12.0, "x runs from 12 to 12, but the model is a density of grey levels 0 to 11"),
    (-1.0, "x runs from -1 to -1, but the model is a density of grey levels 0 to 11"),
]


@pytest.mark.parametrize(("value", "message"), VALUES)
@pytest.mark.parametrize("query", ["log_prob", "log_likelihood", "mpe", "embed", "impute"])
def test_values_that_are_no_levels_are_not_asked_about(folder, query, value, message):
    spvae = open_run(folder / "run").spvae
    arguments = (SEEN,) if query == "impute" else ()
    with pytest.raises(ValueError, match=message):
        getattr(spvae, query)(torch.full((3, 1, 4, 3), value, dtype=torch.float32), *arguments)
    spvae.values = None  # what nobody has told of its data
    with pytest.raises(ValueError, match=rf"value {value:g} in row 0 \(3 such rows\); the likelihood Categorical acc"):
        getattr(spvae, query)(torch.full((3, 1, 4, 3), value, dtype=torch.float32), *arguments)


TRAINED = [  # file, options, and what is said
    (
        "fractions",
        (),
        "likelihood is 'categorical', but the values of fractions.npy are continuous; accepted is 'normal'",
    ),
    ("more", ("--likelihood", "categorical(levels=12)"), "the likelihood Categorical accepts the integers 0 to 11"),
]


@pytest.mark.parametrize(("name", "options", "message"), TRAINED)
def test_values_that_are_no_levels_are_not_trained_on(folder, name, options, message):
    taken = [option for option in (*TREE, *options) if option != "--preprocess" and option != "integers"]
    assert message in refused("train", folder / f"{name}.npy", *taken, "--out", folder / "none")


class TestMemory:
    """12 pixels of 256 levels in 2 leaves are 6,144 numbers; with gradient and two moments 98,304 bytes."""

    @pytest.mark.parametrize(
        ("options", "needed"),
        [({}, 98_304), ({"precision": "float64"}, 196_608), ({"optimiser": "em"}, 49_152), ({"leaves": 4}, 196_608)],
    )
    def test_as_much_as_is_available_may_be_needed(self, options, needed, monkeypatch):
        options = (
            {"structure": "chow-liu", "leaf": "factorized", "likelihood": "categorical", "units": 2}
            | NO_LATENTS
            | options
        )
        data = images(levels=256, side=4, rows=40)
        needed = needed * 16 // 12
        monkeypatch.setattr(memory, "available_bytes", lambda: needed)
        built(data, **options)
        monkeypatch.setattr(memory, "available_bytes", lambda: needed - 1)
        with pytest.raises(
            ValueError, match=r"likelihood is 'categorical': .* parameters, 256 levels of 16 pixels in "
        ):
            built(data, **options)

    def test_by_the_command_before_anything_is_made(self, folder, monkeypatch):
        monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
        said = refused("train", folder / "grey.npy", *TREE, "--out", folder / "none")
        assert said == (
            "likelihood is 'categorical': 288 parameters, 12 levels of 12 pixels in 2 leaves each, take 0.0 GiB with "
            "their gradient and the optimiser's moments, and 0.0 GiB are available; take fewer units, or a likelihood "
            "whose parameters do not grow with the levels, such as 'discretized-logistic'\n"
        )
        assert not (folder / "none").exists()

    def test_where_memory_is_not_known_all_is_tried(self, monkeypatch):
        monkeypatch.setattr(memory, "available_bytes", lambda: None)
        options = {"structure": "chow-liu", "leaf": "factorized", "likelihood": "categorical", "units": 2} | NO_LATENTS
        assert built(images(levels=256, side=4), **options)[0].num_leaves == 32

    def test_this_machine_has_some(self):
        available = memory.available_bytes()
        assert available is None or available > 2**20


def test_channels_of_colour_images_are_variables(folder):
    output = train(folder / "colour.npy", *TREE, *SHORT, "--out", folder / "colour").output
    (note,) = (line for line in output.split("\n") if " channels of " in line)
    assert (
        "36 variables, 3 channels of 12 positions; those of a position depend on each other by its leaf alone" in note
    )
    assert "about 1 s an epoch, at most 1" in note
    spvae, x = open_run(folder / "colour").spvae, torch.zeros(1, 3, 4, 3, dtype=torch.float32)
    assert spvae.values is not None
    levels = spvae.values.levels
    every = x.repeat(levels**2, 1, 1, 1)
    every[:, 0, 1, 2], every[:, 2, 1, 2] = torch.cartesian_prod(*[torch.arange(levels)] * 2).T
    seen = torch.zeros(3, 4, 3, dtype=torch.bool)
    seen[0, 1, 2] = seen[2, 1, 2] = True  # two channels of a position, all else summed over
    joint = spvae.log_prob(every, seen).detach().exp().view(levels, levels).double()
    assert float(joint.sum()) == pytest.approx(1, abs=1e-5)
    independent = joint.sum(1, keepdim=True) * joint.sum(0)
    assert float((joint - independent).abs().max()) > 1e-4
    assert " channels of " not in train(folder / "grey.npy", *TREE, *SHORT, "--out", folder / "again").output

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Pseudo-inputs as images, and what is generated from each of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pyro_spvae import poon_domingos, quad_tree, whole
from pyro_spvae.circuits import Circuit
from pyro_spvae.commands import evaluate
from pyro_spvae.data import Values
from pyro_spvae.guides import HierarchicalGuide, NormalGuide
from pyro_spvae.likelihoods import Binomial, Normal
from pyro_spvae.models import HVAE, SPVAE, VAE
from pyro_spvae.plots.pseudo_inputs import generate, pseudo_input_images, pseudo_input_pictures, vamp_prior
from pyro_spvae.priors import MixtureOfGaussians, VampPrior
from pyro_spvae.training.config import TrainConfig
from pyro_spvae.training.train import train
from tests.commands.cases import assert_picture, names
from tests.plots.cases import shown

UNIT = Values(low=0, high=1)


def make(regions=None, units=1, components=5, kind=VAE, likelihood=None, prior=None, **options):
    likelihood = Normal() if likelihood is None else likelihood
    prior = VampPrior(components, mean=0.5, std=0.3) if prior is None else prior
    leaf = kind(likelihood, latent_dim=2, hidden_dims=(4,), prior=prior)
    guide = (NormalGuide if kind is VAE else HierarchicalGuide)(hidden_dims=(4,))
    spvae = SPVAE(whole((4, 4)) if regions is None else regions, units=units, leaf=leaf, guide=guide, **options)
    with torch.no_grad():
        for parameter in [*guide.parameters(), *leaf.pixels.decoder.parameters()]:
            parameter.add_(torch.randn_like(parameter))
    return spvae


class TestImages:
    def test_a_single_leaf(self):
        spvae = make()
        found = pseudo_input_images(spvae, vamp_prior(spvae), 3)
        wanted = spvae.leaf.prior.pseudo_inputs[0, :3].clamp(0, 1).reshape(3, 1, 4, 4)
        assert torch.equal(found, wanted.detach())

    def test_several_leaves_stand_in_their_places(self):
        spvae = make(poon_domingos((4, 4), delta=2), units=3)
        for program in range(3):
            found = pseudo_input_images(spvae, vamp_prior(spvae), 5, program)
            assert found.shape == (5, 1, 4, 4)
            patches = spvae.view(found)[:, program::3]  # of the leaves with this number in every region
            assert torch.equal(patches, vamp_prior(spvae).inputs[:, program::3].detach())

    @pytest.mark.parametrize("regions", [poon_domingos((4, 4), delta=(2, 1)), quad_tree((4, 4), delta=2)])
    def test_every_pixel_comes_from_one_leaf(self, regions):
        """Also where leaf regions of several sizes overlap, and whatever the programs of the most probable tree."""
        spvae = make(regions, units=2)
        with torch.no_grad():
            spvae.leaf.prior.pseudo_inputs.fill_(0.5)
        for program in range(2):
            assert (pseudo_input_images(spvae, vamp_prior(spvae), 2, program) == 0.5).all()

    def test_frozen_data_are_themselves(self):
        x = torch.randint(0, 5, (6, 1, 4, 4)).double()
        spvae = make(likelihood=Binomial(4), prior=VampPrior(data=x))
        found = pseudo_input_images(spvae, vamp_prior(spvae), 6)
        order = [int((image == x / 4).all((1, 2, 3)).nonzero()) for image in found]
        assert sorted(order) == list(range(6)), "as features, between 0 and 1"


class TestGenerations:
    @pytest.mark.parametrize("kind", [VAE, HVAE])
    def test_sizes(self, kind):
        spvae = make(poon_domingos((4, 4), delta=2), units=2, kind=kind)
        found = generate(spvae, vamp_prior(spvae), 4, 3)
        assert found.inputs.shape == (4, 1, 4, 4) and found.images.shape == (4, 3, 1, 4, 4)
        assert (found.images.std(1) > 1e-6).all(), "draws differ"
        assert generate(spvae, vamp_prior(spvae), 50, 2).images.shape == (5, 2, 1, 4, 4), "no more than there are"

    def test_each_row_is_of_its_own_pseudo_input_and_tree(self):
        """With posteriors of almost no width each image is the decoded mean of the leaves of the tree."""
        spvae = make(poon_domingos((4, 4), delta=2), units=2)
        with torch.no_grad():
            raw = spvae.leaf_guide.z.network.stacks[-1]
            raw.weights[-1].zero_()
            raw.biases[-1].fill_(-50.0)  # the smallest scale there is
        prior = vamp_prior(spvae)
        inputs, images = generate(spvae, prior, 5, 2)
        pixels = spvae.leaf.pixels
        decoded = pixels.likelihood(pixels.decoder(prior().loc)).mean.detach()  # [component, leaf, pixel]
        for k in range(5):
            at_place, seen = spvae.view(images[k]), spvae.view(inputs[k])
            for cell in range(4):
                leaves = slice(2 * cell, 2 * cell + 2)
                used = (seen[leaves] - prior.inputs[k, leaves]).abs().amax(-1).argmin()
                error = (at_place[:, leaves][:, used] - decoded[k, leaves][used]).abs().max()
                other = (at_place[:, leaves][:, used] - decoded[k, leaves][1 - used]).abs().max()
                assert error < 0.05 and other > 2 * error

    def test_trees_are_drawn_as_the_model_draws_them(self):
        spvae = make(Circuit(poon_domingos((1, 2), delta=1), 1, 2), units=None, components=400)
        with torch.no_grad():
            for parameter in spvae.circuit.parameters():
                parameter.add_(torch.randn_like(parameter))
            # the pseudo-inputs of the first leaf of every region are black, of the second white
            spvae.leaf.prior.pseudo_inputs[::2] = 0.0
            spvae.leaf.prior.pseudo_inputs[1::2] = 1.0
        share = generate(spvae, vamp_prior(spvae), 400, 1).inputs.mean((0, 1, 2))
        trees = spvae.circuit.sample((4000,)).double().mean(0)
        assert (trees[1::2] - 0.5).abs().max() > 0.2
        assert torch.allclose(share, trees[1::2], atol=0.1)


class TestPictures:
    def test_sizes(self):
        figures = pseudo_input_pictures(make(components=30), UNIT)
        assert figures.keys() == {"pseudo_inputs", "generations"}
        (inputs,), (generations,) = map(shown, figures.values())
        assert inputs.shape == (6 * 4 + 5, 5 * 4 + 4, 3)  # lines between 4 x 4 images
        assert generations.shape == (25 * 4 + 24, 8 * 4 + 7, 3)

    def test_the_first_column_has_the_pseudo_inputs(self):
        spvae = make(likelihood=Binomial(4), components=3)
        (generations,) = shown(pseudo_input_pictures(spvae, Values(low=0, high=4))["generations"])
        for k, image in enumerate(pseudo_input_images(spvae, vamp_prior(spvae), 3)):
            assert np.allclose(generations[5 * k : 5 * k + 4, :4, 0], image[0].numpy(), atol=1e-6)

    def test_a_row_for_each_leaf_program(self):
        figures = pseudo_input_pictures(make(poon_domingos((4, 4), delta=2), units=3, components=30), UNIT)
        inputs = shown(figures["pseudo_inputs"])
        assert [picture.shape for picture in inputs] == 3 * [(4, 25 * 4 + 24, 3)]

    def test_the_same_each_time(self):
        spvae = make()
        state = torch.get_rng_state()
        first, second = (shown(pseudo_input_pictures(spvae, UNIT)["generations"])[0] for _ in range(2))
        assert np.array_equal(first, second) and torch.equal(torch.get_rng_state(), state)

    def test_where_they_make_no_sense(self):
        assert pseudo_input_pictures(make(prior=MixtureOfGaussians(3)), UNIT) == {}
        assert pseudo_input_pictures(make(whole((4,)), channels=None), UNIT) == {}
        assert pseudo_input_pictures(SPVAE(whole((4, 4)), units=1), UNIT) == {}


@pytest.mark.parametrize("leaf", ["vae", "hvae"])
def test_a_run_has_them(leaf, tmp_path):
    tiny = {"epochs": 1, "samples": 4, "hidden": (4,), "units": 2, "latent_dim": 2, "device": "cpu", "delta": 4}
    lines: list[str] = []
    results = train(TrainConfig(**tiny, leaf=leaf, prior="vamp(components=6)"), tmp_path / "run", report=lines.append)
    line = " ".join(line for line in lines if line.startswith("pictures"))
    for name in ("log_likelihoods.png", "pseudo_inputs.png", "generations.png"):
        assert_picture(tmp_path / "run" / "figures" / name)
        assert name in line
    sites = ["z"] if leaf == "vae" else ["z2", "z1"]
    kept = json.loads((tmp_path / "run" / "results.json").read_text())
    for key in ("kl", "entropy", "cross_entropy", "active_units"):
        assert list(results[key]) == sites and kept[key] == results[key]
    assert sum(results["kl"].values()) == pytest.approx(results["latent_kl"], abs=1e-4)
    assert sum(line.startswith("latent z") for line in lines) == len(sites)

    lines.clear()
    found = evaluate(tmp_path / "run", out=tmp_path / "out", report=lines.append)
    assert {key: found[key] for key in ("kl", "active_units")} == {key: kept[key] for key in ("kl", "active_units")}
    assert names(tmp_path / "out") == ["generations.png", "pseudo_inputs.png", "test.json", "test.npz", "test.png"]
    with np.load(tmp_path / "out" / "test.npz") as arrays:
        assert set(arrays) == {"log_likelihood", *(f"mean_variance_{site}" for site in sites)}
        assert all((arrays[f"mean_variance_{s}"] > 0.01).sum() == found["active_units"][s] for s in sites)
    (row,) = (line for line in lines if line.startswith("latent KL"))
    assert f"cross-entropy {sum(found['cross_entropy'].values()):.2f} less entropy" in row
    assert sum(line.startswith("  of z") for line in lines) == (2 if leaf == "hvae" else 0)

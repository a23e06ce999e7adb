# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Two latent layers as the papers configure them, options, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from pyro import poutine
from torch import nn

from pyro_spvae import CircuitELBO, whole
from pyro_spvae.guides import HierarchicalGuide, NormalGuide
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import HVAE, SPVAE, VAE
from pyro_spvae.nn import MLP, Joint
from pyro_spvae.priors import MixtureOfGaussians, StandardNormal, VampPrior
from tests.models.hvae_cases import GRID


class TestArchitectures:
    """Numbers of parameters of the papers' models."""

    @pytest.fixture(autouse=True)
    def single_precision(self):
        torch.set_default_dtype(torch.float32)

    def count(self, leaf, guide):
        spvae = SPVAE(whole((28, 28)), units=1, leaf=leaf, guide=guide)
        x = (torch.rand(3, 1, 28, 28) < 0.5).float()
        assert math.isfinite(CircuitELBO(2).loss(spvae.model, spvae.guide, x))
        return sum(p.numel() for p in spvae.parameters()), spvae

    @pytest.mark.parametrize(
        ("make_prior", "more"),
        [
            (StandardNormal, 0),
            (lambda: VampPrior(500), 500 * 784),
            (lambda: VampPrior(data=torch.rand(500, 1, 28, 28)), 0),
            (lambda: MixtureOfGaussians(500), 500 * 81),
        ],
        ids=["standard", "vamp", "data", "mixture"],
    )
    def test_of_the_vampprior_paper(self, make_prior, more):
        gated = {"hidden_dims": (300, 300), "activation": "gated"}
        vae = VAE(Bernoulli(), 40, networks="shared", prior=make_prior(), **gated)
        guide = NormalGuide(networks="shared", scale="logvar", **gated)
        assert self.count(vae, guide)[0] == 1_116_864 + more
        two = HVAE(Bernoulli(), 40, prior=make_prior(), scale="logvar", **gated)
        assert self.count(two, HierarchicalGuide(scale="logvar", **gated))[0] == 2_431_024 + more

    def test_of_burda_et_al_with_one_layer(self):
        """x-200-200-50 and its mirror image, tanh, deviations by the exponential."""
        tanh = {"hidden_dims": (200, 200), "activation": "tanh", "networks": "shared"}
        number, _ = self.count(VAE(Bernoulli(), 50, **tanh), NormalGuide(scale="exp", **tanh))
        assert number == 425_284

    def test_of_burda_et_al_with_two_layers(self):
        """x-200-200-100-100-100-50 and its mirror image."""

        def layers(size):
            return MLP((size, size), "tanh", "shared", output_gain=1.0, init="glorot")

        leaf = HVAE(Bernoulli(), 100, 50, scale="exp", skip=False, conditional=layers(100), decoder=layers(200))
        guide = HierarchicalGuide(scale="exp", order="bottom-up", encoder=layers(200), second=layers(100))
        number, spvae = self.count(leaf, guide)
        expected = [
            784 * 200 + 200 + 200 * 200 + 200 + 2 * (200 * 100 + 100),
            100 * 100 + 100 + 100 * 100 + 100 + 2 * (100 * 50 + 50),
            50 * 100 + 100 + 100 * 100 + 100 + 2 * (100 * 100 + 100),
            100 * 200 + 200 + 200 * 200 + 200 + 200 * 784 + 784,
        ]
        parts = (guide.first, guide.second, leaf.z1, leaf.pixels.decoder)
        assert [sum(p.numel() for p in part.parameters()) for part in parts] == expected
        assert number == sum(expected) == 521_084
        trace = poutine.trace(spvae.guide).get_trace(torch.zeros(2, 1, 28, 28))
        sizes = {name: site["value"].size(-1) for name, site in trace.nodes.items() if name in ("z1", "z2")}
        assert sizes == {"z1": 100, "z2": 50}
        generated = poutine.trace(spvae.model).get_trace(num=2)
        assert [name for name in generated.stochastic_nodes if name[0] in "xz"] == ["z2", "z1", "x"]


def test_defaults():
    leaf = HVAE(Bernoulli())
    guide = SPVAE(GRID, leaf=leaf).leaf_guide
    assert isinstance(guide, HierarchicalGuide) and guide.order == "top-down" and leaf.skip
    assert isinstance(leaf.prior, StandardNormal)
    for sizes, shapes in (((), (8, 8)), ((5,), (5, 5)), ((5, 3), (3, 5))):
        latents = HVAE(Bernoulli(), *sizes).latents
        assert list(latents) == ["z2", "z1"] and [one.event_shape for one in latents.values()] == [(n,) for n in shapes]
    for gaussian in (leaf.z1, guide.first, guide.second):
        assert (gaussian.scale, gaussian.min_scale) == ("softplus", 1e-3)
    for network in (leaf.z1.network, leaf.pixels.decoder, guide.first.network, guide.second.network):
        assert network.hidden_dims == (32, 32) and network.activation == "softplus"


def test_options_reach_the_networks_that_are_not_given():
    leaf = HVAE(Bernoulli(), hidden_dims=(5, 6), activation="gated", decoder=Joint((7,)))
    assert leaf.z1.network.hidden_dims == (5, 6) and leaf.z1.network.activation == "gated"
    assert leaf.pixels.decoder.hidden_dims == (7,)
    guide = HierarchicalGuide((5, 6), "gated", encoder=MLP((7,), networks="shared"))
    assert guide.first.network.hidden_dims == (7,) and guide.second.network.hidden_dims == (5, 6)


def hvae(**options):
    return HVAE(Bernoulli(), **options)


guide = HierarchicalGuide
ONE_INPUT = "a MLP takes one input, but there are 2 here; give a network of several inputs, such as Joint"
REFUSED = [
    (hvae, {"latent_dim": 0}, "latent_dim is 0; a positive integer is needed"),
    (hvae, {"latent_dim": 2, "top_dim": 0}, "top_dim is 0; a positive integer is needed"),
    (hvae, {"latent_dim": 2, "top_dim": True}, "top_dim is True; a positive integer is needed"),
    (hvae, {"skip": 1}, "skip is 1; True or False is needed"),
    (hvae, {"scale": "relu"}, "scale is 'relu'; known are softplus, precision, exp, logvar"),
    (hvae, {"min_scale": -1}, "min_scale is -1; a number of at least 0 is needed"),
    (hvae, {"activation": "step"}, "activation is 'step'; known are softplus, relu, .*, gated"),
    (hvae, {"hidden_dims": (0,)}, r"hidden_dims is \(0,\); positive integers are needed"),
    (
        hvae,
        {"hidden_dims": (3,), "conditional": MLP(), "decoder": Joint()},
        r"conditional and decoder are given, so leave out the options of the default network \(hidden_dims\)",
    ),
    (hvae, {"prior": MLP()}, "prior is a MLP; an instance of Prior is needed"),
    (hvae, {"conditional": nn.Linear(2, 2)}, "conditional is a Linear; an instance of Network is needed"),
    (hvae, {"decoder": nn.Linear(2, 2)}, "decoder is a Linear; an instance of Network is needed"),
    (HVAE, {"likelihood": Bernoulli}, "likelihood is the class Bernoulli; an instance of Likelihood is needed"),
    (guide, {"order": "up"}, "order is 'up'; known are top-down, bottom-up"),
    (guide, {"scale": "relu"}, "scale is 'relu'; known are softplus, precision, exp, logvar"),
    (
        guide,
        {"activation": "tanh", "encoder": MLP(), "second": Joint()},
        r"encoder and second are given, so leave out the options of the default network \(activation\)",
    ),
    (guide, {"encoder": nn.Linear(2, 2)}, "encoder is a Linear; an instance of Network is needed"),
    (guide, {"second": nn.Linear(2, 2)}, "second is a Linear; an instance of Network is needed"),
    (lambda second: SPVAE(GRID, leaf=hvae(), guide=guide(second=second)), {"second": MLP()}, ONE_INPUT),
    (lambda decoder: SPVAE(GRID, leaf=hvae(decoder=decoder)), {"decoder": MLP()}, ONE_INPUT),
]


@pytest.mark.parametrize(("make", "options", "message"), REFUSED)
def test_refused(make, options, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        make(**options)

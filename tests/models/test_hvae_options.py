# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Two latent layers as the papers configure them, options, refusals."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro import poutine
from torch import nn

from pyro_spvae import CircuitELBO, whole
from pyro_spvae.guides import HierarchicalGuide, LeafGuide, NormalGuide
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import HVAE, SPVAE, VAE
from pyro_spvae.nn import MLP, Joint
from pyro_spvae.priors import MixtureOfGaussians, StandardNormal, VampPrior
from tests.models.hvae_cases import GRID, LATENT, TOP


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
        ("prior", "more"), [(StandardNormal, 0), (lambda: VampPrior(500), 500 * 784), (lambda: VampPrior(7), 7 * 784)]
    )
    def test_of_the_vampprior_paper(self, prior, more):
        gated = {"hidden_dims": (300, 300), "activation": "gated"}
        vae = VAE(Bernoulli(), 40, networks="shared", prior=prior(), **gated)
        guide = NormalGuide(networks="shared", scale="logvar", **gated)
        assert self.count(vae, guide)[0] == 1_116_864 + more
        two = HVAE(Bernoulli(), 40, prior=prior(), scale="logvar", **gated)
        number, spvae = self.count(two, HierarchicalGuide(scale="logvar", **gated))
        assert number == 2_431_024 + more
        assert two.top_dim == 40 and spvae.leaf_guide.order == "top-down"

    def test_mixture_of_gaussians_and_frozen_data(self):
        gated = {"hidden_dims": (300, 300), "activation": "gated"}
        for prior, more in ((MixtureOfGaussians(500), 500 * 81), (VampPrior(data=torch.rand(500, 1, 28, 28)), 0)):
            vae = VAE(Bernoulli(), 40, networks="shared", prior=prior, **gated)
            assert self.count(vae, NormalGuide(networks="shared", **gated))[0] == 1_116_864 + more

    def test_of_burda_et_al_with_one_layer(self):
        """x-200-200-50 and its mirror image, tanh, deviations by the exponential."""
        tanh = {"hidden_dims": (200, 200), "activation": "tanh", "networks": "shared"}
        number, _ = self.count(VAE(Bernoulli(), 50, **tanh), NormalGuide(scale="exp", **tanh))
        encoder = 784 * 200 + 200 + 200 * 200 + 200 + 2 * (200 * 50 + 50)
        decoder = 50 * 200 + 200 + 200 * 200 + 200 + 200 * 784 + 784
        assert number == encoder + decoder == 425_284

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
        parts = (guide.encoder, guide.second, leaf.z1.network, leaf.pixels.decoder)
        assert [sum(p.numel() for p in part.parameters()) for part in parts] == expected
        assert number == sum(expected) == 521_084
        trace = poutine.trace(spvae.guide).get_trace(torch.zeros(2, 1, 28, 28))
        sizes = {name: site["value"].size(-1) for name, site in trace.nodes.items() if name in ("z1", "z2")}
        assert sizes == {"z1": 100, "z2": 50}
        generated = poutine.trace(spvae.model).get_trace(num=2)
        assert [name for name in generated.stochastic_nodes if name[0] in "xz"] == ["z2", "z1", "x"]


class OtherLeafGuide(LeafGuide):
    def build(self, leaves, pixels, latent_dim, top_dim):
        self.z1, self.z2 = nn.Parameter(torch.zeros(leaves, latent_dim)), nn.Parameter(torch.zeros(leaves, top_dim + 1))

    def forward(self, x):
        pyro.sample("z2", pyro.distributions.Normal(self.z2.expand(*x.shape[:-1], -1), 1.0).to_event(1))
        pyro.sample("z1", pyro.distributions.Normal(self.z1.expand(*x.shape[:-1], -1), 1.0).to_event(1))


class TestOptions:
    def test_defaults(self):
        leaf, guide = HVAE(Bernoulli()), HierarchicalGuide()
        assert (leaf.latent_dim, leaf.top_dim, leaf.skip, leaf.scale, leaf.min_scale) == (8, 8, True, "softplus", 1e-3)
        assert leaf.guide_sizes == {"latent_dim": 8, "top_dim": 8}
        assert HVAE(Bernoulli(), 5).top_dim == 5 and HVAE(Bernoulli(), 5, 3).guide_sizes["top_dim"] == 3
        assert (guide.order, guide.scale, guide.min_scale) == ("top-down", "softplus", 1e-3)
        assert isinstance(leaf.prior, StandardNormal)
        for network in (leaf.z1.network, leaf.pixels.decoder, guide.encoder, guide.second):
            assert network.hidden_dims == (32, 32) and network.activation == "softplus"

    def test_the_model_takes_the_guide_by_itself(self):
        spvae = SPVAE(GRID, leaf=HVAE(Bernoulli(), LATENT, TOP))
        assert isinstance(spvae.leaf_guide, HierarchicalGuide) and spvae.leaf_guide.order == "top-down"

    def test_options_reach_the_networks_that_are_not_given(self):
        leaf = HVAE(Bernoulli(), hidden_dims=(5, 6), activation="gated", decoder=Joint((7,)))
        assert leaf.z1.network.hidden_dims == (5, 6) and leaf.z1.network.activation == "gated"
        assert leaf.pixels.decoder.hidden_dims == (7,)
        guide = HierarchicalGuide((5, 6), "gated", encoder=MLP((7,), networks="shared"))
        assert guide.encoder.hidden_dims == (7,) and guide.second.hidden_dims == (5, 6)

    def test_options_make_the_same_parts(self):
        leaf = HVAE(Bernoulli(), 3, 4, (5,), VampPrior(3), "tanh", "exp", 0.1, False)
        options = leaf.options()
        assert (options["latent_dim"], options["top_dim"], options["scale"], options["skip"]) == (3, 4, "exp", False)
        assert options["decoder"] is leaf.pixels.decoder and "hidden_dims" not in options
        guide = HierarchicalGuide((5,), "tanh", "exp", 0.1, "bottom-up")
        assert guide.options()["order"] == "bottom-up" and guide.options()["min_scale"] == 0.1

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: HVAE(Bernoulli(), 0), "latent_dim is 0; a positive integer is needed"),
            (lambda: HVAE(Bernoulli(), 2, 0), "top_dim is 0; a positive integer is needed"),
            (lambda: HVAE(Bernoulli(), 2, True), "top_dim is True; a positive integer is needed"),
            (
                lambda: HVAE(Bernoulli(), skip=1),  # type: ignore[arg-type]
                "skip is 1; True or False is needed",
            ),
            (lambda: HVAE(Bernoulli(), scale="relu"), "scale is 'relu'; known are softplus, precision, exp, logvar"),
            (lambda: HVAE(Bernoulli(), min_scale=-1), "min_scale is -1; a number of at least 0 is needed"),
            (lambda: HVAE(Bernoulli(), activation="step"), "activation is 'step'; known are softplus, relu, .*, gated"),
            (lambda: HVAE(Bernoulli(), hidden_dims=(0,)), r"hidden_dims is \(0,\); positive integers are needed"),
            (lambda: HVAE(Bernoulli(), hidden_dims=()), "hidden_dims is empty; at least one size is needed"),
            (
                lambda: HVAE(Bernoulli(), hidden_dims=(3,), conditional=MLP(), decoder=Joint()),
                "conditional and decoder are given, so leave out hidden_dims and activation",
            ),
            (lambda: HierarchicalGuide(order="up"), "order is 'up'; known are top-down, bottom-up"),
            (lambda: HierarchicalGuide(scale="relu"), "scale is 'relu'; known are softplus, precision, exp, logvar"),
            (
                lambda: HierarchicalGuide(activation="tanh", encoder=MLP(), second=Joint()),
                "encoder and second are given, so leave out hidden_dims and activation",
            ),
            (
                lambda: HierarchicalGuide(second=MLP()),
                "second is a MLP; a Joint network, of features and z2, is needed in the order top-down",
            ),
            (
                lambda: SPVAE(GRID, leaf=VAE(Bernoulli()), guide=HierarchicalGuide()),
                "a HierarchicalGuide needs a leaf with two latent layers, such as HVAE, but it has one",
            ),
        ],
    )
    def test_refused(self, make, message):
        with pytest.raises(ValueError, match=f"^{message}"):
            make()

    def test_parts_of_the_wrong_kind(self):
        with pytest.raises(TypeError, match="^likelihood is the class Bernoulli; an instance of Likelihood is needed$"):
            HVAE(Bernoulli)
        with pytest.raises(TypeError, match="^prior is a MLP; an instance of Prior is needed$"):
            HVAE(Bernoulli(), prior=MLP())
        for name in ("conditional", "decoder"):
            with pytest.raises(TypeError, match=f"^{name} is a Linear; an instance of Network is needed$"):
                HVAE(Bernoulli(), **{name: nn.Linear(2, 2)})
        for name in ("encoder", "second"):
            with pytest.raises(TypeError, match=f"^{name} is a Linear; an instance of Network is needed$"):
                HierarchicalGuide(**{name: nn.Linear(2, 2)})

    def test_guides_that_do_not_fit(self):
        x = torch.zeros(2, 1, 2, 2)

        class Own(NormalGuide):
            """Only when it runs can be seen what it states."""

        spvae = SPVAE(GRID, leaf=HVAE(Bernoulli(), LATENT, TOP), guide=Own())
        with pytest.raises(ValueError, match="the model's latent site 'z2' is not in the guide; add it there"):
            spvae.log_likelihood(x, num_samples=1)
        spvae = SPVAE(GRID, leaf=HVAE(Bernoulli(), LATENT, TOP), guide=OtherLeafGuide())
        message = "^the latent size of the site 'z2' is 3, but the guide draws values of size 4; one size is needed"
        with pytest.raises(ValueError, match=message):
            spvae.log_likelihood(x, num_samples=1)

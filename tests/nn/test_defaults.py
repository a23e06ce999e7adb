# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Models and guides take any network, and make those of their own options by default."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pyro_spvae import CircuitELBO, poon_domingos
from pyro_spvae.guides import NormalGuide
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import SPVAE, VAE
from pyro_spvae.nn import MLP, Joint, Network
from pyro_spvae.nn.defaults import networks_or_defaults
from tests.helpers import gradients


class Linear(Network):
    """A network of one's own: no hidden layer, no bias, and no knowledge of shapes."""

    def build(self, leaves, inputs, outputs):
        self.weights = nn.ParameterList(torch.randn(leaves, inputs, size) for size in outputs)

    def forward(self, x):
        return tuple(torch.einsum("...li,lio->...lo", x, weight) for weight in self.weights)


class Shaped(Linear):
    """One that knows how pixels lie."""

    def build(self, leaves, inputs, outputs, input_shape=None, output_shape=None):
        super().build(leaves, inputs, outputs)
        self.shapes = input_shape, output_shape


def spvae_of(kind, regions, channels=1):
    leaf, guide = VAE(Normal(), 2, decoder=kind()), NormalGuide(encoder=kind(), scale="precision")
    spvae = SPVAE(regions, units=2, leaf=leaf, guide=guide, channels=channels)
    return spvae, leaf.pixels.decoder, guide.z.network


def test_defaults_are_of_the_options():
    one, joint = networks_or_defaults(
        {"one": None, "joint": None}, {"hidden_dims": (5, 4), "activation": "relu"}, ["joint"]
    )
    assert type(one) is MLP and type(joint) is Joint
    assert one.options() == MLP((5, 4), "relu").options() and joint.options() == Joint((5, 4), "relu").options()
    (shared,) = networks_or_defaults({"one": None}, {"networks": None}, shared=True)
    assert shared.options() == MLP(networks="shared").options()
    assert networks_or_defaults({"one": one, "other": None}, {"hidden_dims": (2,)})[0] is one
    for part in (VAE(Normal(), 2, (5,), activation="relu").pixels.decoder, NormalGuide((5,), "relu").z.network):
        assert part.options() == MLP((5,), "relu").options()
    for part in (VAE(Normal()).pixels.decoder, NormalGuide().z.network):
        assert part.options() == MLP().options()


def test_given_networks_are_bound_and_used():
    spvae, decoder, encoder = spvae_of(Linear, poon_domingos((4, 4), delta=2))
    assert decoder.sizes == {"leaves": 8, "inputs": 2, "outputs": (4, 4)}
    assert encoder.sizes == {"leaves": 8, "inputs": 4, "outputs": (2, 2)}
    parameters = {id(p) for p in spvae.parameters()}
    assert all(id(p) in parameters for p in (*decoder.parameters(), *encoder.parameters()))
    x = torch.randn(3, 8, 4)
    torch.testing.assert_close(spvae.leaf_guide.encode(x).loc, encoder(x)[0])
    loss = CircuitELBO(2)(spvae.model, spvae.guide)(torch.randn(3, 1, 4, 4))
    assert all(grad.abs().sum() > 0 for grad in gradients(spvae, loss).values())


@pytest.mark.parametrize(("channels", "patch"), [(1, (1, 2, 4)), (3, (3, 2, 4)), (None, (1, 2, 4))])
def test_those_that_name_the_patch_get_it(channels, patch):
    spvae, decoder, encoder = spvae_of(Shaped, poon_domingos((2, 8), 4), channels)
    assert decoder.shapes == (None, patch) and encoder.shapes == (patch, None)
    assert decoder.sizes["outputs"] == (math.prod(patch),) * 2 and spvae.view.patch == patch


@pytest.mark.parametrize("regions", [poon_domingos((8,), 4), poon_domingos((5, 4), 2)])
def test_tables_and_unequal_regions_have_no_patch(regions):
    _, decoder, encoder = spvae_of(Shaped, regions)
    assert decoder.shapes == encoder.shapes == (None, None)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a VampPrior refuses, in one sentence."""

from __future__ import annotations

import math
import re

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_spvae.distributions import LeafNormal
from pyro_spvae.guides import HierarchicalGuide, LeafGuide, MixedGuide, NormalGuide
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import HVAE, SPVAE, VAE, FactorizedLeaf, MixedLeaf
from pyro_spvae.nn import MLP
from pyro_spvae.priors import VampPrior
from tests.helpers import small_spvae
from tests.models import own_parts
from tests.priors.cases import GRID


class OtherSize(NormalGuide):
    """A posterior of another size than the site."""

    def posterior(self, x):
        q = self.encode(x)
        return LeafNormal(q.loc[..., :1], q.scale[..., :1])


class NotNormal(NormalGuide):
    def posterior(self, x):
        q = self.encode(x)
        return dist.Normal(q.loc, q.scale).to_event(1)


OPTIONS = [
    ("components", (0, -3, 2.0, True), "a positive integer is needed"),
    ("init", ("random",), "known are normal, data"),
    ("frozen", (1,), "True or False is needed"),
    ("mean", (math.inf, "0"), "a finite number is needed"),
    ("std", (-0.1, math.nan), "a number of at least 0 is needed"),
    (
        "range",
        ((1.0, 0.0), (0.0, 0.0), (0.0,), (-math.inf, 0.0), 1.0),
        "two finite numbers, the smaller one first, are",
    ),
    ("weights", ("equal", None), "known are uniform, learned"),
]
X = torch.zeros(3, 1, 2, 2)
COMBINED = [
    ({"components": 4, "data": X}, "components is 4, but there are 3 data; at most as many as data are accepted"),
    ({"data": torch.zeros(0, 4)}, "data is of shape [0, 4]; a tensor [rows, ..] of at least one datum is needed"),
    ({"data": torch.zeros(4)}, "data is of shape [4]; a tensor [rows, ..] of at least one datum is needed"),
    ({"data": [[0.0]]}, "data is a list; a tensor [rows, ..] of at least one datum is needed"),
    ({"data": X / 0}, "data hold 12 NaN or infinite values, the first in row 0 at [0, 0, 0]; finite values are needed"),
    ({"data": X, "init": "normal"}, "init is 'normal', but data are given, from which"),
    ({"frozen": True}, "frozen is True, but init is 'normal'; frozen pseudo-inputs are data: give data, or"),
]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({name: value}, f"{name} is {value!r}; {needed}") for name, values, needed in OPTIONS for value in values),
        *COMBINED,
    ],
)
def test_options(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as error:
        VampPrior(**options)
    assert "\n" not in str(error.value)


def test_data_of_another_shape():
    message = r"^data have shape .*; the model's region graph and channels need \[data, 1, 2, 2\]$"
    for shape in ((3, 2, 2), (3, 1, 2, 3), (3, 4), (3, 1, 1, 2, 2), (4, 4, 1, 1)):
        with pytest.raises(ValueError, match=message):
            small_spvae(prior=VampPrior(data=torch.zeros(shape)))


def vae(prior):
    return VAE(Normal(), 2, (3,), prior)


def mixed(prior):
    return MixedLeaf([vae(prior), FactorizedLeaf(Normal())])


NO_ENCODER = "the guide LinearGuide has no encoder that a VampPrior could use; define posterior(self, x), or choose "
GUIDES = [
    (
        lambda prior: HVAE(Normal(), prior=prior),
        lambda: HierarchicalGuide(order="bottom-up"),
        "a VampPrior needs q(z2 | x), which the order bottom-up has not; choose order='top-down'",
    ),
    (vae, own_parts.LinearGuide, NO_ENCODER),
    (mixed, lambda: MixedGuide([own_parts.LinearGuide(), LeafGuide()]), NO_ENCODER),
    (vae, OtherSize, "the guide's posterior has latent size 1, but the prior's is 2; one size is needed"),
    (vae, NotNormal, "a VampPrior needs a guide whose posterior is a LeafNormal, but it is a Independent"),
]


@pytest.mark.parametrize(("leaf", "guide", "message"), GUIDES)
def test_guides_that_do_not_fit_when_the_model_is_made(leaf, guide, message):
    for init in ("normal", "data"):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
            SPVAE(GRID, leaf=leaf(VampPrior(3, init=init)), guide=guide())


NO_MODEL = "this VampPrior has no encoder; pass it"
USES = [
    (lambda: VampPrior(3).bind(leaves=1, event_shape=(2,), pixels=4)(), NO_MODEL),
    (lambda: VAE(Normal(), prior=VampPrior(3)).bind(leaves=1, pixels=4)(), NO_MODEL),
    (lambda: VampPrior(3).bind(leaves=1, event_shape=(), pixels=4), "a VampPrior is a prior of vectors, but the"),
    (lambda: [small_spvae(prior=prior) for prior in 2 * [VampPrior(3)]], "this VampPrior is bound already"),
    (lambda: small_spvae(prior=VampPrior), "prior is the class VampPrior; an instance of Prior is needed"),
]


@pytest.mark.parametrize(("use", "message"), USES)
def test_uses(use, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        use()


class Normalised(MLP):
    def build(self, leaves, inputs, outputs):
        super().build(leaves, inputs, outputs)
        self.norm = nn.BatchNorm1d(leaves)

    def forward(self, x):
        return super().forward(self.norm(x))


def test_trying_the_encoder_leaves_no_trace():
    """Making a model asks the encoder once, without learning statistics from it."""
    guide = NormalGuide(encoder=Normalised((3,)))
    SPVAE(GRID, leaf=vae(VampPrior(3)), guide=guide)
    assert guide.z.network.norm.num_batches_tracked == 0 and guide.training

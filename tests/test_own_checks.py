# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The checks that others inherit find wrong parts, and take right ones that are unlike ours."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import constraints

from pyro_spvae.blocks import Latent
from pyro_spvae.guides import NormalGuide
from pyro_spvae.likelihoods import Likelihood, Normal
from pyro_spvae.models import LeafModel
from pyro_spvae.priors import Prior
from pyro_spvae.testing import LeafPairTests, LikelihoodTests, PriorTests
from pyro_spvae.testing.block_tests import LEAVES


class Analyser(LeafModel):
    """Normal pixels about a linear function of one latent vector; wrong in the ways that options say."""

    def __init__(self, masks=True, alone=True):
        super().__init__()
        self.latents = {"z": Latent(2)}
        self.masks, self.alone = masks, alone

    def build(self, leaves, pixels, **shapes):
        self.weight = nn.Parameter(torch.randn(leaves, 2, pixels))

    def forward(self, x=None, mask=None):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        mean = torch.einsum("...ld,ldp->...lp", z, self.weight)
        if not self.alone and x is not None:
            mean = mean - x.mean(0) / 2
        pixels = dist.Normal(mean, 0.5)
        if self.masks and mask is not None:
            pixels = pixels.mask(mask)
        return pyro.sample("x", pixels.to_event(1), obs=x)


class Own(LeafPairTests):
    options = {}
    samples = 200

    def make(self):
        return Analyser(**self.options), NormalGuide()


def check(cases, name, **attributes):
    """Runs one inherited check of a subclass with other attributes."""
    own = type("Case", (cases,), attributes)()
    fixtures = {}
    if issubclass(cases, LeafPairTests):
        fixtures = {"spvae": own.model(), "x": own.data(own.rows)}
    else:
        fixtures = {"part": own.bound()}
    getattr(own, name)(**fixtures)


@pytest.mark.parametrize(
    ("options", "name"),
    [({"masks": False}, "test_masked_pixels_count_for_nothing"), ({"alone": False}, "test_rows_are_independent")],
)
def test_leaf_pairs(options, name):
    check(Own, name)
    with pytest.raises(AssertionError):
        check(Own, name, options=options)


class Shifted(Likelihood):
    """Normal pixels of deviation 1, or a Poisson one, wrong as options say."""

    of = "real"
    accepts = "numbers"

    def __init__(self, alone=True, counts=False):
        super().__init__()
        self.is_alone, self.counts = alone, counts

    @property
    def heads(self):
        return (self.sizes["pixels"],)

    def supports(self, x):
        return x.isfinite()

    def forward(self, outputs, mask=None):
        loc = outputs[0] if self.is_alone else outputs[0] - outputs[0].mean(0)
        law = dist.Poisson(loc.exp()) if self.counts else dist.Normal(loc, 1.0)
        return (law if mask is None else law.mask(mask)).to_event(1)


@pytest.mark.parametrize(
    ("options", "name", "message"),
    [
        ({"alone": False}, "test_rows_are_independent", None),
        ({"counts": True}, "test_accepts_only_what_has_a_density", "supports accepts -1.0, which the distribution's"),
    ],
)
def test_likelihoods(options, name, message):
    check(LikelihoodTests, name, make=lambda self: Shifted())
    with pytest.raises(AssertionError, match=message):
        check(LikelihoodTests, name, make=lambda self: Shifted(**options))


class Cusp(Prior):
    """Laplace, of a scale for each leaf, and as much too heavy as it says."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor

    def build(self, leaves, event_shape):
        self.log_scale = nn.Parameter(torch.zeros(leaves, *event_shape))

    def forward(self):
        law = dist.Laplace(torch.zeros_like(self.log_scale), self.log_scale.exp()).to_event(1)
        return law if self.factor == 1 else Heavy(law, self.factor)


class Heavy(dist.TorchDistribution):
    arg_constraints = {}

    def __init__(self, base, factor):
        self.base, self.factor = base, factor
        super().__init__(base.batch_shape, base.event_shape)

    support = constraints.independent(constraints.real, 1)

    def expand(self, batch_shape, _instance=None):
        return Heavy(self.base.expand(batch_shape), self.factor)

    def sample(self, sample_shape=()):
        return self.base.sample(sample_shape)

    def log_prob(self, value):
        return self.base.log_prob(value) + torch.tensor(self.factor).log()


class Positive(Prior):
    """Gamma of concentration 3."""

    support = constraints.independent(constraints.positive, 1)

    def build(self, leaves, event_shape):
        self.log_rate = nn.Parameter(torch.zeros(leaves, *event_shape))

    def forward(self):
        return dist.Gamma(3.0, 2 * self.log_rate.exp()).to_event(1)


class TestCusp(PriorTests):
    reach = 30.0
    mass_error = 1e-3

    def make(self):
        return Cusp()


class TestPositive(PriorTests):
    reach = 20.0
    mass_error = 1e-3

    def make(self):
        return Positive()


def test_priors_that_are_not_normalised():
    name = "test_samples_have_the_moments_of_the_density"
    with pytest.raises(AssertionError, match=r"adds up to \[1\.0[12]"):
        check(TestCusp, name, make=lambda self: Cusp(factor=1.02))


class Shared(Prior):
    """A mixture whose weights are the same for all leaves, and as many as there are leaves."""

    def build(self, leaves, event_shape):
        self.logits = nn.Parameter(torch.zeros(LEAVES))
        self.loc = nn.Parameter(torch.randn(leaves, LEAVES, *event_shape))

    def forward(self):
        weights = dist.Categorical(logits=self.logits.expand(self.loc.shape[:2]))
        return dist.MixtureSameFamily(weights, dist.Normal(self.loc, 0.7).to_event(1))


class TestShared(PriorTests):
    def make(self):
        return Shared()


def test_a_likelihood_without_a_mean_is_told_of():
    class Logistic(Normal):
        def forward(self, outputs, mask=None):
            base = dist.Uniform(torch.zeros_like(outputs[0]), 1.0)
            flow = [dist.transforms.SigmoidTransform().inv, dist.transforms.AffineTransform(outputs[0], 1.0)]
            law = dist.TransformedDistribution(base, flow)
            return (law if mask is None else law.mask(mask)).to_event(1)

    with pytest.raises(pytest.fail.Exception, match="has no mean, by which reconstructions and pictures are made"):
        check(LikelihoodTests, "test_the_mean_is_that_of_draws", make=lambda self: Logistic())

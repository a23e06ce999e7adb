# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Latent variables as a leaf declares them: which supports are one, and what follows from a support."""

from __future__ import annotations

import copy

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch.distributions import transforms

from pyro_spvae import poon_domingos
from pyro_spvae.blocks import Latent
from pyro_spvae.blocks.latent import support_key
from pyro_spvae.distributions import (
    FactorialBernoulli,
    OverlappingExponentials,
    OverlappingLogistics,
    SmoothedBernoulli,
    SmoothedHierarchy,
)
from pyro_spvae.guides import HierarchicalGuide, LeafGuide, MixedGuide, NormalGuide
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import HVAE, SPVAE, VAE, MixedLeaf
from pyro_spvae.priors import Prior
from tests.models.own_leaves import Coin, CoinGuide, Kinds, KindsGuide, Stating
from tests.models.own_parts import Smooth

THIRDS = torch.full((3,), 1 / 3)
LAWS = {
    "real": [
        dist.Normal(0.0, 1.0),
        dist.Normal(torch.zeros(2, 3), 1.0).to_event(2),
        dist.MixtureSameFamily(dist.Categorical(THIRDS), dist.Normal(torch.zeros(3, 2), 1.0).to_event(1)),
        dist.TransformedDistribution(dist.Normal(0.0, 1.0), [dist.transforms.AffineTransform(1.0, 2.0)]),
    ],
    "unit interval": [
        dist.Beta(1.0, 1.0),
        dist.Kumaraswamy(1.0, torch.ones(3)).to_event(1),
        dist.Uniform(0.0, torch.ones(2)),  # half open
        dist.TransformedDistribution(dist.Normal(0.0, 1.0), [transforms.SigmoidTransform()]),
        dist.Beta(1.0, 1.0).mask(False),
    ],
    "other interval": [dist.Uniform(0.0, 2.0)],
    "positive": [dist.LogNormal(0.0, 1.0), dist.Gamma(1.0, 1.0), dist.HalfNormal(1.0)],
    "two kinds": [dist.Bernoulli(0.5), dist.Categorical(torch.ones(2) / 2), dist.Bernoulli(torch.ones(3)).to_event(1)],
    "three kinds": [dist.Categorical(THIRDS), dist.Categorical(torch.ones(4, 3)).to_event(1), dist.Binomial(2, 0.5)],
    "counts": [dist.Poisson(1.0), dist.NegativeBinomial(3, torch.tensor(0.5))],
    "simplex": [dist.Dirichlet(THIRDS)],
    "one hot": [dist.OneHotCategorical(THIRDS)],
}


@pytest.mark.parametrize("name", LAWS)
def test_supports_are_one_where_values_are(name):
    own = support_key(LAWS[name][0].support)
    for other, laws in LAWS.items():
        for law in laws:
            assert (support_key(copy.deepcopy(law.support)) == own) == (other == name), law


@pytest.mark.parametrize("name", LAWS)
def test_points_and_what_lies_between_are_inside_of_the_support(name):
    for law in LAWS[name]:
        latent = Latent(tuple(law.event_shape), law.support)
        points = [latent.point(law, law.sample((1,))), law.sample()]
        for t in (0.0, 0.25, 0.75, 1.0):
            assert law.support.check(latent.between(*points, t)).all(), law
        assert torch.equal(latent.between(*points, 0.0), points[0]) and torch.equal(
            latent.between(*points, 1.0), points[1]
        )


def test_summaries():
    probs = torch.tensor([0.2, 0.5, 0.3])
    for law, expected in (
        (dist.Normal(torch.tensor([1.0, 2.0]), 1.0).to_event(1), torch.tensor([1.0, 2.0])),
        (dist.Beta(torch.tensor(1.0), 3.0), torch.tensor(0.25)),
        (dist.Categorical(probs), probs),
        (dist.Categorical(probs.expand(4, 3)).to_event(1), probs.expand(4, 3)),
        (dist.Categorical(probs).expand([5]).mask(torch.ones(5) > 0), probs.expand(5, 3)),
        (dist.Categorical(torch.tensor([0.2, 0.8])), torch.tensor(0.8)),
        (dist.Bernoulli(torch.tensor([0.3])).to_event(1), torch.tensor([0.3])),
        (dist.Binomial(7, torch.tensor(0.5)), torch.tensor(3.5)),
        (dist.Multinomial(4, probs), 4 * probs),
        (dist.OneHotCategorical(probs), probs),
        (dist.Poisson(torch.tensor(2.0)), torch.tensor(2.0)),
        (dist.Dirichlet(torch.tensor([1.0, 3.0])), torch.tensor([0.25, 0.75])),
    ):
        torch.testing.assert_close(Latent(tuple(law.event_shape), law.support).summary(law), expected)
    assert Latent(()).point(dist.Normal(torch.tensor(3.0), 1.0)) == 3
    assert Latent((), dist.Categorical(probs).support).point(dist.Categorical(probs)) == 1


def test_of_a_distribution_without_mean_draws_are_averaged():
    law = dist.TransformedDistribution(dist.Normal(0.0, 1.0), [transforms.SigmoidTransform()])
    latent, draws = Latent((), constraints.unit_interval), law.sample((50,))
    assert torch.equal(latent.summary(law, draws), draws.mean(0)) and torch.equal(
        latent.point(law, draws), draws.mean(0)
    )
    with pytest.raises(ValueError, match="^a TransformedDistribution has no mean$"):
        latent.summary(law)


@pytest.mark.parametrize("shape", [0, -1, True, 2.0, (2, 0), (2.0,), None, "2"])
def test_event_shapes_are_positive_integers(shape):
    assert Latent(3).event_shape == (3,) and Latent([2, 3]).event_shape == (2, 3) and Latent(()).event_shape == ()
    with pytest.raises(ValueError, match="^event_shape is .*; a positive integer, or a tuple of them, is needed$"):
        Latent(shape)


class BetaPrior(Prior):
    support = constraints.unit_interval

    def build(self, leaves, event_shape):
        self.shape = event_shape

    def forward(self):
        return dist.Beta(torch.ones(self.shape), 1.0).to_event(1)


class Untold(BetaPrior):
    support = constraints.real


NORMAL = dist.Normal(torch.zeros(2), 1.0).to_event(1)


REFUSED = [
    (
        VAE(Bernoulli(), 2, prior=BetaPrior()),
        NormalGuide(),
        "the guide NormalGuide draws the site 'z' from the real numbers, but the leaf VAE declares numbers from 0 to 1",
    ),
    (
        VAE(Bernoulli(), 2, prior=Untold()),
        NormalGuide(),
        "the leaf VAE draws the site 'z' from numbers from 0 to 1, but the leaf VAE declares the real numbers;",
    ),
    (
        VAE(Bernoulli(), 3),
        Stating(z=NORMAL),
        r"the guide Stating draws the site 'z' with events of shape \[2\], but the leaf VAE declares \[3\]; one shape",
    ),
    (
        VAE(Bernoulli(), 2),
        Stating(z=NORMAL, y=NORMAL),
        "the guide Stating states the latent sites z, y, but the leaf VAE declares z; they must agree",
    ),
    (VAE(Bernoulli()), LeafGuide(), "the guide LeafGuide states the latent sites none, but the leaf VAE declares z;"),
    (HVAE(Bernoulli()), NormalGuide(), "a NormalGuide states the latent sites z, but the leaf declares z2, z1; give a"),
    (
        VAE(Bernoulli()),
        HierarchicalGuide(),
        "a HierarchicalGuide states the latent sites z2, z1, but the leaf declares z; give a guide of these",
    ),
    (
        Coin(),
        Stating(p=dist.Bernoulli(torch.tensor(0.5))),
        "the guide Stating draws the site 'p' from the integers from 0 to 1, but the leaf Coin declares numbers from 0",
    ),
    (
        Coin(),
        Stating(p=dist.Delta(torch.tensor(1.5))),
        "the guide Stating draws the site 'p' from the real numbers, but the leaf Coin declares numbers from 0 to 1;",
    ),
    (
        Kinds(),
        Stating(c=dist.Categorical(torch.ones(4) / 4)),
        "the guide Stating draws the site 'c' from the integers from 0 to 3, but the leaf Kinds declares the integers",
    ),
    (
        VAE(Bernoulli(), 2),
        Stating(z=SmoothedBernoulli(torch.zeros(2), OverlappingExponentials())),
        "the guide Stating draws the site 'z' from numbers from 0 to 1, but the leaf VAE declares the real numbers;",
    ),
    (
        VAE(Bernoulli(), 2, prior=Smooth(OverlappingExponentials())),
        Stating(z=dist.Uniform(torch.zeros(2), 1.0).to_event(1)),
        "the guide Stating draws the site 'z' from numbers from 0 to 1, but the leaf VAE declares the integers",
    ),
    (Kinds(), CoinGuide(), "a CoinGuide states the latent sites p, but the leaf declares c; give a guide of these"),
]


@pytest.mark.parametrize(("leaf", "guide", "message"), REFUSED)
def test_a_guide_that_does_not_fit_is_refused_when_the_model_is_made(leaf, guide, message):
    with pytest.raises(ValueError, match=f"^{message}") as error:
        SPVAE(poon_domingos((2, 2), delta=1), leaf=leaf, guide=guide)
    assert "\n" not in str(error.value)


def test_what_fits_is_taken():
    for leaf, guide in (
        (Coin(), Stating(p=dist.Kumaraswamy(torch.tensor(1.0), 2.0))),
        (Coin(), Stating(p=dist.Delta(torch.tensor(0.5)))),
        (Kinds(2), Stating(c=dist.Bernoulli(torch.tensor(0.5)))),
        (Kinds(3), KindsGuide()),
        (VAE(Bernoulli(), 2, prior=BetaPrior()), Stating(z=dist.Beta(torch.ones(2), 1.0).to_event(1))),
    ):
        spvae = SPVAE(poon_domingos((2, 2), delta=1), leaf=leaf, guide=guide)
        assert spvae.embed(spvae.sample(2)).latents.keys() == spvae.latents.keys()


def bits(smoothing):
    """A leaf with two latent bits."""
    return VAE(Bernoulli(), 2, prior=Smooth(smoothing))


@pytest.mark.parametrize("smoothing", [OverlappingExponentials(), OverlappingLogistics()])
def test_smoothed_bits_stand_for_bits(smoothing):
    """Whatever the support of the smoothed variable is, and whatever wraps its distribution; of the model and guide."""
    logits = torch.zeros(2)
    chain = SmoothedHierarchy((1, 1), lambda group, before: torch.zeros(() if group else (1, 1))[..., None], smoothing)
    for law in (
        SmoothedBernoulli(logits, smoothing),
        SmoothedBernoulli(logits, smoothing).mask(torch.tensor(True)),
        SmoothedBernoulli(logits.unsqueeze(0), smoothing).expand((1, 1)),
        FactorialBernoulli(logits),
        chain,
    ):
        spvae = SPVAE(poon_domingos((2, 2), delta=1), leaf=bits(smoothing), guide=Stating(z=law))
        assert spvae.latents["z"].is_discrete
    leaf = MixedLeaf([bits(smoothing), VAE(Bernoulli(), 2, prior=Smooth(smoothing))], (1, 1))
    guide = MixedGuide([Stating(z=SmoothedBernoulli(logits, smoothing)), Stating(z=FactorialBernoulli(logits))], (1, 1))
    assert SPVAE(poon_domingos((2, 2), delta=1), leaf=leaf, guide=guide).leaf is leaf

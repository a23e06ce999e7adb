# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The discretised logistic likelihood, in its own form and that of the VampPrior paper."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from pyro_spvae.likelihoods import DiscretizedLogistic
from pyro_spvae.testing.block_tests import LEAVES, PIXELS, ROWS
from pyro_spvae.training.build import build_likelihood, build_model
from pyro_spvae.training.reading import modelled
from pyro_spvae.training.resolve import resolve
from tests.likelihoods.test_likelihoods import LikelihoodTests
from tests.training.cases import TINY, images, table


class TestDiscretizedLogistic(LikelihoodTests):
    levels = 4
    heads = (PIXELS, PIXELS)
    outside = (4.0, -1.0, 0.5, math.nan, math.inf)
    accepts = "the integers 0 to 3"

    def make(self):
        return DiscretizedLogistic(4)

    def outputs(self, part, rows=ROWS):
        loc, raw = super().outputs(part, rows)
        return loc, raw - 2  # inside of the range of log-scales

    def test_features_lie_in_the_unit_interval_and_keep_order(self, part):
        features = part.features(torch.arange(4.0))
        torch.testing.assert_close(features, torch.tensor([0.125, 0.375, 0.625, 0.875]))

    def test_parameters(self, part):
        loc, raw = torch.tensor([[-9.0, 0.0, 1.0, 9.0]] * LEAVES), torch.tensor([[-50.0, -4.0, 0.0, 2.0]] * LEAVES)
        distribution = part((loc, raw))
        torch.testing.assert_close(distribution.loc, 0.5 + loc)
        torch.testing.assert_close(distribution.log_scale.exp(), 1e-3 + torch.nn.functional.softplus(raw))
        assert (distribution.levels, distribution.edges) == (4, "tails")

    def test_initial_outputs_have_gradients(self, part):
        outputs = tuple(output.requires_grad_() for output in part.initial_outputs(LEAVES))
        x = self.draw(5, LEAVES, PIXELS)
        distribution = part(outputs)
        torch.testing.assert_close(
            distribution.log_scale.exp() * math.pi / math.sqrt(3), torch.full((LEAVES, PIXELS), 0.3)
        )
        by_loc, by_log_scale = torch.autograd.grad(distribution.log_prob(x).sum(), outputs)
        loc = outputs[0].sigmoid() if part.location == "sigmoid" else outputs[0] + 0.5
        inside = loc == distribution.loc  # the truncated form moves means away from the ends
        assert inside.any() and torch.equal(by_loc != 0, inside) and (by_log_scale != 0).all()


class TestOfPaper(TestDiscretizedLogistic):
    """Means and scales of the VampPrior paper, edges that take in the tails."""

    def make(self):
        return DiscretizedLogistic(4, scale="hardtanh")

    def test_parameters(self, part):
        loc, raw = torch.tensor([[-9.0, 0.0, 1.0, 9.0]] * LEAVES), torch.tensor([[-7.0, -4.0, -0.5, 2.0]] * LEAVES)
        distribution = part((loc, raw))
        half = 1 / 8 if part.edges == "truncated" else 0.0
        torch.testing.assert_close(distribution.loc, loc.sigmoid().clamp(half, 1 - half))
        torch.testing.assert_close(distribution.log_scale[0], torch.tensor([-4.5, -4.0, -0.5, 0.0]))
        assert (distribution.levels, distribution.edges) == (4, part.edges)


class TestTruncated(TestOfPaper):
    def make(self):
        return DiscretizedLogistic(4, edges="truncated")

    # less than 1: see TestMasses of the distribution
    test_is_normalised_and_drawn_from = test_density_is_normalised_over_the_support = None

    def test_is_a_lower_bound_of_the_normalised_masses(self):
        likelihood = DiscretizedLogistic(edges="truncated").bind(leaves=LEAVES, pixels=1)
        raw = (3 * torch.randn(50, LEAVES, 1), torch.rand(50, LEAVES, 1) * -4.5)
        every = torch.arange(256.0).reshape(-1, 1, 1, 1)
        log_mass = likelihood(raw).log_prob(every)
        total = log_mass.logsumexp(0)
        assert (total < 2.6e-5).all() and (total < -0.1).any()
        assert (log_mass <= log_mass.log_softmax(0) + 2.6e-5).all()


class TestExponential(TestDiscretizedLogistic):
    def make(self):
        return DiscretizedLogistic(4, scale="exp", min_scale=0.02, location="free")

    def test_parameters(self, part):
        raw = torch.tensor([[-50.0, -4.0, -3.0, 2.0]] * LEAVES)
        expected = torch.tensor([[0.02, 0.02, math.exp(-3), math.exp(2)]] * LEAVES)
        torch.testing.assert_close(part((torch.zeros_like(raw), raw)).log_scale.exp(), expected)


class TestSoftplus(TestDiscretizedLogistic):
    def make(self):
        return DiscretizedLogistic(4, scale="softplus", min_scale=0.01)

    def test_parameters(self, part):
        raw = torch.tensor([[-50.0, -4.0, 0.0, 2.0]] * LEAVES)
        expected = 0.01 + torch.nn.functional.softplus(raw)
        torch.testing.assert_close(part((torch.zeros_like(raw), raw)).log_scale.exp(), expected)

    def test_scales_outside_the_range_of_the_paper_have_gradients(self):
        x = torch.tensor([[0.0, 100.0, 200.0, 255.0]] * LEAVES)
        for scale, has in (("softplus", True), ("hardtanh", False)):
            likelihood = DiscretizedLogistic(scale=scale).bind(leaves=LEAVES, pixels=PIXELS)
            for start in (-7.0, 3.0):
                raw = torch.full((LEAVES, PIXELS), start).requires_grad_()
                log_prob = likelihood((torch.zeros_like(raw), raw)).log_prob(x)
                assert bool((torch.autograd.grad(log_prob.sum(), raw)[0] != 0).all()) == has

    def test_scale_has_a_floor(self):
        likelihood = DiscretizedLogistic(scale="softplus").bind(leaves=LEAVES, pixels=PIXELS)
        outputs = (torch.zeros(LEAVES, PIXELS), torch.full((LEAVES, PIXELS), -1e3))
        torch.testing.assert_close(likelihood(outputs).log_scale.exp(), torch.full((LEAVES, PIXELS), 1e-3))
        assert likelihood.min_scale == 1e-3


def test_black_and_white_may_be_certain():
    """The mean is half plus the first output, which the mass at an end follows as far as there is."""
    part = DiscretizedLogistic().bind(leaves=1, pixels=1)
    for level, loc in ((0.0, -0.6), (255.0, 0.6)):
        outputs = (torch.full((1, 1), loc), torch.full((1, 1), -4.0))
        scale = 1e-3 + math.log1p(math.exp(-4.0))
        mass = 1 / (1 + math.exp(-(0.1 + 1 / 256) / scale))
        assert float(part(outputs).log_prob(torch.full((1, 1), level)).exp()) == pytest.approx(mass, rel=1e-6)
        assert mass > 0.995
    within = DiscretizedLogistic(location="sigmoid").bind(leaves=1, pixels=1)
    grid = (torch.linspace(-40, 40, 201).reshape(-1, 1, 1), torch.linspace(-40, 5, 101).reshape(-1, 1, 1, 1))
    assert float(within(grid).log_prob(torch.zeros(1)).exp().max()) > 0.9  # at the floor of scales alone
    paper = DiscretizedLogistic(scale="hardtanh").bind(leaves=1, pixels=1)
    assert float(paper(grid).log_prob(torch.zeros(1)).exp().max()) == pytest.approx(0.587, abs=1e-3)


REFUSED = [
    ({"levels": 0}, "levels is 0; a positive integer is needed"),
    ({"levels": 1}, "levels is 1; at least 2 are needed"),
    ({"edges": "none"}, "edges is 'none'; known are tails, truncated"),
    ({"scale": "log"}, "scale is 'log'; known are hardtanh, softplus, exp"),
    ({"location": "identity"}, "location is 'identity'; known are free, sigmoid"),
    ({"from_mean": 0}, "from_mean is 0; True or False is needed"),
    (
        {"scale": "hardtanh", "min_scale": 0.1},
        "min_scale is 0.1, but the scale 'hardtanh' has a floor of its own; leave it out",
    ),
    ({"scale": "softplus", "min_scale": -1}, "min_scale is -1; a number of at least 0 is needed"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_refused_options(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        DiscretizedLogistic(**options)


@pytest.mark.parametrize(
    ("options", "forms"),
    [
        ({}, ("softplus", 1e-3, "free", True)),
        ({"min_scale": 0.1}, ("softplus", 0.1, "free", True)),
        ({"edges": "truncated"}, ("hardtanh", None, "sigmoid", False)),
        ({"scale": "hardtanh"}, ("hardtanh", None, "sigmoid", False)),
        ({"scale": "softplus"}, ("softplus", 1e-3, "sigmoid", False)),
        ({"scale": "hardtanh", "location": "free"}, ("hardtanh", None, "free", True)),
    ],
)
def test_forms_that_options_name(options, forms):
    """Each of those that were there before free locations is what it was."""
    part = DiscretizedLogistic(**options)
    assert (part.scale, part.min_scale, part.location, part.from_mean) == forms
    again = DiscretizedLogistic(**part.options())
    assert (again.scale, again.min_scale, again.location, again.from_mean) == forms


@pytest.mark.parametrize("text", ["discretized-logistic", "discretized-logistic(edges=truncated,scale=softplus)"])
def test_is_made_by_name_with_the_levels_of_the_data(text):
    data = images(levels=7)
    config = resolve(dataclasses.replace(TINY, likelihood=text), data)
    assert config.preprocess == "integers"
    data = modelled(config, data)
    likelihood = build_likelihood(config, data.values)
    assert isinstance(likelihood, DiscretizedLogistic) and likelihood.levels == 7
    spvae = build_model(config, data)
    x = spvae.model(num=3)
    spvae.check(x)
    assert spvae.log_likelihood(x.float(), num_samples=2).isfinite().all()
    x[0, 0, 0, 0] = 7
    with pytest.raises(ValueError, match="the likelihood DiscretizedLogistic accepts the integers 0 to 6$"):
        spvae.check(x)


def test_continuous_values_are_refused():
    with pytest.raises(ValueError, match="^likelihood is 'discretized-logistic', but the values of table are cont"):
        resolve(dataclasses.replace(TINY, likelihood="discretized-logistic"), table())


def test_gradients_of_a_scale_too_large_for_its_type_are_finite():
    likelihood = DiscretizedLogistic(16, scale="exp").bind(leaves=1, pixels=1)
    outputs = [torch.tensor([[value]], dtype=torch.float32, requires_grad=True) for value in (0.1, 100.0)]
    value = likelihood(tuple(outputs)).log_prob(torch.tensor([[3.0]], dtype=torch.float32))
    grads = torch.autograd.grad(value.sum(), outputs)
    assert bool(value.isfinite()) and all(bool(grad.isfinite()) for grad in grads)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Checks that every likelihood inherits."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from pyro_spvae.likelihoods import Bernoulli, Binomial, Categorical, Normal

LEAVES, PIXELS = 3, 4
ROWS = 5


class LikelihoodTests:
    """A likelihood is a module whose call turns decoder outputs into a distribution over the pixels of every leaf."""

    levels: int | None = None  # number of values of a pixel, None for real numbers
    heads: tuple[int, ...] = (PIXELS,)
    outside: tuple[float, ...] = ()
    accepts: str

    def make(self):
        raise NotImplementedError

    @pytest.fixture
    def likelihood(self):
        return self.make().bind(leaves=LEAVES, pixels=PIXELS)

    def outputs(self, *lead):
        return tuple(torch.randn(*lead, head) for head in self.heads)

    def values(self, *shape):
        return torch.randn(shape) if self.levels is None else torch.randint(self.levels, shape).double()

    def test_heads_follow_the_pixels(self, likelihood):
        assert likelihood.heads == self.heads
        other = self.make().bind(leaves=LEAVES, pixels=2 * PIXELS)
        assert other.heads == tuple(2 * head for head in self.heads)

    def test_shapes(self, likelihood):
        distribution = likelihood(self.outputs(2, ROWS, LEAVES))
        assert distribution.batch_shape == (2, ROWS, LEAVES) and distribution.event_shape == (PIXELS,)
        assert distribution.sample().shape == distribution.mean.shape == (2, ROWS, LEAVES, PIXELS)
        assert distribution.log_prob(self.values(ROWS, LEAVES, PIXELS)).shape == (2, ROWS, LEAVES)

    def test_density_is_normalised_over_the_support(self):
        likelihood = self.make().bind(leaves=LEAVES, pixels=1)
        sizes = likelihood.heads
        outputs = tuple(torch.randn(LEAVES, size) for size in sizes)
        if self.levels is None:
            grid = torch.linspace(-60, 60, 120_001)
            step = (grid[1] - grid[0]).item()
        else:
            grid, step = torch.arange(self.levels).double(), 1.0
        density = likelihood(outputs).log_prob(grid[:, None, None].expand(-1, LEAVES, 1)).exp()
        torch.testing.assert_close(density.sum(0) * step, torch.ones(LEAVES), atol=1e-6, rtol=0)
        mean = (density * grid[:, None]).sum(0) * step
        torch.testing.assert_close(likelihood(outputs).mean.squeeze(-1), mean, atol=1e-5, rtol=0)

    def test_pixels_are_independent(self, likelihood):
        outputs, x = self.outputs(ROWS, LEAVES), self.values(ROWS, LEAVES, PIXELS)
        masks = torch.eye(PIXELS, dtype=torch.bool)
        alone = [likelihood(outputs, mask).log_prob(x) for mask in masks]
        torch.testing.assert_close(likelihood(outputs).log_prob(x), sum(alone))

    def test_masked_pixels_contribute_exactly_zero(self, likelihood):
        outputs, x = self.outputs(ROWS, LEAVES), self.values(ROWS, LEAVES, PIXELS)
        mask = torch.rand(ROWS, LEAVES, PIXELS) < 0.5
        mask[0] = False
        log_prob = likelihood(outputs, mask).log_prob(x)
        assert (log_prob[0] == 0).all()
        other = torch.where(mask, x, self.values(ROWS, LEAVES, PIXELS))
        assert not torch.equal(other, x)
        torch.testing.assert_close(likelihood(outputs, mask).log_prob(other), log_prob, rtol=0, atol=0)
        torch.testing.assert_close(
            likelihood(outputs, torch.ones_like(mask)).log_prob(x), likelihood(outputs).log_prob(x)
        )

    def test_samples_are_in_the_support_and_pass_the_check(self, likelihood):
        x = likelihood(self.outputs(200, LEAVES)).sample()
        assert likelihood.supports(x).all()
        likelihood.check(x, torch.ones_like(x, dtype=torch.bool))
        if self.levels is not None:
            assert set(x.unique().tolist()) == set(range(self.levels)), "each level comes up"

    def test_features_lie_in_the_unit_interval_and_keep_order(self, likelihood):
        if self.levels is None:
            x = torch.rand(ROWS, LEAVES, PIXELS)
            assert torch.equal(likelihood.features(x), x)
        else:
            features = likelihood.features(torch.arange(self.levels).double())
            torch.testing.assert_close(features, torch.linspace(0, 1, self.levels))

    def test_values_outside_are_refused_with_value_and_count(self, likelihood):
        for value, count in itertools.product(self.outside, (1, 3)):
            x = self.values(ROWS, LEAVES, PIXELS)
            x.view(-1)[:count] = value
            mask = torch.ones_like(x, dtype=torch.bool)
            assert int((~likelihood.supports(x)).sum()) == count
            with pytest.raises(ValueError) as error:
                likelihood.check(x, mask)
            assert str(error.value) == (
                f"x holds the value {value:g} ({count} such entries); "
                f"the likelihood {type(likelihood).__name__} accepts {self.accepts}"
            )
            mask.view(-1)[:count] = False
            likelihood.check(x, mask)  # what is not seen may be anything

    def test_gradients_of_the_outputs(self, likelihood):
        outputs = tuple(output.requires_grad_() for output in self.outputs(1, LEAVES))
        x = self.values(1, LEAVES, PIXELS)
        assert torch.autograd.gradcheck(lambda *heads: likelihood(heads).log_prob(x), outputs)


class TestBernoulli(LikelihoodTests):
    levels = 2
    outside = (2.0, -1.0, 0.5, math.nan, math.inf)
    accepts = "0 and 1"

    def make(self):
        return Bernoulli()

    def test_outputs_are_logits(self, likelihood):
        (logits,) = outputs = self.outputs(ROWS, LEAVES)
        torch.testing.assert_close(likelihood(outputs).mean, logits.sigmoid())


class TestBinomial(LikelihoodTests):
    levels = 6
    outside = (6.0, -1.0, 0.5, math.nan, math.inf)
    accepts = "the integers 0 to 5"

    def make(self):
        return Binomial(5)

    def test_outputs_are_logits(self, likelihood):
        (logits,) = outputs = self.outputs(ROWS, LEAVES)
        torch.testing.assert_close(likelihood(outputs).mean, 5 * logits.sigmoid())


class TestCategorical(LikelihoodTests):
    levels = 3
    heads = (PIXELS * 3,)
    outside = (3.0, -1.0, 0.5, math.nan, -math.inf)
    accepts = "the integers 0 to 2"

    def make(self):
        return Categorical(3)

    def test_outputs_are_the_logits_of_pixel_after_pixel(self, likelihood):
        (logits,) = outputs = self.outputs(ROWS, LEAVES)
        probabilities = logits.reshape(ROWS, LEAVES, PIXELS, 3).softmax(-1)
        for level in range(3):
            x = torch.full((ROWS, LEAVES, PIXELS), float(level))
            expected = probabilities[..., level].log().sum(-1)
            torch.testing.assert_close(likelihood(outputs).log_prob(x), expected)


class TestNormal(LikelihoodTests):
    heads = (PIXELS, PIXELS)
    outside = (math.nan, math.inf, -math.inf)
    accepts = "finite real numbers"

    def make(self):
        return Normal()

    def test_scale_has_a_floor(self, likelihood):
        outputs = (torch.zeros(LEAVES, PIXELS), torch.full((LEAVES, PIXELS), -1e3))
        torch.testing.assert_close(likelihood(outputs).stddev, torch.full((LEAVES, PIXELS), 1e-3))


class TestNormalOfThePaper(TestNormal):
    def make(self):
        return Normal(mean="sigmoid", scale="precision")

    def test_scale_has_a_floor(self, likelihood):
        loc, raw = outputs = self.outputs(ROWS, LEAVES)
        distribution = likelihood(outputs)
        torch.testing.assert_close(distribution.mean, loc.sigmoid())
        torch.testing.assert_close(distribution.stddev**-2, 1 + raw**2)  # the paper's form has none
        floored = Normal(scale="precision", min_scale=0.9).bind(leaves=LEAVES, pixels=PIXELS)
        assert floored(outputs).stddev.min() == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Binomial(0), "total_count is 0; a positive integer is needed"),
        (
            lambda: Binomial(2.0),
            "total_count is 2.0; a positive integer is needed",
        ),
        (lambda: Categorical(-1), "levels is -1; a positive integer is needed"),
        (lambda: Categorical(True), "levels is True; a positive integer is needed"),
        (lambda: Normal(mean="tanh"), "mean is 'tanh'; known are identity, sigmoid"),
        (lambda: Normal(scale="relu"), "scale is 'relu'; known are softplus, precision, exp, logvar"),
        (lambda: Normal(min_scale=-1), "min_scale is -1; a number of at least 0 is needed"),
    ],
)
def test_refused_options(make, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make()

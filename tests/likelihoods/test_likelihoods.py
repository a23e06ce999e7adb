# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Checks that every likelihood inherits."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from pyro_spvae import testing
from pyro_spvae.likelihoods import Bernoulli, Binomial, Categorical, Normal
from pyro_spvae.testing.block_tests import LEAVES, PIXELS, ROWS


class LikelihoodTests(testing.LikelihoodTests):
    """What a user's own likelihood inherits, to the last digit, and what is particular to levels or numbers."""

    levels: int | None = None  # number of values of a pixel, None for real numbers
    heads: tuple[int, ...] = (PIXELS,)
    accepts: str

    @property
    def values(self):
        return None if self.levels is None else torch.arange(float(self.levels))

    def draw(self, *shape):
        return torch.randn(shape) if self.levels is None else torch.randint(self.levels, shape).double()

    def test_heads_follow_the_pixels(self, part):
        assert part.heads == self.heads
        assert self.make().bind(leaves=LEAVES, pixels=2 * PIXELS).heads == tuple(2 * head for head in self.heads)

    def test_density_is_normalised_over_the_support(self):
        likelihood = self.make().bind(leaves=LEAVES, pixels=1)
        outputs = tuple(torch.randn(LEAVES, size) for size in likelihood.heads)
        grid = torch.linspace(-60, 60, 120_001) if self.values is None else self.values
        step = 1.0 if self.levels else (grid[1] - grid[0]).item()
        density = likelihood(outputs).log_prob(grid[:, None, None].expand(-1, LEAVES, 1)).exp()
        torch.testing.assert_close(density.sum(0) * step, torch.ones(LEAVES), atol=1e-6, rtol=0)
        mean = (density * grid[:, None]).sum(0) * step
        torch.testing.assert_close(likelihood(outputs).mean.squeeze(-1), mean, atol=1e-5, rtol=0)

    def test_features_lie_in_the_unit_interval_and_keep_order(self, part):
        if self.levels is None:
            x = torch.rand(ROWS, LEAVES, PIXELS)
            assert torch.equal(part.features(x), x)
        else:
            torch.testing.assert_close(part.features(self.values), torch.linspace(0, 1, self.levels))

    def test_values_outside_are_refused_with_value_and_rows(self, part):
        for value, count in itertools.product(self.outside, (1, 3)):
            x = self.draw(ROWS, LEAVES, PIXELS)
            x[-count:, :, 0] = value
            assert int((~part.supports(x)).sum()) == count * LEAVES
            more = f" ({count} such rows)" if count > 1 else ""
            with pytest.raises(ValueError) as error:
                part.check(x, torch.ones_like(x, dtype=torch.bool))
            assert str(error.value) == (
                f"x holds the value {value:g} in row {ROWS - count}{more}; "
                f"the likelihood {type(part).__name__} accepts {self.accepts}"
            )

    def test_gradients_of_the_outputs(self, part):
        outputs = tuple(output.requires_grad_() for output in self.outputs(part, 1))
        x = self.draw(1, LEAVES, PIXELS)
        assert torch.autograd.gradcheck(lambda *heads: part(heads).log_prob(x), outputs)


class TestBernoulli(LikelihoodTests):
    levels = 2
    outside = (2.0, -1.0, 0.5, math.nan, math.inf)
    accepts = "0 and 1"

    def make(self):
        return Bernoulli()

    def test_outputs_are_logits(self, part):
        (logits,) = outputs = self.outputs(part)
        torch.testing.assert_close(part(outputs).mean, logits.sigmoid())


class TestBinomial(LikelihoodTests):
    levels = 6
    outside = (6.0, -1.0, 0.5, math.nan, math.inf)
    accepts = "the integers 0 to 5"

    def make(self):
        return Binomial(5)

    def test_outputs_are_logits(self, part):
        (logits,) = outputs = self.outputs(part)
        torch.testing.assert_close(part(outputs).mean, 5 * logits.sigmoid())


class TestCategorical(LikelihoodTests):
    levels = 3
    heads = (PIXELS * 3,)
    outside = (3.0, -1.0, 0.5, math.nan, -math.inf)
    accepts = "the integers 0 to 2"

    def make(self):
        return Categorical(3)

    def test_outputs_are_the_logits_of_pixel_after_pixel(self, part):
        (logits,) = outputs = self.outputs(part)
        probabilities = logits.reshape(ROWS, LEAVES, PIXELS, 3).softmax(-1)
        for level in range(3):
            x = torch.full((ROWS, LEAVES, PIXELS), float(level))
            expected = probabilities[..., level].log().sum(-1)
            torch.testing.assert_close(part(outputs).log_prob(x), expected)


class TestNormal(LikelihoodTests):
    heads = (PIXELS, PIXELS)
    outside = (math.nan, math.inf, -math.inf)
    accepts = "finite real numbers"

    def make(self):
        return Normal()

    def test_scale_has_a_floor(self, part):
        outputs = (torch.zeros(LEAVES, PIXELS), torch.full((LEAVES, PIXELS), -1e3))
        torch.testing.assert_close(part(outputs).stddev, torch.full((LEAVES, PIXELS), 1e-3))


class TestNormalOfThePaper(TestNormal):
    def make(self):
        return Normal(mean="sigmoid", scale="precision")

    def test_scale_has_a_floor(self, part):
        loc, raw = outputs = self.outputs(part)
        distribution = part(outputs)
        torch.testing.assert_close(distribution.mean, loc.sigmoid())
        torch.testing.assert_close(distribution.stddev**-2, 1 + raw**2)  # the paper's form has none
        floored = Normal(scale="precision", min_scale=0.9).bind(leaves=LEAVES, pixels=PIXELS)
        assert floored(outputs).stddev.min() == pytest.approx(0.9)


def refused(kind, option, values, needed):
    """Rows of a table: how it is made, and what is said."""
    return [(lambda v=value: kind(**{option: v}), f"{option} is {value!r}; {needed}") for value in values]


REFUSED = [
    *refused(Binomial, "total_count", (0, 2.0), "a positive integer is needed"),
    *refused(Categorical, "levels", (-1, True), "a positive integer is needed"),
    *refused(Normal, "mean", ("tanh",), "known are identity, sigmoid"),
    *refused(Normal, "scale", ("relu",), "known are softplus, precision, exp, logvar"),
    *refused(Normal, "min_scale", (-1,), "a number of at least 0 is needed"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_refused_options(make, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make()

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The discretised logistic: its masses are differences of the logistic's distribution function, however far out."""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import logistic
from torch.testing import assert_close

from pyro_spvae.distributions import LeafDiscretizedLogistic, LeafDiscretizedLogisticMixture
from pyro_spvae.distributions import logistic_bins as module
from tests.distributions.leaf_cases import BATCH, SIZE, MaskedLeafDistributionTests

LEVELS = 4
EXTREME = [(1 / 512, -4.5), (0.5, 0.0), (0.3, -8.0), (0.25, -25.0), (0.5, 20.0), (-3.0, -4.5), (40.0, -2.0)]


class Bins(dist.Categorical):
    """Masses by differences of sigmoids, moments by enumeration."""

    def __init__(self, loc, log_scale):
        self.loc, self.log_scale = torch.broadcast_tensors(loc, log_scale)
        inner = torch.arange(1.0, LEVELS) / LEVELS
        reached = torch.sigmoid((loc.unsqueeze(-1) - inner) * torch.exp(-log_scale).unsqueeze(-1))
        ends = [torch.ones_like(reached[..., :1]), reached, torch.zeros_like(reached[..., :1])]
        super().__init__(probs=-torch.cat(ends, -1).diff(dim=-1))

    def expand(self, batch_shape, _instance=None):
        return type(self)(self.loc.expand(batch_shape), self.log_scale.expand(batch_shape))

    @property
    def mean(self):
        return self.probs @ torch.arange(float(LEVELS))

    @property
    def variance(self):
        return self.probs @ torch.arange(float(LEVELS)).square() - self.mean.square()


class Truncated(Bins):
    """The paper's masses, and the moments of draws."""

    def log_prob(self, value):
        """As the VampPrior paper's code writes it."""
        scale = self.log_scale.exp()
        start = (torch.floor((value + 0.5) / LEVELS * LEVELS) / LEVELS - self.loc) / scale
        return torch.log(torch.sigmoid(start + 1 / (LEVELS * scale)) - torch.sigmoid(start) + 1e-7)


def masses(loc, log_scale, levels=256, edges="tails", dtype=torch.float64):
    """Log-masses of all levels, ``[level]``."""
    every = torch.arange(float(levels), dtype=dtype).unsqueeze(-1)
    loc, log_scale = (torch.tensor([value], dtype=dtype) for value in (loc, log_scale))
    return LeafDiscretizedLogistic(loc, log_scale, levels, edges=edges).log_prob(every)


def masses_of(d, every):
    """Masses of levels ``[level, .., 1]`` at each pixel."""
    alone = LeafDiscretizedLogistic(d.loc.unsqueeze(-1), d.log_scale.unsqueeze(-1), d.levels)
    return alone.log_prob(every.expand(-1, *d.batch_shape, d.loc.shape[-1]).unsqueeze(-1)).exp()


class TestLeafDiscretizedLogistic(MaskedLeafDistributionTests):
    has_entropy = False
    bad_values = (0.5, -1.0, 4.0, float("nan"))

    def parameters(self, *batch):
        return {"loc": torch.rand(*batch, SIZE), "log_scale": -2.0 + torch.rand(*batch, SIZE)}

    def build(self, parameters, mask=None):
        return LeafDiscretizedLogistic(**parameters, levels=LEVELS, mask=mask)

    def reference(self, parameters):
        return Bins(**parameters)

    @pytest.mark.parametrize("levels", [1, 2, 3, 2**22])
    def test_moments_equal_torch(self, levels, monkeypatch):
        """However many levels are held at a time; the last block may hold fewer."""
        monkeypatch.setattr(module, "_BLOCK", levels * math.prod((*BATCH, SIZE)))
        super().test_moments_equal_torch()


class TestTruncated(TestLeafDiscretizedLogistic):
    def build(self, parameters, mask=None):
        return LeafDiscretizedLogistic(**parameters, levels=LEVELS, mask=mask, edges="truncated")

    def reference(self, parameters):
        return Truncated(**parameters)


class TestMasses:
    @pytest.mark.parametrize("levels", [2, 3, 256])
    def test_sum_to_one(self, levels):
        for loc, log_scale in [*EXTREME, (0.5, -300.0), (0.5, 300.0), (1e6, 3.0)]:
            log_mass = masses(loc, log_scale, levels)
            assert (log_mass <= 0).all() and log_mass.isfinite().all()
            assert_close(log_mass.exp().sum(), torch.tensor(1.0), rtol=0, atol=1e-12)

    @pytest.mark.parametrize("loc, log_scale", EXTREME)
    def test_are_differences_of_the_distribution_function(self, loc, log_scale):
        edges = np.arange(257) / 256
        law = logistic(loc, math.exp(log_scale))
        # differences of whichever tail is smaller lose nothing
        below, above = law.cdf(edges), law.sf(edges)
        below[0], below[-1], above[0], above[-1] = 0.0, 1.0, 1.0, 0.0
        exact = np.where(edges[:-1] < loc, np.diff(below), -np.diff(above))
        rounding = np.finfo(float).eps * np.where(edges[:-1] < loc, below[1:], above[:-1])
        error = np.abs(masses(loc, log_scale).exp().numpy() - exact)
        assert (error <= 4 * rounding + 1e-10 * exact + 1e-300).all()

    @pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-11), (torch.float32, 1e-5)])
    def test_far_tails_are_exponential(self, dtype, rtol):
        # where sigmoid(t) is exp(t), the log-mass of a bin is a + log(exp(d) - 1)
        scale = math.exp(-4.5)
        log_mass = masses(6.0, -4.5, dtype=dtype)[1:-1]
        start = (torch.arange(1.0, 255.0) / 256 - 6.0) / scale
        expected = start + math.log(math.expm1(1 / (256 * scale)))
        assert (expected < -400).all()
        assert_close(log_mass, expected.to(dtype), rtol=rtol, atol=0)

    @pytest.mark.parametrize("edges", ["tails", "truncated"])
    def test_gradients_are_finite_in_float32(self, edges):
        extreme = torch.tensor([*EXTREME, (6.0, -4.5), (0.5, -60.0), (0.5, 60.0), (-1e8, 0.0)], dtype=torch.float32)
        every = torch.arange(256.0, dtype=torch.float32).reshape(-1, 1, 1)
        parameters = [value.expand(256, -1).unsqueeze(-1).clone().requires_grad_() for value in extreme.T]
        log_mass = LeafDiscretizedLogistic(*parameters, edges=edges).log_prob(every)
        gradients = torch.autograd.grad(log_mass.sum(), parameters)
        assert log_mass.isfinite().all() and all(gradient.isfinite().all() for gradient in gradients)

    def test_gradients_in_the_far_tails(self):
        # below the mean the mass is exp(a) (exp(d) - 1), above it exp(-a) (1 - exp(-d)); derivatives of a and d in
        # log(s) are -a and -d
        scale = math.exp(-4.5)
        width = 1 / (256 * scale)
        for loc, sign, of_width in ((6.0, -1, width / -math.expm1(-width)), (-5.0, 1, width / math.expm1(width))):
            parameters = [torch.full((256, 1), value).requires_grad_() for value in (loc, -4.5)]
            log_mass = LeafDiscretizedLogistic(*parameters).log_prob(torch.arange(256.0).unsqueeze(-1))
            by_loc, by_log_scale = torch.autograd.grad(log_mass.sum(), parameters)
            start = (torch.arange(256.0) / 256 - loc) / scale
            assert_close(by_loc[1:-1], torch.full((254, 1), sign / scale), rtol=1e-10, atol=0)
            assert_close(by_log_scale.squeeze(-1)[1:-1], (sign * start - of_width)[1:-1], rtol=1e-10, atol=0)

    @pytest.mark.parametrize("edges", ["tails", "truncated"])
    def test_gradients_equal_finite_differences(self, edges):
        loc, log_scale = torch.rand(5, 6).requires_grad_(), (-4.5 * torch.rand(5, 6)).requires_grad_()
        x = torch.randint(256, (5, 6)).double()
        x[0, :2], x[1, :2] = 0.0, 255.0
        mask = torch.rand(5, 6) < 0.7

        def log_prob(loc, log_scale):
            return LeafDiscretizedLogistic(loc, log_scale, mask=mask, edges=edges).log_prob(x)

        assert torch.autograd.gradcheck(log_prob, (loc, log_scale), rtol=1e-4)
        assert torch.autograd.gradgradcheck(log_prob, (loc, log_scale), rtol=1e-4)

    @pytest.mark.parametrize("loc, log_scale, total", [(1 / 512, -4.5, 0.54), (0.5, 0.0, 0.24)])
    def test_truncated_masses_sum_to_less(self, loc, log_scale, total):
        mass = masses(loc, log_scale, edges="truncated").exp()
        scale = math.exp(log_scale)
        inside = logistic.cdf((1 - loc) / scale) - logistic.cdf(-loc / scale)
        assert float(mass.sum()) == pytest.approx(inside + 256e-7, rel=1e-12)
        assert round(float(mass.sum()), 2) == total

    @pytest.mark.parametrize("edges", ["tails", "truncated"])
    def test_the_largest_mass_at_the_smallest_scale_of_the_paper(self, edges):
        for loc, mass, bits in ((0.5, 0.0870, 3.52), (128.5 / 256, 0.0877, 3.51)):  # between two bins, amid one
            largest = float(masses(loc, -4.5, edges=edges).exp().max())
            assert largest == pytest.approx(mass, abs=5e-5) and -math.log2(largest) == pytest.approx(bits, abs=5e-3)

    def test_parameters_may_broadcast(self):
        x = torch.randint(256, (5, 3, 2, SIZE)).double()
        loc, log_scale = torch.rand(3, 2, SIZE), -torch.rand(5, 1, 1, 1)
        full = [parameter.expand(5, 3, 2, SIZE).clone() for parameter in (loc, log_scale)]
        parts = [parameter.requires_grad_() for parameter in (loc, log_scale)]
        ours, theirs = LeafDiscretizedLogistic(*parts), LeafDiscretizedLogistic(*full)
        assert ours.batch_shape == theirs.batch_shape == (5, 3, 2)
        assert_close(ours.log_prob(x), theirs.log_prob(x))
        assert [g.shape for g in torch.autograd.grad(ours.log_prob(x).sum(), parts)] == [p.shape for p in parts]
        assert_close(ours.mean, theirs.mean)
        assert_close(ours.mode, theirs.mode)


class TestDraws:
    @pytest.mark.parametrize("loc, log_scale", [(0.02, -3.0), (0.5, -1.0), (1.3, -2.0)])
    @pytest.mark.parametrize("edges", ["tails", "truncated"])
    def test_frequencies_are_the_masses_of_tails(self, loc, log_scale, edges):
        n, levels = 100_000, 8
        d = LeafDiscretizedLogistic(torch.tensor([loc]), torch.tensor([log_scale]), levels, edges=edges)
        counts = torch.bincount(d.sample((n,)).long().flatten(), minlength=levels)
        mass = masses(loc, log_scale, levels).exp()
        error = (mass * (1 - mass) / n).sqrt()
        assert ((counts / n - mass).abs() < 5 * error + 1e-9).all()
        assert float(d.mean) == pytest.approx(float(mass @ torch.arange(8.0)), rel=1e-12)

    def test_extreme_parameters(self):
        loc, log_scale = torch.tensor([0.3, 0.5, 1e5]), torch.tensor([-400.0, 400.0, -400.0])
        for dtype in (torch.float32, torch.float64):
            x = LeafDiscretizedLogistic(loc.to(dtype), log_scale.to(dtype)).sample((2000,))
            assert (x[:, 0] == 76).all() and (x[:, 2] == 255).all()
            assert set(x[:, 1].tolist()) == {0.0, 255.0}, "nearly all of it lies outside"

    @pytest.mark.parametrize("shape", [(), (SIZE,), (3, 1, 1)])
    def test_moments_of_more_levels_than_are_held_at_a_time(self, shape, monkeypatch):
        """Means over the masses of all levels, with parameters that broadcast."""
        loc, log_scale = torch.rand(2, SIZE), -3.0 * torch.rand(shape)
        d = LeafDiscretizedLogistic(loc, log_scale, 200)
        every = torch.arange(200.0).reshape(-1, *[1] * (len(d.batch_shape) + 1))
        mass = masses_of(d, every)
        mean = (every * mass).sum(0)
        for held in (7, 50, 198, 199, 200):  # levels at a time; 199 are summed over
            monkeypatch.setattr(module, "_BLOCK", held * mean.numel() + 1)
            assert_close(d.mean, mean, rtol=1e-10, atol=0)
            assert_close(d.variance, ((every - mean).square() * mass).sum(0), rtol=1e-8, atol=0)

    @pytest.mark.parametrize("levels", [2, 3, 5])
    @pytest.mark.parametrize("edges", ["tails", "truncated"])
    def test_mode_is_the_largest_of_all_masses(self, levels, edges):
        loc, log_scale = torch.rand(300, 1) * 1.4 - 0.2, 3 * torch.randn(300, 1)
        if edges == "truncated":
            log_scale = log_scale.clamp(-2.5, 2)  # elsewhere 1e-7 is most of the masses, which are then alike
        d = LeafDiscretizedLogistic(loc, log_scale, levels, edges=edges)
        every = torch.stack([d.log_prob(torch.full((300, 1), float(v))) for v in range(levels)])
        assert_close(d.log_prob(d.mode), every.max(0).values, rtol=0, atol=1e-12)


REFUSED = [
    *((ValueError, "levels of LeafDiscretizedLogistic must be at least 2", {"levels": levels}) for levels in (0, 1)),
    *((TypeError, "levels of LeafDiscretizedLogistic must be an int", {"levels": levels}) for levels in (2.0, True)),
    (ValueError, "edges of LeafDiscretizedLogistic must be one of tails, truncated, but", {"edges": "none"}),
    (ValueError, "log_scale of LeafDiscretizedLogistic must broadcast", {"log_scale": torch.zeros(SIZE + 1)}),
]


@pytest.mark.parametrize(("error", "message", "options"), REFUSED)
def test_refusals(error, message, options):
    with pytest.raises(error, match=message):
        LeafDiscretizedLogistic(**{"loc": torch.zeros(*BATCH, SIZE), "log_scale": torch.zeros(SIZE)} | options)


@pytest.mark.parametrize("kind", ["one", "mixture"])
def test_variance_of_sharp_bins_in_single_precision(kind):
    """Is not negative, and that of double precision."""
    found = []
    for dtype in (torch.float32, torch.float64):
        loc = torch.linspace(0, 1, 2001, dtype=torch.float32).to(dtype).unsqueeze(-1)
        log_scale = torch.full_like(loc, -9.0)
        if kind == "one":
            law = LeafDiscretizedLogistic(loc, log_scale)
        else:
            two = torch.stack([loc, loc], -1)
            law = LeafDiscretizedLogisticMixture(torch.zeros_like(two), two, torch.full_like(two, -9.0))
        found.append(law.variance.double())
    assert bool((found[0] >= 0).all())
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-6)

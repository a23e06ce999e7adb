# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Multivariate Normal leaf distributions against scipy's, submatrices, and formulas of conditional distributions."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from torch.testing import assert_close

from pyro_spvae.distributions import (
    Coordinates,
    LeafBernoulli,
    LeafLowRankNormal,
    LeafMultivariateNormal,
    LeafNormalColumns,
)
from pyro_spvae.distributions.correlated import Patterns

LEAVES, PIXELS, ROWS = 3, 4, 6
RANKS = [None, 0, 1, 3]


def parameters(rank):
    """Mean, covariance and what the distribution takes in its place."""
    torch.manual_seed(0)
    loc = torch.randn(LEAVES, PIXELS)
    if rank is None:
        root = torch.randn(LEAVES, PIXELS, PIXELS).tril()
        root.diagonal(dim1=-2, dim2=-1).abs_().add_(0.4)
        covariance = torch.linalg.inv(root.mT @ root)
        return loc, covariance, (root,)
    factor, scale = torch.randn(LEAVES, PIXELS, rank), 0.3 + torch.rand(LEAVES, PIXELS)
    return loc, factor @ factor.mT + scale.square().diag_embed(), (factor, scale)


def make(rank, mask=None, grad=False):
    loc, _, more = parameters(rank)
    given = [value.requires_grad_(grad) for value in (loc, *more)]
    return (LeafMultivariateNormal if rank is None else LeafLowRankNormal)(*given, mask), given


def by_scipy(loc, covariance, x, seen):
    """Log-densities ``[row, leaf]`` of what is seen of each."""
    found = torch.zeros(seen.shape[:-1])
    for row, leaf in torch.cartesian_prod(*map(torch.arange, found.shape)).tolist():
        own = seen[row, leaf]
        if own.any():
            law = scipy.stats.multivariate_normal(loc[leaf, own], covariance[leaf][own][:, own])
            found[row, leaf] = law.logpdf(x[row, 0, own])
    return found


@pytest.mark.parametrize("rank", RANKS)
class TestNormal:
    def test_density(self, rank):
        loc, covariance, _ = parameters(rank)
        x = torch.randn(ROWS, 1, PIXELS)
        seen = torch.ones(ROWS, LEAVES, PIXELS, dtype=torch.bool)
        assert_close(make(rank)[0].log_prob(x), by_scipy(loc, covariance, x, seen))

    @pytest.mark.parametrize("shape", [(ROWS, LEAVES), (LEAVES,), (1,), (ROWS, 1)])
    def test_marginals_are_of_submatrices(self, rank, shape):
        """Of a mask of each datum and leaf, of leaves, of all; a datum of which nothing is seen has density 1."""
        loc, covariance, _ = parameters(rank)
        x, seen = torch.randn(ROWS, 1, PIXELS), torch.rand(*shape, PIXELS) < 0.6
        seen.reshape(-1, PIXELS)[0] = False
        wanted = by_scipy(loc, covariance, x, seen.expand(ROWS, LEAVES, PIXELS))
        law, _ = make(rank, seen)
        assert_close(law.log_prob(torch.where(seen, x, 1e30)), wanted)
        particles = torch.stack([x, x.flip(0)])
        both = law.log_prob(particles)
        assert_close(both[0], wanted)
        assert_close(both[1], law.log_prob(x.flip(0)))

    def test_gradient(self, rank):
        """Against autograd of the density written down with the covariance and its inverse."""
        seen, x = torch.rand(ROWS, LEAVES, PIXELS) < 0.6, torch.randn(ROWS, 1, PIXELS)
        law, given = make(rank, seen, grad=True)
        ours = torch.autograd.grad((law.log_prob(x) * torch.arange(1.0, 4)).sum(), given)
        loc, *more = given
        if rank is None:
            covariance = torch.linalg.inv(more[0].mT @ more[0])
        else:
            covariance = more[0] @ more[0].mT + more[1].square().diag_embed()
        total = torch.zeros(())
        for row in range(ROWS):
            for leaf in range(LEAVES):
                own = seen[row, leaf]
                sigma = covariance[leaf][own][:, own]
                d = x[row, 0, own] - loc[leaf, own]
                log = -0.5 * (d @ torch.linalg.inv(sigma) @ d + torch.logdet(2 * math.pi * sigma))
                total = total + (leaf + 1) * log
        theirs = torch.autograd.grad(total, given)
        for place, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            other = other.tril() if rank is None and place == 1 else other
            assert_close(one.tril() if rank is None and place == 1 else one, other)

    def test_conditional_distribution(self, rank):
        """Mean and covariance by the textbook, and the chain rule of densities."""
        loc, covariance, _ = parameters(rank)
        x, seen = torch.randn(ROWS, LEAVES, PIXELS), torch.rand(ROWS, LEAVES, PIXELS) < 0.5
        seen[0], seen[1] = False, True
        given = make(rank)[0].given_seen(torch.where(seen, x, torch.nan), seen)
        log = make(rank, seen)[0].log_prob(x) + given.log_prob(x)
        assert_close(log, make(rank)[0].log_prob(x))
        vector = torch.randn(ROWS, LEAVES, PIXELS)
        times = given.covariance_times(torch.where(seen, 0.0, vector))
        for row in range(ROWS):
            for leaf in range(LEAVES):
                s, h = seen[row, leaf], ~seen[row, leaf]
                sigma, d = covariance[leaf], x[row, leaf] - loc[leaf]
                gain = sigma[h][:, s] @ torch.linalg.inv(sigma[s][:, s])
                within = sigma[h][:, h] - gain @ sigma[s][:, h]
                assert_close(given.mean[row, leaf, h], loc[leaf, h] + gain @ d[s])
                assert_close(given.mode[row, leaf, h], given.mean[row, leaf, h])
                assert_close(given.variance[row, leaf, h], within.diagonal())
                assert_close(times[row, leaf, h], within @ vector[row, leaf, h])

    def test_of_one_value_of_several_given_others(self, rank):
        """A mask on top of what is seen, in a batch of masks."""
        x, seen = torch.randn(ROWS, LEAVES, PIXELS), torch.zeros(ROWS, LEAVES, PIXELS, dtype=torch.bool)
        seen[..., 1], seen[::2, :, 3] = True, True
        masks = torch.eye(PIXELS, dtype=torch.bool)[[0, 2]].reshape(2, 1, 1, PIXELS)
        law = make(rank, masks)[0].given_seen(x, seen)
        wanted = make(rank, masks | seen)[0].log_prob(x) - make(rank, seen)[0].log_prob(x)
        assert_close(law.log_prob(x), wanted)

    def test_draws(self, rank):
        """Means and covariances of many, of the whole and given what is seen, within five standard errors."""
        loc, covariance, _ = parameters(rank)
        law = make(rank)[0]
        number = 200_000
        drawn = law.sample((number,))
        self._check_moments(drawn, loc, covariance)
        seen = torch.zeros(PIXELS, dtype=torch.bool)
        seen[1] = True
        given = law.given_seen(torch.full((LEAVES, PIXELS), 0.7), seen)
        drawn = given.sample((number,))[..., ~seen]
        gain = covariance[:, ~seen, 1] / covariance[:, 1, 1].unsqueeze(-1)
        within = covariance[:, ~seen][..., ~seen] - gain.unsqueeze(-1) * covariance[:, 1, ~seen].unsqueeze(-2)
        self._check_moments(drawn, loc[:, ~seen] + gain * (0.7 - loc[:, 1:2]), within)

    def _check_moments(self, drawn, loc, covariance):
        error = (covariance.diagonal(dim1=-2, dim2=-1) / len(drawn)).sqrt()
        assert bool(((drawn.mean(0) - loc).abs() < 5 * error).all())
        d = drawn - loc
        found = torch.einsum("nlp,nlq->lpq", d, d) / len(drawn)
        variance = covariance.diagonal(dim1=-2, dim2=-1)
        spread = (variance.unsqueeze(-1) * variance.unsqueeze(-2) + covariance.square()) / len(drawn)
        assert bool(((found - covariance).abs() < 5 * spread.sqrt()).all())

    def test_draws_are_differentiable(self, rank):
        law, given = make(rank, grad=True)
        torch.manual_seed(1)
        found = torch.autograd.grad(law.rsample((5,)).square().sum(), given, allow_unused=rank == 0)
        torch.manual_seed(1)
        moved = [value.detach().clone() for value in given]
        moved[1].reshape(-1)[:1] += 1e-6
        raised = type(law)(*moved).rsample((5,)).square().sum()
        torch.manual_seed(1)
        before = type(law)(*(value.detach() for value in given)).rsample((5,)).square().sum()
        if rank != 0:
            assert float((raised - before) / 1e-6) == pytest.approx(float(found[1].reshape(-1)[0]), rel=1e-3, abs=1e-4)

    def test_in_single_precision(self, rank):
        loc, covariance, more = parameters(rank)
        kind = LeafMultivariateNormal if rank is None else LeafLowRankNormal
        seen, x = torch.rand(ROWS, LEAVES, PIXELS) < 0.6, torch.randn(ROWS, 1, PIXELS)
        law = kind(loc.float(), *(value.float() for value in more), seen)
        found = law.log_prob(x.float())
        assert found.dtype == law.given_seen(x.float(), seen).sample().dtype == torch.float32
        assert_close(found.double(), by_scipy(loc, covariance, x, seen), rtol=1e-4, atol=1e-4)

    def test_is_expanded_detached_and_described(self, rank):
        law, _ = make(rank, grad=True)
        assert law.expand((ROWS, LEAVES)).sample().shape == (ROWS, LEAVES, PIXELS)
        assert law.expand((ROWS, LEAVES)).mean.shape == (ROWS, LEAVES, PIXELS)
        assert not law.detach().log_prob(torch.zeros(PIXELS)).requires_grad
        assert f"event_shape: ({PIXELS},)" in repr(law)


def test_collinear_columns_do_not_lose_digits():
    """A column that is the sum of two others but for a thousandth: what is left is a density all the same."""
    loc = torch.zeros(1, 3)
    unit = torch.tensor([[1.0, 0, 0], [0, 1, 0], [-1, -1, 1]])
    law = LeafMultivariateNormal(loc, (unit / torch.tensor([1.0, 1.0, 1e-4]).unsqueeze(-1)).unsqueeze(0))
    x = torch.tensor([[0.3, -0.2, 0.1 + 2e-4]])
    wanted = sum(scipy.stats.norm(0, s).logpdf(v) for s, v in ((1, 0.3), (1, -0.2), (1e-4, 2e-4)))
    assert law.log_prob(x).item() == pytest.approx(wanted)
    seen = torch.tensor([True, True, False])
    assert_close(law.given_seen(x, seen).mean[0, 2], torch.tensor(0.1))
    assert law.given_seen(x, seen).variance[0, 2].item() == pytest.approx(1e-8, rel=1e-6)


def test_patterns():
    mask = torch.tensor([[True, False], [True, True], [True, False]]).unsqueeze(1)
    patterns = Patterns(mask, torch.Size((2,)))
    assert len(patterns.parameter) == 4  # two leaves by two patterns
    values = torch.tensor([[1.0], [2.0]])
    assert_close(patterns.spread(patterns.of_parameters(values, 1)), values.expand(3, 2, 1))
    weights = torch.arange(6.0).reshape(3, 2)
    total = patterns.total(weights)
    for number, (leaf, own) in enumerate(zip(patterns.parameter, patterns.mask, strict=True)):
        assert_close(total[number], weights[(mask[:, 0] == own).all(-1), leaf].sum())


class TestColumns:
    """Two real columns, a logarithm and a binary column beside them, against the product by hand."""

    logs, joint = torch.tensor([False, False, True, False]), torch.tensor([True, True, True, False])

    @pytest.fixture(autouse=True)
    def _units(self):
        self.location, self.scale = torch.tensor([3.0, -5.0, 1.0, 0.0]), torch.tensor([2.0, 0.1, 0.5, 1.0])

    def law(self, mask=None):
        coordinates = Coordinates(self.location, self.scale, self.logs, self.joint)
        _, _, (root,) = parameters(None)
        eye = torch.eye(PIXELS)
        root = torch.where(self.joint.unsqueeze(-1) & self.joint, root, eye)
        normal = LeafMultivariateNormal(parameters(None)[0], root, coordinates.inside(mask))
        others = LeafBernoulli(
            torch.linspace(-1, 1, LEAVES).unsqueeze(-1).expand(-1, PIXELS), coordinates.outside(mask)
        )
        return LeafNormalColumns(normal, coordinates, others, mask)

    def moments(self):
        """Of real values and logarithms, in their own units."""
        loc, _, (root,) = parameters(None)
        root = root[:, :3, :3]
        covariance = torch.linalg.inv(root.mT @ root)
        scale = self.scale[:3]
        return self.location[:3] + scale * loc[:, :3], covariance * scale.unsqueeze(-1) * scale

    def test_density(self):
        x = self.law().sample((ROWS,))
        mean, covariance = self.moments()
        for mask in (torch.ones(ROWS, LEAVES, PIXELS, dtype=torch.bool), torch.rand(ROWS, LEAVES, PIXELS) < 0.6):
            found = self.law(mask).log_prob(x)
            for row in range(ROWS):
                for leaf in range(LEAVES):
                    own, value = mask[row, leaf, :3], x[row, leaf]
                    y = torch.cat([value[:2], value[2:3].log()])[own]
                    wanted = 0.0
                    if own.any():
                        law = scipy.stats.multivariate_normal(mean[leaf, own], covariance[leaf][own][:, own])
                        wanted = law.logpdf(y) - float(value[2].log()) * bool(own[2])
                    probability = torch.sigmoid(torch.linspace(-1, 1, LEAVES)[leaf])
                    if mask[row, leaf, 3]:
                        wanted += float((probability if value[3] else 1 - probability).log())
                    assert found[row, leaf].item() == pytest.approx(wanted)
        assert_close(self.law().log_prob(x), self.law(torch.ones(1, dtype=torch.bool)).log_prob(x))

    def test_moments_and_mode(self):
        mean, covariance = self.moments()
        law = self.law()
        variance = covariance.diagonal(dim1=-2, dim2=-1)
        wanted = torch.cat([mean[:, :2], (mean[:, 2:] + variance[:, 2:] / 2).exp()], -1)
        assert_close(law.mean[:, :3], wanted)
        assert_close(law.variance[:, 2], variance[:, 2].expm1() * wanted[:, 2].square())
        assert_close(law.variance[:, :2], variance[:, :2])
        assert_close(law.mean[:, 3], torch.sigmoid(torch.linspace(-1, 1, LEAVES)))
        assert set(law.mode[:, 3].tolist()) <= {0.0, 1.0}
        top = law.log_prob(law.mode)
        for _ in range(50):
            near = law.mode.clone()
            near[:, :3] *= 1 + 0.05 * torch.randn(LEAVES, 3)
            assert bool((law.log_prob(near) < top).all())

    def test_mode_given_what_is_seen(self):
        x, seen = self.law().sample(), torch.tensor([False, True, False, True])
        law = self.law().given_seen(x, seen)
        best = torch.where(seen, x, law.mode)
        top = self.law().log_prob(best)
        for _ in range(50):
            near = torch.where(seen, best, best * (1 + 0.05 * torch.randn(LEAVES, PIXELS)))
            near[:, 3] = x[:, 3]
            assert bool((self.law().log_prob(near) < top).all())

    def test_chain_rule(self):
        x, seen = self.law().sample((ROWS,)), torch.rand(ROWS, LEAVES, PIXELS) < 0.5
        given = self.law().given_seen(torch.where(seen, x, -1e3), seen)
        assert_close(self.law(seen).log_prob(x) + given.log_prob(x), self.law().log_prob(x))
        assert_close(given.mean[..., 3], self.law().mean[..., 3].expand(ROWS, -1))

    def test_draws(self):
        mean, covariance = self.moments()
        drawn = self.law().sample((100_000,))
        y = torch.cat([drawn[..., :2], drawn[..., 2:3].log()], -1)
        variance = covariance.diagonal(dim1=-2, dim2=-1)
        assert bool(((y.mean(0) - mean).abs() < 5 * (variance / len(y)).sqrt()).all())
        found = torch.einsum("nlp,nlq->lpq", y - mean, y - mean) / len(y)
        spread = (variance.unsqueeze(-1) * variance.unsqueeze(-2) + covariance.square()) / len(y)
        assert bool(((found - covariance).abs() < 5 * spread.sqrt()).all())
        share = torch.sigmoid(torch.linspace(-1, 1, LEAVES))
        assert bool(((drawn[..., 3].mean(0) - share).abs() < 5 * (share * (1 - share) / len(y)).sqrt()).all())

    def test_support(self):
        x = self.law().sample()
        for place, value in ((2, 0.0), (2, -1.0), (0, math.inf), (3, 0.5)):
            wrong = x.clone()
            wrong[0, place] = value
            assert self.law().support.check(wrong).tolist() == [False, True, True]
            hidden = torch.ones(PIXELS, dtype=torch.bool)
            hidden[place] = False
            assert bool(self.law(hidden).support.check(wrong).all())


@pytest.mark.parametrize(
    ("ask", "kind", "message"),
    [
        (
            lambda: LeafMultivariateNormal(torch.zeros(3, 2), torch.eye(2)),
            ValueError,
            r"LeafMultivariateNormal needs loc \[.., pixel\] and root \[.., pixel, pixel\] of one batch, but",
        ),
        (
            lambda: LeafLowRankNormal(torch.zeros(3, 2), torch.zeros(3, 3, 1), torch.ones(3, 2)),
            ValueError,
            r"LeafLowRankNormal needs loc and scale \[.., pixel\] and factor \[.., pixel, r\] of one batch, but",
        ),
        (lambda: LeafMultivariateNormal(0.0, torch.eye(2)), TypeError, "loc of LeafMultivariateNormal must be a"),
        (
            lambda: LeafLowRankNormal(torch.zeros(2), torch.zeros(2, 1), -torch.ones(2), validate_args=True),
            ValueError,
            "Expected parameter scale",
        ),
    ],
)
def test_refused(ask, kind, message):
    with pytest.raises(kind, match=f"^{message}"):
        ask()


@pytest.mark.parametrize("root", [-torch.eye(2), torch.ones(2, 2), torch.full((2, 2), torch.nan).tril()])
def test_roots_that_are_none_are_refused(root):
    with pytest.raises(ValueError, match="Expected parameter root"):
        LeafMultivariateNormal(torch.zeros(2), root, validate_args=True)

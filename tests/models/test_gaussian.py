# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Gaussian leaves in circuits: mixtures by hand, missing entries, where they start, tables of columns of all kinds."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from torch.testing import assert_close

from pyro_spvae import SPN, SPVAE, random_binary_tree, whole
from pyro_spvae.data import Column
from pyro_spvae.guides import MixedGuide, NormalGuide
from pyro_spvae.leaves import LeafGuide
from pyro_spvae.likelihoods import Bernoulli, Columns, LogNormal, Normal
from pyro_spvae.models import VAE, FactorizedLeaf, GaussianLeaf, MixedLeaf
from pyro_spvae.testing.block_tests import moved_from_start
from tests.likelihoods.column_cases import BY_FAMILY, table

KINDS = tuple(BY_FAMILY[name] for name in ("normal", "categorical", "log-normal", "bernoulli"))
RANKS = [None, 0, 2]


def mixture(rank, leaves=3, columns=4):
    torch.manual_seed(0)
    spn = SPN(whole((columns,)), 1, leaves, leaf=GaussianLeaf(rank))
    moved_from_start(spn)
    return spn


def components(spn):
    """Weights, means and covariances of a mixture."""
    law = spn.leaf.law()
    weights = spn.circuit.log_weights()[0].detach().exp().flatten()
    if spn.leaf.pixels.rank is None:
        return weights, law.loc.detach(), law.covariance.detach()
    return weights, law.loc.detach(), (law.factor @ law.factor.mT + law.scale.square().diag_embed()).detach()


def by_scipy(spn, x, seen):
    weights, means, covariances = components(spn)
    found = torch.zeros(len(x), len(weights))
    for row, own in enumerate(seen):
        for k in range(len(weights)):
            if own.any():
                law = scipy.stats.multivariate_normal(means[k, own], covariances[k][own][:, own])
                found[row, k] = law.logpdf(x[row, own])
    return (found + weights.log()).logsumexp(-1)


@pytest.mark.parametrize("rank", RANKS)
class TestMixture:
    def test_density_and_marginals(self, rank):
        spn, x = mixture(rank), torch.randn(7, 4)
        for seen in (torch.ones(7, 4, dtype=torch.bool), torch.rand(7, 4) < 0.5):
            assert_close(spn.log_prob(x, seen).detach(), by_scipy(spn, x, seen))
            holes = torch.where(seen, x, torch.nan)
            assert_close(spn.log_likelihood(holes), by_scipy(spn, x, seen))

    def test_is_normalised(self, rank):
        """By quadrature over two columns."""
        spn = mixture(min(rank, 1) if rank else rank, columns=2)
        grid = torch.linspace(-12, 12, 400)
        x = torch.cartesian_prod(grid, grid)
        with torch.no_grad():
            total = spn.log_prob(x).exp().sum() * (grid[1] - grid[0]) ** 2
        assert float(total) == pytest.approx(1, abs=1e-6)

    def test_imputation_draws_from_the_conditional_distribution(self, rank):
        """Mean and covariance of what is hidden given what is seen, of the whole mixture."""
        spn = mixture(rank)
        x = torch.tensor([[0.5, math.nan, -0.4, math.nan]])
        s, h = [0, 2], [1, 3]
        weights, means, covariances = components(spn)
        log, within, centre = [], [], []
        for k in range(len(weights)):
            cov, d = covariances[k], x[0, s] - means[k, s]
            gain = cov[h][:, s] @ torch.linalg.inv(cov[s][:, s])
            centre.append(means[k, h] + gain @ d)
            within.append(cov[h][:, h] - gain @ cov[s][:, h])
            log.append(float(scipy.stats.multivariate_normal(means[k, s], cov[s][:, s]).logpdf(x[0, s])))
        share = (weights.log() + torch.tensor(log)).softmax(0)
        centre, within = torch.stack(centre), torch.stack(within)
        mean = share @ centre
        cov = torch.einsum("k,kij->ij", share, within + (centre - mean).unsqueeze(-1) * (centre - mean).unsqueeze(-2))
        drawn = spn.impute(x.expand(30_000, 4))[0]
        assert bool((drawn[:, s] == x[0, s]).all())
        drawn = drawn[:, h]
        assert bool(((drawn.mean(0) - mean).abs() < 5 * (cov.diagonal() / len(drawn)).sqrt()).all())
        products = (drawn - mean).unsqueeze(-1) * (drawn - mean).unsqueeze(-2)
        assert bool(((products.mean(0) - cov).abs() < 5 * products.std(0) / len(drawn) ** 0.5).all())
        means_only = spn.impute(x.expand(4000, 4), means=True)[0][:, h]  # of a drawn component each
        near = (means_only.unsqueeze(1) - centre).abs().amax(-1)
        assert float(near.amin(1).max()) < 1e-9
        taken = torch.nn.functional.one_hot(near.argmin(1), len(share)).double().mean(0)
        assert bool(((taken - share).abs() < 5 * (share * (1 - share) / 4000).sqrt() + 1e-9).all())

    def test_mpe(self, rank):
        """The best component with its conditional mean."""
        spn = mixture(rank)
        x, seen = torch.randn(5, 4), torch.rand(5, 4) < 0.5
        found = spn.mpe(x, seen)
        weights, means, covariances = components(spn)
        for row in range(5):
            s, h, best = seen[row], ~seen[row], []
            for k in range(len(weights)):
                cov = covariances[k]
                filled = x[row].clone()
                gain = cov[h][:, s] @ torch.linalg.inv(cov[s][:, s])
                filled[h] = means[k, h] + gain @ (x[row, s] - means[k, s])
                law = scipy.stats.multivariate_normal(means[k], cov)
                best.append((float(weights[k].log()) + law.logpdf(filled), filled))
            value, filled = max(best, key=lambda pair: pair[0])
            assert found.log_prob[row].item() == pytest.approx(value)
            assert_close(found.x[row], filled)

    def test_draws(self, rank):
        spn = mixture(rank)
        weights, means, covariances = components(spn)
        mean = weights @ means
        d = means - mean
        covariance = torch.einsum("k,kij->ij", weights, covariances + d.unsqueeze(-1) * d.unsqueeze(-2))
        drawn = spn.sample(50_000)
        assert bool(((drawn.mean(0) - mean).abs() < 5 * (covariance.diagonal() / len(drawn)).sqrt()).all())
        products = (drawn - mean).unsqueeze(-1) * (drawn - mean).unsqueeze(-2)
        assert bool(((products.mean(0) - covariance).abs() < 5 * products.std(0) / len(drawn) ** 0.5).all())

    def test_fits_by_gradient(self, rank):
        torch.manual_seed(0)
        z = torch.randn(300, 2)
        x = torch.stack([z[:, 0], z[:, 0] + 0.1 * z[:, 1], -z[:, 1], z.sum(-1)], -1) + 0.1 * torch.randn(300, 4)
        spn = SPN(whole((4,)), 1, 2, leaf=GaussianLeaf(rank))
        history = spn.fit(x[:250], x[250:], epochs=30, lr=0.05, particles=1)
        single = scipy.stats.multivariate_normal(x[:250].mean(0), torch.cov(x[:250].T)).logpdf(x[250:]).mean()
        independent = scipy.stats.norm(x[:250].mean(0), x[:250].std(0)).logpdf(x[250:]).sum(-1).mean()
        assert history[-1]["val_elbo"] > (independent - 0.1 if rank == 0 else single - 0.25)

    def test_is_saved_and_loaded(self, rank, tmp_path):
        spn, x = SPN(whole((4,)), 1, 2, leaf=GaussianLeaf(rank)), torch.randn(30, 4)
        spn.fit_em(x, 3)
        spn.save(tmp_path)
        loaded = SPN.load(tmp_path)
        assert torch.equal(loaded.log_likelihood(x), spn.log_likelihood(x)) and loaded.wanted_rows == 0
        assert loaded.fit_em(x, 2) == spn.fit_em(x, 2)


class TestCircuits:
    """Ragged regions: those of three columns, and of two that are padded."""

    @pytest.mark.parametrize("rank", [None, 1])
    def test_density_is_that_of_all_trees(self, rank):
        torch.manual_seed(0)
        spn = SPN(random_binary_tree(5, 1), 2, leaf=GaussianLeaf(rank))
        moved_from_start(spn)
        x, seen = torch.randn(6, 5), torch.rand(6, 5) < 0.6
        leaf = torch.zeros(6, spn.num_leaves)
        law = spn.leaf.law(spn.view.mask)
        for number, scope in enumerate(spn.view.scopes):
            inside = [place for place, variable in enumerate(scope) if variable is not None]
            if rank is None:
                covariance = law.covariance[number].detach()
            else:
                covariance = (law.factor @ law.factor.mT + law.scale.square().diag_embed())[number].detach()
            for row in range(6):
                own = [place for place in inside if seen[row, scope[place]]]
                if own:
                    one = scipy.stats.multivariate_normal(law.loc[number, own].detach(), covariance[own][:, own])
                    leaf[row, number] = one.logpdf(x[row, [scope[place] for place in own]])
        assert spn.view.mask is not None
        assert_close(spn.log_prob(x, seen), spn.circuit.log_prob(leaf))

    def test_is_the_same_leaf_in_an_spvae(self):
        torch.manual_seed(0)
        spvae = SPVAE(random_binary_tree(5, 1), 2, leaf=GaussianLeaf())
        spn = SPN(random_binary_tree(5, 1), 2, leaf=GaussianLeaf())
        spn.load_state_dict(spvae.state_dict())
        x = torch.randn(6, 5)
        assert_close(spvae.log_likelihood(x), spn.log_prob(x).detach())

    def test_full_rank_is_low_rank_and_more(self):
        """The same covariances by both parameterisations."""
        low, full = mixture(2), mixture(None)
        _, loc, covariance = components(low)
        with torch.no_grad():
            full.leaf.pixels._write(full.leaf.pixels.moments.of(loc, covariance, 1e-3), torch.tensor([True] * 3))
        full.circuit.load_state_dict(low.circuit.state_dict())
        x, seen = torch.randn(6, 4), torch.rand(6, 4) < 0.5
        assert_close(full.log_prob(x, seen), low.log_prob(x, seen))

    def test_beside_other_leaves(self):
        """Of a region by turns a Gaussian, independent columns, and a VAE; of the first two an exact model."""
        torch.manual_seed(0)
        spn = SPN(whole((3,)), 1, 2, leaf=MixedLeaf([GaussianLeaf(), FactorizedLeaf(Normal())]))
        moved_from_start(spn)
        gaussian, factorized = (subset.program for subset in spn.leaf.subsets)
        x, seen = torch.randn(6, 3), torch.rand(6, 3) < 0.6
        mask = seen.unsqueeze(1)
        patches = x.unsqueeze(1)
        leaf = torch.cat([program.law(mask).log_prob(patches) for program in (gaussian, factorized)], 1)
        assert_close(spn.log_prob(x, seen), spn.circuit.log_prob(leaf))
        found = spn.mpe(x, seen)
        assert bool((found.x == x)[seen].all())
        best = torch.stack(
            [
                program.law().given_seen(patches, mask).mode
                if hasattr(program.law(), "given_seen")
                else program.law().mode.expand(6, 1, 3)
                for program in (gaussian, factorized)
            ],
            1,
        )[:, :, 0]
        filled = torch.where(seen.unsqueeze(1), patches, best)
        joint = [
            spn.circuit.log_weights()[0].flatten()[k] + program.law().log_prob(filled[:, k : k + 1])[:, 0]
            for k, program in enumerate((gaussian, factorized))
        ]
        assert_close(found.log_prob, torch.stack(joint, -1).amax(-1).detach())
        leaf = MixedLeaf([VAE(Normal(), 2, (3,)), GaussianLeaf()])
        guide = MixedGuide([NormalGuide((3,)), LeafGuide()])
        spvae = SPVAE(whole((3,)), 1, 2, leaf=leaf, guide=guide)
        assert not leaf.tractable and spvae.fit(x, x, epochs=2, seed=1)[-1]["val_elbo"] > -math.inf

    def test_logarithms(self):
        """A log-normal likelihood: that of a Normal mixture of logarithms, with their slope."""
        torch.manual_seed(0)
        spn = SPN(whole((3,)), 1, 2, leaf=GaussianLeaf(likelihood=LogNormal(0.5, 2.0)))
        moved_from_start(spn)
        x = spn.sample(5)
        plain = SPN(whole((3,)), 1, 2, leaf=GaussianLeaf())
        plain.load_state_dict(spn.state_dict())
        z = (x.log() - 0.5) / 2.0
        assert_close(spn.log_prob(x), plain.log_prob(z) - (x.log() + math.log(2.0)).sum(-1))


class TestTables:
    def test_density_by_hand(self):
        """A normal and a log-normal column together, a categorical and a binary one by themselves, in one component."""
        torch.manual_seed(0)
        spn = SPN(whole((4,)), 1, 1, leaf=GaussianLeaf(likelihood=Columns(KINDS)))
        moved_from_start(spn)
        x = table(KINDS, 6)
        pixels = spn.leaf.pixels
        law = pixels._normal(pixels.places.joint)
        covariance = torch.linalg.inv(law.root[0].mT @ law.root[0])[[0, 2]][:, [0, 2]].detach()
        real, positive = KINDS[0], KINDS[2]
        z = torch.stack([(x[:, 0] - real.location) / real.scale, (x[:, 2].log() - positive.location) / positive.scale])
        log = torch.tensor(scipy.stats.multivariate_normal(law.loc[0, [0, 2]].detach(), covariance).logpdf(z.T))
        log = log - math.log(real.scale) - math.log(positive.scale) - x[:, 2].log()
        factorized = SPN(whole((2,)), 1, 1, likelihood=Columns([KINDS[1], KINDS[3]]))
        factorized.leaf.pixels.outputs[0].data.copy_(pixels.others.outputs[0])
        log = log + factorized.log_prob(x[:, [1, 3]]).detach()
        assert_close(spn.log_prob(x).detach(), log)
        assert spn.columns == KINDS

    def test_queries_are_in_units_of_the_table(self):
        torch.manual_seed(0)
        spn = SPN(random_binary_tree(4, 1), 2, leaf=GaussianLeaf(likelihood=Columns(KINDS)))
        x = table(KINDS, 200)
        spn.fit_em(x, 5)
        holes = torch.where(torch.rand(x.shape) < 0.3, torch.nan, x)
        filled = spn.impute(holes, num_samples=2)
        spn.check(filled[0])
        assert bool(((filled == x) | holes.isnan()).all())
        drawn = spn.sample(4000)
        spn.check(drawn)
        for place, column in enumerate(KINDS[:1]):
            assert abs(float(drawn[:, place].mean()) - column.location) < 0.3 * column.scale
        assert abs(float(drawn[:, 2].log().mean()) - KINDS[2].location) < 0.3 * KINDS[2].scale
        spn.check(spn.mpe(holes).x)

    def test_many_kinds_beside_each_other_are_trained_by_gradient(self):
        columns = [*BY_FAMILY.values()]
        torch.manual_seed(0)
        x = table(tuple(columns), 60)
        spn = SPN(random_binary_tree(len(columns), 1, 2), 2, leaf=GaussianLeaf(likelihood=Columns(columns)))
        history = spn.fit(x, x, epochs=4, lr=0.02)
        assert history[-1]["val_elbo"] > history[0]["val_elbo"]


class TestStart:
    def rows(self, number=60):
        torch.manual_seed(3)
        centre = torch.tensor([[-6.0, 100.0, 0.0], [6.0, 100.0, 0.0], [0.0, 130.0, 0.0]])
        return centre.repeat(number // 3, 1) + torch.randn(number, 3) * torch.tensor([1.0, 2.0, 0.1])

    @pytest.mark.parametrize("holes", [False, True])
    @pytest.mark.parametrize("rank", [None, 1])
    def test_at_clusters_of_the_rows(self, rank, holes):
        x = self.rows()
        if holes:
            x[torch.rand(x.shape) < 0.1] = torch.nan
        spn = SPN(whole((3,)), 1, 3, leaf=GaussianLeaf(rank))
        assert spn.wanted_rows > 0
        spn.start(x)
        assert spn.wanted_rows == 0
        means = spn.leaf.pixels.loc.detach()
        for wanted in self.rows().reshape(-1, 3, 3).mean(0):
            assert float((means - wanted).abs().amax(-1).min()) < (1.6 if holes else 1.0)
        deviation = spn.leaf.law().variance[0].detach().sqrt()
        assert bool((deviation < 2.5 * torch.tensor([1.0, 2.0, 0.1]) + torch.tensor([0.8, 2.0, 0.05])).all())

    def test_is_drawn_from_torchs_generator_and_done_once(self):
        x = torch.randn(50, 3)
        found = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            spn = SPN(whole((3,)), 1, 4, leaf=GaussianLeaf())
            spn.start(x)
            found.append(spn.leaf.pixels.loc.detach().clone())
        assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
        spn.start(x + 5)
        assert torch.equal(spn.leaf.pixels.loc, found[2])
        again = SPN(whole((3,)), 1, 4, leaf=GaussianLeaf())
        again.load_state_dict(spn.state_dict())
        assert again.wanted_rows == 0

    def test_equal_and_constant_columns(self):
        x = torch.randn(40, 1).repeat(1, 3)
        x[:, 2] = 7.0
        spn = SPN(whole((3,)), 1, 2, leaf=GaussianLeaf())
        history = spn.fit_em(x, 20, smoothing=0)
        assert all(math.isfinite(value) for value in history)
        assert bool(spn.log_prob(x).isfinite().all()) and abs(float(spn.sample(10)[:, 2].mean()) - 7) < 0.1

    def test_more_leaves_than_different_rows(self):
        spn = SPN(whole((2,)), 1, 4, leaf=GaussianLeaf())
        assert all(math.isfinite(value) for value in spn.fit_em(torch.ones(4, 2), 3))


ROWS = torch.zeros(2, 3, dtype=torch.float64)
REFUSED = [
    (lambda: GaussianLeaf(-1), "rank is -1; an integer of at least 0, or None for a full covariance, is needed"),
    (lambda: GaussianLeaf(1.5), "rank is 1.5; an integer"),
    (lambda: GaussianLeaf(True), "rank is True; an integer"),
    (
        lambda: SPN(whole(3), leaf=GaussianLeaf(3)),
        "rank is 3, but the leaf that has most sees 3 Normal columns; a smaller one, or None for a full covariance, is",
    ),
    (
        lambda: SPN(whole(4), leaf=GaussianLeaf(2, Columns(KINDS))),
        "rank is 2, but the leaf that has most sees 2 Normal columns",
    ),
    (
        lambda: SPN(whole((2, 2)), leaf=GaussianLeaf(), channels=3),
        "data have 3 channels, but leaves of jointly Normal pixels take tables and grey images; give another leaf",
    ),
    (
        lambda: SPN(whole(3), leaf=GaussianLeaf(likelihood=Bernoulli())),
        "the likelihood Bernoulli says of no pixel that it is Normal, which leaves of jointly Normal pixels need; give",
    ),
    (
        lambda: SPN(whole(1), leaf=GaussianLeaf(likelihood=Columns([Column("a", "count", location=1.0)]))),
        "the likelihood Columns says of no pixel that it is Normal",
    ),
    (
        lambda: SPN(whole(3), 1, 4, leaf=GaussianLeaf()).start(ROWS),
        "x holds 2 rows, but a region has 4 leaves of jointly Normal columns, each of which starts from",
    ),
    (lambda: SPN(whole(3), 1, 4, leaf=GaussianLeaf()).fit_em(ROWS), "x holds 2 rows, but a region has 4 leaves"),
    (lambda: SPN(whole(3), 1, 4, leaf=GaussianLeaf()).em_step(ROWS), "x holds 2 rows, but a region has 4 leaves"),
    (lambda: SPN(whole(3), 1, 4, leaf=GaussianLeaf()).fit(ROWS, ROWS), "x holds 2 rows, but a region has 4 leaves"),
    (lambda: GaussianLeaf(likelihood="normal"), "likelihood is a str; an instance of Likelihood is needed"),
]


@pytest.mark.parametrize(("ask", "message"), REFUSED)
def test_refused(ask, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        ask()

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""EM of Gaussian leaves and of tables: scikit-learn's step, factor analysis by hand, holes, and what never falls."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris, load_wine
from sklearn.mixture import GaussianMixture
from torch.testing import assert_close

from pyro_spvae import SPN, RegionGraph, random_binary_tree, whole
from pyro_spvae.conditionals.normal_moments import regressions
from pyro_spvae.likelihoods import Columns, LogNormal, Normal, Poisson
from pyro_spvae.models import FactorizedLeaf, GaussianLeaf, MixedLeaf
from pyro_spvae.testing.block_tests import moved_from_start
from tests.likelihoods.column_cases import BY_FAMILY, table

RANKS = [None, 0, 2]
CLOSED = tuple(BY_FAMILY[n] for n in ("normal", "log-normal", "bernoulli", "categorical", "ordinal", "poisson"))


def standardised(load):
    x = load().data
    return torch.tensor((x - x.mean(0)) / x.std(0))


def mixture(columns, leaves=3, rank=None):
    torch.manual_seed(0)
    return SPN(whole((columns,)), 1, leaves, leaf=GaussianLeaf(rank))


def covariances(spn, detached=True):
    law = spn.leaf.law()
    full = spn.leaf.pixels.rank is None
    found = law.covariance if full else law.factor @ law.factor.mT + law.scale.square().diag_embed()
    return found.detach() if detached else found


@pytest.mark.parametrize("ridge", [0.0, 1e-2])
@pytest.mark.parametrize("load", [load_iris, load_wine])
def test_a_step_is_scikit_learns(load, ridge):
    """From one start; with a ridge in the data's variances, which are 1."""
    x = standardised(load)
    spn = mixture(x.shape[1])
    spn.start(x)
    with torch.no_grad():
        spn.circuit.layers[0].logits.copy_(torch.tensor([0.2, -0.3, 0.5]).reshape(spn.circuit.layers[0].logits.shape))
        spn.leaf.pixels.below.add_(0.05 * torch.randn_like(spn.leaf.pixels.below))
    other = GaussianMixture(
        3,
        reg_covar=ridge,
        max_iter=1,
        weights_init=torch.tensor([0.2, -0.3, 0.5]).softmax(0).double().numpy(),
        means_init=spn.leaf.pixels.loc.detach().numpy(),
        precisions_init=np.linalg.inv(covariances(spn).numpy()),
    )
    with pytest.warns(match="did not converge"):
        other.fit(x.numpy())
    spn.em_step(x, smoothing=0, ridge=ridge)
    assert_close(spn.circuit.log_weights()[0].detach().exp().flatten(), torch.tensor(other.weights_))
    assert_close(spn.leaf.pixels.loc.detach(), torch.tensor(other.means_))
    assert_close(covariances(spn), torch.tensor(other.covariances_), rtol=1e-6, atol=1e-7)
    assert_close(spn.log_prob(x).detach(), torch.tensor(other.score_samples(x.numpy())), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_step_of_factor_analysis(rank):
    """Rubin and Thayer's, with the mean, of one leaf: with (y, 1) as regressors."""
    x = standardised(load_iris)
    spn = mixture(4, leaves=1, rank=rank)
    moved_from_start(spn)
    spn.leaf.pixels._begun = True
    law = spn.leaf.law()
    f, loc, psi = law.factor[0].detach(), law.loc[0].detach(), law.scale[0].detach().square()
    beta = f.T @ torch.linalg.inv(f @ f.T + psi.diag())
    y = (x - loc) @ beta.T
    y1 = torch.cat([y, torch.ones(len(x), 1)], 1)
    second = y1.T @ y1
    second[:rank, :rank] += len(x) * (torch.eye(rank) - beta @ f)
    weights = x.T @ y1 @ torch.linalg.inv(second)
    rest = (x.square().sum(0) - (weights * (x.T @ y1)).sum(1)) / len(x)
    spn.em_step(x, smoothing=0, ridge=0)
    law = spn.leaf.law()
    assert_close(law.factor[0].detach(), weights[:, :rank])
    assert_close(law.loc[0].detach(), weights[:, rank])
    assert_close(law.scale[0].detach().square(), rest)


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("rank", RANKS)
def test_no_step_lowers_the_likelihood(rank, holes):
    x = standardised(load_wine)[:, :6]
    if holes:
        x = torch.where(torch.rand(x.shape) < 0.3, torch.nan, x)
        x[0] = torch.nan
    for spn in (
        mixture(6, 3, rank),
        SPN(random_binary_tree(6, 1, 2), 2, leaf=GaussianLeaf(min(rank or 0, 1) if rank is not None else None)),
    ):
        history = torch.tensor(spn.fit_em(x, 25, smoothing=0, ridge=0, tolerance=-1))
        assert float(history.diff().min()) > -1e-9 and float(history[-1] - history[0]) > 0.05


def test_a_step_with_holes():
    """One leaf: conditional means and covariances of what is missing, by the textbook (Little and Rubin)."""
    x = standardised(load_iris)
    seen = torch.rand(x.shape) < 0.6
    seen[0], seen[1] = False, True
    spn = mixture(4, 1)
    moved_from_start(spn)
    spn.leaf.pixels._begun = True
    loc, sigma = spn.leaf.pixels.loc[0].detach().clone(), covariances(spn)[0]
    first, second, count = torch.zeros(4), torch.zeros(4, 4), 0
    for row, own in zip(x, seen, strict=True):
        if not own.any():
            continue  # says nothing
        s, h = own, ~own
        z, cov = row.clone(), torch.zeros(4, 4)
        gain = sigma[h][:, s] @ torch.linalg.inv(sigma[s][:, s])
        z[h] = loc[h] + gain @ (row[s] - loc[s])
        cov[h.unsqueeze(1) & h] = (sigma[h][:, h] - gain @ sigma[s][:, h]).flatten()
        first, second, count = first + z, second + torch.outer(z, z) + cov, count + 1
    spn.em_step(torch.where(seen, x, torch.nan), smoothing=0, ridge=0)
    mean = first / count
    assert_close(spn.leaf.pixels.loc[0].detach(), mean)
    assert_close(covariances(spn)[0], second / count - torch.outer(mean, mean))


def by_hand(spn, x, seen):
    """Of each leaf of a mixture: number of data, mean, scatter about it, and sums of the data themselves."""
    loc, sigma = spn.leaf.pixels.loc.detach().clone(), covariances(spn)
    joint = spn.circuit.log_weights()[0].detach().flatten().expand(len(x), -1).clone()
    z = x.unsqueeze(1).repeat(1, len(loc), 1)
    spread = torch.zeros(len(x), *sigma.shape)
    for n, own in enumerate(seen):
        s, h = own, ~own
        for k in range(len(loc)):
            law = torch.distributions.MultivariateNormal(loc[k, s], sigma[k][s][:, s])
            joint[n, k] += law.log_prob(x[n, s])
            gain = sigma[k][h][:, s] @ torch.linalg.inv(sigma[k][s][:, s])
            z[n, k, h] = loc[k, h] + gain @ (x[n, s] - loc[k, s])
            spread[n, k][h.unsqueeze(1) & h] = (sigma[k][h][:, h] - gain @ sigma[k][s][:, h]).flatten()
    share = joint.softmax(1)
    count = share.sum(0)
    mean = torch.einsum("nk,nkp->kp", share, z) / count.unsqueeze(1)
    d = z - mean
    return count, mean, torch.einsum("nk,nkpq->kpq", share, d.unsqueeze(3) * d.unsqueeze(2) + spread)


@pytest.mark.parametrize("holes", [False, True])
def test_smoothing_goes_towards_the_covariance_within_leaves(holes):
    """Three leaves: further data of each about its own mean, with the covariance that is left of all in all leaves."""
    x = standardised(load_iris) * torch.tensor([1.0, 5.0, 0.1, 2.0]) + 3
    seen = torch.rand(x.shape) < (0.7 if holes else 2.0)
    seen[:, 1] = True
    given = torch.where(seen, x, torch.nan)
    spn = mixture(4, 3)
    spn.start(given[:40].nan_to_num(3.0))
    count, mean, scatter = by_hand(spn, x, seen)
    within = scatter.sum(0) / len(x)
    variance = torch.tensor([column[own].var(correction=0) for column, own in zip(x.T, seen.T, strict=True)])
    spn.em_step(given, smoothing=20.0, ridge=1e-2)
    assert_close(spn.leaf.pixels.loc.detach(), mean)
    wanted = (scatter + 20 * within) / (count + 20)[:, None, None] + 1e-2 * variance.diag()
    assert_close(covariances(spn), wanted)


@pytest.mark.parametrize("rank", [None, 0, 1])
def test_smoothing_is_of_each_region_by_itself(rank):
    """With twice as many data of the other one nothing changes."""
    x = standardised(load_iris)
    spn = SPN(RegionGraph((4,), [[0, 1], [2, 3]], [(2, 0, 1)]), 1, 3, leaf=GaussianLeaf(rank))
    spn.start(x)
    other = copy.deepcopy(spn)
    for of, times in ((spn, 1), (other, 2)):
        expected = of.expected_statistics()
        of.expect(expected, x)
        for total in expected.sums[-spn.leaf.pixels.moments.number - 3 :]:
            total[3:] *= times
        of.maximise(expected, smoothing=30.0)
    assert_close(covariances(spn)[:3], covariances(other)[:3])
    assert float((covariances(spn)[3:] - covariances(other)[3:]).abs().max()) > 1e-3


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("rank", RANKS)
def test_no_step_lowers_the_likelihood_plus_the_log_prior(rank, holes):
    """
    The inverse-Wishart prior of each covariance, at the mean of those that the step would take without smoothing, and
    the Dirichlet prior of weights.
    """
    x = standardised(load_wine)[:, :6]
    if holes:
        x[:, :5] = torch.where(torch.rand(len(x), 5) < 0.3, torch.nan, x[:, :5])
    spn, smoothing = mixture(6, 3, rank), 12.0
    spn.start(x.nan_to_num())
    gains = []
    for _ in range(15):
        within = within_leaves(spn, x)
        before = log_posterior(spn, x, smoothing, within).item()
        spn.em_step(x, smoothing=smoothing, ridge=0)
        gains.append(log_posterior(spn, x, smoothing, within).item() - before)
    assert min(gains) > -1e-8 and gains[0] > 1


@pytest.mark.parametrize("rank", [None, 0, 1])
def test_steps_end_where_the_likelihood_plus_the_log_prior_has_no_gradient(rank):
    """Of two groups of unlike sizes and spreads."""
    x = of_one_factor()
    x = torch.cat([x[:50] * 2 + 6, x[50:]])
    spn = mixture(4, 2, rank)
    spn.fit_em(x, 150, smoothing=40.0, ridge=0, tolerance=-math.inf)
    parameters = list(spn.parameters())
    posterior = log_posterior(spn, x, 40.0, within_leaves(spn, x))
    gradients = torch.autograd.grad(posterior, parameters)
    assert len(gradients) == 4 and all(float(own.abs().max()) < 1e-4 for own in gradients if own.numel())


def within_leaves(spn, x):
    """The mean of the covariances that a step would take without smoothing, by the leaves' shares of the data."""
    plain = copy.deepcopy(spn)
    plain.em_step(x, smoothing=0, ridge=0)
    shares = plain.circuit.log_weights()[0].detach().exp().flatten()
    return (shares[:, None, None] * covariances(plain)).sum(0)


def log_posterior(spn, x, smoothing, within):
    """Of a mixture's parameters, up to a constant, in nats."""
    sigma = covariances(spn, detached=False)
    log_weights = spn.circuit.log_weights()[0]
    prior = torch.logdet(sigma) + (torch.linalg.inv(sigma) @ within).diagonal(dim1=1, dim2=2).sum(1)
    dirichlet = smoothing / log_weights.numel() * log_weights.sum()
    return spn.log_prob(x).sum() + dirichlet - smoothing / 2 * prior.sum()


def of_one_factor():
    torch.manual_seed(0)
    return torch.randn(150, 1) * torch.tensor([1.0, -2.0, 0.2, 3.0]) + torch.randn(150, 4) * torch.tensor(
        [1.0, 2.0, 0.3, 2.0]
    )


@pytest.mark.parametrize("rank", [None, 0, 1])
def test_one_leaf_is_as_without_smoothing(rank):
    """Its covariance is the one within leaves."""
    x = of_one_factor()
    spn = mixture(4, 1, rank)
    spn.fit_em(x, 200, smoothing=0, ridge=0, tolerance=-1)
    wanted = covariances(spn)[0]
    spn.em_step(x, smoothing=100.0, ridge=0)
    assert_close(covariances(spn)[0], wanted)
    assert_close(spn.leaf.pixels.loc[0].detach(), x.mean(0))


@pytest.mark.parametrize("rank", [None, 0, 1])
def test_a_leaf_without_data_stays_where_it_is_with_the_covariance_of_the_others(rank):
    x = of_one_factor()
    spn = mixture(4, 2, rank)
    spn.start(x)
    with torch.no_grad():
        spn.leaf.pixels.loc[1] = 1e4
    spn.fit_em(x, 200, smoothing=5.0, ridge=0, tolerance=-1)
    assert_close(spn.leaf.pixels.loc[1].detach(), torch.full((4,), 1e4))
    assert_close(covariances(spn)[1], covariances(spn)[0])


def test_columns_that_nearly_determine_each_other_keep_their_likelihood():
    """Six columns of two clusters, of rank 2 but for deviations of 1e-3: with a tenth of the data more, 0.05 nats."""
    torch.manual_seed(0)
    hidden = torch.randn(300, 2) + torch.where(torch.rand(300, 1) < 0.5, 4.0, -4.0)
    x = hidden @ torch.randn(2, 6) + 1e-3 * torch.randn(300, 6)
    plain, smoothed = (mixture(6, 2).fit_em(x, 30, smoothing=a, ridge=0, tolerance=-1)[-1] for a in (0.0, 30.0))
    assert plain - 0.05 < smoothed <= plain


def test_independent_columns_are_a_factorized_leaf():
    """The same step by either, with holes."""
    x = standardised(load_iris)
    x = torch.where(torch.rand(x.shape) < 0.2, torch.nan, x)
    gaussian = mixture(4, 2, 0)
    gaussian.start(x.nan_to_num())
    factorized = SPN(whole((4,)), 1, 2, likelihood=Normal())
    with torch.no_grad():
        factorized.circuit.load_state_dict(gaussian.circuit.state_dict())
        for output, value in zip(
            factorized.leaf.pixels.outputs, (gaussian.leaf.pixels.loc, gaussian.leaf.pixels.scale), strict=True
        ):
            output.copy_(value)
    for spn in (gaussian, factorized):
        spn.em_step(x, smoothing=0, ridge=0)
    assert_close(gaussian.log_prob(x), factorized.log_prob(x))


@pytest.mark.parametrize("rank", [None, 2])
def test_the_ridge_keeps_determinants_from_collapsing(rank):
    """Rows in a plane, and clusters of one row each: deviations are at least the root of the ridge."""
    torch.manual_seed(0)
    x = torch.randn(40, 2) @ torch.randn(2, 5) * torch.tensor([1.0, 10.0, 0.1, 3.0, 1.0])
    spn = mixture(5, 8, rank)
    history = spn.fit_em(x, 50, smoothing=0, ridge=1e-2)
    assert all(math.isfinite(value) for value in history)
    least = torch.linalg.eigvalsh(covariances(spn) / torch.outer(x.std(0, correction=0), x.std(0, correction=0)))
    assert float(least.min()) > 0.99e-2
    without = mixture(5, 8, rank).fit_em(x, 50, smoothing=0, ridge=0)
    assert math.isfinite(without[-1]) and without[-1] > history[-1] + 5


def test_regressions():
    torch.manual_seed(0)
    a = torch.randn(3, 5, 5)
    covariance = a @ a.mT
    unit, variances = regressions(covariance)
    assert_close(unit @ covariance @ unit.mT, variances.diag_embed(), rtol=1e-9, atol=1e-9)
    assert_close(unit, unit.tril())
    assert_close(unit.diagonal(dim1=-2, dim2=-1), torch.ones(3, 5))
    flat = a[:, :, :2] @ a[:, :, :2].mT  # of rank 2
    unit, variances = regressions(flat)
    assert bool(unit.isfinite().all()) and not bool(variances[:, 2:].any()) and bool((variances[:, :2] > 0).all())
    assert_close(unit @ flat @ unit.mT, variances.diag_embed(), rtol=1e-8, atol=1e-8)


class TestTables:
    def test_no_step_lowers_the_likelihood(self):
        x = table(CLOSED, 120)
        holes = torch.where(torch.rand(x.shape) < 0.2, torch.nan, x)
        for regions in (whole((6,)), random_binary_tree(6, 1, 2)):
            for leaf in (
                FactorizedLeaf(Columns(CLOSED)),
                GaussianLeaf(likelihood=Columns(CLOSED)),
                GaussianLeaf(0, Columns(CLOSED)),
                MixedLeaf([FactorizedLeaf(Columns(CLOSED)), GaussianLeaf(likelihood=Columns(CLOSED))]),
            ):
                spn = SPN(regions, 2, leaf=leaf)
                history = torch.tensor(spn.fit_em(holes, 20, smoothing=0, ridge=0, tolerance=-1))
                assert float(history.diff().min()) > -1e-8 and float(history[-1] - history[0]) > 0.05
                spn.check(spn.sample(20))

    @pytest.mark.parametrize("column", CLOSED, ids=lambda column: column.family)
    @pytest.mark.parametrize("smoothing", [0.0, 3.0])
    def test_one_leaf_has_the_moments_of_its_column(self, column, smoothing):
        """Alone, and beside a column of another kind, where outputs lie elsewhere."""
        for columns in (
            (column,),
            (BY_FAMILY["categorical"], column) if column.name != "town" else (CLOSED[0], column),
        ):
            torch.manual_seed(0)
            x = table(columns, 50)
            spn = SPN(whole((len(columns),)), 1, 1, likelihood=Columns(columns))
            spn.em_step(x, smoothing=smoothing)
            values = x[:, -1]
            if column.is_coded:
                number = len(column.categories)
                counts = torch.bincount(values.long(), minlength=number) + smoothing / number
                every = torch.zeros(number, len(columns))
                every[:, -1] = torch.arange(number)
                seen = torch.arange(len(columns)) == len(columns) - 1
                found = spn.log_prob(every, seen).detach().exp()
                assert_close(found, counts / counts.sum(), rtol=1e-5, atol=1e-5)
                continue
            values = values.log() if column.kind == "positive" else values
            law = spn.leaf.law()
            if column.family == "poisson":
                assert law.mean[0, -1].item() == pytest.approx(float(values.mean()), rel=1e-6)
                continue
            mean, variance = values.mean(), values.var(correction=0)
            if column.kind == "positive":
                mean, variance = (mean + variance / 2).exp(), variance.expm1() * (2 * mean + variance).exp()
            assert_close(law.mean[0, -1].detach(), mean)
            assert_close(law.variance[0, -1].detach(), variance)

    @pytest.mark.parametrize("likelihood", [LogNormal(0.5, 2.0), Poisson(3.0)], ids=["log-normal", "poisson"])
    def test_likelihoods_of_one_family(self, likelihood):
        x = torch.poisson(torch.full((40, 2), 3.0)) + 1
        spn = SPN(whole((2,)), 1, 2, likelihood=likelihood)
        history = torch.tensor(spn.fit_em(x, 10, smoothing=0, tolerance=-1))
        assert float(history.diff().min()) > -1e-9

    def test_the_first_step_of_a_gaussian_leaf_is_that_of_its_parts(self):
        """Real columns as by a mixture of them alone, if the others say nothing of the component."""
        columns = (CLOSED[0], CLOSED[1])
        x = table(columns, 60)
        spn = SPN(whole((2,)), 1, 1, leaf=GaussianLeaf(likelihood=Columns(columns)))
        spn.em_step(x, smoothing=0, ridge=0)
        z = torch.stack([x[:, 0], x[:, 1].log()])
        unit = torch.tensor([[columns[0].scale], [columns[1].scale]])
        place = torch.tensor([[columns[0].location], [columns[1].location]])
        z = (z - place) / unit
        normal = spn.leaf.law().normal
        assert_close(normal.loc[0].detach(), z.mean(1))
        assert_close(normal.covariance[0].detach(), torch.cov(z, correction=0))

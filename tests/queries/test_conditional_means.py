# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Conditional means against sums over all completions and trees, and Gaussian leaves in closed form."""

from __future__ import annotations

import copy

import pytest
import torch

from pyro_spvae import poon_domingos, random_binary_tree
from pyro_spvae.distributions import InducedTree
from pyro_spvae.likelihoods import Columns, DiscretizedLogisticMixture
from pyro_spvae.models import SPN, SPVAE, FactorizedLeaf, MixedLeaf
from tests.helpers import small_spvae
from tests.linear_gaussian import LinearGaussian
from tests.models.test_gaussian import RANKS, components, mixture
from tests.queries.test_predictive import COLUMNS, problem
from tests.spn_cases import make_spn, states, values


def given_gaussian(x, seen, mean, covariance):
    """The conditional mean of one datum under one Gaussian."""
    if not seen.any():
        return mean
    gain = covariance[:, seen] @ torch.linalg.inv(covariance[seen][:, seen])
    return mean + gain @ (x - mean)[seen]


@pytest.mark.parametrize("likelihood", ["bernoulli", "binomial"])
def test_by_enumeration_of_all_completions(likelihood):
    r""":math:`\sum_x x\, p(x) / \sum_x p(x)` over the data that agree with what is seen."""
    spn = make_spn(likelihood)
    every = states(likelihood, (1, 2, 2))
    x, seen = values(likelihood, 6, 1, 2, 2), torch.rand(6, 1, 2, 2) < 0.5
    seen[0], seen[1] = False, True
    found = spn.conditional_mean(torch.where(seen, x, torch.nan), seen)
    weight = spn.log_prob(every).detach().exp()
    for row in range(6):
        agree = ((every == x[row]) | ~seen[row]).flatten(1).all(1)
        share = weight[agree] / weight[agree].sum()
        torch.testing.assert_close(found[row], torch.einsum("n,nchw->chw", share, every[agree]))
    assert torch.equal(found[1], x[1])


@pytest.mark.parametrize("rank", RANKS)
def test_by_hand_of_a_mixture_of_gaussians(rank):
    """Seen columns inform those of the same component, and say which component it is."""
    spn = mixture(rank)
    weights, means, covariances = components(spn)
    x, seen = torch.randn(5, 4), torch.rand(5, 4) < 0.5
    seen[0] = False
    found = spn.conditional_mean(torch.where(seen, x, torch.nan))
    for row in range(5):
        only = seen[row : row + 1]
        of_each = torch.stack([given_gaussian(x[row], seen[row], *own) for own in zip(means, covariances, strict=True)])
        log = [
            torch.distributions.MultivariateNormal(mean[seen[row]], covariance[seen[row]][:, seen[row]]).log_prob(
                x[row, seen[row]]
            )
            if only.any()
            else torch.zeros(())
            for mean, covariance in zip(means, covariances, strict=True)
        ]
        share = (weights.log() + torch.stack(log)).softmax(0)
        torch.testing.assert_close(found[row], torch.where(seen[row], x[row], share @ of_each))


@pytest.mark.parametrize("ragged", [False, True])
def test_by_enumeration_of_trees_of_linear_gaussian_vaes(ragged):
    """The mean of each leaf in closed form, weighted by the exact posterior of each tree that it is on."""
    model = LinearGaussian(ragged)
    spvae = model.spvae
    x = 0.4 * spvae.sample(6)  # near to where the guide's particles are
    seen = torch.rand(x.shape) < 0.5
    seen[0] = False
    trees = spvae.circuit.leaf_selections()
    joint = torch.where(trees, model.leaf_log_prob(x, seen).unsqueeze(1), 0.0).sum(-1)
    share = (joint + InducedTree(spvae.circuit).log_prob(trees).detach()).softmax(-1)  # [data, tree]
    patches, mask = spvae.view(x), model.pixel_mask(x, seen)
    means = torch.zeros_like(patches)
    for row, leaf in torch.cartesian_prod(torch.arange(len(x)), torch.arange(spvae.num_leaves)).tolist():
        weight = model.weight[leaf]
        covariance = weight.T @ weight + model.sigma[leaf].square().diag()
        means[row, leaf] = given_gaussian(patches[row, leaf], mask[row, leaf], model.bias[leaf], covariance)
    of_trees = torch.stack([spvae.view.assemble(tree, means) for tree in trees], 1)  # [data, tree, *event]
    wanted = torch.where(seen, x, torch.einsum("bt,bt...->b...", share, of_trees))
    found = spvae.conditional_mean(x, seen, num_particles=40_000)
    torch.testing.assert_close(found, wanted, atol=0.03, rtol=0)
    assert float(share.amax(1).max()) < 0.9, "rows of which no tree is certain"


def test_categories_are_the_most_probable_and_others_means():
    spn = SPN(random_binary_tree(5, 2, 2), 2, likelihood=Columns(COLUMNS))
    x, seen, _ = problem(spn, rows=12)
    found = spn.conditional_mean(torch.where(seen, x, torch.nan))
    assert torch.equal(found[seen], x[seen])
    for entry, number in ((1, 2), (3, 3), (4, 3)):
        own = torch.arange(5) == entry
        log = [spn.log_prob(torch.where(own, float(code), x), seen | own) for code in range(number)]
        wanted = torch.stack(log).argmax(0).to(x)
        assert torch.equal(found[:, entry], torch.where(seen[:, entry], x[:, entry], wanted))
    own = torch.arange(5) == 0
    counts = torch.arange(400.0)
    for row in (~seen[:, 0]).nonzero().flatten().tolist():
        rows = torch.where(own, counts.unsqueeze(1), x[row])
        weight = spn.log_prob(rows, seen[row] | own).detach().softmax(0)
        torch.testing.assert_close(found[row, 0], weight @ counts, atol=1e-6, rtol=1e-6)


def test_is_the_mean_of_what_impute_draws():
    spvae = SPVAE(random_binary_tree(5, 1), 2, likelihood=Columns(COLUMNS))
    x, seen, _ = problem(spvae, rows=3)
    seen[:, [1, 3, 4]] = True  # means of numbers
    draws = spvae.impute(x, seen, 3000, num_particles=300)
    off = (draws.mean(0) - spvae.conditional_mean(x, seen, num_particles=3000)).abs()
    assert bool((off <= 5 * draws.std(0) / 3000**0.5 + 0.02 * draws.std(0)).all()) and bool((off > 0).any())


def test_few_rows_at_a_time_and_options(monkeypatch):
    spn = make_spn()
    x, seen = values("bernoulli", 5, 1, 2, 2), torch.rand(5, 1, 2, 2) < 0.5
    whole_answer = spn.conditional_mean(x, seen)
    monkeypatch.setattr("pyro_spvae.queries.conditional_means.EXACT_BLOCK", 2)
    torch.testing.assert_close(spn.conditional_mean(x, seen), whole_answer)
    assert spn.training and whole_answer.dtype == x.dtype
    low = small_spvae().float()
    shape = (2, *low.event_shape)
    assert low.conditional_mean(torch.rand(shape).float(), torch.rand(shape) < 0.5).dtype == torch.float32
    with pytest.raises(TypeError, match="observed is a NoneType"):
        spn.conditional_mean(x)
    with pytest.raises(ValueError, match="num_particles is 0"):
        spn.conditional_mean(x, seen, num_particles=0)


def coupled(mixed):
    likelihood = DiscretizedLogisticMixture(levels=3, components=2, coupled=True)
    leaf = MixedLeaf([FactorizedLeaf(likelihood), FactorizedLeaf(copy.deepcopy(likelihood))], (1, 1)) if mixed else None
    options = {"likelihood": likelihood} if leaf is None else {"leaf": leaf}
    spn = SPN(poon_domingos((1, 1), 1), units=2, channels=3, **options).double()
    with torch.no_grad():
        for parameter in spn.parameters():
            parameter.add_(torch.randn_like(parameter))
    return spn


@pytest.mark.parametrize("mixed", [False, True])
def test_channels_that_wait_for_each_other_are_averaged_over_draws(mixed):
    """Though nothing is latent, so that one particle would be enough for all else."""
    spn = coupled(mixed)
    every = torch.cartesian_prod(*[torch.arange(3.0)] * 3).reshape(-1, 3, 1, 1).double()
    x, seen = torch.tensor([2.0, 0.0, 0.0]).double().reshape(1, 3, 1, 1), torch.zeros(1, 3, 1, 1, dtype=torch.bool)
    seen[:, 0] = True
    weight = torch.where(every[:, 0, 0, 0] == 2, spn.log_prob(every).exp(), 0.0)
    exact = torch.einsum("n,nchw->chw", weight / weight.sum(), every)
    found = spn.conditional_mean(x, seen, num_particles=20_000)
    rough = torch.cat([spn.conditional_mean(x, seen, num_particles=1) for _ in range(50)])
    assert (found - exact).abs().max() < rough.std(0).max() / 20  # of 140 times smaller errors

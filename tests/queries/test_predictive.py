# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Densities of entries given others, against ratios of exact marginals, enumeration and linear-Gaussian leaves."""

from __future__ import annotations

import pyro
import pytest
import torch

from pyro_spvae import random_binary_tree, whole
from pyro_spvae.data import Column
from pyro_spvae.guides import LeafGuide, MixedGuide, NormalGuide
from pyro_spvae.likelihoods import Columns, DiscretizedLogisticMixture, Likelihood, Normal
from pyro_spvae.models import SPN, SPVAE, VAE, FactorizedLeaf, GaussianLeaf, MixedLeaf
from pyro_spvae.queries import predictive
from pyro_spvae.queries.predictive import Predictive
from pyro_spvae.testing.block_tests import moved_from_start
from tests.linear_gaussian import LinearGaussian

COLUMNS = (
    Column("age", "count", location=8.0, scale=4.0),
    Column("sex", "binary", categories=("f", "m")),
    Column("height", "real", location=170.0, scale=10.0),
    Column("colour", "categorical", categories=("red", "green", "blue")),
    Column("grade", "ordinal", categories=("low", "middle", "high")),
)


class Laplace(Likelihood):
    """A likelihood of stock distributions, with a mask that they are wrapped in."""

    accepts = "finite real numbers"

    def forward(self, outputs, mask=None):
        law = pyro.distributions.Laplace(outputs[0], 1.0)
        return (law if mask is None else law.mask(mask)).to_event(1)


def of_columns():
    """One leaf, with a guide wider than the prior, so that importance weights are bounded."""
    spvae = SPVAE(whole((5,)), 1, likelihood=Columns(COLUMNS))
    with torch.no_grad():
        spvae.leaf_guide.z.network.stacks[1].biases[-1].add_(1.0)
    return spvae


def mixed_leaf():
    leaf = MixedLeaf([VAE(Normal(), 2, (3,)), FactorizedLeaf(Normal())])
    return SPVAE(random_binary_tree(5, 1), 2, leaf=leaf, guide=MixedGuide([NormalGuide((3,)), LeafGuide()]))


POSITIVE = (COLUMNS[2], Column("price", "positive", location=1.0, scale=0.5), *COLUMNS[3:], COLUMNS[1])


def of_gaussians(leaf):
    """Ragged regions of correlated columns, away from where they start."""
    spn = SPN(random_binary_tree(5, 1), 2, leaf=leaf)
    moved_from_start(spn)
    return spn


EXACT = {
    "columns": lambda: SPN(random_binary_tree(5, 2, 2), 2, likelihood=Columns(COLUMNS)),
    "normal, ragged": lambda: SPN(random_binary_tree(5, 1), 3, likelihood=Normal()),
    "gaussian": lambda: of_gaussians(GaussianLeaf()),
    "gaussian of low rank": lambda: of_gaussians(GaussianLeaf(1)),
    "gaussian of columns": lambda: of_gaussians(GaussianLeaf(likelihood=Columns(POSITIVE))),
    "gaussian beside factorized": lambda: of_gaussians(MixedLeaf([GaussianLeaf(), FactorizedLeaf(Normal())])),
    "stock distributions": lambda: SPN(random_binary_tree(5, 1), 2, likelihood=Laplace()),
}


def problem(spvae, rows=6):
    """Data, seen entries and hidden ones: some rows see nothing, hide nothing, or neither see nor hide an entry."""
    x = spvae.sample(rows)
    kind = torch.randint(0, 3, x.shape)
    kind[0], kind[1] = 1, 0
    return x, kind == 0, kind == 1


@pytest.mark.parametrize("name", EXACT)
class TestExact:
    def test_ratios_of_marginals(self, name):
        spn = EXACT[name]()
        x, seen, hidden = problem(spn)
        found = Predictive(spn, x, seen, 1)
        below = spn.log_likelihood(x, seen)
        torch.testing.assert_close(found.log_joint(x, hidden), spn.log_likelihood(x, seen | hidden) - below)
        (single,) = found.log_single([x], hidden)
        for entry in range(5):
            only = torch.zeros(5, dtype=torch.bool)
            only[entry] = True
            wanted = torch.where(hidden[:, entry], spn.log_likelihood(x, seen | only) - below, 0.0)
            torch.testing.assert_close(single[:, entry], wanted)
        assert float(single.abs().max()) > 0.1 and not bool(single[~hidden].any())

    def test_few_masks_at_a_time(self, name, monkeypatch):
        spn = EXACT[name]()
        x, seen, hidden = problem(spn)
        found = Predictive(spn, x, seen, 1)
        whole_answer = found.log_single([x, x.flip(0)], hidden)
        monkeypatch.setattr(predictive, "_VALUES", 1)
        torch.testing.assert_close(found.log_single([x, x.flip(0)], hidden), whole_answer)

    def test_draws_do_not_depend_on_what_is_not_seen(self, name):
        spn = EXACT[name]()
        x, seen, hidden = problem(spn)
        drawn = []
        for values in (x, torch.where(seen, x, x.flip(0)), torch.where(seen, x, torch.nan)):
            pyro.set_rng_seed(3)
            drawn.append(Predictive(spn, values, seen, 1).draw(4))
        assert drawn[0].shape == (4, *x.shape)
        assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])


def test_probabilities_of_categories_add_up_to_one_and_are_frequencies_of_draws():
    spn = EXACT["columns"]()
    x, seen, _ = problem(spn, rows=4)
    hidden = torch.zeros_like(seen)
    hidden[:, 3] = True
    seen = seen & ~hidden
    found = Predictive(spn, x, seen, 1)
    probability = found.log_single([torch.full_like(x, number) for number in range(3)], hidden)[:, :, 3].exp()
    torch.testing.assert_close(probability.sum(0), torch.ones(4))
    drawn = found.draw(4000)[:, :, 3]
    share = torch.stack([(drawn == number).double().mean(0) for number in range(3)])
    assert bool(((share - probability).abs() < 4 * (probability * (1 - probability) / 4000).sqrt()).all())


class TestLatents:
    @pytest.mark.parametrize("ragged", [False, True])
    def test_jointly_of_linear_gaussian_leaves(self, ragged):
        model = LinearGaussian(ragged)
        x = model.spvae.sample(8)
        kind = torch.randint(0, 3, x.shape)
        kind[0] = torch.randint(1, 3, x.shape[1:])  # nothing seen
        seen, hidden = kind == 0, kind == 1
        wanted = model.log_prob(x, seen | hidden) - model.log_prob(x, seen)
        found = Predictive(model.spvae, x, seen, 40_000).log_joint(x, hidden)
        torch.testing.assert_close(found, wanted, atol=0.05, rtol=0)
        assert float(wanted.abs().min()) > 0.2

    @pytest.mark.parametrize("make", [lambda: SPVAE(random_binary_tree(5, 1), 2, likelihood=Normal()), mixed_leaf])
    def test_one_entry_alone_is_jointly_that_entry(self, make):
        spvae = make()
        x, seen, _ = problem(spvae)
        for entry in range(5):
            hidden = torch.zeros_like(seen)
            hidden[:, entry] = True
            found = Predictive(spvae, x, seen & ~hidden, 50)
            (single,) = found.log_single([x], hidden)
            torch.testing.assert_close(single[:, entry], found.log_joint(x, hidden))

    @pytest.mark.parametrize("make", [of_columns, mixed_leaf])
    def test_in_the_limit_ratios_of_log_likelihoods(self, make):
        spvae = make()
        x, seen, hidden = problem(spvae)
        wanted = spvae.log_likelihood(x, seen | hidden, num_samples=40_000)
        wanted = wanted - spvae.log_likelihood(x, seen, num_samples=40_000)
        found = Predictive(spvae, x, seen, 20_000).log_joint(x, hidden)
        torch.testing.assert_close(found, wanted, atol=0.06, rtol=0)


def test_coupled_channels_are_given_those_that_are_seen():
    """p(green | red) and not p(green), of a mixture whose channels depend on each other."""
    likelihood = DiscretizedLogisticMixture(256, components=2)
    spvae = SPN(whole((1, 2)), 1, likelihood=likelihood, channels=3)
    x = spvae.sample(3)
    hidden = torch.zeros(x.shape, dtype=torch.bool)
    hidden[:, 1] = True
    seen = torch.zeros_like(hidden)
    seen[:, 0] = True
    wanted = spvae.log_likelihood(x, seen | hidden) - spvae.log_likelihood(x, seen)
    torch.testing.assert_close(Predictive(spvae, x, seen, 1).log_joint(x, hidden), wanted)

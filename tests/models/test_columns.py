# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Tables of columns of all kinds in every leaf program: densities, missing entries, queries, files, priors."""

from __future__ import annotations

import copy
import dataclasses
import math
import re

import pytest
import scipy.stats
import torch
from torch.testing import assert_close

from pyro_spvae import SPN, SPVAE, Circuit, CircuitELBO, poon_domingos, random_binary_tree, whole
from pyro_spvae.data import Column
from pyro_spvae.guides import DiscreteGuide, HierarchicalGuide, LeafGuide, MixedGuide, NormalGuide
from pyro_spvae.likelihoods import Columns, Normal
from pyro_spvae.models import HVAE, VAE, DiscreteVAE, FactorizedLeaf, GaussianLeaf, MixedLeaf
from pyro_spvae.nn import PixelCNN
from pyro_spvae.priors import VampPrior
from pyro_spvae.testing import LeafPairTests
from pyro_spvae.testing.block_tests import moved_from_start
from pyro_spvae.testing.model_tests import check_step_on_meta
from tests.likelihoods.column_cases import BY_FAMILY, COLUMNS, table
from tests.models.own_leaves import Bare

#: of the image [2, 4] that pairs are tested on, whose leaf regions are its halves: other kinds and widths in each
EIGHT = tuple(
    BY_FAMILY[name]
    for name in ("normal", "categorical", "gamma", "poisson", "ordinal", "beta", "negative-binomial", "bernoulli")
)


class OfColumns(LeafPairTests):
    samples = 2000

    def data(self, rows):
        return table(EIGHT, rows).reshape(rows, 1, 2, 4)


class TestVAE(OfColumns):
    def make(self):
        return VAE(Columns(EIGHT), 2, (4,)), NormalGuide((4,))


class TestVampFromData(OfColumns):
    def make(self):
        return VAE(Columns(EIGHT), 2, (4,), prior=VampPrior(3, init="data", range=(-99.0, 99.0))), NormalGuide((4,))


class TestHVAE(OfColumns):
    same_order = False

    def make(self):
        return HVAE(Columns(EIGHT), 2, 3, (4,)), HierarchicalGuide((4,))


class TestDiscreteVAE(OfColumns):
    def make(self):
        return DiscreteVAE(Columns(EIGHT), 3, hidden_dims=(4,)), DiscreteGuide(hidden_dims=(4,))


class TestFactorized(OfColumns):
    def make(self):
        return FactorizedLeaf(Columns(EIGHT)), LeafGuide()


class TestGaussian(OfColumns):
    """Two real columns and two positive ones, on either side of the image; others between them."""

    columns = (EIGHT[0], EIGHT[1], BY_FAMILY["log-normal"], EIGHT[3], EIGHT[4], EIGHT[7])
    columns = (*columns, dataclasses.replace(EIGHT[0], name="b"), dataclasses.replace(columns[2], name="c"))

    def data(self, rows):
        return table(self.columns, rows).reshape(rows, 1, 2, 4)

    def make(self):
        return GaussianLeaf(likelihood=Columns(self.columns)), LeafGuide()


class TestGaussianOfLowRank(TestGaussian):
    def make(self):
        return GaussianLeaf(1, Columns(self.columns)), LeafGuide()


class TestGaussianBesideVAE(TestGaussian):
    def make(self):
        leaf = MixedLeaf([VAE(Columns(self.columns), 2, (4,)), GaussianLeaf(likelihood=Columns(self.columns))])
        return leaf, MixedGuide([NormalGuide((4,)), LeafGuide()])


class TestMixed(OfColumns):
    """Half of the leaves of each region see columns through a VAE, whose parts know which leaves are theirs."""

    def make(self):
        leaf = MixedLeaf([VAE(Columns(EIGHT), 2, (4,)), FactorizedLeaf(Columns(EIGHT))])
        return leaf, MixedGuide([NormalGuide((4,)), LeafGuide()])


class TestMixedOfOtherWidths(OfColumns):
    """One part sees a feature a pixel, the other several: what is left over is 0."""

    def make(self):
        vamp = VampPrior(3, init="data", frozen=True)
        real = [Column(f"c{i}", "real", location=c.location, scale=c.scale) for i, c in enumerate(EIGHT)]
        leaf = MixedLeaf([VAE(Columns(real), 2, (4,), prior=vamp), VAE(Columns(EIGHT), 2, (4,))])
        return leaf, MixedGuide([NormalGuide((4,)), NormalGuide((4,))])

    test_queries = test_latents_are_drawn_and_given = None  # a normal part draws what no column of the other takes

    def test_features(self, spvae, x):
        features, mask = spvae.prepare(x).features, spvae.leaf.feature_mask(None)
        assert spvae.num_features == features.size(-1) == 8 and mask.shape == (4, 8)
        assert (features[:, ~mask] == 0).all() and mask[::2].sum(-1).tolist() == [4, 4]
        assert mask[1::2].sum(-1).tolist() == [1 + 4 + 2 + 1, 4]


def test_parts_without_a_likelihood_have_a_feature_for_each_pixel():
    """What they see stands in front, and 0 behind it where parts of columns see more."""
    torch.manual_seed(0)
    leaf = MixedLeaf([VAE(Columns(EIGHT), 2, (4,)), Bare()])
    spvae = SPVAE(poon_domingos((8,), delta=4), units=2, leaf=leaf, guide=MixedGuide([NormalGuide((4,)), LeafGuide()]))
    x = table(EIGHT, 5)
    observed = torch.ones(8, dtype=torch.bool)
    observed[6] = False
    for seen in (None, observed):
        batch = spvae.prepare(x, seen)
        mask = leaf.feature_mask(batch.mask)
        width = spvae.view.pixels
        assert batch.features.size(-1) == spvae.num_features > width and mask[..., 1::2, width:].sum() == 0
        assert torch.equal(batch.features[:, 1::2, :width], batch.patches[:, 1::2])
        expected = torch.ones(2, width, dtype=torch.bool) if seen is None else batch.mask[..., 1::2, :]
        assert torch.equal(mask[..., 1::2, :width].expand(expected.shape), expected)
        assert (batch.features[:, 1::2, width:] == 0).all()


def ragged():
    """Leaf regions of two and three columns, drawn twice, so that they overlap."""
    return random_binary_tree((len(COLUMNS),), depth=2, repetitions=2, seed=1)


def model(regions=None, likelihood=None, **options):
    torch.manual_seed(0)
    options = {"latent_dim": 2, "hidden_dims": (6,)} | options
    likelihood = Columns(COLUMNS) if likelihood is None else likelihood
    return SPVAE(ragged() if regions is None else regions, units=2, likelihood=likelihood, **options)


def test_a_table_of_all_kinds_with_holes_is_learned():
    torch.manual_seed(3)
    x = table(COLUMNS, 300)
    x[:, 7] = (x[:, 0] > 1e4).to(x)  # what a model may learn
    observed = torch.rand(x.shape) < 0.8
    holes = torch.where(observed, x, math.nan)
    spvae = model(whole((len(COLUMNS),)))
    before = spvae.log_likelihood(holes, observed, num_samples=30).mean()
    history = spvae.fit(holes, observed=observed, epochs=25, lr=1e-2, seed=0)
    assert math.isfinite(history[-1]["val_elbo"])
    assert spvae.log_likelihood(holes, observed, num_samples=30).mean() > before + 0.3
    filled = spvae.impute(holes, observed, 3)
    assert torch.equal(filled[:, observed], x[observed].expand(3, -1)) and filled.isfinite().all()
    for completed in filled:
        spvae.check(completed)
    means = spvae.impute(holes, observed, means=True)
    assert means.isfinite().all()
    hidden = torch.ones_like(observed)
    hidden[:, 7] = False
    probability = spvae.impute(x, hidden, 20, means=True).mean(0)[:, 7]
    assert probability[x[:, 7] == 1].mean() > probability[x[:, 7] == 0].mean() + 0.2


def test_leaves_see_the_columns_of_their_regions():
    spvae = model()
    names = [column.name for column in COLUMNS]
    assert spvae.view.scopes[0] != spvae.view.scopes[-1]
    x = table(COLUMNS, 4)
    x[2, 5] = -1.0
    with pytest.raises(
        ValueError, match=r"^x holds the value -1 in row 2, column 'visits'; a count takes 0, 1, 2, \.\.$"
    ):
        spvae.check(x)
    observed = torch.ones(len(COLUMNS), dtype=torch.bool)
    observed[names.index("visits")] = False
    spvae.check(x, observed)


def test_evidence_of_factorised_leaves_is_that_by_hand():
    """A mixture of two leaves over a real column and one of four categories, summed by hand."""
    real, town = BY_FAMILY["normal"], BY_FAMILY["categorical"]
    torch.manual_seed(0)
    spn = SPN(whole((2,)), units=2, likelihood=Columns([real, town]))
    x = table((real, town), 7)
    observed = torch.tensor([[True, True]] * 3 + [[True, False]] * 2 + [[False, True]] * 2)
    (outputs,) = spn.leaf.pixels.outputs  # first outputs of both columns, then second ones, ..
    spread = real.scale * (1e-3 + (1 - 1e-3) * torch.log2(1 + 2 ** outputs[:, 2]))
    normal = scipy.stats.norm(real.location + real.scale * outputs[:, 0].detach().numpy(), spread.detach().numpy())
    of_real = torch.from_numpy(normal.pdf(x[:, :1].numpy()))
    of_town = (torch.tensor(town.frequencies).log() + outputs[:, [1, 3, 4, 5]]).softmax(-1)[:, x[:, 1].long()].T
    leaf = torch.where(observed[:, :1], of_real, 1.0) * torch.where(observed[:, 1:], of_town, 1.0)
    weights = spn.circuit.log_prob(torch.eye(2).log()).exp()
    assert_close(weights.sum(), torch.tensor(1.0))
    assert_close(spn.log_prob(x, observed), (leaf * weights).sum(-1).log())
    assert_close(spn.log_likelihood(x, observed), spn.log_prob(x, observed))
    # the masses of all categories add up to the density of the real column
    every = torch.stack([x[0, 0].expand(4), torch.arange(4.0)], -1)
    assert_close(spn.log_prob(every).logsumexp(0), spn.log_prob(x[:1], torch.tensor([True, False]))[0])
    explained = spn.mpe(x, observed)
    assert torch.equal(explained.x[observed], x[observed])
    spn.check(explained.x)


def test_importance_sampling_finds_the_evidence():
    """That of a latent variable of one dimension, by quadrature."""
    columns = [BY_FAMILY[name] for name in ("student-t", "poisson", "ordinal")]
    torch.manual_seed(0)
    wide = NormalGuide((4,), min_scale=1.0)  # as wide as the prior, so that weights are bounded
    spvae = SPVAE(whole((3,)), units=1, leaf=VAE(Columns(columns), 1, (4,)), guide=wide)
    moved_from_start(spvae)
    x = table(columns, 4)
    grid = torch.linspace(-9, 9, 4001)
    laws = spvae.leaf.pixels(grid.reshape(-1, 1, 1))
    joint = laws.expand((4001, 1)).log_prob(x.reshape(4, 1, 1, 3)).squeeze(-1) - grid.square() / 2
    evidence = joint.logsumexp(-1) + math.log((18 / 4000) / math.sqrt(2 * math.pi))
    found = spvae.log_likelihood(x, num_samples=20_000)
    assert_close(found, evidence, rtol=0, atol=0.02)


def test_imputed_entries_follow_their_distribution_given_the_seen_ones():
    """Of factorised leaves the posterior over trees is exact, and so are the probabilities of categories."""
    town, sex = BY_FAMILY["categorical"], BY_FAMILY["bernoulli"]
    torch.manual_seed(0)
    spn = SPN(whole((2,)), units=3, likelihood=Columns([town, sex]))
    moved_from_start(spn)
    x, observed = torch.tensor([[0.0, 1.0]]), torch.tensor([False, True])
    every = torch.stack([torch.arange(4.0), torch.ones(4)], -1)
    masses = (spn.log_prob(every) - spn.log_prob(x, observed)).exp()
    assert_close(masses.sum(), torch.tensor(1.0))
    drawn = spn.impute(x.expand(5000, -1), observed, 4)[..., 0].flatten()
    found = torch.bincount(drawn.long(), minlength=4) / len(drawn)
    assert ((found - masses).abs() < 5 * (masses * (1 - masses) / len(drawn)).sqrt()).all()


def test_is_saved_copied_and_of_both_types(tmp_path):
    spvae = model().double()
    x = table(COLUMNS, 3)
    spvae.save(tmp_path)
    again = SPVAE.load(tmp_path)
    assert again.leaf.pixels.likelihood.columns == COLUMNS and again.architecture() == spvae.architecture()
    found = []
    for one in (spvae, again, copy.deepcopy(spvae)):
        torch.manual_seed(1)
        found.append(one.log_likelihood(x, num_samples=20))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    torch.manual_seed(1)
    single = spvae.float().log_likelihood(x.float(), num_samples=2000)
    torch.manual_seed(1)
    double = again.log_likelihood(x, num_samples=2000)
    assert single.dtype == torch.float32
    assert_close(single.double(), double, rtol=0, atol=0.5)
    assert spvae.sample(3).dtype == torch.float32


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_step_of_ragged_regions_looks_at_no_value(device):
    spvae, x = model(), table(COLUMNS, 4)
    if device == "meta":
        check_step_on_meta(spvae, CircuitELBO(2), x)
    else:
        gradients = torch.autograd.grad(
            CircuitELBO(2).differentiable_loss(spvae.model, spvae.guide, x), spvae.parameters()
        )
        assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_features_of_what_is_missing_are_zero():
    spvae, x = model(), table(COLUMNS, 6)
    observed = torch.rand(x.shape) < 0.5
    batch = spvae.prepare(torch.where(observed, x, math.nan), observed)
    assert batch.features.shape == (6, spvae.num_leaves, spvae.num_features)
    likelihood = spvae.leaf.pixels.likelihood
    for leaf, scope in enumerate(spvae.view.scopes):
        start = 0
        for variable in scope:
            if variable is None:
                continue
            one = Columns([COLUMNS[variable]]).bind(leaves=1, pixels=1)
            own = one.features(x[:, variable].reshape(-1, 1, 1))[:, 0]
            width = own.size(-1)
            expected = torch.where(observed[:, variable, None], own, 0.0)
            assert_close(batch.features[:, leaf, start : start + width], expected)
            start += width
        assert (batch.features[:, leaf, start:] == 0).all()
    assert likelihood.count_features(spvae.view.pixels, spvae.view.scopes) == spvae.num_features


def test_pseudo_inputs_are_features_of_data():
    x = table(COLUMNS, 9)
    prior = VampPrior(data=x, frozen=True)
    spvae = model(prior=prior)
    assert prior.inputs.shape == (9, spvae.num_leaves, spvae.num_features)
    features = spvae.prepare(x).features
    found = sorted(map(tuple, prior.inputs.flatten(1).tolist()))
    assert_close(torch.tensor(found), torch.tensor(sorted(map(tuple, features.flatten(1).tolist()))))
    assert spvae.log_likelihood(x, num_samples=5).isfinite().all()


def test_shared_weights_of_regions_leave_leaves_their_columns():
    """Circuits tie weights of sums; leaves of a shape have parameters of their own, whatever their columns are."""
    regions = poon_domingos((8,), delta=2)
    torch.manual_seed(0)
    spvae = SPVAE(Circuit(regions, 2, tie="shape"), likelihood=Columns(EIGHT), latent_dim=2, hidden_dims=(4,))
    x = table(EIGHT, 5)
    assert spvae.log_likelihood(x, num_samples=10).isfinite().all()
    spvae.check(spvae.sample(5))


def test_other_likelihoods_see_pixels():
    spvae = SPVAE(ragged(), units=2, likelihood=Normal(), latent_dim=2, hidden_dims=(4,))
    assert spvae.num_features == spvae.view.pixels
    batch = spvae.prepare(torch.randn(3, len(COLUMNS)))
    assert torch.equal(batch.features, batch.patches)
    assert spvae.leaf.feature_mask(batch.mask) is batch.mask


REFUSED = [
    (lambda: model(whole((3,))), "columns are 10, but rows have 3 entries; one for each is needed"),
    (
        lambda: SPVAE(whole((2, 4)), leaf=VAE(Columns(EIGHT), 2, decoder=PixelCNN(filters=4, layers=1))),
        "decoder is an autoregressive PixelCNN, which draws pixel by pixel, but the likelihood Columns has no features "
        "and outputs of single pixels; give another decoder",
    ),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()

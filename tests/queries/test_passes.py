# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Queries run each network as often as its result is used."""

from __future__ import annotations

import pytest
import torch

from pyro_spvae import poon_domingos
from pyro_spvae.conditionals.pixels import Pixels
from pyro_spvae.distributions import LeafBernoulli, LeafCategorical
from pyro_spvae.guides import HierarchicalGuide, LeafGuide, MixedGuide, NormalGuide
from pyro_spvae.likelihoods import Bernoulli, Categorical
from pyro_spvae.models import HVAE, SPN, SPVAE, VAE, FactorizedLeaf, MixedLeaf
from pyro_spvae.priors import VampPrior
from tests.helpers import small_spvae

GRID = poon_domingos((4, 4), delta=2)
PRIORS = {"standard normal": 0, "vamp": 1}  # passes of the encoder that the prior takes


def passes(network):
    calls = []
    network.register_forward_hook(lambda *args: calls.append(1))
    return calls


@pytest.fixture
def x():
    return torch.bernoulli(torch.full((3, 1, 4, 4), 0.5))


@pytest.fixture
def left():
    return (torch.arange(4) < 2).expand(1, 4, 4)  # of which the leaves on the right see nothing


QUERIES = {  # passes of the decoder, and of the encoder over data
    "posterior": (lambda spvae, x, left: spvae.posterior(x), 1, 1),
    "posterior, missing": (lambda spvae, x, left: spvae.posterior(x, left), 1, 1),
    "posterior, nothing missing": (lambda spvae, x, left: spvae.posterior(x, left | True), 1, 1),
    "embed": (lambda spvae, x, left: spvae.embed(x), 1, 1),
    "embed, missing": (lambda spvae, x, left: spvae.embed(x, left), 1, 1),
    "reconstruct": (lambda spvae, x, left: spvae.reconstruct(x), 2, 1),
    "impute": (lambda spvae, x, left: spvae.impute(x, left, 3), 4, 1),
    "interpolate": (lambda spvae, x, left: spvae.interpolate(x, x, 5), 7, 2),
    "sample": (lambda spvae, x, left: spvae.sample(4), 1, 0),
    "means": (lambda spvae, x, left: spvae.sample(4, means=True), 1, 0),
    "log_likelihood": (lambda spvae, x, left: spvae.log_likelihood(x, num_samples=4), 1, 1),
}


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("query", QUERIES)
def test_as_often_as_used(x, left, query, prior):
    ask, decoder, encoder = QUERIES[query]
    spvae = small_spvae(GRID, likelihood=Bernoulli(), prior=VampPrior(3) if PRIORS[prior] else None)
    decoded, encoded = passes(spvae.leaf.pixels.decoder), passes(spvae.leaf_guide.z.network)
    ask(spvae, x, left)
    assert len(decoded) == decoder and len(encoded) == encoder + PRIORS[prior]


def test_a_model_is_made_without_decoding(monkeypatch):
    calls = []
    forward = Pixels.forward
    leaf = VAE(Bernoulli(), 2, (3,))
    decoded = passes(leaf.pixels.decoder)
    monkeypatch.setattr(Pixels, "forward", lambda self, *args, **kw: (calls.append(1), forward(self, *args, **kw))[1])
    SPVAE(GRID, leaf=leaf)
    assert calls and not decoded


@pytest.mark.parametrize("leaf", ["hvae", "mixed"])
def test_the_priors_means_where_nothing_is_seen(x, left, leaf):
    """Also without the decoder."""
    if leaf == "hvae":
        program, guide = HVAE(Bernoulli(), latent_dim=2, top_dim=2, hidden_dims=(3,)), HierarchicalGuide((3,))
    else:
        program = MixedLeaf([VAE(Bernoulli(), 2, (3,)), FactorizedLeaf(Bernoulli())])
        guide = MixedGuide([NormalGuide((3,)), LeafGuide()])
    spvae = small_spvae(GRID, leaf=program, guide=guide)
    latents = spvae.embed(x, left, num_particles=4).latents
    top = latents["z2" if leaf == "hvae" else next(iter(latents))]
    right = ~spvae.view(left.unsqueeze(0)).any(-1).squeeze(0)
    assert (top[:, right] == 0).all() and (top[:, ~right] != 0).any()
    assert all(value.isfinite().all() for value in latents.values())
    assert spvae.impute(x, left, 2).shape == (2, *x.shape)


@pytest.mark.parametrize("missing", [False, True])
def test_priors_are_asked_for_where_a_leaf_sees_nothing(x, left, missing):
    """The network of the lower layer's prior runs for the weights, and once more without data if that is used."""
    leaf = HVAE(Bernoulli(), latent_dim=2, top_dim=2, hidden_dims=(3,))
    spvae = small_spvae(GRID, leaf=leaf, guide=HierarchicalGuide((3,)))
    asked = passes(leaf.z1.network)
    spvae.posterior(x, left if missing else left | True)
    assert len(asked) == 1 + missing


def test_features_are_made_for_guides_that_state_something(x, left, monkeypatch):
    made = []
    monkeypatch.setattr(Bernoulli, "features", lambda self, x: made.append(1) or x)
    spn = SPN(GRID, likelihood=Bernoulli())
    spn.log_prob(x), spn.log_likelihood(x), spn.impute(x, left), spn.embed(x), spn.mpe(x, left)
    assert not made
    small_spvae(GRID, likelihood=Bernoulli()).embed(x)
    assert made


def test_means_of_leaves_whose_pixels_are_independent_are_not_drawn(x, left, monkeypatch):
    for law in (LeafCategorical, LeafBernoulli):
        monkeypatch.setattr(law, "sample", lambda *args: pytest.fail("drawn"))
    for leaf in (
        FactorizedLeaf(Categorical(2)),
        MixedLeaf([FactorizedLeaf(Categorical(2)), FactorizedLeaf(Bernoulli())]),
    ):
        spn = SPN(GRID, 2, leaf=leaf)
        assert spn.conditional_mean(x, left).shape == x.shape


@pytest.mark.parametrize("query", ["impute", "sample", "means"])
def test_only_leaves_on_the_tree_are_drawn(x, left, query, monkeypatch):
    drawn = []

    def sample_selected(law, selected):
        drawn.append(selected)
        return original(law, selected)

    original = LeafCategorical.sample_selected
    monkeypatch.setattr(LeafCategorical, "sample_selected", sample_selected)
    monkeypatch.setattr(LeafCategorical, "sample", lambda *args: pytest.fail("all leaves are drawn"))
    QUERIES[query][0](SPN(GRID, likelihood=Categorical(2)), x, left)
    sizes = {4}  # regions of a grid of 2 x 2 cells, of each of which one leaf is taken
    assert drawn and {int(number) for selected in drawn for number in selected.sum(-1).flatten()} == sizes

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Every query of users' own leaves, whatever is latent in them: right where it is known, and inside the support."""

from __future__ import annotations

import pyro
import pytest
import torch

from pyro_spvae import CircuitELBO, poon_domingos
from pyro_spvae.models import SPVAE
from pyro_spvae.training.evaluation import active_units, mean_variances
from tests.models.own_leaves import PAIRS, Linear
from tests.queries.test_storage import same_answers

ROWS = 5
SEEN = torch.tensor([[True, True, False, False]]).expand(1, 2, 4)  # one of the two leaf regions


@pytest.fixture(params=PAIRS)
def spvae(request):
    leaf, guide = PAIRS[request.param]()
    return SPVAE(poon_domingos((2, 4), delta=2), units=2, leaf=leaf, guide=guide)


@pytest.fixture
def x(spvae):
    return spvae.sample(ROWS)


def stated(spvae, x):
    """The guide's distributions by site."""
    trace = pyro.poutine.trace(spvae.guide).get_trace(x)
    return {site: trace.nodes[site]["fn"] for site in spvae.latents}


def expected(law, kinds):
    """What a distribution says, by its definition: an average, or probabilities of numbers of kinds."""
    if kinds is None:
        return law.mean
    draws = law.sample((20_000,))
    return torch.stack([(draws == kind).double().mean(0) for kind in range(kinds)], -1)


def test_embeddings_are_means_or_probabilities(spvae, x):
    latents = spvae.embed(x, num_particles=3).latents
    kinds = getattr(spvae.leaf, "kinds", None)
    assert latents.keys() == spvae.latents.keys()
    for site, law in stated(spvae, x).items():
        wanted = expected(law, kinds)
        wanted = wanted[..., 1] if kinds == 2 else wanted
        torch.testing.assert_close(latents[site], wanted.detach(), atol=0.02 if kinds else 1e-12, rtol=0)


def test_a_leaf_that_sees_nothing_has_what_the_prior_says(spvae, x):
    latents = spvae.embed(torch.where(SEEN, x, torch.nan), SEEN, num_particles=3).latents
    whole = spvae.embed(x, num_particles=3).latents
    prior = pyro.poutine.trace(spvae.model).get_trace(num=1).nodes
    kinds = getattr(spvae.leaf, "kinds", None)
    for site, found in latents.items():
        wanted = prior[site]["fn"].mean if kinds is None else expected(prior[site]["fn"], kinds)
        wanted = wanted[..., 1] if kinds == 2 else wanted
        tolerance = 0.02 if kinds else 1e-12
        torch.testing.assert_close(found[:, 2:], wanted.detach()[:, 2:].expand_as(found[:, 2:]), atol=tolerance, rtol=0)
        torch.testing.assert_close(found[:, :2], whole[site][:, :2])


def test_interpolations_stay_inside_the_support(spvae, x):
    given = []
    decode = spvae.decode
    spvae.__dict__["decode"] = lambda tree, latents: (given.append(latents), decode(tree, latents))[1]
    path = spvae.interpolate(x, x.flip(0), steps=3, num_particles=4)
    assert path.shape == (3, *x.shape) and path.isfinite().all()
    if not isinstance(spvae.leaf, Linear):
        assert ((path >= 0) & (path <= 1)).all()
    for latents in given:
        assert latents.keys() == spvae.latents.keys()
        for site, latent in spvae.latents.items():
            assert latents[site].shape == (ROWS, spvae.num_leaves, *latent.event_shape)
            assert latent.support.check(latents[site]).all()


@pytest.mark.parametrize("seen", [None, SEEN])
def test_log_likelihoods_are_exact_in_the_limit(spvae, x, seen):
    x = x[:2]
    leaf = spvae.leaf.evidence(spvae.view(x))
    exact = spvae.circuit(leaf if seen is None else torch.where(torch.arange(4) < 2, leaf, 0.0)).detach()
    many = x.repeat(100, 1, 1, 1)
    found = spvae.log_likelihood(many, seen, num_samples=500).reshape(100, 2)
    ratio = (found - exact).exp()  # products of averages of independent leaves: 1 in the mean
    error = ratio.std(0) / 10
    assert ((ratio.mean(0) - 1).abs() <= 5 * error + 1e-12).all() and (error < 0.02).all()
    bound = CircuitELBO(2).bound(spvae.model, spvae.guide, many, seen).reshape(100, 2)
    assert (bound.mean(0) < exact + 5 * bound.std(0) / 10 + 1e-12).all()
    if not spvae.latents or getattr(spvae.leaf_guide, "enumerate", None):
        assert (error < 1e-12).all(), "nothing is drawn"


def test_completions(spvae, x):
    filled = spvae.impute(torch.where(SEEN, x, torch.nan), SEEN, num_samples=3, num_particles=4)
    assert filled.shape == (3, *x.shape) and torch.equal(filled[..., :2], x[..., :2].expand(3, ROWS, 1, 2, 2))
    means = spvae.reconstruct(x, num_particles=4)
    assert means.shape == x.shape and means.isfinite().all()
    if not isinstance(spvae.leaf, Linear):
        assert set(filled.unique().tolist()) == {0.0, 1.0} and ((means >= 0) & (means <= 1)).all()


def test_active_units(spvae):
    x = spvae.sample(40)
    variances, active = mean_variances(spvae, x), active_units(spvae, x)
    assert variances.keys() == active.keys() == spvae.latents.keys()
    kinds = getattr(spvae.leaf, "kinds", 0)
    for site, latent in spvae.latents.items():
        says = (kinds,) if kinds > 2 else ()
        assert variances[site].shape == (spvae.num_leaves, *latent.event_shape, *says)
        wanted = spvae.embed(x, num_particles=2).latents[site].var(0)
        torch.testing.assert_close(variances[site], wanted)


def test_trains_and_is_stored(spvae, x, tmp_path):
    CircuitELBO(3)(spvae.model, spvae.guide)(x).backward()
    assert all(parameter.grad.isfinite().all() for parameter in spvae.parameters())
    spvae.save(tmp_path)
    same_answers(spvae, SPVAE.load(tmp_path))

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What circuits over mixture and stick-breaking leaves are asked: frequencies of draws against exact probabilities."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive

from pyro_spvae.distributions import mean_stick_weights
from tests.models.mixture_cases import GRID, IMAGES, KINDS, Exact, assert_frequencies, make, numbers

# a region that is seen, one of which a half is, and one that is missing
OBSERVED = torch.tensor([True, True, False, True, False, False])
ROW = IMAGES[[44]]
ROWS, NUM = 800, 30  # as many independent rows, each with so many particles
WITH_COMPONENTS = ("enumerated", "drawn", "process", "mixed")


def counts(values, size):
    return torch.bincount(values.flatten(), minlength=size)


@pytest.fixture(params=KINDS)
def spvae(request):
    return make(request.param)


@pytest.fixture(params=WITH_COMPONENTS)
def of_components(request):
    """A model, the name of the site of components, and the leaves that have one."""
    spvae = make(request.param)
    mixed = request.param == "mixed"
    return spvae, "c_1" if mixed else "c", torch.arange(1 if mixed else 0, spvae.num_leaves, 2 if mixed else 1)


class TestDraws:
    def test_sample(self, spvae):
        pyro.set_rng_seed(1)
        assert_frequencies(counts(numbers(spvae.sample(8000)), 64), Exact(spvae).log_prob(IMAGES).exp())

    def test_impute(self, spvae):
        """Each row of many has particles of its own, so that rows are independent."""
        exact = Exact(spvae)
        pyro.set_rng_seed(1)
        rows = torch.where(OBSERVED, ROW, torch.nan).expand(ROWS, 1, 1, 6)
        found = spvae.impute(rows, OBSERVED, num_particles=NUM)[0]
        assert torch.equal(found[..., OBSERVED], ROW[..., OBSERVED].expand(ROWS, 1, 1, 3))
        same = (IMAGES == ROW)[..., OBSERVED].flatten(1).all(-1)
        chance = torch.where(same, exact.log_prob(IMAGES).exp(), 0.0)
        assert_frequencies(counts(numbers(found), 64), chance / chance.sum())

    def test_nothing_seen_is_the_prior(self, spvae):
        pyro.set_rng_seed(1)
        found = spvae.impute(torch.zeros(3000, 1, 1, 6), torch.zeros(6, dtype=torch.bool), num_particles=3)[0]
        assert_frequencies(counts(numbers(found), 64), Exact(spvae).log_prob(IMAGES).exp())

    def test_predictive(self, spvae):
        """The tree and the states are those of the datum, pixels are drawn anew."""
        pyro.set_rng_seed(1)
        rows = ROW.expand(ROWS, 1, 1, 6)
        posterior = spvae.posterior(rows, OBSERVED, num_particles=NUM)
        drawn = Predictive(spvae.model, guide=posterior, num_samples=1)(num=ROWS)
        assert drawn["image"].shape == (1, ROWS, 1, 1, 1, 6)
        assert_frequencies(counts(numbers(drawn["image"]), 64), Exact(spvae).anew(ROW, OBSERVED))


class TestComponents:
    def test_of_the_prior(self, of_components):
        """Of all leaves, and not only of those on the tree."""
        spvae, site, index = of_components
        pyro.set_rng_seed(1)
        drawn = poutine.trace(spvae.model).get_trace(num=3000).nodes[site]["value"][:, index]
        chance = Exact(spvae).mass.sum(1)
        for leaf, values in zip(index, drawn.unbind(1), strict=True):
            assert_frequencies(counts(values, 3), chance[:, leaf])

    def test_of_the_posterior(self, of_components):
        """Of each leaf given its own patch: where it is seen, where a half is, and where nothing is."""
        spvae, site, index = of_components
        pyro.set_rng_seed(1)
        rows = ROW.expand(ROWS, 1, 1, 6)
        trace = poutine.trace(spvae.posterior(rows, OBSERVED, num_particles=NUM)).get_trace()
        chance = Exact(spvae).components(ROW, OBSERVED)[0]
        for leaf, values in zip(index, trace.nodes[site]["value"][:, index].unbind(1), strict=True):
            assert_frequencies(counts(values, 3), chance[leaf])
        tree = trace.nodes["tree"]["value"].squeeze(1).double()
        on_tree = Exact(spvae).leaf_posterior(ROW, OBSERVED)[0]
        error = (on_tree * (1 - on_tree) / ROWS).sqrt()
        assert bool(((tree.mean(0) - on_tree).abs() < 5 * error + 1e-9).all())
        assert float((chance[index[:4]] - 1 / 3).abs().max()) > 0.1  # which the data tell

    def test_are_drawn_with_their_own_states(self, of_components):
        """Given a component the decoded picture is that of its normal distribution."""
        spvae, site, index = of_components
        exact, num = Exact(spvae), 1500
        given = exact.mass.sum(1)  # [component, leaf]
        for c in range(3):
            value = torch.full((num, spvae.num_leaves), c)
            for tree in (torch.arange(6) % 2 == 0, torch.arange(6) % 2 == 1):
                pyro.set_rng_seed(1)
                found = spvae.decode(tree.expand(num, -1), {site: value})
                white = torch.einsum("nl,nlp->lp", exact.mass[c] / given[c], exact.white)
                own = tree & torch.isin(torch.arange(6), index)
                error = found.std(0).flatten() / num**0.5 + 1e-9
                for leaf in own.nonzero().flatten().tolist():
                    place = slice(leaf // 2 * 2, leaf // 2 * 2 + 2)
                    assert bool(
                        ((found.mean(0).flatten() - white[leaf].repeat(3))[place].abs() < 5 * error[place]).all()
                    )


class TestEmbeddings:
    def test_leaf_posterior(self, spvae):
        exact, x = Exact(spvae), IMAGES[::16]
        for observed in (None, OBSERVED):
            pyro.set_rng_seed(1)
            embedding = spvae.embed(x, observed, num_particles=2000)
            torch.testing.assert_close(embedding.leaf_posterior, exact.leaf_posterior(x, observed), rtol=0, atol=0.03)
        prior = exact.leaf_posterior(x, torch.zeros(6, dtype=torch.bool))
        assert float((exact.leaf_posterior(x) - prior).abs().max()) > 0.2

    def test_components_are_the_means_of_the_weights(self, of_components):
        r"""
        :math:`E_q[\pi_k(v)]`, exactly that of fractions at their means; where nothing is seen :math:`E_p[\pi_k]`.
        """
        spvae, site, index = of_components
        x, num = IMAGES[::16], 2000
        pyro.set_rng_seed(1)
        found = spvae.embed(x, OBSERVED, num_particles=num).latents[site][:, index]
        leaf, guide = spvae.leaf, spvae.leaf_guide
        if site != "c":
            leaf, guide = (part.subsets[1].program for part in (leaf, guide))
        patches = spvae.view(torch.where(OBSERVED, leaf.features(x), 0.0))[:, index]
        law, _ = guide.encode(patches)
        expected = mean_stick_weights(law.mean).detach()
        unseen = index >= 4
        expected[:, unseen] = Exact(spvae).mass.sum(1).T[index[unseen]]
        # of one draw a weight deviates by less than 0.5
        torch.testing.assert_close(found, expected, rtol=0, atol=5 * 0.5 / num**0.5)
        torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:-1]))

    def test_reconstructions_and_paths_stay_inside_of_supports(self, spvae):
        """And latent variables of paths, which are decoded as they are."""
        x, seen = IMAGES[::5], []
        decode = spvae.decode
        spvae.__dict__["decode"] = lambda tree, latents: (seen.append((tree, latents)), decode(tree, latents))[1]
        pyro.set_rng_seed(1)
        path = spvae.interpolate(x, x.flip(0), 4, 20)
        means = spvae.reconstruct(x, num_particles=20)
        for image in (path, means):
            assert bool(((image > 0) & (image < 1)).all())
        assert len(seen) == 4
        trees = {tuple(row) for row in Exact(spvae).trees.leaves.tolist()}
        for (tree, latents), image in zip(seen, path, strict=True):
            assert {tuple(row) for row in tree.tolist()} <= trees and latents.keys() == spvae.latents.keys()
            for name, value in latents.items():
                latent = spvae.latents[name]
                assert bool(latent.support.check(value).all()) and value.shape[2:] == latent.event_shape
            if "z" in latents and "z_1" not in latents:
                white = spvae.leaf.pixels(latents["z"]).mean
                torch.testing.assert_close(image, spvae.view.assemble(tree, white).detach())


def test_a_grid_of_several_trees():
    """The smallest in which regions are joined in two orders."""
    trees = Exact(make()).trees
    assert GRID.counts(2)["leaf_regions"] == 3 and len(trees.leaves.unique(dim=0)) == 8 < len(trees.leaves)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Which component of a mixture each datum is of, for every leaf."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

from pyro_spvae import poon_domingos
from pyro_spvae.blocks import Latent
from pyro_spvae.distributions import LeafGaussianMixture
from pyro_spvae.distributions.joined import SomeLeaves
from pyro_spvae.distributions.kinds import responsibilities
from pyro_spvae.distributions.sticks import mean_stick_weights
from pyro_spvae.guides import LeafGuide, MixedGuide, MixtureGuide, NormalGuide
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import DLDPMM, DLGMM, VAE, FactorizedLeaf, MixedLeaf
from pyro_spvae.queries.posterior import LeafDraws
from tests.helpers import small_spvae
from tests.infer.test_enumerated import KindsGuide, KindsLeaf
from tests.models import own_leaves

MEANS = (-2.0, 0.0, 2.5)
GRID = poon_domingos((2, 2), delta=1)


def summed(means=MEANS):
    """Leaves whose component is summed out, with unequal weights under the prior."""
    leaf = DLDPMM(Normal(), 2, 3, 0.5, means, summed=True, hidden_dims=(3,))
    return small_spvae(GRID, leaf=leaf, guide=MixtureGuide((3,)))


def left_out(rows=3):
    """Data, and a mask by which leaves 2 and 3 see nothing of datum 1."""
    observed = torch.ones(rows, 1, 2, 2, dtype=torch.bool)
    observed[1, 0, 0, 1] = False
    return torch.randn(rows, 1, 2, 2), observed


def assert_probabilities(values):
    torch.testing.assert_close(values.sum(-1), torch.ones(values.shape[:-1]))
    assert bool((values >= 0).all())


class TestKinds:
    def test_they_are_what_latents_say(self):
        spvae = small_spvae(GRID, leaf=DLGMM(Normal(), 2, 3, 0.7, MEANS, hidden_dims=(3,)), guide=MixtureGuide((3,)))
        x, observed = left_out()
        for seen in (None, observed):
            embedding = spvae.embed(x, seen, num_particles=20)
            assert embedding.components.keys() == {"c"} == embedding.most_probable.keys()
            assert torch.equal(embedding.components["c"], embedding.latents["c"])
            best = embedding.most_probable["c"]
            assert best.dtype == torch.int64 and torch.equal(best, embedding.latents["c"].argmax(-1))

    @pytest.mark.parametrize("enumerate", [None, "parallel"])
    def test_of_two_kinds_both_have_a_probability(self, enumerate):
        spvae = small_spvae(GRID, leaf=own_leaves.Kinds(2), guide=own_leaves.KindsGuide(enumerate))
        x, observed = left_out()
        x = (x > 0).double()
        embedding = spvae.embed(x, observed, num_particles=4)
        second = embedding.latents["c"]
        torch.testing.assert_close(embedding.components["c"], torch.stack([1 - second, second], -1))
        assert torch.equal(embedding.most_probable["c"], (second > 0.5).long())
        prior = spvae.leaf.weights.softmax(-1).detach()
        torch.testing.assert_close(embedding.components["c"][1, 2:4], prior[2:4])
        assert float((embedding.components["c"][0, 2:4] - prior[2:4]).abs().min()) > 1e-3

    def test_a_bit_is_of_two_kinds(self):
        """Its distribution is no Categorical, and depends on an enumerated variable before it."""
        spvae = small_spvae(GRID, leaf=KindsLeaf(), guide=KindsGuide())
        x, observed = left_out()
        embedding = spvae.embed(x, observed, num_particles=2000)
        assert embedding.components.keys() == {"c", "b"}
        for probs in embedding.components.values():
            assert_probabilities(probs)
        torch.testing.assert_close(embedding.components["b"][..., 1], embedding.latents["b"])
        leaf = spvae.leaf
        given = leaf.b.detach().sigmoid().squeeze(-1)  # p(b = 1 | c)
        wanted = (leaf.c.detach().softmax(-1) * given).sum(-1)
        torch.testing.assert_close(embedding.components["b"][1, 2:4, 1], wanted[2:4], rtol=0, atol=5 * 0.3 / 2000**0.5)

    def test_numbers_may_start_anywhere(self):
        latent = Latent((), constraints.integer_interval(3, 5))
        law = dist.Delta(torch.tensor([4, 5, 3]))
        assert latent.components(law, law.sample((2,))).argmax(-1).tolist() == [1, 2, 0]

    @pytest.mark.parametrize(
        "latent", [Latent(2, constraints.boolean), Latent(()), Latent((), constraints.nonnegative_integer)]
    )
    def test_others_have_none(self, latent):
        law = dist.Bernoulli(torch.full(latent.event_shape, 0.5)).to_event(len(latent.event_shape))
        assert latent.components(law, law.sample((2,))) is None

    def test_models_without_any(self):
        assert small_spvae(GRID).embed(torch.randn(2, 1, 2, 2)).components == {}
        leaf, guide = own_leaves.Kinds(3, (2,)), own_leaves.KindsGuide()
        embedding = small_spvae(GRID, leaf=leaf, guide=guide).embed(torch.ones(2, 1, 2, 2))
        assert embedding.components == embedding.most_probable == {} and embedding.latents["c"].shape == (2, 8, 2, 3)


class TestMixtures:
    def test_they_are_responsibilities_averaged_over_particles(self):
        spvae, x = summed(), torch.randn(3, 1, 2, 2)
        pyro.set_rng_seed(3)
        draws = LeafDraws.make(spvae, spvae.prepare(x), 7)
        z, law = draws.value("z"), draws.sites["z"]["fn"]
        density = dist.Normal(law.loc, law.scale).log_prob(z.unsqueeze(-2)).sum(-1)
        wanted = (law.log_weight + density).softmax(-1).mean(0).detach()
        pyro.set_rng_seed(3)
        embedding = spvae.embed(x, num_particles=7)
        assert embedding.components.keys() == {"z"} and embedding.latents["z"].shape == (3, 8, 2)
        torch.testing.assert_close(embedding.components["z"], wanted)
        assert torch.equal(embedding.most_probable["z"], wanted.argmax(-1))

    def test_in_the_mean_they_are_the_weights(self):
        """E_q(z) p(k | z) = E_q(v) pi_k, which is known exactly; under the prior where a leaf sees nothing."""
        spvae = summed()
        with torch.no_grad():
            for parameter in spvae.leaf_guide.parameters():
                parameter.mul_(1.5)
        x, observed = left_out()
        found = spvae.embed(x, observed, num_particles=4000).components["z"]
        assert_probabilities(found)
        law, _ = spvae.leaf_guide.encode(spvae.view(torch.where(observed, x, 0.0)))
        wanted = mean_stick_weights(law.mean.detach())
        wanted[1, 2:4] = mean_stick_weights(torch.full((2,), 1 / 1.5))  # Beta(1, 0.5)
        torch.testing.assert_close(found, wanted, rtol=0, atol=5 * 0.4 / 4000**0.5)
        assert float((wanted - 1 / 3).abs().max(-1).values.min()) > 0.1, "or equal ones would pass"

    def test_equal_components_of_the_prior_are_equally_probable(self):
        """Equal components are one distribution, no mixture, under the prior."""
        spvae = summed(None)
        x, observed = left_out()
        found = spvae.embed(x, observed, num_particles=50).components["z"]
        assert_probabilities(found)
        torch.testing.assert_close(found[1, 2:4], torch.full((2, 3), 1 / 3))
        assert float((found[0] - 1 / 3).abs().max()) > 0.05

    def test_whatever_wraps_the_distribution(self):
        loc = torch.randn(5, 4, 3, 2)
        law = LeafGaussianMixture(loc, torch.ones_like(loc), torch.zeros(3).log_softmax(-1))
        z = torch.randn(6, 5, 4, 2)
        wanted = law.log_responsibilities(z).exp()
        for other in (law.mask(False), law.expand((6, 5, 4)), law.mask(torch.ones(4).bool()).to_event(0)):
            torch.testing.assert_close(responsibilities(other, z), wanted)
        few = SomeLeaves(law, torch.tensor([1, 3, 4, 6]), 7)
        values = torch.zeros(6, 5, 7, 2).index_copy(2, few.index, z)
        torch.testing.assert_close(responsibilities(few, values)[:, :, few.index], wanted)
        probs = Latent(2).components(few, values.unsqueeze(0))
        torch.testing.assert_close(probs[:, :, few.index], wanted)
        assert not bool(probs[:, :, [0, 2, 5]].any())
        assert responsibilities(SomeLeaves(dist.Normal(torch.zeros(4), 1.0), few.index, 7), values) is None


class TestSeveralKindsOfLeaves:
    PARTS = (
        (lambda: VAE(Normal(), 2, (3,)), lambda: NormalGuide((3,)), {}),
        (lambda: DLGMM(Normal(), 2, 3, means=MEANS, hidden_dims=(3,)), lambda: MixtureGuide((3,)), {"c_1": 3}),
        (
            lambda: DLGMM(Normal(), 1, 4, means=(*MEANS, 4.0), summed=True, hidden_dims=(3,)),
            lambda: MixtureGuide((3,)),
            {"z_2": 4},
        ),
        (KindsLeaf, KindsGuide, {"c_3": 3, "b_3": 2}),
        (lambda: FactorizedLeaf(Normal()), LeafGuide, {}),
    )

    @pytest.mark.parametrize("nested", [False, True])
    def test_each_leaf_has_its_own(self, nested):
        leaf, guide = (
            MixedLeaf([make() for make, _, _ in self.PARTS]),
            MixedGuide([make() for _, make, _ in self.PARTS]),
        )
        if nested:
            leaf, guide = MixedLeaf([leaf]), MixedGuide([guide])
        spvae = small_spvae(GRID, 5, leaf=leaf, guide=guide)
        x, observed = left_out()
        observed[2] = False
        embedding = spvae.embed(x, observed, num_particles=6)
        sizes = {site: size for _, _, own in self.PARTS for site, size in own.items()}
        assert embedding.components.keys() == sizes.keys()
        for site, size in sizes.items():
            own = torch.arange(spvae.num_leaves) % 5 == int(site[-1])
            probs, best = embedding.components[site], embedding.most_probable[site]
            assert probs.shape == (3, spvae.num_leaves, size)
            assert_probabilities(probs[:, own])
            assert not bool(probs[:, ~own].any()) and bool((best[:, ~own] == -1).all())
            assert torch.equal(best[:, own], probs[:, own].argmax(-1))

    def test_blocks_of_data_are_put_together(self, monkeypatch):
        spvae, x = summed(), torch.randn(5, 1, 2, 2)
        means = spvae.embed(x, num_particles=3).components["z"]
        monkeypatch.setattr("pyro_spvae.queries.queries._BLOCK", 6)
        assert spvae.embed(x, num_particles=3).components["z"].shape == means.shape == (5, 8, 3)

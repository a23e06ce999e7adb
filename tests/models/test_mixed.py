# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""VAE leaves and tractable leaves side by side in a region."""

from __future__ import annotations

import itertools

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI

from pyro_spvae import CircuitELBO, InducedTree, collapse_tree, poon_domingos
from pyro_spvae.guides import LeafGuide, MixedGuide, NormalGuide
from pyro_spvae.likelihoods import Bernoulli, Normal
from pyro_spvae.models import SPVAE, VAE, FactorizedLeaf, MixedLeaf
from pyro_spvae.training.evaluation import mean_variances
from tests.models.own_leaves import Kinds, KindsGuide, Linear


def mixed(likelihood=Bernoulli, units=2, counts=None):
    leaf = MixedLeaf([VAE(likelihood(), latent_dim=2, hidden_dims=(4,)), FactorizedLeaf(likelihood())], counts)
    guide = MixedGuide([NormalGuide(hidden_dims=(4,)), LeafGuide()], counts)
    spvae = SPVAE(poon_domingos((2, 2), delta=1), units=units, leaf=leaf, guide=guide)
    with torch.no_grad():  # a guide wider than the prior, so that importance weights are bounded
        spvae.leaf_guide.subsets[0].program.z.network.stacks[1].biases[-1].add_(1.0)
    return spvae


@pytest.fixture
def x():
    return (torch.rand(5, 1, 2, 2) < 0.5).double()


class TestDensity:
    def test_leaf_weights_are_those_of_each_kind(self, x):
        """A tractable leaf's weight is its density, a VAE's p(x, z) / q(z)."""
        spvae = mixed()
        guide = poutine.trace(spvae.guide).get_trace(x)
        terms = CircuitELBO(num_particles=1).terms(
            poutine.replay(spvae.model, guide), poutine.replay(spvae.guide, guide), (x,), {}
        )
        patches = spvae.view(x)  # [B, L, 1]
        vae, factorized = (subset.program for subset in spvae.leaf.subsets)
        z = guide.nodes["z"]["value"]  # [B, L, 2]
        assert (z[:, 1::2] == 0).all() and (z[:, ::2] != 0).all()
        (logits,) = vae.pixels.decoder(z[:, ::2])
        q = spvae.leaf_guide.subsets[0].program.encode(patches[:, ::2])
        normal = torch.distributions.Normal
        expected_vae = (
            torch.distributions.Bernoulli(logits=logits).log_prob(patches[:, ::2]).sum(-1)
            + normal(0.0, 1.0).log_prob(z[:, ::2]).sum(-1)
            - normal(q.loc, q.scale).log_prob(z[:, ::2]).sum(-1)
        )
        expected = torch.distributions.Bernoulli(logits=factorized.pixels.outputs[0]).log_prob(patches[:, 1::2]).sum(-1)
        torch.testing.assert_close(terms.log_weight[0][:, ::2], expected_vae)
        torch.testing.assert_close(terms.log_weight[0][:, 1::2], expected)

    def test_sums_to_one(self):
        """Estimated densities of all images add up to one, within the error of 4000 samples."""
        images = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4))).double().reshape(-1, 1, 2, 2)
        assert mixed().log_likelihood(images, num_samples=4000).exp().sum().item() == pytest.approx(1, abs=0.01)

    def test_equals_enumeration_of_trees_in_value_and_gradients(self, x):
        """For fixed latents, the sum over all induced trees of the 2 x 2 grid."""
        spvae = mixed()
        guide = poutine.trace(spvae.guide).get_trace(x)
        fixed = {"z": guide.nodes["z"]["value"].detach()}
        elbo = CircuitELBO(num_particles=1)
        loss = elbo.differentiable_loss(poutine.condition(spvae.model, fixed), lambda x: None, x)
        (-loss).backward()
        gradients = {name: p.grad.clone() for name, p in spvae.leaf.named_parameters()}
        spvae.zero_grad()
        tree = spvae.circuit
        trees = InducedTree(tree).enumerate_support(expand=False).squeeze(-2)  # [T, L]
        trees = trees.reshape(len(trees), 1, -1)
        model = collapse_tree(poutine.condition(spvae.model, fixed))
        trace = poutine.trace(model).get_trace(x)
        leaf = trace.nodes["x"]["fn"].log_prob(x_of(spvae, x)) + trace.nodes["z"]["fn"].log_prob(fixed["z"])
        weights = InducedTree(tree).log_prob(trees)
        brute = (weights.reshape(len(trees), 1) + (trees * leaf).sum(-1)).logsumexp(0)
        torch.testing.assert_close(-loss.detach(), brute.sum().detach())
        brute.sum().backward()
        for name, parameter in spvae.leaf.named_parameters():
            torch.testing.assert_close(parameter.grad, gradients[name])


def x_of(spvae, x):
    return spvae.view(x)


class TestQueries:
    @pytest.mark.parametrize("likelihood", [Bernoulli, lambda: Normal(mean="sigmoid")])
    def test_trains_samples_imputes_and_embeds(self, x, likelihood):
        spvae = mixed(likelihood)
        svi = SVI(spvae.model, spvae.guide, pyro.optim.Adam({"lr": 1e-2}), CircuitELBO(num_particles=3))
        first = sum(svi.step(x) for _ in range(5))
        for _ in range(60):
            svi.step(x)
        assert sum(svi.step(x) for _ in range(5)) < first
        assert spvae.sample(3).shape == (3, 1, 2, 2)
        seen = torch.tensor([True, True, False, False]).reshape(1, 2, 2)
        drawn = spvae.impute(x, seen, num_samples=2)
        assert (drawn[..., 0, :] == x[..., 0, :]).all()
        assert spvae.embed(x).latents["z"].shape == (5, spvae.num_leaves, 2)
        assert spvae.reconstruct(x).shape == x.shape

    def test_samples_have_the_densitys_frequencies(self):
        spvae = mixed()
        draws = spvae.sample(20_000).flatten(1)
        images = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4))).double()
        frequencies = (draws[:, None] == images).all(-1).double().mean(0)
        expected = spvae.log_likelihood(images.reshape(-1, 1, 2, 2), num_samples=4000).exp()
        torch.testing.assert_close(frequencies, expected, atol=0.015, rtol=0)

    @pytest.mark.parametrize("gradient", ["iwae", "dreg"])
    def test_gradients_reach_every_parameter(self, x, gradient):
        spvae = mixed()
        CircuitELBO(num_particles=3, gradient=gradient)(spvae.model, spvae.guide)(x).backward()
        for name, parameter in spvae.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name

    def test_runs_inside_collapse_tree(self, x):
        trace = poutine.trace(collapse_tree(mixed().model)).get_trace(x)
        assert {"z", "x"} <= trace.nodes.keys()


class TestCounts:
    def test_leaves_of_a_region_follow_the_counts(self):
        spvae = mixed(units=3, counts=(1, 2))
        assert [subset.index.tolist() for subset in spvae.leaf.subsets] == [[0, 3, 6, 9], [1, 2, 4, 5, 7, 8, 10, 11]]
        assert spvae.leaf.subsets[1].program.pixels.outputs[0].shape == (8, 1)

    def test_sites_whose_owner_their_names_do_not_tell_are_refused(self):
        parts = [Linear({"a_1": (2,)}), VAE(Normal(), 2)]
        with pytest.raises(ValueError, match="^the first part has the latent site 'a_1', whose end is another's"):
            MixedLeaf(parts)

    @pytest.mark.parametrize(
        ("counts", "message"),
        [
            ((1,), "counts is \\(1,\\); a positive integer for each of the 2 parts"),
            ((1, 0), "counts is"),
            ((2, 1), "their sum must divide"),
        ],
    )
    def test_refuses(self, counts, message):
        with pytest.raises(ValueError, match=message):
            mixed(counts=counts)


class TestPartsOfManyKinds:
    """Vectors of different sizes, a categorical variable that the guide sums over, and nothing latent."""

    @pytest.fixture
    def spvae(self):
        leaves = [VAE(Bernoulli(), 2, (3,)), VAE(Bernoulli(), 5, (3,)), Kinds(3), FactorizedLeaf(Bernoulli())]
        guides = [NormalGuide((3,)), NormalGuide((3,)), KindsGuide("parallel"), LeafGuide()]
        counts = (1, 1, 2, 1)
        leaf, guide = MixedLeaf(leaves, counts), MixedGuide(guides, counts)
        return SPVAE(poon_domingos((1, 2), delta=1), units=5, leaf=leaf, guide=guide)

    @pytest.fixture
    def x(self):
        return torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]]).reshape(4, 1, 1, 2)

    def test_latents_have_the_names_and_shapes_of_the_parts(self, spvae):
        shapes = {site: latent.event_shape for site, latent in spvae.latents.items()}
        assert shapes == {"z": (2,), "z_1": (5,), "c_2": ()}

    @pytest.mark.parametrize("vectorize", [True, False])
    @pytest.mark.parametrize("num", [1, 3])
    def test_what_is_summed_over_is_exact(self, spvae, x, num, vectorize):
        terms = CircuitELBO(num, vectorize_particles=vectorize).terms(spvae.model, spvae.guide, (x,), {})
        assert terms.log_weight.shape == (num, 4, 10)
        for place in (2, 3):
            subset = spvae.leaf.subsets[place]
            own = subset.narrow(spvae.view(x))
            evidence = subset.program.evidence(own) if place == 2 else subset.program.pixels().log_prob(own)
            torch.testing.assert_close(
                subset.narrow(terms.log_weight.unsqueeze(-1))[..., 0], evidence.expand(num, 4, -1)
            )

    def test_densities_sum_to_one(self, spvae, x):
        with torch.no_grad():  # guides wider than the prior, so that importance weights are bounded
            for subset in spvae.leaf_guide.subsets[:2]:
                subset.program.z.network.stacks[1].biases[-1].add_(1.0)
        found = spvae.log_likelihood(x.repeat(20, 1, 1, 1), num_samples=500).reshape(20, 4).exp().sum(-1)
        assert abs(found.mean() - 1) < 5 * found.std() / 20**0.5 < 0.02

    def test_queries(self, spvae, x, tmp_path):
        latents = spvae.embed(x, num_particles=3).latents
        shapes = {site: value.shape[1:] for site, value in latents.items()}
        assert shapes == {"z": (10, 2), "z_1": (10, 5), "c_2": (10, 3)}
        index = spvae.leaf.subsets[2].index
        own = latents["c_2"][:, index]
        torch.testing.assert_close(own.sum(-1), torch.ones(4, 4))
        assert (own > 0).all() and latents["c_2"].sum() == own.sum()
        seen = torch.tensor([[True, False]])
        filled = spvae.impute(x, seen, num_samples=2, num_particles=3)
        assert torch.equal(filled[..., 0], x[..., 0].expand(2, -1, -1, -1))
        assert set(filled.unique().tolist()) == {
            0.0,
            1.0,
        }
        for answer in (spvae.reconstruct(x), spvae.interpolate(x, x.flip(0), 3), spvae.sample(3, means=True)):
            assert ((answer >= 0) & (answer <= 1)).all()
        assert {site: value.shape for site, value in mean_variances(spvae, x).items()} == shapes
        spvae.save(tmp_path)
        answers = []
        for one in (spvae, SPVAE.load(tmp_path)):
            pyro.set_rng_seed(1)
            answers.append((one.log_likelihood(x, num_samples=3), one.reconstruct(x)))
        assert all(torch.equal(*pair) for pair in zip(*answers, strict=True))

    def test_gradients_reach_every_parameter(self, spvae, x):
        CircuitELBO(3)(spvae.model, spvae.guide)(x).backward()
        silent = {name for name, parameter in spvae.named_parameters() if parameter.grad.abs().max() < 1e-12}
        # the bound does not depend on the weights of a sum that is exact
        assert silent == {"leaf_guide.subsets.2.program.weight"}

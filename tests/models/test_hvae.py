# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Two latent layers as a leaf: against hand-written algebra, and in circuits."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceEnum_ELBO
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Normal as TorchNormal

from pyro_spvae import CircuitELBO, InducedTree, poon_domingos, whole
from pyro_spvae.guides import HierarchicalGuide, MixedGuide, NormalGuide
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import HVAE, SPVAE, VAE, MixedLeaf
from pyro_spvae.nn import MLP, Joint
from pyro_spvae.priors import MixtureOfGaussians, StandardNormal, VampPrior
from tests.helpers import assert_same_gradients, gradients, leaf_log_weights, particles
from tests.infer.test_circuit_elbo import brute_force
from tests.models.hvae_cases import GRID, LATENT, ORDERS, TOP, bits, by_hand, hvae, scale_of


class TestProgram:
    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("skip", [True, False])
    @pytest.mark.parametrize("num", [1, 3])
    def test_bound_equals_hand_written_algebra_under_one_seed(self, order, skip, num):
        spvae = hvae(whole((2, 2)), 1, order, skip=skip)
        x = bits(spvae)
        pyro.set_rng_seed(1)
        log_weight = by_hand(spvae, x, num, order, skip=skip)
        expected = -(log_weight.logsumexp(0) - math.log(num)).sum()
        pyro.set_rng_seed(1)
        loss = CircuitELBO(num)(spvae.model, spvae.guide)(x)
        torch.testing.assert_close(loss, expected, atol=1e-10, rtol=0)
        assert_same_gradients(gradients(spvae, loss), gradients(spvae, expected))

    @pytest.mark.parametrize("order", ORDERS)
    def test_sites_and_shapes(self, order):
        spvae = hvae(order=order)
        x = bits(spvae)
        guide = poutine.trace(spvae.guide).get_trace(x)
        names = [name for name in guide.stochastic_nodes if name.startswith("z")]
        assert names == (["z2", "z1"] if order == "top-down" else ["z1", "z2"])
        model = poutine.trace(spvae.model).get_trace(num=5)
        assert model.nodes["z2"]["value"].shape == guide.nodes["z2"]["value"].shape == (5, spvae.num_leaves, TOP)
        assert model.nodes["z1"]["value"].shape == guide.nodes["z1"]["value"].shape == (5, spvae.num_leaves, LATENT)
        assert list(model.nodes).index("z2") < list(model.nodes).index("z1") < list(model.nodes).index("x")

    def test_joint_density_of_generated_data(self):
        spvae = hvae()
        trace = poutine.trace(spvae.model).get_trace(num=4)
        trace.compute_log_prob()
        z2, z1, x = (trace.nodes[name]["value"] for name in ("z2", "z1", "x"))
        tree = trace.nodes["tree"]["value"].squeeze(-2)
        loc, raw = spvae.leaf.z1.network(z2)
        (logits,) = spvae.leaf.pixels.decoder(z1, z2)
        parts = {
            "z2": TorchNormal(0.0, 1.0).log_prob(z2),
            "z1": TorchNormal(loc, scale_of(raw)).log_prob(z1),
            "x": TorchBernoulli(logits=logits).log_prob(x),
        }
        for name, log_prob in parts.items():
            expected = torch.where(tree, log_prob.sum(-1), 0.0)
            torch.testing.assert_close(trace.nodes[name]["log_prob"], expected)

    def test_posterior_is_that_of_the_top_layer(self):
        spvae = hvae()
        x = torch.rand(5, spvae.num_leaves, 1)
        q = spvae.leaf_guide.posterior(x)
        loc, raw = spvae.leaf_guide.first.network(x)
        assert torch.equal(q.loc, loc) and q.event_shape == (TOP,)
        torch.testing.assert_close(q.scale, scale_of(raw))

    def test_without_skip_pixels_do_not_see_the_top(self):
        spvae = hvae(skip=False)
        assert isinstance(spvae.leaf.pixels.decoder, MLP) and spvae.leaf.pixels.decoder.sizes["inputs"] == LATENT
        skip = hvae()
        assert isinstance(skip.leaf.pixels.decoder, Joint) and skip.leaf.pixels.decoder.sizes["inputs"] == (LATENT, TOP)

    def test_scales_are_parameterised_as_asked(self):
        leaf = HVAE(Bernoulli(), LATENT, TOP, (4,), scale="logvar", min_scale=0.2)
        guide = HierarchicalGuide((4,), scale="exp", min_scale=0.3)
        spvae = SPVAE(whole((2, 2)), units=1, leaf=leaf, guide=guide)
        with torch.no_grad():
            for network in (leaf.z1.network, guide.first.network, guide.second.network.trunk):
                network.stacks[0].weights[-1].mul_(100)
        trace = poutine.trace(spvae.guide).get_trace(bits(spvae, 50))
        x = spvae.view(bits(spvae, 50))
        q = guide.posterior(x)
        torch.testing.assert_close(q.scale, guide.first.network(x)[1].exp().clamp(min=0.3))
        for name in ("z2", "z1"):
            scale = trace.nodes[name]["fn"].scale
            assert scale.min() >= 0.3 and scale.max() > 3
        model = poutine.trace(spvae.model).get_trace(num=200)
        scale = model.nodes["z1"]["fn"].scale
        raw = leaf.z1.network(model.nodes["z2"]["value"])[1]
        torch.testing.assert_close(scale, (raw.clamp(-6, 2) / 2).exp().clamp(min=0.2))

    @pytest.mark.parametrize("order", ORDERS)
    def test_the_data_are_encoded_once_for_all_particles(self, order):
        spvae = hvae(order=order)
        rows = []
        guide = spvae.leaf_guide
        first = guide.second.network.branches[0] if order == "top-down" else guide.first.network
        for network in (guide.first.network, first):
            network.register_forward_hook(lambda module, args, result: rows.append(args[0].shape[:-2]))
        CircuitELBO(7)(spvae.model, spvae.guide)(bits(spvae))
        assert rows == [(5,), (5,)]
        rows.clear()
        spvae.log_likelihood(bits(spvae), num_samples=200, chunk_size=70)
        assert rows == 10 * [(1,)], "in an evaluation once for all samples"


class TestCircuit:
    @pytest.mark.parametrize("order", ORDERS)
    @pytest.mark.parametrize("prior", [StandardNormal, lambda: VampPrior(3), lambda: MixtureOfGaussians(3)])
    def test_equals_brute_force_over_induced_trees(self, order, prior):
        if order == "bottom-up" and isinstance(prior(), VampPrior):
            prior = StandardNormal
        spvae = hvae(order=order, prior=prior())
        x = bits(spvae)
        leaf = leaf_log_weights(spvae, x, 3).logsumexp(0) - math.log(3)
        expected = -brute_force(spvae, leaf).sum()
        pyro.set_rng_seed(1)
        loss = CircuitELBO(3)(spvae.model, spvae.guide)(x)
        torch.testing.assert_close(loss, expected, atol=1e-9, rtol=0)
        assert_same_gradients(gradients(spvae, loss), gradients(spvae, expected))

    @pytest.mark.parametrize("order", ORDERS)
    def test_leaf_weights_are_those_of_the_algebra(self, order):
        spvae = hvae(order=order)
        x = bits(spvae)
        found = leaf_log_weights(spvae, x, 3, seed=4)
        pyro.set_rng_seed(4)
        trace = poutine.trace(particles(spvae.guide, 3)).get_trace(x)
        values = {name: trace.nodes[name]["value"] for name in ("z1", "z2")}
        torch.testing.assert_close(found, by_hand(spvae, x, 3, order, values=values))

    @pytest.mark.parametrize("prior", [StandardNormal, lambda: VampPrior(3)])
    def test_enumerating_the_tree_is_the_same_from_the_top_down(self, prior):
        spvae = hvae(prior=prior())
        x = bits(spvae)
        pyro.set_rng_seed(1)
        expected = TraceEnum_ELBO(max_plate_nesting=2).differentiable_loss(spvae.model, spvae.guide, x)
        expected_grads = gradients(spvae, expected)
        pyro.set_rng_seed(1)
        loss = CircuitELBO().differentiable_loss(spvae.model, spvae.guide, x)
        torch.testing.assert_close(loss, expected, atol=1e-9, rtol=0)
        assert_same_gradients(gradients(spvae, loss), expected_grads)

    @pytest.mark.filterwarnings("ignore:Found vars in model but not guide")
    def test_sampled_trees_give_a_looser_bound(self):
        """In the mean the tree's average of its leaves' bounds and its log-probability; leaves off it add nothing."""
        spvae = hvae()
        x = bits(spvae, 1).expand(3000, *spvae.event_shape)
        trees = InducedTree(spvae.circuit).enumerate_support()
        log_tree = InducedTree(spvae.circuit).log_prob(trees).detach()
        with torch.no_grad():
            leaf = leaf_log_weights(spvae, x, 1)[0]
        of_trees = torch.where(trees, leaf.mean(0), 0.0).sum(-1) + log_tree
        expected = float((log_tree.exp() * of_trees).sum())
        found = -Trace_ELBO(max_plate_nesting=2).loss(spvae.model, spvae.guide, x) / 3000
        spread = float((log_tree.exp() * (of_trees - expected).square()).sum() + leaf.var(0).sum()) ** 0.5
        assert abs(found - expected) < 4.5 * spread * (2 / 3000) ** 0.5
        assert found < CircuitELBO().bound(spvae.model, spvae.guide, x).mean() - 0.5
        renyi = RenyiELBO(0.0, 3, max_plate_nesting=2, vectorize_particles=True)
        assert math.isfinite(renyi.loss(spvae.model, spvae.guide, x[:3]))

    @pytest.mark.parametrize("elbo", [Trace_ELBO, TraceEnum_ELBO])
    def test_sampled_trees_are_refused_from_the_bottom_up(self, elbo):
        spvae = hvae(order="bottom-up")
        message = (
            "^the leaf guide draws 'z1' before 'z2', the leaf model after it; with a tree that is sampled both need "
            "one order: use CircuitELBO, which sums the tree out, or another guide"
        )
        with pytest.raises(ValueError, match=message):
            elbo(max_plate_nesting=2).loss(spvae.model, spvae.guide, bits(spvae))
        assert math.isfinite(CircuitELBO().loss(spvae.model, spvae.guide, bits(spvae)))

    @pytest.mark.parametrize("order", ORDERS)
    def test_dreg_has_the_mean_of_the_plain_gradient(self, order):
        spvae = hvae(whole((1, 2)), 1, order, noise=0.3)
        x = bits(spvae, 1).expand(100, 1, 1, 2)
        draws = {"iwae": [], "dreg": []}
        for seed in range(80):
            for gradient, kept in draws.items():
                pyro.set_rng_seed(seed)
                found = gradients(spvae, CircuitELBO(4, gradient=gradient)(spvae.model, spvae.guide)(x) / 100)
                kept.append(torch.cat([grad.flatten() for grad in found.values()]))
        iwae, dreg = (torch.stack(kept) for kept in draws.values())
        error = ((iwae.var(0) + dreg.var(0)) / 80).sqrt()
        assert ((iwae.mean(0) - dreg.mean(0)).abs() <= 4.8 * error + 1e-12).all()
        assert (iwae.mean(0).abs() > 10 * error).sum() > 20

    @pytest.mark.parametrize(
        ("order", "prior"),
        [("top-down", "standard"), ("top-down", "vamp"), ("top-down", "data"), ("bottom-up", "standard")],
    )
    def test_trains_and_answers(self, order, prior, tmp_path):
        regions = poon_domingos((3, 2), delta=2)  # regions of four and of two pixels
        x = (torch.rand(30, 1, 1, 1) < 0.5).double().expand(30, 1, 3, 2)
        priors = {"standard": StandardNormal, "vamp": lambda: VampPrior(3), "data": lambda: VampPrior(data=x[:4])}
        spvae = hvae(regions, 2, order, priors[prior](), noise=0.1)
        before = spvae.log_likelihood(x, num_samples=100).mean()
        svi = SVI(spvae.model, spvae.guide, pyro.optim.Adam({"lr": 0.03}), CircuitELBO(3))
        for _ in range(80):
            svi.step(x)
        after = spvae.log_likelihood(x, num_samples=100).mean()
        assert after > before + 0.5
        assert set(spvae.sample(50).unique().tolist()) == {0.0, 1.0}
        pixels = torch.tensor([[1, 1], [0, 1], [1, 1]]).bool().unsqueeze(0)
        leaf = torch.tensor([[1, 1], [1, 1], [0, 0]]).bool().unsqueeze(0)  # the region below sees nothing
        for seen in (pixels, leaf):
            filled = spvae.impute(torch.where(seen, x, torch.nan), seen, num_samples=3)
            assert filled.shape == (3, 30, 1, 3, 2) and filled.isfinite().all()
            assert torch.equal(filled[..., seen], x[..., seen].expand(3, *x[..., seen].shape))
        embedding = spvae.embed(torch.where(leaf, x, torch.nan), leaf)
        assert embedding.latents["z2"].shape == (30, 4, TOP) and embedding.latents["z1"].shape == (30, 4, LATENT)
        blind = spvae.leaf.prior().mean.expand(4, TOP)[2:]
        torch.testing.assert_close(embedding.latents["z2"][:, 2:], blind.expand(30, 2, TOP))
        assert spvae.reconstruct(x).shape == x.shape and spvae.interpolate(x[:2], x[2:4], steps=3).shape[0] == 3
        spvae.save(tmp_path)
        loaded = SPVAE.load(tmp_path)
        assert loaded.leaf.options().keys() == spvae.leaf.options().keys()
        assert loaded.leaf_guide.order == order
        values = []
        for one in (spvae, loaded):
            pyro.set_rng_seed(1)
            values.append((one.log_likelihood(x, num_samples=5), one.sample(3), one.impute(x, leaf)))
        assert all(torch.equal(*pair) for pair in zip(*values, strict=True))

    def test_a_leaf_that_sees_nothing_has_the_models_latents(self):
        """Of a datum without any entry the latent variables are drawn from the prior, both layers together."""
        spvae = hvae(whole((1, 2)), 1, noise=1.0)
        x, nothing = torch.zeros(4000, 1, 1, 2), torch.zeros(1, 1, 2, dtype=torch.bool)
        drawn = poutine.trace(spvae.posterior(x, nothing, num_particles=20)).get_trace()
        model = poutine.trace(spvae.model).get_trace(num=4000)
        for statistic in (
            lambda z2, z1: z2.mean(-1),
            lambda z2, z1: z1.mean(-1),
            lambda z2, z1: z1[..., 0].square(),
            lambda z2, z1: z2[..., 0] * z1[..., 0],
            lambda z2, z1: z2[..., 1] * z1[..., 1],
        ):
            one, other = (statistic(t.nodes["z2"]["value"], t.nodes["z1"]["value"]).flatten() for t in (drawn, model))
            # values of a datum are drawn out of 20, so that they are independent between data
            assert abs(one.mean() - other.mean()) < 4.5 * ((one.var() + other.var()) / 4000).sqrt()

    def test_beside_leaves_of_one_layer(self):
        leaf = MixedLeaf([VAE(Bernoulli(), LATENT, (3,)), HVAE(Bernoulli(), LATENT, TOP, (3,), prior=VampPrior(3))])
        guide = MixedGuide([NormalGuide((3,)), HierarchicalGuide((3,))])
        spvae = SPVAE(GRID, units=2, leaf=leaf, guide=guide)
        x = bits(spvae)
        CircuitELBO(3)(spvae.model, spvae.guide)(x).backward()
        assert all(p.grad is not None for p in spvae.parameters())
        sites = {name: value.shape[1:] for name, value in spvae.embed(x).latents.items()}
        assert sites == {"z": (8, LATENT), "z2_1": (8, TOP), "z1_1": (8, LATENT)}
        assert spvae.sample(2).shape == (2, 1, 2, 2)

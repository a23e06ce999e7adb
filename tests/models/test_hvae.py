# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Two latent layers as a leaf: against hand-written algebra, in circuits, and as the papers configure them."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceEnum_ELBO
from torch import nn
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import MultivariateNormal
from torch.distributions import Normal as TorchNormal

from pyro_spvae import CircuitELBO, InducedTree, poon_domingos, whole
from pyro_spvae.guides import HierarchicalGuide, LeafGuide, MixedGuide, NormalGuide
from pyro_spvae.likelihoods import Bernoulli, Normal
from pyro_spvae.models import HVAE, SPVAE, VAE, MixedLeaf
from pyro_spvae.nn import MLP, Joint
from pyro_spvae.priors import MixtureOfGaussians, StandardNormal, VampPrior
from tests.helpers import assert_same_gradients, gradients, leaf_log_weights, particles
from tests.infer.test_circuit_elbo import brute_force

LATENT, TOP = 2, 3
ORDERS = ("top-down", "bottom-up")
GRID = poon_domingos((2, 2), delta=1)


def hvae(regions=GRID, units=2, order="top-down", prior=None, likelihood=None, noise=0.4, **options):
    """A small model away from the near-zero outputs of new networks."""
    leaf = HVAE(likelihood or Bernoulli(), LATENT, TOP, (4, 3), prior=prior, **options)
    spvae = SPVAE(regions, units=units, leaf=leaf, guide=HierarchicalGuide((4,), order=order))
    with torch.no_grad():
        for parameter in spvae.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return spvae


def bits(spvae, rows=5):
    return (torch.rand(rows, *spvae.event_shape) < 0.5).double()


def scale_of(raw):
    return 1e-3 + nn.functional.softplus(raw)


def by_hand(spvae, x, particles, order, skip=True, values=None):
    """
    Log-weights ``[particle, data, leaf]`` by torch alone, of given values, or of noise in the order that the variables
    are drawn in.
    """
    leaf, guide, patches = spvae.leaf, spvae.leaf_guide, spvae.view(x)
    shape = (particles, len(x), spvae.num_leaves) if particles > 1 else (len(x), spvae.num_leaves)
    first = TorchNormal(*(f(out) for f, out in zip((lambda m: m, scale_of), guide.encoder(patches), strict=True)))
    names = ("z2", "z1") if order == "top-down" else ("z1", "z2")
    drawn = values[names[0]] if values else first.loc + first.scale * torch.randn(*shape, first.loc.size(-1))
    loc, raw = guide.second(patches, drawn) if order == "top-down" else guide.second(drawn)
    second = TorchNormal(loc, scale_of(raw))
    other = values[names[1]] if values else loc + scale_of(raw) * torch.randn(*shape, loc.size(-1))
    log_q = first.log_prob(drawn).sum(-1) + second.log_prob(other).sum(-1)
    z2, z1 = (drawn, other) if order == "top-down" else (other, drawn)
    between, raw = leaf.conditional(z2)
    (logits,) = leaf.decoder(z1, z2) if skip else leaf.decoder(z1)
    log_p = (
        TorchNormal(0.0, 1.0).log_prob(z2).sum(-1)
        + TorchNormal(between, scale_of(raw)).log_prob(z1).sum(-1)
        + TorchBernoulli(logits=logits).log_prob(patches).sum(-1)
    )
    return (log_p - log_q).reshape(particles, len(x), spvae.num_leaves)


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
        loc, raw = spvae.leaf.conditional(z2)
        (logits,) = spvae.leaf.decoder(z1, z2)
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
        loc, raw = spvae.leaf_guide.encoder(x)
        assert torch.equal(q.loc, loc) and q.event_shape == (TOP,)
        torch.testing.assert_close(q.scale, scale_of(raw))

    def test_without_skip_pixels_do_not_see_the_top(self):
        spvae = hvae(skip=False)
        assert isinstance(spvae.leaf.decoder, MLP) and spvae.leaf.decoder.sizes["inputs"] == LATENT
        skip = hvae()
        assert isinstance(skip.leaf.decoder, Joint) and skip.leaf.decoder.sizes["inputs"] == (LATENT, TOP)

    def test_scales_are_parameterised_as_asked(self):
        leaf = HVAE(Bernoulli(), LATENT, TOP, (4,), scale="logvar", min_scale=0.2)
        guide = HierarchicalGuide((4,), scale="exp", min_scale=0.3)
        spvae = SPVAE(whole((2, 2)), units=1, leaf=leaf, guide=guide)
        with torch.no_grad():
            for network in (leaf.conditional, guide.encoder, guide.second.trunk):
                network.stacks[0].weights[-1].mul_(100)
        trace = poutine.trace(spvae.guide).get_trace(bits(spvae, 50))
        x = spvae.view(bits(spvae, 50))
        q = guide.posterior(x)
        torch.testing.assert_close(q.scale, guide.encoder(x)[1].exp().clamp(min=0.3))
        for name in ("z2", "z1"):
            scale = trace.nodes[name]["fn"].scale
            assert scale.min() >= 0.3 and scale.max() > 3
        model = poutine.trace(spvae.model).get_trace(num=200)
        scale = model.nodes["z1"]["fn"].scale
        raw = leaf.conditional(model.nodes["z2"]["value"])[1]
        torch.testing.assert_close(scale, (raw.clamp(-6, 2) / 2).exp().clamp(min=0.2))

    @pytest.mark.parametrize("order", ORDERS)
    def test_the_data_are_encoded_once_for_all_particles(self, order):
        spvae = hvae(order=order)
        rows = []
        guide = spvae.leaf_guide
        first = guide.second.branches[0] if order == "top-down" else guide.encoder
        for network in (guide.encoder, first):
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


def set_normal(stack, factor, scale):
    """Makes a linear layer for mean and scale change the mean a little and the scale not at all."""
    size = stack.biases[-1].size(-1) // 2
    stack.weights[-1][..., :size].mul_(factor)
    stack.weights[-1][..., size:].zero_()
    stack.biases[-1][..., :size].zero_()
    stack.biases[-1][..., size:] = (scale - 1e-3).expm1().log()


class Linear:
    """
    z2 of a mixture, z1 = A z2 + a + noise, x = W z1 + V z2 + b + noise: log p(x) is known exactly.

    Without a hidden layer an MLP is linear. A joint network has one; with relu it is if it holds z and -z.
    """

    def __init__(self, skip, order, prior, regions=None):
        d = 2
        decoder = Joint((2 * d,), "relu", output_gain=1.0) if skip else MLP((), networks="shared", output_gain=1.0)
        conditional = MLP((), networks="shared", output_gain=1.0)
        leaf = HVAE(Normal(min_scale=1.0), d, d, prior=prior, skip=skip, conditional=conditional, decoder=decoder)
        joint = Joint((2 * d,), "relu", output_gain=1.0)
        linear = MLP((), networks="shared", output_gain=1.0)
        second = joint if order == "top-down" else linear
        guide = HierarchicalGuide(order=order, encoder=MLP((), networks="shared", output_gain=1.0), second=second)
        self.spvae = spvae = SPVAE(regions or whole((1, 2)), units=2, leaf=leaf, guide=guide)
        pixels = spvae.view.pixels
        leaves = spvae.num_leaves
        self.prior = prior
        with torch.no_grad():
            self.a = conditional.stacks[0].weights[0][..., :d].mul_(0.7)
            conditional.stacks[0].weights[0][..., d:].zero_()
            conditional.stacks[0].biases[0].normal_(0, 0.3)[..., d:] += 0.5
            self.offset = conditional.stacks[0].biases[0][..., :d].squeeze(1)
            self.between = scale_of(conditional.stacks[0].biases[0][..., d:]).squeeze(1)
            if skip:
                both = torch.cat([torch.eye(d), -torch.eye(d)], 1).expand(leaves, d, 2 * d)
                for branch in decoder.branches:
                    branch.stack.weights[0].copy_(both)
                self.w, self.v = 0.5 * torch.randn(leaves, d, pixels), 0.5 * torch.randn(leaves, d, pixels)
                means = torch.cat([self.w, -self.w, self.v, -self.v], 1)
                decoder.trunk.stacks[0].weights[0].copy_(torch.cat([means, torch.zeros_like(means)], -1))
                bias = decoder.trunk.stacks[0].biases[0]
            else:
                self.w, self.v = 0.7 * torch.randn(leaves, d, pixels), torch.zeros(leaves, d, pixels)
                decoder.stacks[0].weights[0].copy_(torch.cat([self.w, torch.zeros_like(self.w)], -1))
                bias = decoder.stacks[0].biases[0]
            self.a, self.offset, self.between = self.a.clone(), self.offset.clone(), self.between.clone()
            bias.normal_()
            self.bias = bias[..., :pixels].squeeze(1).clone()
            self.sigma = 1.0 + nn.functional.softplus(bias[..., pixels:]).squeeze(1)
            (self.guide_top_down if order == "top-down" else self.guide_bottom_up)(guide, d)

    def guide_top_down(self, guide, d):
        """Close to the prior, which bounds the importance weights: z1 follows z2 as in the model, only wider."""
        set_normal(guide.encoder.stacks[0], 0.03, torch.full((d,), 1.2))
        features, z2 = (branch.stack.weights[0] for branch in guide.second.branches)
        features.mul_(0.1)
        z2.copy_(torch.cat([torch.eye(d), -torch.eye(d)], 1))
        trunk = guide.second.trunk.stacks[0]
        set_normal(trunk, 0.1, 0.3 + self.between.unsqueeze(1))
        trunk.weights[0][:, 2 * d :, :d] = torch.cat([self.a, -self.a], 1)
        trunk.biases[0][..., :d] = self.offset.unsqueeze(1)

    def guide_bottom_up(self, guide, d):
        """z1 by its marginal, z2 by regression on it, both wider."""
        precision = self.between.square().reciprocal()
        given = torch.linalg.inv(torch.eye(d) + (self.a * precision.unsqueeze(1)) @ self.a.mT)
        slope = (given @ (self.a * precision.unsqueeze(1))).mT  # from z1 to z2
        marginal = self.a.mT @ self.a + torch.diag_embed(self.between.square())
        widest = torch.linalg.eigvalsh(marginal)[:, -1].sqrt()
        set_normal(guide.encoder.stacks[0], 0.1, 1.1 * widest.reshape(-1, 1, 1).expand(-1, 1, d))
        second = guide.second.stacks[0]
        widest = torch.linalg.eigvalsh(given)[:, -1].sqrt()
        set_normal(second, 0.0, 1.1 * widest.reshape(-1, 1, 1).expand(-1, 1, d))
        second.weights[0][..., :d] = slope
        second.biases[0][..., :d] = -(self.offset.unsqueeze(1) @ slope)

    def log_prob(self, x):
        patches = self.spvae.view(x)
        mixture = self.prior()
        leaf = torch.empty(len(x), self.spvae.num_leaves)
        for place in range(leaf.size(1)):
            w, v, a = self.w[place], self.v[place], self.a[place]
            through = a @ w + v  # from z2 to the pixels
            own = w.T @ self.between[place].square().diag() @ w + self.sigma[place].square().diag()
            terms = []
            for mean, scale in self.components(mixture, place):
                covariance = through.T @ scale.square().diag() @ through + own
                loc = mean @ through + self.offset[place] @ w + self.bias[place]
                terms.append(MultivariateNormal(loc, covariance).log_prob(patches[:, place]))
            leaf[:, place] = torch.stack(terms).logsumexp(0) - math.log(len(terms))
        return self.spvae.circuit(leaf).detach()

    @staticmethod
    def components(mixture, place):
        if hasattr(mixture, "loc") and mixture.loc.dim() == 3:
            return [(mixture.loc[k, place], mixture.scale[k, place]) for k in range(len(mixture.loc))]
        return [(torch.zeros(2), torch.ones(2))]


class TestEvidence:
    @pytest.mark.parametrize("skip", [True, False])
    @pytest.mark.parametrize(
        ("order", "prior"),
        [("top-down", StandardNormal), ("bottom-up", StandardNormal), ("top-down", lambda: VampPrior(3))],
    )
    @pytest.mark.parametrize("regions", [None, poon_domingos((1, 4), delta=2)])
    def test_of_a_linear_model_is_exact_in_the_limit(self, skip, order, prior, regions):
        model = Linear(skip, order, prior(), regions)
        x = model.spvae.sample(5)
        exact = model.log_prob(x)
        found = model.spvae.log_likelihood(x.repeat(20, 1, 1, 1), num_samples=3000, chunk_size=10**5).reshape(20, 5)
        ratio = (found - exact).exp()  # products of averages of independent leaves: 1 in the mean
        error = ratio.std(0) / 20**0.5
        assert ((ratio.mean(0) - 1).abs() < 5 * error).all() and (error < 0.05).all()
        many = x[:1].expand(2000, *x.shape[1:])
        bounds = [CircuitELBO(k).bound(model.spvae.model, model.spvae.guide, many).mean() for k in (1, 8)]
        assert bounds[0] < bounds[1] < exact[0]

    def test_samples_have_the_models_moments(self):
        model = Linear(True, "top-down", StandardNormal())
        drawn = model.spvae.sample(60_000).reshape(-1, 2)
        through = model.a @ model.w + model.v
        root = model.spvae.circuit.posterior(torch.zeros(model.spvae.num_leaves)).flatten()
        mean = torch.einsum("ld,ldp->lp", model.offset, model.w) + model.bias
        second = (
            torch.einsum("ldp,ldq->lpq", through, through)
            + torch.einsum("ldp,ld,ldq->lpq", model.w, model.between.square(), model.w)
            + torch.diag_embed(model.sigma.square())
            + torch.einsum("lp,lq->lpq", mean, mean)
        )
        expected = (root[:, None] * mean).sum(0), (root[:, None, None] * second).sum(0)
        error = drawn.std(0) / len(drawn) ** 0.5
        assert ((drawn.mean(0) - expected[0]).abs() < 4.5 * error).all()
        products = drawn.unsqueeze(-1) * drawn.unsqueeze(-2)
        error = products.std(0) / len(drawn) ** 0.5
        assert ((products.mean(0) - expected[1]).abs() < 4.5 * error).all()


class TestArchitectures:
    """Numbers of parameters of the papers' models."""

    @pytest.fixture(autouse=True)
    def single_precision(self):
        torch.set_default_dtype(torch.float32)

    def count(self, leaf, guide):
        spvae = SPVAE(whole((28, 28)), units=1, leaf=leaf, guide=guide)
        x = (torch.rand(3, 1, 28, 28) < 0.5).float()
        assert math.isfinite(CircuitELBO(2).loss(spvae.model, spvae.guide, x))
        return sum(p.numel() for p in spvae.parameters()), spvae

    @pytest.mark.parametrize(
        ("prior", "more"), [(StandardNormal, 0), (lambda: VampPrior(500), 500 * 784), (lambda: VampPrior(7), 7 * 784)]
    )
    def test_of_the_vampprior_paper(self, prior, more):
        gated = {"hidden_dims": (300, 300), "activation": "gated"}
        vae = VAE(Bernoulli(), 40, networks="shared", prior=prior(), **gated)
        guide = NormalGuide(networks="shared", scale="logvar", **gated)
        assert self.count(vae, guide)[0] == 1_116_864 + more
        two = HVAE(Bernoulli(), 40, prior=prior(), scale="logvar", **gated)
        number, spvae = self.count(two, HierarchicalGuide(scale="logvar", **gated))
        assert number == 2_431_024 + more
        assert two.top_dim == 40 and spvae.leaf_guide.order == "top-down"

    def test_mixture_of_gaussians_and_frozen_data(self):
        gated = {"hidden_dims": (300, 300), "activation": "gated"}
        for prior, more in ((MixtureOfGaussians(500), 500 * 81), (VampPrior(data=torch.rand(500, 1, 28, 28)), 0)):
            vae = VAE(Bernoulli(), 40, networks="shared", prior=prior, **gated)
            assert self.count(vae, NormalGuide(networks="shared", **gated))[0] == 1_116_864 + more

    def test_of_burda_et_al_with_one_layer(self):
        """x-200-200-50 and its mirror image, tanh, deviations by the exponential."""
        tanh = {"hidden_dims": (200, 200), "activation": "tanh", "networks": "shared"}
        number, _ = self.count(VAE(Bernoulli(), 50, **tanh), NormalGuide(scale="exp", **tanh))
        encoder = 784 * 200 + 200 + 200 * 200 + 200 + 2 * (200 * 50 + 50)
        decoder = 50 * 200 + 200 + 200 * 200 + 200 + 200 * 784 + 784
        assert number == encoder + decoder == 425_284

    def test_of_burda_et_al_with_two_layers(self):
        """x-200-200-100-100-100-50 and its mirror image."""

        def layers(size):
            return MLP((size, size), "tanh", "shared", output_gain=1.0, init="glorot")

        leaf = HVAE(Bernoulli(), 100, 50, scale="exp", skip=False, conditional=layers(100), decoder=layers(200))
        guide = HierarchicalGuide(scale="exp", order="bottom-up", encoder=layers(200), second=layers(100))
        number, spvae = self.count(leaf, guide)
        expected = [
            784 * 200 + 200 + 200 * 200 + 200 + 2 * (200 * 100 + 100),
            100 * 100 + 100 + 100 * 100 + 100 + 2 * (100 * 50 + 50),
            50 * 100 + 100 + 100 * 100 + 100 + 2 * (100 * 100 + 100),
            100 * 200 + 200 + 200 * 200 + 200 + 200 * 784 + 784,
        ]
        parts = (guide.encoder, guide.second, leaf.conditional, leaf.decoder)
        assert [sum(p.numel() for p in part.parameters()) for part in parts] == expected
        assert number == sum(expected) == 521_084
        trace = poutine.trace(spvae.guide).get_trace(torch.zeros(2, 1, 28, 28))
        sizes = {name: site["value"].size(-1) for name, site in trace.nodes.items() if name in ("z1", "z2")}
        assert sizes == {"z1": 100, "z2": 50}
        generated = poutine.trace(spvae.model).get_trace(num=2)
        assert [name for name in generated.stochastic_nodes if name[0] in "xz"] == ["z2", "z1", "x"]


class OtherLeafGuide(LeafGuide):
    def build(self, leaves, pixels, latent_dim, top_dim):
        self.z1, self.z2 = nn.Parameter(torch.zeros(leaves, latent_dim)), nn.Parameter(torch.zeros(leaves, top_dim + 1))

    def forward(self, x):
        pyro.sample("z2", pyro.distributions.Normal(self.z2.expand(*x.shape[:-1], -1), 1.0).to_event(1))
        pyro.sample("z1", pyro.distributions.Normal(self.z1.expand(*x.shape[:-1], -1), 1.0).to_event(1))


class TestOptions:
    def test_defaults(self):
        leaf, guide = HVAE(Bernoulli()), HierarchicalGuide()
        assert (leaf.latent_dim, leaf.top_dim, leaf.skip, leaf.scale, leaf.min_scale) == (8, 8, True, "softplus", 1e-3)
        assert leaf.guide_sizes == {"latent_dim": 8, "top_dim": 8}
        assert HVAE(Bernoulli(), 5).top_dim == 5 and HVAE(Bernoulli(), 5, 3).guide_sizes["top_dim"] == 3
        assert (guide.order, guide.scale, guide.min_scale) == ("top-down", "softplus", 1e-3)
        assert isinstance(leaf.prior, StandardNormal)
        for network in (leaf.conditional, leaf.decoder, guide.encoder, guide.second):
            assert network.hidden_dims == (32, 32) and network.activation == "softplus"

    def test_the_model_takes_the_guide_by_itself(self):
        spvae = SPVAE(GRID, leaf=HVAE(Bernoulli(), LATENT, TOP))
        assert isinstance(spvae.leaf_guide, HierarchicalGuide) and spvae.leaf_guide.order == "top-down"

    def test_options_reach_the_networks_that_are_not_given(self):
        leaf = HVAE(Bernoulli(), hidden_dims=(5, 6), activation="gated", decoder=Joint((7,)))
        assert leaf.conditional.hidden_dims == (5, 6) and leaf.conditional.activation == "gated"
        assert leaf.decoder.hidden_dims == (7,)
        guide = HierarchicalGuide((5, 6), "gated", encoder=MLP((7,), networks="shared"))
        assert guide.encoder.hidden_dims == (7,) and guide.second.hidden_dims == (5, 6)

    def test_options_make_the_same_parts(self):
        leaf = HVAE(Bernoulli(), 3, 4, (5,), VampPrior(3), "tanh", "exp", 0.1, False)
        options = leaf.options()
        assert (options["latent_dim"], options["top_dim"], options["scale"], options["skip"]) == (3, 4, "exp", False)
        assert options["decoder"] is leaf.decoder and "hidden_dims" not in options
        guide = HierarchicalGuide((5,), "tanh", "exp", 0.1, "bottom-up")
        assert guide.options()["order"] == "bottom-up" and guide.options()["min_scale"] == 0.1

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: HVAE(Bernoulli(), 0), "latent_dim is 0; a positive integer is needed"),
            (lambda: HVAE(Bernoulli(), 2, 0), "top_dim is 0; a positive integer is needed"),
            (lambda: HVAE(Bernoulli(), 2, True), "top_dim is True; a positive integer is needed"),
            (
                lambda: HVAE(Bernoulli(), skip=1),  # type: ignore[arg-type]
                "skip is 1; True or False is needed",
            ),
            (lambda: HVAE(Bernoulli(), scale="relu"), "scale is 'relu'; known are softplus, precision, exp, logvar"),
            (lambda: HVAE(Bernoulli(), min_scale=-1), "min_scale is -1; a number of at least 0 is needed"),
            (lambda: HVAE(Bernoulli(), activation="step"), "activation is 'step'; known are softplus, relu, .*, gated"),
            (lambda: HVAE(Bernoulli(), hidden_dims=(0,)), r"hidden_dims is \(0,\); positive integers are needed"),
            (lambda: HVAE(Bernoulli(), hidden_dims=()), "hidden_dims is empty; at least one size is needed"),
            (
                lambda: HVAE(Bernoulli(), hidden_dims=(3,), conditional=MLP(), decoder=Joint()),
                "conditional and decoder are given, so leave out hidden_dims and activation",
            ),
            (lambda: HierarchicalGuide(order="up"), "order is 'up'; known are top-down, bottom-up"),
            (lambda: HierarchicalGuide(scale="relu"), "scale is 'relu'; known are softplus, precision, exp, logvar"),
            (
                lambda: HierarchicalGuide(activation="tanh", encoder=MLP(), second=Joint()),
                "encoder and second are given, so leave out hidden_dims and activation",
            ),
            (
                lambda: HierarchicalGuide(second=MLP()),
                "second is a MLP; a Joint network, of features and z2, is needed in the order top-down",
            ),
            (
                lambda: SPVAE(GRID, leaf=VAE(Bernoulli()), guide=HierarchicalGuide()),
                "a HierarchicalGuide needs a leaf with two latent layers, such as HVAE, but it has one",
            ),
        ],
    )
    def test_refused(self, make, message):
        with pytest.raises(ValueError, match=f"^{message}"):
            make()

    def test_parts_of_the_wrong_kind(self):
        with pytest.raises(TypeError, match="^likelihood is the class Bernoulli; an instance of Likelihood is needed$"):
            HVAE(Bernoulli)
        with pytest.raises(TypeError, match="^prior is a MLP; an instance of Prior is needed$"):
            HVAE(Bernoulli(), prior=MLP())
        for name in ("conditional", "decoder"):
            with pytest.raises(TypeError, match=f"^{name} is a Linear; an instance of Network is needed$"):
                HVAE(Bernoulli(), **{name: nn.Linear(2, 2)})
        for name in ("encoder", "second"):
            with pytest.raises(TypeError, match=f"^{name} is a Linear; an instance of Network is needed$"):
                HierarchicalGuide(**{name: nn.Linear(2, 2)})

    def test_guides_that_do_not_fit(self):
        x = torch.zeros(2, 1, 2, 2)
        spvae = SPVAE(GRID, leaf=HVAE(Bernoulli(), LATENT, TOP), guide=NormalGuide())
        with pytest.raises(ValueError, match="the model's latent site 'z2' is not in the guide; add it there"):
            spvae.log_likelihood(x, num_samples=1)
        spvae = SPVAE(GRID, leaf=HVAE(Bernoulli(), LATENT, TOP), guide=OtherLeafGuide())
        message = "^the latent size of the site 'z2' is 3, but the guide draws values of size 4; one size is needed"
        with pytest.raises(ValueError, match=message):
            spvae.log_likelihood(x, num_samples=1)

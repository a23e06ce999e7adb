# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Enumerated sites of the guide are weighted particles: against brute force, exact evidence and TraceEnum_ELBO."""

from __future__ import annotations

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from torch import nn
from torch.distributions import MultivariateNormal, constraints

from pyro_spvae import CircuitELBO, InducedTree, Latent
from pyro_spvae.circuits import poon_domingos, whole
from pyro_spvae.distributions import LeafNormal
from pyro_spvae.guides import LeafGuide, MixedGuide, NormalGuide
from pyro_spvae.infer import Reinforce, SingleLeafELBO, bound_terms, collapse_tree
from pyro_spvae.infer.enumerated import enumerate_guide
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import VAE, LeafModel, MixedLeaf
from tests.helpers import assert_same_gradients, gradients, small_spvae
from tests.infer.cases import annealed

KINDS, BITS, LATENT, ROWS = 3, 2, 2, 3
PARALLEL = {"enumerate": "parallel"}
CASES = list(itertools.product(range(KINDS), range(BITS)))


def chosen(values, index):
    """Entries ``[.., n]`` of values ``[.., kind, n]``."""
    return (F.one_hot(index.long(), values.size(-2)).to(values.dtype).unsqueeze(-1) * values).sum(-2)


class KindsLeaf(LeafModel):
    """c ~ Categorical, b ~ Bernoulli given c, z given both, x given z: a mixture of factor analysers."""

    latents = {
        "c": Latent((), constraints.integer_interval(0, KINDS - 1)),
        "b": Latent((), constraints.boolean),
        "z": Latent(LATENT),
    }

    def build(self, leaves, pixels):
        self.c = nn.Parameter(torch.randn(leaves, KINDS))
        self.b = nn.Parameter(torch.randn(leaves, KINDS, 1))
        self.loc = nn.Parameter(torch.randn(leaves, KINDS * BITS, LATENT))
        self.weight = nn.Parameter(torch.randn(leaves, LATENT, pixels))

    def forward(self, x=None, mask=None):
        c = pyro.sample("c", dist.Categorical(logits=self.c))
        b = pyro.sample("b", dist.Bernoulli(logits=chosen(self.b, c).squeeze(-1)))
        z = pyro.sample("z", LeafNormal(chosen(self.loc, c * BITS + b), self.loc.new_tensor(0.8)))
        pixels = torch.einsum("...ld,ldp->...lp", z, self.weight)
        return pyro.sample("x", LeafNormal(pixels, pixels.new_tensor(0.6), mask), obs=x)

    def evidence(self, patches):
        """Exact log-densities of the leaves, ``[data, leaf]``."""
        terms = []
        for c, b in CASES:
            log_prior = self.c.log_softmax(-1)[:, c] + F.logsigmoid((2 * b - 1) * self.b[:, c, 0])
            loc = torch.einsum("ld,ldp->lp", self.loc[:, c * BITS + b], self.weight)
            eye = torch.eye(self.weight.size(-1))
            covariance = 0.64 * self.weight.transpose(1, 2) @ self.weight + 0.36 * eye
            terms.append(log_prior + MultivariateNormal(loc, covariance).log_prob(patches))
        return torch.stack(terms).logsumexp(0)


class KindsGuide(LeafGuide):
    """Both discrete variables enumerated, the second given the first."""

    def build(self, leaves, pixels):
        self.c = nn.Parameter(torch.randn(leaves, pixels, KINDS))
        self.b = nn.Parameter(torch.randn(leaves, KINDS, 1))
        self.loc = nn.Parameter(torch.randn(leaves, KINDS * BITS, LATENT))
        self.weight = nn.Parameter(0.3 * torch.randn(leaves, pixels, LATENT))
        self.shift = 0.0

    def encode(self, x):
        return torch.einsum("blp,lpk->blk", x, self.c), torch.einsum("blp,lpd->bld", x, self.weight)

    def forward(self, encoding):
        logits, h = encoding
        c = pyro.sample("c", dist.Categorical(logits=logits + self.shift), infer=dict(PARALLEL))
        b = pyro.sample("b", dist.Bernoulli(logits=chosen(self.b, c).squeeze(-1)), infer=dict(PARALLEL))
        pyro.sample("z", LeafNormal(h + chosen(self.loc, c * BITS + b), h.new_tensor(1.3)))


def kinds(regions=None, units=2):
    regions = poon_domingos((2, 2), 1) if regions is None else regions
    return small_spvae(regions, units=units, leaf=KindsLeaf(), guide=KindsGuide())


def by_hand(spvae, x, particles, alpha, beta=1.0, observed=None, vectorised=True):
    """
    The bound by loops over values and drawn particles: each term is scored by Pyro with all values given, and the
    formula of the class is written out.
    """
    groups = [particles] if vectorised else [1] * particles
    values = []
    for size in groups:
        guide = enumerate_guide(pyro.plate("particles", size, dim=-3)(spvae.guide), 3)
        nodes = poutine.trace(guide).get_trace(x, observed).nodes
        values.append(nodes["z"]["value"].expand(BITS, KINDS, size, len(x), spvae.num_leaves, LATENT))
    z = torch.cat(values, 2)
    leaves = []
    for k in range(particles):
        terms = []
        for c, b in CASES:
            given = {"c": torch.full((len(x), spvae.num_leaves), c), "z": z[b, c, k]}
            given["b"] = torch.full((len(x), spvae.num_leaves), float(b))
            q = poutine.trace(poutine.condition(spvae.guide, data=given)).get_trace(x, observed)
            p = poutine.trace(collapse_tree(poutine.condition(spvae.model, data=given))).get_trace(x, observed)
            q.compute_log_prob(), p.compute_log_prob()
            log_c, log_b = (q.nodes[name]["unscaled_log_prob"] for name in ("c", "b"))
            latent = sum(p.nodes[name]["log_prob"] - q.nodes[name]["log_prob"] for name in ("c", "b", "z"))
            terms.append((log_c + log_b, p.nodes["x"]["log_prob"] + beta * latent))
        share, weight = (torch.stack(parts) for parts in zip(*terms, strict=True))
        leaves.append((share, weight))
    share, weight = (torch.stack(parts) for parts in zip(*leaves, strict=True))  # [K, value, B, L]
    if alpha == 1:
        leaf = (share.exp() * weight).sum(1).mean(0)
    elif alpha == -math.inf:
        leaf = weight.amax((0, 1))
    else:
        leaf = (share + (1 - alpha) * weight).logsumexp((0, 1)).sub(math.log(particles)) / (1 - alpha)
    return spvae.circuit(leaf)


class TestBruteForce:
    x = torch.linspace(-1, 1, ROWS * 4, dtype=torch.float64).reshape(ROWS, 1, 2, 2)

    @pytest.mark.parametrize(("particles", "vectorised"), [(1, True), (3, True), (3, False)])
    @pytest.mark.parametrize("alpha", [0.0, 1.0, 0.5, -1.0, -math.inf])
    def test_value_and_all_gradients(self, alpha, particles, vectorised):
        spvae = kinds()
        elbo = CircuitELBO(particles, alpha=alpha, vectorize_particles=vectorised)
        torch.manual_seed(1)
        loss = elbo.differentiable_loss(spvae.model, spvae.guide, self.x)
        torch.manual_seed(1)
        expected = -by_hand(spvae, self.x, particles, alpha, vectorised=vectorised).sum()
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
        assert_same_gradients(gradients(spvae, loss), gradients(spvae, expected))

    @pytest.mark.parametrize("beta", [0.0, 0.3, 2.0])
    @pytest.mark.parametrize("alpha", [0.0, 1.0, 0.5])
    def test_annealing_and_missing_entries(self, alpha, beta):
        spvae = kinds()
        observed = torch.tensor([[True, False], [True, True]]).expand(ROWS, 1, 2, 2)
        torch.manual_seed(1)
        loss = CircuitELBO(2, alpha=alpha).differentiable_loss(*annealed(spvae, beta), self.x, observed)
        torch.manual_seed(1)
        expected = -by_hand(spvae, self.x, 2, alpha, beta, observed).sum()
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
        assert_same_gradients(gradients(spvae, loss), gradients(spvae, expected))

    def test_values_that_the_guide_excludes(self):
        """Weights of exactly 0 neither make numbers infinite nor take part, but in alpha=0, where they cancel."""
        spvae = kinds()
        spvae.leaf_guide.shift = torch.tensor([0.0, 0.0, -math.inf])
        for alpha in (0.0, 0.5, 1.0):
            loss = CircuitELBO(3, alpha=alpha).differentiable_loss(spvae.model, spvae.guide, self.x)
            assert loss.isfinite() and all(grad.isfinite().all() for grad in gradients(spvae, loss).values())

    def test_the_parts_of_the_bound(self):
        """Expectations over enumerated values are those of the bound: the terms add up to it."""
        spvae = kinds()
        torch.manual_seed(1)
        terms = bound_terms(spvae.model, spvae.guide, self.x, num_particles=3)
        torch.manual_seed(1)
        expected = by_hand(spvae, self.x, 3, 1.0)
        torch.testing.assert_close(terms.elbo, expected.detach(), rtol=0, atol=1e-10)
        torch.testing.assert_close(terms.reconstruction - terms.latent_kl - terms.tree_kl, terms.elbo)
        torch.testing.assert_close(sum(site.kl for site in terms.latents.values()), terms.latent_kl)
        assert set(terms.latents) == {"c", "b", "z"}


class TestExact:
    """Given both discrete variables the leaf is linear and Gaussian, so that its evidence is known."""

    x = TestBruteForce.x

    def test_bounds_and_log_likelihood(self):
        spvae = kinds()
        evidence = spvae.circuit(spvae.leaf.evidence(spvae.view(self.x))).detach()
        assert evidence.isfinite().all()
        found = spvae.log_likelihood(self.x, num_samples=20_000)
        torch.testing.assert_close(found, evidence, rtol=0, atol=0.1)
        bounds = CircuitELBO(5).bound(spvae.model, spvae.guide, self.x.repeat(200, 1, 1, 1)).unflatten(0, (200, ROWS))
        assert (bounds.mean(0) < evidence + 4 * bounds.std(0) / 200**0.5).all()
        # weights that were averaged over values instead would be off by log(6)
        assert (evidence - found).abs().max() < 0.1 * math.log(KINDS * BITS)

    def test_the_posterior_has_the_right_kinds(self):
        spvae = kinds(whole((2, 2)), units=1)
        patches = spvae.view(self.x[:1])
        with torch.no_grad():
            joint = []
            for c in range(KINDS):
                spvae.leaf.c.data, kept = torch.full_like(spvae.leaf.c, -40.0), spvae.leaf.c.data
                spvae.leaf.c.data[:, c] = 0.0
                joint.append(kept.log_softmax(-1)[:, c] + spvae.leaf.evidence(patches)[0])
                spvae.leaf.c.data = kept
            expected = torch.stack(joint).softmax(0).squeeze()
        posterior = spvae.posterior(self.x[:1].expand(1500, 1, 2, 2), num_particles=300)
        found = poutine.trace(posterior).get_trace().nodes["c"]["value"]
        shares = torch.stack([(found == c).double().mean() for c in range(KINDS)])
        torch.testing.assert_close(shares, expected, rtol=0, atol=0.04)

    def test_embeddings_are_expectations(self):
        spvae = kinds()
        embedding = spvae.embed(self.x).latents
        q = spvae.leaf_guide.encode(spvae.view(self.x))[0].softmax(-1)
        torch.testing.assert_close(embedding["c"], q)
        expected = (q * spvae.leaf_guide.b.squeeze(-1).sigmoid()).sum(-1)
        torch.testing.assert_close(embedding["b"], expected, rtol=1e-9, atol=1e-9)


class OnlyKinds(KindsLeaf):
    """Nothing but the kinds is latent: what is drawn besides the tree is nothing."""

    latents = {"c": KindsLeaf.latents["c"]}

    def forward(self, x=None, mask=None):
        c = pyro.sample("c", dist.Categorical(logits=self.c))
        pixels = torch.einsum("...ld,ldp->...lp", chosen(self.loc, c), self.weight)
        return pyro.sample("x", LeafNormal(pixels, pixels.new_tensor(0.6), mask), obs=x)


class OnlyKindsGuide(KindsGuide):
    def forward(self, encoding):
        pyro.sample("c", dist.Categorical(logits=encoding[0]), infer=dict(PARALLEL))


class TestTraceEnum:
    """Pyro's own enumeration, on the unchanged pair."""

    x = TestBruteForce.x

    @pytest.mark.parametrize("particles", [1, 3])
    def test_elbo_of_one_leaf(self, particles):
        spvae, results = kinds(whole((2, 2)), units=1), []
        options = {"vectorize_particles": True, "max_plate_nesting": 2}
        for loss in (
            SingleLeafELBO(spvae.model, spvae.guide, TraceEnum_ELBO(particles, **options)),
            CircuitELBO(particles, alpha=1.0)(spvae.model, spvae.guide),
        ):
            torch.manual_seed(2)
            value = loss(self.x)
            results.append((value.detach(), gradients(spvae, value)))
        torch.testing.assert_close(results[0][0], results[1][0], rtol=0, atol=1e-10)
        assert_same_gradients(results[0][1], results[1][1])

    def test_evidence_of_a_circuit(self):
        """TraceEnum_ELBO sums the kinds out in the model, CircuitELBO in the guide: both are log p(x), exactly."""
        spvae = small_spvae(poon_domingos((1, 2), 1), units=2, leaf=OnlyKinds(), guide=OnlyKindsGuide())
        x = self.x[:, :, :1]

        def model(x):
            with pyro.plate("data", len(x), dim=-2):
                tree = pyro.sample("tree", InducedTree(spvae.circuit), infer=PARALLEL).squeeze(-2)
                with pyro.plate("leaf", spvae.num_leaves, dim=-1):
                    c = pyro.sample("c", dist.Categorical(logits=spvae.leaf.c), infer=PARALLEL)
                    loc = torch.einsum("...ld,ldp->...lp", chosen(spvae.leaf.loc, c), spvae.leaf.weight)
                    with poutine.mask(mask=tree):
                        pyro.sample("x", dist.Normal(loc, 0.6).to_event(1), obs=spvae.view(x))

        expected = TraceEnum_ELBO(max_plate_nesting=2).differentiable_loss(model, lambda x: None, x)
        loss = CircuitELBO(4).differentiable_loss(spvae.model, spvae.guide, x)
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
        ours, theirs = gradients(spvae, loss), gradients(spvae, expected)
        assert_same_gradients(*({k: v for k, v in g.items() if "guide" not in k} for g in (ours, theirs)))
        assert all(float(g.abs().max()) < 1e-10 for name, g in ours.items() if "guide" in name), "q(c) cancels"

    def test_what_is_exact_is_computed_once(self):
        spvae = small_spvae(poon_domingos((1, 2), 1), units=2, leaf=OnlyKinds(), guide=OnlyKindsGuide())
        x = self.x[:, :, :1]
        terms = CircuitELBO(50).terms(spvae.model, spvae.guide, (x,), {})
        assert not terms.latent and terms.log_weight.size(0) == 1
        expected = CircuitELBO(1).bound(spvae.model, spvae.guide, x)
        torch.testing.assert_close(spvae.log_likelihood(x, num_samples=7), expected, rtol=0, atol=1e-12)


def test_one_of_several_kinds_of_leaves():
    """In a mixed leaf the others are as they would be without."""
    parts, guides = [KindsLeaf(), VAE(Normal(), latent_dim=2, hidden_dims=(3,))], [KindsGuide(), NormalGuide((3,))]
    spvae = small_spvae(leaf=MixedLeaf(parts), guide=MixedGuide(guides))
    x = TestBruteForce.x
    vae, guide = spvae.leaf.subsets[1].program, spvae.leaf_guide.subsets[1].program
    with torch.no_grad():  # wider than the prior, so that importance weights are bounded
        guide.z.network.stacks[1].biases[-1].add_(2.0)
    other = spvae.view(x)[:, 1::2]
    found = spvae.log_likelihood(x, num_samples=50_000)
    leaf = torch.empty(ROWS, spvae.num_leaves)
    leaf[:, 0::2] = parts[0].evidence(spvae.view(x)[:, 0::2]).detach()
    draws = torch.randn(100_000, ROWS, len(other[0]), 2)
    leaf[:, 1::2] = vae.pixels(draws).log_prob(other).logsumexp(0).detach() - math.log(100_000)
    torch.testing.assert_close(found, spvae.circuit(leaf).detach(), rtol=0, atol=0.06)


class BitsAround(LeafModel):
    """a and b of which one is drawn before, one after what is enumerated; a table says what each is worth."""

    latents = {name: Latent((), constraints.boolean) for name in "acb"}

    def build(self, leaves, pixels):
        self.logits = nn.Parameter(torch.randn(leaves, 2, 2, 2, pixels))

    def forward(self, x=None, mask=None):
        half = self.logits.new_tensor(0.5)
        a, c, b = (pyro.sample(name, dist.Bernoulli(half)).long() for name in "acb")
        logits = self.logits[torch.arange(len(self.logits)), a, c, b]
        return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


class BitsAroundGuide(LeafGuide):
    def build(self, leaves, pixels):
        self.a, self.c, self.b = (nn.Parameter(torch.randn(leaves, *shape)) for shape in ((), (2,), (2,)))

    def encode(self, x):
        return None

    def forward(self, encoding):
        leaf = torch.arange(len(self.a))
        a = pyro.sample("a", dist.Bernoulli(logits=self.a)).long()
        c = pyro.sample("c", dist.Bernoulli(logits=self.c[leaf, a]), infer=dict(PARALLEL)).long()
        pyro.sample("b", dist.Bernoulli(logits=self.b[leaf, c]))


def test_scores_of_bits_drawn_before_and_after_an_enumerated_one():
    """Each counts once, whether it has an axis of values or not."""
    torch.manual_seed(1)
    spvae = small_spvae(whole(3), units=1, leaves=1, leaf=BitsAround(), guide=BitsAroundGuide(), channels=None)
    guide, x = spvae.leaf_guide, torch.tensor([[1.0, 0.0, 1.0]])
    exact = 0.0
    for a, c, b in itertools.product([0, 1], repeat=3):
        logits = [guide.a[0], guide.c[0, a], guide.b[0, c]]
        log_q = sum(F.logsigmoid((2 * bit - 1) * logit) for bit, logit in zip((a, c, b), logits, strict=True))
        log_p = dist.Bernoulli(logits=spvae.leaf.logits[0, a, c, b]).log_prob(x[0]).sum() + 3 * math.log(0.5)
        exact = exact + log_q.exp() * (log_p - log_q)
    wanted = torch.autograd.grad(exact, [guide.a, guide.c, guide.b])
    rows, found = 3000, []
    elbo = CircuitELBO(1, alpha=1.0, estimator=Reinforce())
    for _ in range(20):
        loss = elbo.differentiable_loss(spvae.model, spvae.guide, x.expand(rows, 3)) / rows
        found.append(torch.cat([grad.flatten() for grad in torch.autograd.grad(-loss, [guide.a, guide.c, guide.b])]))
    values = torch.stack(found)
    error = values.std(0) / len(found) ** 0.5
    wanted = torch.cat([grad.flatten() for grad in wanted])
    assert bool(((values.mean(0) - wanted).abs() < 4.5 * error + 1e-10).all())
    assert bool((wanted.abs() > 10 * error).any())

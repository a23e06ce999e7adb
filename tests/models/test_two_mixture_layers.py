# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Two layers of mixtures in a leaf by blocks of one: sums over all pairs of components."""

from __future__ import annotations

import itertools

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import Categorical
from pyro.infer import TraceEnum_ELBO
from torch.distributions import Normal, constraints

from pyro_spvae import CircuitELBO, Latent, collapse_tree, poon_domingos, whole
from pyro_spvae.conditionals import Components, Kumaraswamy, NormalComponents, Pixels
from pyro_spvae.distributions import log_stick_weights
from pyro_spvae.guides import LeafGuide
from pyro_spvae.infer import SingleLeafELBO
from pyro_spvae.infer.enumerated import enumerate_guide
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import SPVAE, LeafModel
from pyro_spvae.nn import MLP, Joint
from pyro_spvae.priors import Sticks
from pyro_spvae.testing import LeafPairTests
from pyro_spvae.testing.block_tests import moved_from_start
from tests.helpers import assert_same_gradients, gradients, particles
from tests.models.mixture_cases import (
    assert_expectation,
    assert_same_losses,
    assert_trace_enum_of_each_tree,
    over_trees,
)

K = 3
MEANS = (-1.5, 0.0, 1.5)


class TwoMixtures(LeafModel):
    """z2 of a mixture, z1 of another one whose components are a network's of z2, x given z1."""

    def __init__(self):
        super().__init__()
        v, c = Latent(K - 1, constraints.unit_interval), Latent((), constraints.integer_interval(0, K - 1))
        self.latents = {"v2": v, "c2": c, "z2": Latent(1), "v1": v, "c1": c, "z1": Latent(1)}
        self.top, self.bottom = Sticks(alpha=1.2), Sticks(2.0)
        self.z2, self.z1 = NormalComponents(MEANS), Components(MLP((4,), networks="shared"), min_scale=0.3)
        self.pixels = Pixels(Bernoulli(), MLP((4,)))

    def build(self, leaves, pixels):
        for sticks in (self.top, self.bottom):
            sticks.bind(leaves=leaves, event_shape=(K - 1,))
        self.z2.bind(leaves=leaves, event_shape=(1,), components=K)
        self.z1.bind(leaves=leaves, inputs=1, event_shape=(1,), components=K)
        self.pixels.bind(leaves=leaves, pixels=pixels, inputs=1)

    def forward(self, x=None, mask=None):
        c2 = pyro.sample("c2", Categorical(logits=log_stick_weights(pyro.sample("v2", self.top()))))
        z2 = pyro.sample("z2", self.z2(c2))
        c1 = pyro.sample("c1", Categorical(logits=log_stick_weights(pyro.sample("v1", self.bottom()))))
        z1 = pyro.sample("z1", self.z1(z2, c1))
        return pyro.sample("x", self.pixels(z1, mask=mask), obs=x)


def component(name, v):
    return pyro.sample(name, Categorical(logits=log_stick_weights(v)), infer={"enumerate": "parallel"})


class TopDown(LeafGuide):
    """q(z2 | x, c2) q(z1 | x, z2, c1)."""

    def __init__(self):
        super().__init__()
        self.v2, self.v1 = (Kumaraswamy(MLP((4,), networks="shared")) for _ in range(2))
        self.z2, self.z1 = Components(MLP((4,), networks="shared")), Components(Joint((4, 4)))

    def build(self, leaves, pixels):
        for fractions in (self.v2, self.v1):
            fractions.bind(leaves=leaves, inputs=pixels, event_shape=(K - 1,))
        self.z2.bind(leaves=leaves, inputs=pixels, event_shape=(1,), components=K)
        self.z1.bind(leaves=leaves, inputs=(pixels, 1), event_shape=(1,), components=K)

    def encode(self, x):
        return self.v2(x), self.z2.embed(x), self.v1(x), x

    def forward(self, encoding):
        v2, parts, v1, x = encoding
        z2 = pyro.sample("z2", self.z2.join(parts, component("c2", pyro.sample("v2", v2))))
        pyro.sample("z1", self.z1(x, z2, component("c1", pyro.sample("v1", v1))))


class Apart(TopDown):
    """q(z2 | x, c2) q(z1 | x, c1), so that neither has the other's axis in the guide."""

    def build(self, leaves, pixels):
        super().build(leaves, pixels)
        self.z1 = Components(MLP((4,), networks="shared"))
        self.z1.bind(leaves=leaves, inputs=pixels, event_shape=(1,), components=K)

    def encode(self, x):
        return self.v2(x), self.z2.embed(x), self.v1(x), self.z1.embed(x)

    def forward(self, encoding):
        v2, parts, v1, others = encoding
        pyro.sample("z2", self.z2.join(parts, component("c2", pyro.sample("v2", v2))))
        pyro.sample("z1", self.z1.join(others, component("c1", pyro.sample("v1", v1))))


class BottomUp(TopDown):
    """q(z1 | x, c1) q(z2 | z1, c2)."""

    def build(self, leaves, pixels):
        super().build(leaves, pixels)
        self.z1, self.z2 = (Components(MLP((4,), networks="shared")) for _ in range(2))
        for block, inputs in ((self.z1, pixels), (self.z2, 1)):
            block.bind(leaves=leaves, inputs=inputs, event_shape=(1,), components=K)

    def encode(self, x):
        return self.v1(x), self.z1.embed(x), self.v2(x)

    def forward(self, encoding):
        v1, parts, v2 = encoding
        z1 = pyro.sample("z1", self.z1.join(parts, component("c1", pyro.sample("v1", v1))))
        pyro.sample("z2", self.z2(z1, component("c2", pyro.sample("v2", v2))))


class OfTwoMixtures(LeafPairTests):
    guide: type
    samples = 3000  # of nine pairs each

    def make(self):
        return TwoMixtures(), self.guide()

    def data(self, rows):
        return torch.randint(2, (rows, 1, 2, 4)).to(torch.get_default_dtype())


class TestTopDown(OfTwoMixtures):
    guide = TopDown


class TestBottomUp(OfTwoMixtures):
    guide, same_order = BottomUp, False


def circuit(guide, regions=None, units=2):
    torch.manual_seed(3)
    regions = poon_domingos((1, 4), 2) if regions is None else regions
    spvae = SPVAE(regions, units, leaf=TwoMixtures(), guide=guide())
    moved_from_start(spvae)
    with torch.no_grad():
        for name, parameter in spvae.named_parameters():
            if ".z1.network" in name or "leaf_guide" in name:
                parameter.mul_(0.2 if ".v" in name else 0.5)  # so that no fraction is within rounding of 1
            if "leaf_guide" in name and name.endswith("biases.2"):  # wide, so that importance weights are bounded
                parameter.add_(0.5 if ".v" in name else 1.2)
            if "leaf_guide.v" in name and name.endswith("biases.1"):
                parameter.sub_(0.2)
    return spvae


X = torch.tensor([[0.0, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 1]], dtype=torch.float64).reshape(3, 1, 1, 4)


def by_hand(spvae, x, num):
    """
    Probabilities q(c1) q(c2) and log-importance weights of all pairs, ``[pair, particle, data, leaf]``: each pair is
    scored by Pyro with all values given.
    """
    pyro.set_rng_seed(1)
    sites = poutine.trace(enumerate_guide(particles(spvae.guide, num), 3)).get_trace(x).nodes
    first, second = (name for name in sites if name in ("c1", "c2"))  # the second one's axis is left of the first one's
    shape = (num, len(x), spvae.num_leaves)
    shares, weights = [], []
    for pair in itertools.product(range(K), repeat=2):
        given = {name: torch.full(shape, c) for name, c in zip((first, second), pair, strict=True)}
        given |= {name: sites[name]["value"] for name in ("v1", "v2")}
        for name in ("z1", "z2"):
            given[name] = sites[name]["value"].expand(K, K, *shape, 1)[pair[1], pair[0]]
        q, p = (
            poutine.trace(particles(poutine.condition(program, data=given), num)).get_trace(x)
            for program in (spvae.guide, collapse_tree(spvae.model))
        )
        for trace in (q, p):
            trace.compute_log_prob()
        shares.append(sum(q.nodes[name]["log_prob"] for name in ("c1", "c2")))
        log_q = sum(q.nodes[name]["log_prob"] for name in given)
        weights.append(sum(p.nodes[name]["log_prob"] for name in (*given, "x")) - log_q)
    return torch.stack(shares).exp(), torch.stack(weights)


@pytest.mark.parametrize("guide", [TopDown, Apart, BottomUp])
class TestSums:
    @pytest.mark.parametrize("num", [1, 3])
    @pytest.mark.parametrize("alpha", [0.0, 1.0])
    def test_over_all_pairs(self, guide, alpha, num):
        spvae = circuit(guide)
        pyro.set_rng_seed(1)
        loss = CircuitELBO(num, alpha).differentiable_loss(spvae.model, spvae.guide, X)
        share, weight = by_hand(spvae, X, num)
        torch.testing.assert_close(share.sum(0), torch.ones(num, len(X), spvae.num_leaves))
        leaf = (share * weight).sum(0).mean(0) if alpha else (share * weight.exp()).sum(0).mean(0).log()
        expected = -over_trees(spvae, leaf).sum()
        torch.testing.assert_close(loss, expected)
        assert_same_gradients(gradients(spvae, loss), gradients(spvae, expected))

    def test_decoder_passes(self, guide):
        """As many as z1 has values: all pairs of components where it follows z2, else its own."""
        spvae = circuit(guide)
        sites = poutine.trace(enumerate_guide(particles(spvae.guide, 2), 3)).get_trace(X)
        model = poutine.replay(particles(collapse_tree(spvae.model), 2), trace=sites)
        law = poutine.trace(model).get_trace(X).nodes["x"]["fn"]
        passes = {TopDown: (K, K), Apart: (K, 1), BottomUp: (K,)}[guide]
        assert law.batch_shape == (*passes, 2, len(X), spvae.num_leaves)

    @pytest.mark.parametrize("num", [1, 3])
    def test_of_one_leaf_are_those_of_trace_enum(self, guide, num):
        spvae = circuit(guide, whole((1, 4)), 1)
        pair = spvae.model, spvae.guide
        stock = TraceEnum_ELBO(num, vectorize_particles=True, max_plate_nesting=2)
        assert_same_losses(spvae, CircuitELBO(num, alpha=1.0)(*pair), SingleLeafELBO(*pair, stock), X)

    def test_find_the_evidence(self, guide):
        """An integral over both layers: weights have the means of their priors."""
        spvae = circuit(guide)
        rows = X.repeat(1000, 1, 1, 1)
        found = CircuitELBO(10).bound(spvae.model, spvae.guide, rows).reshape(-1, len(X)).exp()
        top, bottom = torch.linspace(-7, 7, 141), torch.linspace(-30, 30, 1201)  # nodes of z2 and of z1
        with torch.no_grad():
            loc, scale = spvae.leaf.z1.embed(top.reshape(-1, 1, 1).expand(-1, spvae.num_leaves, 1))  # [z2, leaf, c1, 1]
            white = spvae.leaf.pixels(bottom.reshape(-1, 1, 1).expand(-1, spvae.num_leaves, 1)).mean
        mass = sum(Normal(mean, 1.0).log_prob(top).exp() for mean in MEANS) / K * 0.1
        mean = torch.stack(
            [
                share * torch.einsum("z,zly->yl", mass, Normal(loc[..., c, :], scale[..., c, :]).log_prob(bottom).exp())
                for c, share in enumerate((1 / 3, 2 / 9, 4 / 9))  # of fractions Beta(1, 2)
            ]
        )
        mass = mean.sum(0) * 0.05
        torch.testing.assert_close(mass.sum(0), torch.ones(spvae.num_leaves), rtol=0, atol=1e-6)
        patches, white = spvae.view(X), white.unsqueeze(1)
        leaf = (mass.unsqueeze(1) * torch.where(patches > 0.5, white, 1 - white).prod(-1)).sum(0).log()
        assert_expectation(found, over_trees(spvae, leaf).exp().detach(), 0.1)


@pytest.mark.parametrize("guide", [TopDown, Apart])
def test_of_each_tree(guide):
    assert_trace_enum_of_each_tree(circuit(guide), X[:1], 2)


def test_components_are_differentiable_in_what_they_are_given():
    """Of every component, whose number has an axis that the inputs have not."""
    block = Components(MLP((4,))).bind(leaves=2, inputs=1, event_shape=(1,), components=K)
    moved_from_start(block)
    c = torch.arange(K).reshape(K, 1, 1)
    assert torch.autograd.gradcheck(
        lambda z: block(z, c).loc + block(z, c).scale, torch.randn(3, 2, 1).requires_grad_()
    )

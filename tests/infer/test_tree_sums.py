# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What the root of a circuit is with another leaf value: against one evaluation of the circuit for each."""

from __future__ import annotations

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import constraints

from pyro_spvae import SPVAE, Circuit, CircuitELBO, poon_domingos, random_binary_tree, whole
from pyro_spvae.blocks import Latent
from pyro_spvae.distributions import InducedTree
from pyro_spvae.infer import NVIL, VIMCO, Reinforce, leave_one_out, renyi_mean
from pyro_spvae.infer.estimators.estimator import ScoredStep
from pyro_spvae.infer.leaf_terms import LeafTerms
from pyro_spvae.infer.tree_sums import push_up, root_rise
from pyro_spvae.leaves import LeafGuide, LeafModel


def terms_of(circuit, log_weight=None, score=None, selected=None, values=None):
    tree = InducedTree(circuit, values) if selected is None else None
    return LeafTerms(log_weight, score, None, None, None, tree, selected, 1.0, 1.0, True)


CIRCUITS = {
    "one region": lambda: Circuit(whole(3), 1, leaves=4),
    "several partitions": lambda: Circuit(poon_domingos((4, 4), delta=2), 2),
    "factored": lambda: Circuit(poon_domingos((4, 4), delta=2), 6, leaves=3, weights="cp"),
    "repetitions": lambda: Circuit(random_binary_tree((3, 3), depth=2, repetitions=3, seed=0), 2),
}


@pytest.mark.parametrize("apart", [1.0, 60.0, 150.0])
@pytest.mark.parametrize("name", list(CIRCUITS))
def test_rise_is_that_of_another_evaluation(name, apart):
    """In single precision too, where a posterior is rounded to 1 from 17 nats on."""
    torch.manual_seed(0)
    circuit = CIRCUITS[name]().float()
    leaf = (apart * torch.randn(20, circuit.num_leaves)).float()
    replaced = (apart * torch.randn(20, circuit.num_leaves)).float()
    found = root_rise(terms_of(circuit), leaf, replaced - leaf)
    assert found.dtype == torch.float32
    root = circuit.log_prob(leaf.double())
    for number in range(circuit.num_leaves):
        other = leaf.double().clone()
        other[:, number] = replaced[:, number].double()
        wanted = circuit.log_prob(other) - root
        torch.testing.assert_close(found[:, number].double(), wanted, rtol=1e-5, atol=1e-4)


def test_rise_of_trees_that_are_given_or_weighed():
    circuit = Circuit(poon_domingos((2, 2), delta=1), 2)
    leaf, rise = 40 * torch.randn(5, 8), torch.randn(5, 8)
    selected = InducedTree(circuit).expand((5,)).sample()
    found = root_rise(terms_of(circuit, selected=selected), leaf, rise)
    torch.testing.assert_close(found, torch.where(selected, rise, 0.0))
    values = torch.randn(5, 1, 8)
    own = terms_of(circuit, values=values)
    found = root_rise(own, leaf, rise)
    other = leaf.clone()
    other[:, 3] += rise[:, 3]
    torch.testing.assert_close(found[:, 3], push_up(own, other) - push_up(own, leaf), rtol=1e-6, atol=1e-6)


def test_a_leaf_of_no_value_stays_without_effect():
    circuit = Circuit(whole(2), 1, leaves=2)
    leaf = torch.tensor([[-math.inf, -3.0]])
    found = root_rise(terms_of(circuit), leaf, torch.tensor([[-1.0, -2.0]]) - leaf)
    torch.testing.assert_close(found, torch.tensor([[0.0, 1.0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reduce", ["leaf", "root"])
@pytest.mark.parametrize("gap", [3.0, 80.0])
def test_expected_gradient_where_leaves_are_far_apart(dtype, reduce, gap):
    """Over all that two particles of one bit can be; by VIMCO as by scores alone, and by the definition."""
    circuit = Circuit(whole(2), 1, leaves=2).to(dtype)
    nn.init.zeros_(circuit.layers[0].logits)
    logit = torch.tensor(0.3, dtype=dtype, requires_grad=True)
    expected, estimates = 0.0, {VIMCO: 0.0, Reinforce: 0.0}
    for bits in itertools.product([0.0, 1.0], repeat=2):
        z = torch.tensor(bits, dtype=dtype).reshape(2, 1, 1)
        log_q = z * logit - nn.functional.softplus(logit)
        probability = log_q.sum().exp()
        log_weight = torch.cat([torch.where(z > 0, -100.0, -100.0 - gap), torch.full_like(z, -100 - gap / 3)], -1)
        terms = terms_of(circuit, log_weight.to(dtype), torch.cat([log_q, torch.zeros_like(log_q)], -1))
        leaf = push_up(terms, terms.log_weight) if reduce == "root" else renyi_mean(terms.log_weight)
        root = renyi_mean(leaf) if reduce == "root" else push_up(terms, leaf)
        expected = expected + probability * root.detach().sum()
        step = ScoredStep(terms, root, leaf, 0.0, reduce, {}, None, None)
        for kind in estimates:
            (grad,) = torch.autograd.grad(kind().surrogate(step), logit, retain_graph=True)
            estimates[kind] += float(probability.detach() * grad)
    (wanted,) = torch.autograd.grad(expected, logit)
    assert all(value == pytest.approx(float(wanted), rel=1e-4) for value in estimates.values())


class TestWeightsOfZero:
    def test_means_without_each(self):
        log_weight = torch.tensor([0.0, -math.inf, 1.0])
        found = leave_one_out(log_weight, renyi_mean)
        wanted = [math.log((0 + 0 + math.e) / 3), math.log((1 + math.e**0.5 + math.e) / 3), math.log(1 / 3)]
        torch.testing.assert_close(found, torch.tensor(wanted))

    def test_of_an_order_above_one(self):
        assert float(renyi_mean(torch.tensor([0.0, -math.inf]), 2.0)) == -math.inf
        found = renyi_mean(torch.tensor([0.0, 1.0]), 2.0)
        assert float(found) == pytest.approx(-math.log((1 + math.exp(-1)) / 2))

    @pytest.mark.parametrize("estimator", [Reinforce, VIMCO, lambda: NVIL((4,))], ids=["reinforce", "vimco", "nvil"])
    def test_losses_and_gradients_are_finite(self, estimator):
        torch.manual_seed(0)
        spvae = SPVAE(whole(1), units=1, leaves=2, leaf=Impossible(), guide=Coin())
        x = torch.ones(50, 1)
        loss = CircuitELBO(2, estimator=estimator()).differentiable_loss(spvae.model, spvae.guide, x)
        loss.backward()
        assert bool(loss.isfinite()) and bool(spvae.leaf_guide.logit.grad.isfinite().all())


class Impossible(LeafModel):
    """The first leaf has no probability where its bit is 0."""

    def __init__(self):
        super().__init__()
        self.latents = {"z": Latent((), constraints.boolean)}

    def build(self, leaves, pixels, **shapes):
        self.logit = nn.Parameter(torch.zeros(()))

    def forward(self, x=None, mask=None):
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
        pyro.factor("f", torch.tensor([[-math.inf, 0.0], [0.0, 0.0]])[torch.arange(2), z.long()])
        return pyro.sample("x", dist.Bernoulli(logits=self.logit.expand(1)).to_event(1), obs=x)


class Coin(LeafGuide):
    def build(self, leaves, pixels, latents, **shapes):
        self.logit = nn.Parameter(torch.tensor([0.3, 0.0]))

    def encode(self, x):
        return None

    def forward(self, encoding):
        pyro.sample("z", dist.Bernoulli(logits=self.logit))

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The distribution over induced trees against enumeration."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from scipy import stats

from pyro_spvae import Circuit, InducedTree, poon_domingos, quad_tree, random_binary_tree, whole
from tests.circuits.oracle import list_trees, selection_log_probs

CIRCUITS = {
    "2x2": lambda: Circuit(poon_domingos((2, 2), 1), 2),
    "1x3, three units": lambda: Circuit(poon_domingos((1, 3), 1), 3),
    "more leaves than sums": lambda: Circuit(poon_domingos((2, 2), 1), 2, leaves=3),
    "tied products of weights": lambda: Circuit(poon_domingos((2, 2), 1), 2, tie="shape", weights="cp"),
    "einsum path, products of weights": lambda: Circuit(poon_domingos((1, 3), 1), 5, weights="cp"),
    "einsum path": lambda: Circuit(poon_domingos((1, 3), 1), 5),
    "quad tree": lambda: Circuit(quad_tree((2, 3)), 2),
    "overlapping leaf regions": lambda: Circuit(random_binary_tree(5, depth=2, repetitions=3, seed=1), 2),
    "one region": lambda: Circuit(whole((3,)), 4),
    "one leaf": lambda: Circuit(whole((3,)), 1),
}


@pytest.mark.parametrize("name", CIRCUITS)
@pytest.mark.parametrize("given_leaves", [False, True])
class TestAgainstEnumeration:
    @pytest.fixture
    def circuit(self, name):
        return CIRCUITS[name]()

    @pytest.fixture
    def leaf(self, circuit, given_leaves):
        return 3 * torch.randn(circuit.num_leaves) if given_leaves else None

    @pytest.fixture
    def exact(self, circuit, leaf):
        """Every leaf selection and its log-probability, by summing all induced trees."""
        return selection_log_probs(list_trees(circuit), leaf)

    def test_log_prob_with_gradients(self, circuit, leaf, exact):
        selections, expected = exact
        ours = InducedTree(circuit, leaf).log_prob(selections)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9)
        factor, parameters = torch.randn(len(selections)), list(circuit.parameters())
        if parameters:
            grads = (torch.autograd.grad(one @ factor, parameters) for one in (ours, expected))
            torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-11)

    def test_support_is_every_selection_once_and_no_other_mask_is_possible(self, circuit, leaf, exact):
        tree = InducedTree(circuit, leaf)
        support = tree.enumerate_support()
        assert torch.equal(support.unique(dim=0), exact[0]) and len(support) == len(exact[0])
        assert tree.log_prob(support).logsumexp(0).item() == pytest.approx(0, abs=1e-9)
        if circuit.num_leaves <= 12:  # 4,096 masks are enough
            every = [torch.tensor([False, True])] * circuit.num_leaves
            masks = torch.cartesian_prod(*every).reshape(-1, circuit.num_leaves)
            possible = tree.log_prob(masks).isfinite()
            assert torch.equal(masks[possible].unique(dim=0), exact[0])

    def test_samples_follow_the_density(self, circuit, leaf, exact):
        selections, log_probs = exact
        number = 10_000
        draws = torch.cat([selections, InducedTree(circuit, leaf).sample((number,))])
        found, counts = draws.unique(dim=0, return_counts=True)  # in the order of the selections
        assert torch.equal(found, selections)
        observed, expected = counts.double() - 1, log_probs.exp().detach() * number
        frequent = expected >= 10
        if not frequent.all():
            observed, expected = (torch.cat([x[frequent], x[~frequent].sum(0, True)]) for x in (observed, expected))
        if len(expected) > 1:
            assert stats.chisquare(observed, expected * number / expected.sum()).pvalue > 1e-4

    def test_moments_and_log_marginal(self, circuit, leaf, exact):
        selections, log_probs = exact[0].double(), exact[1].detach()
        tree = InducedTree(circuit, leaf)
        mean = log_probs.exp() @ selections
        torch.testing.assert_close(tree.mean, mean)
        torch.testing.assert_close(tree.variance, mean * (1 - mean))
        values = torch.randn(4, circuit.num_leaves)
        torch.testing.assert_close(tree.log_marginal(values), (log_probs + values @ selections.T).logsumexp(-1))


def test_shapes():
    circuit = CIRCUITS["2x2"]()
    tree = InducedTree(circuit)
    assert tree.batch_shape == () and tree.event_shape == (8,)
    assert tree.sample().dtype == torch.bool
    wide = tree.expand([3, 1])
    assert wide.sample((2,)).shape == (2, 3, 1, 8)
    assert wide.log_prob(wide.sample()).shape == (3, 1)
    assert len(tree.expand([500]).sample().unique(dim=0)) > 8, "draws of their own"
    assert wide.enumerate_support().shape == (16, 3, 1, 8)
    assert wide.enumerate_support(expand=False).shape == (16, 1, 1, 8)
    posterior = InducedTree(circuit, torch.randn(3, 8))
    assert posterior.batch_shape == (3,)
    assert posterior.expand([2, 3]).sample().shape == (2, 3, 8)
    value = posterior.expand([2, 3]).sample()
    assert torch.equal(posterior.expand([2, 3]).log_prob(value), posterior.log_prob(value))


REFUSED = [
    ("support", lambda circuit: InducedTree(circuit, validate_args=True).log_prob(torch.full((8,), 0.5))),
    (
        r"leaf_values has shape \(3, 7\); its last size must be 8",
        lambda circuit: InducedTree(circuit, torch.zeros(3, 7)),
    ),
    # 2^25 selections
    ("65536", lambda circuit: InducedTree(Circuit(quad_tree((5, 5)), 2)).enumerate_support()),
]


@pytest.mark.parametrize(("message", "act"), REFUSED)
def test_refusals(message, act):
    with pytest.raises(ValueError, match=message):
        act(CIRCUITS["2x2"]())


def test_float32_paper_circuit():
    """A tree drawn from the 28 x 28 circuit scores the same in float32 and float64."""
    circuit = Circuit(poon_domingos((28, 28), 7), 2)
    draws = InducedTree(circuit).sample((50,))
    double = InducedTree(circuit).log_prob(draws)
    single = InducedTree(circuit.float()).log_prob(draws)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, atol=1e-4, rtol=1e-5)


def test_enumeration_in_a_model_gives_the_marginal():
    circuit = CIRCUITS["1x3, three units"]()
    leaf = torch.randn(2, 9)

    def model():
        with pyro.plate("data", 2):
            tree = pyro.sample("tree", InducedTree(circuit), infer={"enumerate": "parallel"})
            pyro.factor("x", (tree * leaf).sum(-1))

    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(model, lambda: None)
    assert -loss == pytest.approx(circuit(leaf).sum().item(), abs=1e-9)

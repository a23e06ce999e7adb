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
from tests.circuits.oracle import enumerate_induced_trees

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


def exact(circuit, leaf=None):
    """Probability of every leaf selection by summing all induced trees, keyed by the set of leaves."""
    log_probs: dict[frozenset, list] = {}
    for log_weight, leaves in enumerate_induced_trees(circuit):
        value = torch.as_tensor(log_weight)
        if leaf is not None:
            value = value + leaf[sorted(leaves)].sum()
        log_probs.setdefault(frozenset(leaves), []).append(value)
    total = torch.stack([v for values in log_probs.values() for v in values]).logsumexp(0)
    return {leaves: (torch.stack(values).logsumexp(0) - total).detach() for leaves, values in log_probs.items()}


def as_tree(circuit, leaves):
    tree = torch.zeros(circuit.num_leaves, dtype=torch.bool)
    tree[sorted(leaves)] = True
    return tree


@pytest.mark.parametrize("name", CIRCUITS)
@pytest.mark.parametrize("given_leaves", [False, True])
class TestAgainstEnumeration:
    @pytest.fixture
    def circuit(self, name):
        return CIRCUITS[name]()

    @pytest.fixture
    def leaf(self, circuit, given_leaves):
        return 3 * torch.randn(circuit.num_leaves) if given_leaves else None

    def test_log_prob(self, circuit, leaf):
        tree = InducedTree(circuit, leaf)
        for leaves, log_prob in exact(circuit, leaf).items():
            assert tree.log_prob(as_tree(circuit, leaves)).item() == pytest.approx(log_prob.item(), abs=1e-9)

    def test_support_is_every_selection_once_and_sums_to_one(self, circuit, leaf):
        tree = InducedTree(circuit, leaf)
        support = tree.enumerate_support()
        assert {frozenset(row.nonzero().squeeze(-1).tolist()) for row in support} == set(exact(circuit, leaf))
        assert len(support) == len(exact(circuit, leaf))
        assert tree.log_prob(support).logsumexp(0).item() == pytest.approx(0, abs=1e-9)

    def test_every_other_mask_is_impossible(self, circuit, leaf):
        if circuit.num_leaves > 12:
            pytest.skip("4,096 masks are enough")
        tree = InducedTree(circuit, leaf)
        masks = torch.cartesian_prod(*[torch.tensor([False, True])] * circuit.num_leaves).reshape(
            -1, circuit.num_leaves
        )
        possible = set(exact(circuit, leaf))
        log_probs = tree.log_prob(masks)
        for mask, log_prob in zip(masks, log_probs, strict=True):
            is_tree = frozenset(mask.nonzero().squeeze(-1).tolist()) in possible
            assert bool(torch.isfinite(log_prob)) == is_tree
        assert log_probs.logsumexp(0).item() == pytest.approx(0, abs=1e-9)

    def test_samples_follow_the_density(self, circuit, leaf):
        tree = InducedTree(circuit, leaf)
        draws = tree.sample((20_000,))
        counts: dict[frozenset, int] = {}
        for row, count in zip(*draws.unique(dim=0, return_counts=True), strict=True):
            counts[frozenset(row.nonzero().squeeze(-1).tolist())] = int(count)
        expected = {leaves: float(log_prob.exp()) * 20_000 for leaves, log_prob in exact(circuit, leaf).items()}
        assert set(counts) <= set(expected)
        frequent = [leaves for leaves, value in expected.items() if value >= 10]
        observed = [counts.get(leaves, 0) for leaves in frequent] + [20_000 - sum(counts.get(k, 0) for k in frequent)]
        wanted = [expected[leaves] for leaves in frequent] + [20_000 - sum(expected[k] for k in frequent)]
        if wanted[-1] < 1e-6:
            observed, wanted = observed[:-1], wanted[:-1]
        if len(wanted) > 1:
            assert stats.chisquare(observed, wanted).pvalue > 1e-4
        else:
            assert sum(observed) == 20_000

    def test_mean_is_the_marginal_of_each_leaf(self, circuit, leaf):
        expected = sum(log_prob.exp() * as_tree(circuit, leaves) for leaves, log_prob in exact(circuit, leaf).items())
        torch.testing.assert_close(InducedTree(circuit, leaf).mean, expected)
        torch.testing.assert_close(InducedTree(circuit, leaf).variance, expected * (1 - expected))

    def test_log_marginal(self, circuit, leaf):
        values = torch.randn(4, circuit.num_leaves)
        selections = exact(circuit, leaf)
        expected = torch.stack([p + values[:, sorted(leaves)].sum(-1) for leaves, p in selections.items()]).logsumexp(0)
        torch.testing.assert_close(InducedTree(circuit, leaf).log_marginal(values), expected)

    def test_gradient_of_log_prob(self, circuit, leaf):
        """The derivative of log p(tree) in the sum weights, by finite differences of the enumerated value."""
        parameters = list(circuit.parameters())
        if not parameters:
            pytest.skip("no weights")
        leaves = next(iter(exact(circuit, leaf)))
        grad = torch.autograd.grad(InducedTree(circuit, leaf).log_prob(as_tree(circuit, leaves)), parameters[0])[0]
        with torch.no_grad():
            flat = parameters[0].view(-1)
            for i in range(min(4, len(flat))):
                values = []
                for step in (1e-5, -1e-5):
                    flat[i] += step
                    values.append(exact(circuit, leaf)[leaves].item())
                    flat[i] -= step
                assert grad.view(-1)[i].item() == pytest.approx((values[0] - values[1]) / 2e-5, abs=1e-7)


def test_shapes():
    circuit = CIRCUITS["2x2"]()
    tree = InducedTree(circuit)
    assert tree.batch_shape == () and tree.event_shape == (8,)
    assert tree.sample().dtype == torch.bool
    wide = tree.expand([3, 1])
    assert wide.sample((2,)).shape == (2, 3, 1, 8)
    assert wide.log_prob(wide.sample()).shape == (3, 1)
    assert wide.enumerate_support().shape == (16, 3, 1, 8)
    assert wide.enumerate_support(expand=False).shape == (16, 1, 1, 8)
    posterior = InducedTree(circuit, torch.randn(3, 8))
    assert posterior.batch_shape == (3,)
    assert posterior.expand([2, 3]).sample().shape == (2, 3, 8)
    value = posterior.expand([2, 3]).sample()
    assert torch.equal(posterior.expand([2, 3]).log_prob(value), posterior.log_prob(value))


def test_expanded_draws_are_independent():
    draws = InducedTree(CIRCUITS["2x2"]()).expand([500, 1]).sample().squeeze(1)
    assert len(draws.unique(dim=0)) > 8


def test_value_outside_the_support_is_refused():
    tree = InducedTree(CIRCUITS["2x2"](), validate_args=True)
    with pytest.raises(ValueError, match="support"):
        tree.log_prob(torch.full((8,), 0.5))


def test_wrong_leaf_values():
    with pytest.raises(ValueError, match=r"leaf_values has shape \(3, 7\); its last size must be 8"):
        InducedTree(CIRCUITS["2x2"](), torch.zeros(3, 7))


def test_too_many_selections():
    circuit = Circuit(poon_domingos((5, 5), 1), 2)  # 2^25 selections
    with pytest.raises(ValueError, match="65536"):
        InducedTree(circuit).enumerate_support()


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

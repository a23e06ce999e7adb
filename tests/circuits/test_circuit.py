# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Circuits against plain recursion and enumeration of all induced trees, under every option that makes a difference."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch

from pyro_spvae.circuits import Circuit, whole
from pyro_spvae.circuits.sampling import drawn as drawn_by

from .options import CIRCUITS, ENUMERABLE, expected_num_weights, under_every_option
from .oracle import list_trees, recursive_log_prob, selection_log_probs, sum_nodes


def chi_square_p_value(observed: torch.Tensor, probabilities: torch.Tensor) -> float:
    """p-value of Pearson's test; cells that expect fewer than five are put together."""
    expected = probabilities * observed.sum()
    rare = expected < 5
    observed = torch.cat([observed[~rare], observed[rare].sum().view(1)])
    expected = torch.cat([expected[~rare], expected[rare].sum().view(1)])
    keep = expected > 0
    observed, expected = observed[keep], expected[keep]
    statistic = ((observed - expected) ** 2 / expected).sum()
    degrees = torch.tensor((len(expected) - 1) / 2.0)
    return float(torch.special.gammaincc(degrees, statistic / 2)) if len(expected) > 1 else 1.0


@pytest.fixture
def circuit(request):
    name, options = request.param
    return Circuit(*CIRCUITS[name], **options)


def mixes_sums(circuit):
    """Whether the root is a mixture of sums whose weights are products."""
    return circuit.weights == "cp" and circuit.units > 1 and circuit.regions.partitions != ()


@pytest.fixture
def leaf(circuit):
    return 3 * torch.randn(4, circuit.num_leaves)


@pytest.mark.parametrize("circuit", under_every_option(CIRCUITS), indirect=True)
class TestEveryCircuit:
    def test_sizes_are_the_counts_of_the_graph(self, circuit):
        counts = circuit.regions.counts(circuit.units, circuit.leaves)
        sums = sum_nodes(circuit)
        if mixes_sums(circuit):  # the root has as many sums as other regions, and one over them
            products = len(sums[circuit.regions.root, 0][1])
            counts["weights"] += (circuit.units - 1) * products + circuit.units
            counts["sums"] += circuit.units
        assert sum(len(children) for _, children in sums.values()) == counts["weights"]
        number = expected_num_weights(circuit.regions, circuit.units, circuit.leaves, circuit.tie, circuit.weights)
        assert sum(weight.numel() for weight in circuit.parameters()) == circuit.num_weights == number
        assert len(sums) == counts["sums"] and circuit.num_leaves == counts["leaves"]
        products = {(region, pair) for (region, i), (_, children) in sums.items() if i >= 0 for pair in children}
        assert len(products) == counts["products"] or circuit.regions.num_regions == 1

    def test_products_are_the_pairs_of_units_of_the_partitions(self, circuit):
        def units(region):
            return circuit.leaves if circuit.regions.is_leaf(region) else circuit.units

        for (region, unit), (weights, children) in sum_nodes(circuit).items():
            if unit < 0:
                expected = {frozenset([(region, i)]) for i in range(units(region))}
            else:
                expected = {
                    frozenset(zip(partition.parts, chosen, strict=True))
                    for partition in circuit.regions.region_partitions[region]
                    for chosen in itertools.product(*(range(units(part)) for part in partition.parts))
                }
            assert set(map(frozenset, children)) == expected
            assert len(children) == len(weights) == len(expected)

    def test_log_prob_and_its_derivatives_equal_plain_recursion(self, circuit, leaf):
        inputs = [leaf.requires_grad_(), *circuit.parameters()]
        factor, directions = torch.randn(4), [torch.randn_like(one) for one in inputs]

        def with_derivatives(value):
            first = torch.autograd.grad(value @ factor, inputs, create_graph=True)
            along = sum((one * direction).sum() for one, direction in zip(first, directions, strict=True))
            if not along.requires_grad:  # one leaf, whose value is the circuit's
                return value, first, ()
            return value, first, torch.autograd.grad(along, inputs, materialize_grads=True)

        ours, plain = with_derivatives(circuit.log_prob(leaf)), with_derivatives(recursive_log_prob(circuit, leaf))
        for one, other, rtol in zip(ours, plain, (1e-12, 1e-10, 1e-8), strict=True):
            torch.testing.assert_close(one, other, rtol=rtol, atol=rtol / 100)

    def test_zero_leaves_give_zero(self, circuit):
        root = circuit.log_prob(torch.zeros(2, 3, circuit.num_leaves))
        torch.testing.assert_close(root, torch.zeros(2, 3), rtol=0, atol=1e-13)

    def test_batch_shapes(self, circuit, leaf):
        single = torch.stack([circuit(row) for row in leaf])
        assert circuit(leaf[0]).shape == ()
        torch.testing.assert_close(circuit(leaf), single, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(circuit(leaf.view(2, 1, 2, -1)), single.view(2, 1, 2), rtol=1e-13, atol=1e-13)
        for shape in ((), (0,), (2, 1, 3)):
            values = torch.randn(*shape, circuit.num_leaves)
            tree, best = circuit.mpe(values)
            assert circuit(values).shape == best.shape == shape
            assert circuit.posterior(values).shape == tree.shape == values.shape
            assert circuit.sample((5, 2), values).shape == (5, 2, *values.shape)
            assert circuit.sample((5, 2), values).dtype == tree.dtype == torch.bool

    def test_posterior_is_the_derivative(self, circuit, leaf):
        leaf.requires_grad_()
        (derivative,) = torch.autograd.grad(recursive_log_prob(circuit, leaf).sum(), leaf)
        posterior = circuit.posterior(leaf)
        assert not posterior.requires_grad
        torch.testing.assert_close(posterior, derivative, rtol=1e-10, atol=1e-13)

    def test_samples_are_induced_trees(self, circuit, leaf):
        for trees in (circuit.sample((64,)), circuit.sample((16,), leaf).flatten(0, 1), circuit.mpe(leaf)[0]):
            for tree in trees:
                cells = [place // circuit.leaves for place in tree.nonzero().flatten().tolist()]
                variables = sorted(variable for cell in cells for variable in circuit.regions.leaf_scopes[cell])
                assert variables == list(range(circuit.regions.num_variables))

    def test_sampled_leaves_match_the_posterior(self, circuit, leaf):
        number = 2000
        zeros = torch.zeros(1, circuit.num_leaves)
        cases = [
            (circuit.sample((number,)).unsqueeze(1), circuit.posterior(zeros)),
            (circuit.sample((number,), leaf), circuit.posterior(leaf)),
        ]
        for trees, posterior in cases:
            deviation = (trees.double().mean(0) - posterior).abs()
            spread = (posterior * (1 - posterior) / number).clamp(min=0).sqrt()
            assert (deviation <= 5 * spread + 1e-3).all()

    def test_mpe_is_at_most_log_prob_and_reaches_it_on_its_own_tree(self, circuit, leaf):
        tree, value = circuit.mpe(leaf)
        assert (value <= circuit(leaf) + 1e-12).all()
        # with all other leaves far away the tree remains the best
        again, _ = circuit.mpe(leaf.masked_fill(~tree, -1e6))
        assert torch.equal(again, tree)

    def test_missing_leaves_count_as_one(self, circuit, leaf):
        by_leaf = torch.rand(leaf.shape) < 0.5
        expected = recursive_log_prob(circuit, leaf * by_leaf)
        spoiled = leaf.masked_fill(~by_leaf, torch.nan)
        torch.testing.assert_close(circuit(spoiled, by_leaf), expected, rtol=1e-12, atol=1e-12)
        by_cell = torch.rand(4, circuit.num_leaf_regions) < 0.5
        by_cell[0] = False
        spread = by_cell.repeat_interleave(circuit.leaves, -1)
        zeroed = leaf * spread
        torch.testing.assert_close(circuit(leaf, by_cell), circuit(zeroed), rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(circuit.posterior(leaf, by_cell), circuit.posterior(zeroed), rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(circuit.mpe(leaf, by_cell)[1], circuit.mpe(zeroed)[1], rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(circuit(leaf, by_cell)[0], torch.zeros(()), rtol=0, atol=1e-13)
        torch.manual_seed(1)
        trees = circuit.sample((9,), leaf, by_cell)
        torch.manual_seed(1)
        assert torch.equal(trees, circuit.sample((9,), zeroed))
        # one mask for all of a batch, several masks for one datum, and a scalar
        torch.testing.assert_close(circuit(leaf, by_cell[1]), circuit(leaf, by_cell[1].expand(4, -1)))
        torch.testing.assert_close(circuit(leaf[0], by_cell), circuit(leaf[0].expand(4, -1), by_cell))
        torch.testing.assert_close(circuit(leaf, torch.tensor(False)), torch.zeros(4), rtol=0, atol=1e-13)
        leaf.requires_grad_()
        (gradient,) = torch.autograd.grad(circuit(leaf, by_cell).sum(), leaf)
        assert (gradient[~spread] == 0).all() and gradient.isfinite().all()

    def test_very_low_densities_keep_value_and_gradient(self, circuit, leaf):
        # units that differ by hundreds of nats, around -1e4
        low = (100 * leaf - 1e4).detach().requires_grad_()
        ours, plain = circuit(low), recursive_log_prob(circuit, low)
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=0)
        inputs = [low, *circuit.parameters()]
        grads = torch.autograd.grad(ours.sum(), inputs)
        assert all(one.isfinite().all() for one in grads)
        torch.testing.assert_close(grads, torch.autograd.grad(plain.sum(), inputs), rtol=1e-7, atol=1e-9)

    def test_single_precision(self, circuit, leaf):
        single = copy.deepcopy(circuit).float()
        for values in (leaf, 100 * leaf - 1e4):
            torch.testing.assert_close(single(values.float()).double(), circuit(values), rtol=1e-5, atol=1e-5)
            posterior = single.posterior(values.float()).double()
            sums = posterior.unflatten(-1, (circuit.num_leaf_regions, -1)).sum(-1)
            lengths = torch.tensor([float(len(scope)) for scope in circuit.regions.leaf_scopes])
            covered = sums @ lengths
            torch.testing.assert_close(
                covered, torch.full((4,), float(circuit.regions.num_variables)), rtol=1e-5, atol=0
            )
        # double densities over single weights are computed in double
        if circuit.layers:
            assert single(leaf).dtype == torch.float64

    def test_impossible_leaves(self, circuit, leaf):
        # indicators of one tree: all of its weight, and that of no other
        tree = circuit.sample()
        for low in (-1e30, -torch.inf):
            values = torch.zeros(circuit.num_leaves).masked_fill(~tree, low).requires_grad_()
            value = circuit(values)
            assert value.isfinite() and value <= 1e-12
            gradient = torch.autograd.grad(value, [values, *circuit.parameters()])
            torch.testing.assert_close(gradient[0], tree.double(), rtol=0, atol=1e-12)
            assert all(one.isfinite().all() for one in gradient)
        # beside an impossible datum a possible one is untouched
        leaf[0] = -torch.inf
        leaf.requires_grad_()
        values = circuit(leaf)
        assert values[0] == -torch.inf
        torch.testing.assert_close(values[1:], recursive_log_prob(circuit, leaf[1:]), rtol=1e-12, atol=1e-12)
        gradient = torch.autograd.grad(values[1:].sum(), [leaf, *circuit.parameters()])
        assert all(one.isfinite().all() for one in gradient)
        assert circuit.posterior(leaf).isfinite().all() and circuit.sample((), leaf).shape == leaf.shape

    def test_a_nan_is_not_hidden(self, circuit, leaf):
        leaf[1, -1] = torch.nan
        value = circuit(leaf)
        assert value[1].isnan() and value[[0, 2, 3]].isfinite().all()

    def test_state_dict_round_trip(self, circuit, leaf):
        other = Circuit(circuit.regions, circuit.units, circuit.leaves, tie=circuit.tie, weights=circuit.weights)
        if circuit.layers:
            assert not torch.equal(other(leaf), circuit(leaf))
        other.load_state_dict(circuit.state_dict())
        assert torch.equal(other(leaf), circuit(leaf))
        state = circuit.state_dict(keep_vars=True)
        assert state.keys() == {*dict(circuit.named_parameters()), "_extra_state"}, "parameters and their structure"

    def test_sum_posterior_is_the_derivative_in_the_log_weights(self, circuit, leaf, monkeypatch):
        free = [weight.detach().requires_grad_() for weight in circuit.log_weights()]
        posterior = circuit.sum_posterior(leaf)
        assert not any(one.requires_grad for one in posterior)
        for shape in ((), (2, 1, 2), (0,)):
            found = circuit.sum_posterior(torch.randn(*shape, circuit.num_leaves))
            assert [tuple(one.shape) for one in found] == [(*shape, *weight.shape) for weight in free]
        monkeypatch.setattr(circuit, "log_weights", lambda: free)  # not normalised any more
        for place, value in enumerate(recursive_log_prob(circuit, leaf)):
            if free:
                expected = torch.autograd.grad(value, free, retain_graph=True)
                torch.testing.assert_close([one[place] for one in posterior], [*expected], rtol=1e-10, atol=1e-13)

    def test_sum_posterior_of_missing_and_extreme_leaves(self, circuit, leaf):
        mask = torch.rand(leaf.shape) < 0.5
        masked, zeroed = circuit.sum_posterior(leaf, mask), circuit.sum_posterior(leaf * mask)
        torch.testing.assert_close(masked, zeroed, rtol=1e-13, atol=1e-13)
        leaf[0] = -torch.inf
        leaf[1] = 1e4 * leaf[1]
        single = copy.deepcopy(circuit).float()
        for posterior in (circuit.sum_posterior(leaf), single.sum_posterior(leaf.float())):
            assert all(one.isfinite().all() for one in posterior)
            for one in posterior[-1:]:
                torch.testing.assert_close(one[1:].sum((-1, -2, -3)).double(), torch.ones(3), rtol=0, atol=1e-5)


@pytest.mark.parametrize("candidates", [2, 8, 9, 16])
def test_draws_follow_their_scores(candidates):
    scores = 2 * torch.randn(candidates)
    scores[candidates // 2] = -torch.inf
    count = torch.bincount(drawn_by(scores.expand(50_000, -1), noise=True), minlength=candidates).double()
    assert chi_square_p_value(count, torch.softmax(scores, 0)) > 1e-3
    assert count[candidates // 2] == 0
    assert (drawn_by(scores.expand(5, -1), noise=False) == scores.argmax()).all()


@pytest.mark.parametrize("circuit", under_every_option(ENUMERABLE), indirect=True)
class TestByEnumeration:
    @pytest.fixture
    def trees(self, circuit):
        return list_trees(circuit)

    def test_log_prob_and_mpe_equal_enumeration(self, circuit, leaf, trees):
        assert len(trees.log_weight) == circuit.num_trees()
        terms = trees.log_weight + leaf @ trees.leaves.double().T  # [B, tree]
        torch.testing.assert_close(circuit(leaf), terms.logsumexp(-1), rtol=1e-12, atol=1e-12)
        best, place = terms.max(-1)
        selected, value = circuit.mpe(leaf)
        torch.testing.assert_close(value, best.detach(), rtol=1e-12, atol=1e-12)
        assert torch.equal(selected, trees.leaves[place])

    def test_sampled_trees_match_enumeration(self, circuit, leaf, trees):
        for values in (None, leaf[0] / 3):
            selections, log_probs = selection_log_probs(trees, values)
            drawn = torch.cat([selections, circuit.sample((8000,), values)])
            found, observed = drawn.unique(dim=0, return_counts=True)  # in the order of the selections
            assert torch.equal(found, selections)
            observed, probabilities = observed.double() - 1, log_probs.exp().detach()
            assert chi_square_p_value(observed, probabilities) > 1e-3
            # the test has the power to refuse what is not the answer
            if len(selections) > 1:
                assert chi_square_p_value(observed, torch.softmax(2 * log_probs.detach(), 0)) < 1e-6

    def test_leaf_selections_are_all_that_trees_end_in(self, circuit, trees):
        expected, log_probs = selection_log_probs(trees)
        selections = circuit.leaf_selections(limit=len(expected))
        assert selections.dtype == torch.bool and torch.equal(selections, expected.flip(0))
        with pytest.raises(ValueError, match="limit"):
            circuit.leaf_selections(limit=len(expected) - 1)
        # indicators of a set of leaves give its probability
        indicators = torch.zeros(expected.shape).masked_fill(~expected, -torch.inf)
        torch.testing.assert_close(circuit(indicators), log_probs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [5, None, torch.zeros(2)])
def test_shapes_of_draws_are_tuples(shape):
    with pytest.raises(TypeError, match="^sample_shape must be a tuple of sizes, but is "):
        Circuit(whole((2,)), 1).sample(shape)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Expectation maximisation: counts by listing all trees, steps that never lower the likelihood, and answers by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.testing import assert_close

from pyro_spvae import Circuit, poon_domingos, random_binary_tree, whole
from pyro_spvae.infer import ExpectedStatistics, expected_counts
from pyro_spvae.likelihoods import Bernoulli, Binomial, Categorical, Normal
from pyro_spvae.models import SPN
from tests.circuits.options import UNEVEN
from tests.circuits.oracle import factors_of_products, list_trees
from tests.models import own_parts
from tests.spn_cases import LEVELS, LIKELIHOODS, make_spn, values

GRAPHS = {
    "grid": (poon_domingos((2, 2), 1), 2, 2),
    "more leaves": (poon_domingos((2, 2), 1), 2, 3),
    "not exact": (poon_domingos((1, 3), 1), 5, 5),
    "trees": (random_binary_tree((5,), depth=1, repetitions=2, seed=0), 2, 2),
    "mixture": (whole((2, 2)), 1, 3),
    "one leaf": (whole((2, 2)), 1, 1),
}
OPTIONS = [("none", "full"), ("shape", "full"), ("none", "cp"), ("shape", "cp")]


ZEROS = torch.zeros(3, 1, 2, 2, dtype=torch.float64)
REFUSED = [
    ({"epochs": 0}, "epochs is 0; a positive integer is needed"),
    ({"smoothing": -1}, "smoothing is -1; a number of at least 0 is needed"),
    ({"smoothing": math.inf}, "smoothing is inf; a number of at least 0 is needed"),
    ({"smoothing": True}, "smoothing is True; a number of at least 0 is needed"),
    ({"tolerance": math.nan}, "tolerance is nan; a number is needed"),
    ({"tolerance": "no"}, "tolerance is 'no'; a number is needed"),
    ({"batch_size": 0}, "batch_size is 0; a positive integer is needed"),
    ({"x": ZEROS[:0]}, r"x holds no data; at least one row of shape \[1, 2, 2\] is needed"),
    ({"x": ZEROS[:, 0]}, r"x has shape \[3, 2, 2\]; .*"),
    ({"x": ZEROS + 0.5}, r"x holds the value 0.5 in row 0 \(3 such rows\); .*"),
    ({"observed": torch.ones(3, dtype=torch.bool)}, r"observed has shape \[3\]; it must broadcast .*"),
]


def brute_force(circuit, leaf):
    """Log-likelihoods, leaf posteriors, and counts ``[region, sum, product]`` of each layer, tree by tree."""
    trees = list_trees(circuit)
    joint = trees.log_weight.detach() + leaf @ trees.leaves.to(leaf.dtype).T
    posterior = joint.softmax(-1)  # [data, tree]
    sizes = [weights.shape for weights in circuit.log_weights()]
    counts = (posterior @ trees.products.to(leaf.dtype)).sum(0).split([math.prod(size) for size in sizes])
    counts = [count.reshape(size) for count, size in zip(counts, sizes, strict=True)]
    return joint.logsumexp(-1), posterior @ trees.leaves.to(leaf.dtype), counts


def by_factors(circuit, counts):
    """The counts of products, added up to those of the factors of each layer."""
    if circuit.weights == "full" or not circuit.regions.partitions:
        return [[count] for count in counts]
    layer, *mixture = circuit.layers
    found = [torch.zeros_like(factor) for factor in layer.log_factors()]
    for used in factors_of_products(circuit):
        count = counts[used.group][used.place, :, used.product]
        for number, place in used.factors:
            if number < len(layer.unit_logits):
                found[number][place[0], :, place[1]] += count
            else:
                found[number][place] += count
    return [found, *([counts[-1]] for _ in mixture)]


class TestExpectedCounts:
    @pytest.mark.parametrize(("tie", "weights"), OPTIONS)
    @pytest.mark.parametrize("graph", GRAPHS)
    def test_are_posterior_expectations_over_induced_trees(self, graph, tie, weights):
        circuit = Circuit(*GRAPHS[graph], tie=tie, weights=weights)
        leaf = 2 * torch.randn(4, circuit.num_leaves)
        log_prob, responsibility, counts = expected_counts(circuit, leaf)
        wanted_log_prob, wanted_responsibility, wanted_counts = brute_force(circuit, leaf)
        assert_close(log_prob, wanted_log_prob)
        assert_close(responsibility, wanted_responsibility)
        assert len(counts) == len(circuit.layers)
        for layer, count, wanted in zip(circuit.layers, counts, by_factors(circuit, wanted_counts), strict=True):
            assert [one.shape for one in count] == [factor.shape for factor in layer.log_factors()]
            for one, other in zip(count, wanted, strict=True):
                assert_close(one, other)

    @pytest.mark.parametrize("smoothing", [0.0, 1.5])
    @pytest.mark.parametrize(("tie", "weights"), OPTIONS)
    @pytest.mark.parametrize("regions", [poon_domingos((2, 3), 1), UNEVEN], ids=["grid", "uneven"])
    def test_become_weights(self, regions, tie, weights, smoothing):
        """
        Shares of the counts and of what smoothing adds to each product; those of regions that share weights add up, and
        so do those of factors, whatever the partitions' numbers of products.
        """
        circuit = Circuit(regions, 2, 3, tie=tie, weights=weights)
        spn = SPN(circuit)
        x = values("bernoulli", 6, *spn.event_shape)
        leaf = spn.leaf.pixels(mask=spn.view.mask).log_prob(spn.view(x)).detach()
        counts = brute_force(circuit, leaf)[2]
        spn.em_step(x, smoothing=smoothing)
        # as if smoothing further data had come, evenly over the products of each sum; once for all that share weights
        further = [torch.full_like(count, smoothing / count.shape[-1]) for count in counts]
        shared = 0
        for layer, own, more in zip(
            circuit.layers, by_factors(circuit, counts), by_factors(circuit, further), strict=True
        ):
            for number, (count, even, found) in enumerate(zip(own, more, layer.log_factors(), strict=True)):
                axis = 1 if number >= len(getattr(layer, "unit_logits", own)) else -1
                classes = layer.classes if hasattr(layer, "classes") else layer._classes[number]
                if classes is None:
                    count = count + even
                else:
                    alike = classes.unsqueeze(0) == classes.unsqueeze(1)
                    shared += int(alike.sum()) - len(alike)
                    count = torch.einsum("ij,j...->i...", alike.to(count.dtype), count) + even
                assert_close(found.exp(), count / count.sum(axis, keepdim=True))
        assert (shared > 0) == (tie == "shape" and regions is not UNEVEN)

    def test_leave_no_gradients_behind(self):
        circuit = Circuit(poon_domingos((2, 2), 1), 2)
        with torch.no_grad():
            results = expected_counts(circuit, torch.randn(3, 8))
        assert not any(tensor.requires_grad for tensor in (*results[:2], *(one for own in results[2] for one in own)))
        assert all(parameter.grad is None for parameter in circuit.parameters())


class TestNoStepLowersTheLikelihood:
    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("likelihood", LIKELIHOODS)
    @pytest.mark.parametrize("seed", range(2))
    def test_with_every_likelihood(self, likelihood, masked, seed):
        torch.manual_seed(seed)
        spn = make_spn(likelihood, poon_domingos((2, 3), 1), units=2 + seed % 2)
        x = values(likelihood, 30, 1, 2, 3)
        observed = torch.rand(x.shape) < 0.7 if masked else None
        history = torch.tensor(spn.fit_em(x, 25, observed, smoothing=0, tolerance=-1))
        assert len(history) == 26
        assert float(history.diff().min()) > -1e-10
        assert float(history[-1] - history[0]) > 0.05
        assert float(history[-1]) == pytest.approx(spn.log_prob(x, observed).mean().item(), abs=1e-12)

    @pytest.mark.parametrize(("tie", "weights"), OPTIONS)
    @pytest.mark.parametrize("graph", GRAPHS)
    def test_with_every_circuit(self, graph, tie, weights):
        spn = SPN(Circuit(*GRAPHS[graph], tie=tie, weights=weights), likelihood=Normal())
        history = torch.tensor(spn.fit_em(torch.randn(40, *spn.event_shape), 20, smoothing=0, tolerance=-1))
        assert float(history.diff().min()) > -1e-10

    @pytest.mark.parametrize("likelihood", ["bernoulli", "binomial", "categorical", "normal"])
    def test_of_constant_pixels(self, likelihood):
        """The most likely parameters are at the end of what can be represented."""
        spn = make_spn(likelihood)
        x = torch.zeros(10, 1, 2, 2)
        history = torch.tensor(spn.fit_em(x, 10, smoothing=0, tolerance=-1))
        assert float(history.diff().min()) > -1e-10
        assert all(parameter.isfinite().all() for parameter in spn.parameters())
        wanted = 4 * (-math.log(1e-3 + 1e-6) - 0.5 * math.log(2 * math.pi)) if likelihood == "normal" else 0.0
        assert float(history[-1]) == pytest.approx(wanted, abs=2e-5)

    @pytest.mark.parametrize("likelihood", ["bernoulli", "categorical"])
    def test_with_smoothing_the_posterior_of_the_parameters_rises(self, likelihood):
        """Likelihood plus Dirichlet log-densities, whose pseudo-counts are evenly shared out."""
        spn = make_spn(likelihood)
        x, smoothing = values(likelihood, 20, 1, 2, 2), 0.8

        def objective():
            prior = sum((smoothing / w.shape[-1] * w).sum() for w in spn.circuit.log_weights())
            (logits,) = spn.leaf.pixels.outputs
            if likelihood == "bernoulli":
                log_probs = torch.stack([logits, -logits], -1).sigmoid().log()
            else:
                log_probs = logits.unflatten(-1, (-1, LEVELS)).log_softmax(-1)
            prior = prior + smoothing / log_probs.shape[-1] * log_probs.sum()
            return (spn.log_prob(x).sum() + prior).item()

        path = [objective()]
        for _ in range(30):
            spn.em_step(x, smoothing=smoothing)
            path.append(objective())
        assert float(torch.tensor(path).diff().min()) > -1e-9 and path[-1] > path[0] + 1


class TestByHand:
    def test_one_leaf_is_fitted_at_once(self):
        ones, levels = (torch.tensor(row).reshape(4, 1, 1, 1) for row in ([0.0, 1, 1, 1], [0.0, 4, 4, 1]))
        for likelihood, x, steps in (
            (Bernoulli(), ones, {0: 3 / 4, 0.5: 3.25 / 4.5}),
            (Binomial(4), levels, {0: 9 / 4, 2: (9 + 2 * 2) / 6}),
        ):
            spn = SPN(whole((1, 1)), 1, likelihood=likelihood)
            for smoothing, mean in steps.items():
                spn.em_step(x, smoothing=smoothing)
                assert spn.leaf.pixels().mean.item() == pytest.approx(mean)
        spn = SPN(whole((1, 1)), 1, likelihood=Categorical(5))
        spn.em_step(levels, smoothing=0)
        assert_close(spn.leaf.pixels().probs.flatten(), torch.tensor([1, 1, 0, 0, 2]) / 4, atol=3e-6, rtol=0)
        spn.em_step(levels, smoothing=1)
        assert_close(spn.leaf.pixels().probs.flatten(), torch.tensor([1.2, 1.2, 0.2, 0.2, 2.2]) / 5)

    @pytest.mark.parametrize("smoothing", [0.0, 2.0])
    @pytest.mark.parametrize(
        "likelihood",
        [Normal(), Normal(mean="sigmoid"), Normal(scale="precision"), Normal(min_scale=0.2)],
        ids=["plain", "sigmoid", "precision", "floor"],
    )
    def test_one_normal_leaf(self, likelihood, smoothing):
        """Further data like all of them change nothing."""
        likelihood = Normal(likelihood.mean, likelihood.scale, likelihood.min_scale)
        x = torch.rand(20, 1, 2, 2)
        spn = SPN(whole((2, 2)), 1, likelihood=likelihood)
        spn.em_step(x, smoothing=smoothing)
        assert_close(spn.leaf.pixels().mean[0], x.mean(0).flatten())
        assert_close(spn.leaf.pixels().stddev[0], x.std(0, correction=0).flatten())

    def test_what_a_normal_leaf_cannot_reach(self):
        """The nearest that it can, with the deviation from the mean that it has."""
        x = torch.tensor([-1.0, -3.0]).reshape(2, 1, 1, 1)
        spn = SPN(whole((1, 1)), 1, likelihood=Normal(mean="sigmoid"))
        spn.em_step(x, smoothing=0)
        assert spn.leaf.pixels().mean.item() == pytest.approx(0, abs=2e-6)
        assert spn.leaf.pixels().variance.item() == pytest.approx((1 + 9) / 2, rel=1e-5)
        spn = SPN(whole((1, 1)), 1, likelihood=Normal(scale="precision"))
        spn.em_step(3 * x, smoothing=0)
        assert spn.leaf.pixels().mean.item() == pytest.approx(-6)
        assert spn.leaf.pixels().stddev.item() == pytest.approx(1, abs=2e-6)

    def test_a_step_of_a_mixture(self):
        """The textbook's two lines for a mixture of two products of Bernoulli variables."""
        spn = SPN(whole((1, 3)), 2)
        x = values("bernoulli", 15, 1, 1, 3)
        weight = spn.circuit.log_weights()[0].detach().exp().flatten()
        probs = spn.leaf.pixels.outputs[0].detach().sigmoid()  # [component, pixel]
        flat = x.flatten(1)
        joint = weight * torch.stack([(p**flat * (1 - p) ** (1 - flat)).prod(-1) for p in probs], -1)
        share = joint / joint.sum(-1, keepdim=True)
        before = spn.em_step(x, smoothing=0)
        assert before == pytest.approx(joint.sum(-1).log().mean().item())
        assert_close(spn.circuit.log_weights()[0].detach().exp().flatten(), share.mean(0))
        assert_close(spn.leaf.pixels.outputs[0].detach().sigmoid(), share.T @ flat / share.sum(0).unsqueeze(-1))

    def test_reaches_the_clusters_of_a_mixture(self):
        """Two clusters that have nothing in common: shares, means and deviations are those of the clusters."""
        low, high = torch.randn(30, 1, 1, 2) - 50, 2 * torch.randn(10, 1, 1, 2) + 50
        spn = SPN(whole((1, 2)), 2, likelihood=Normal())
        with torch.no_grad():
            spn.leaf.pixels.outputs[0].copy_(torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
        spn.fit_em(torch.cat([low, high]), 50, smoothing=0, tolerance=1e-12)
        assert_close(spn.circuit.log_weights()[0].detach().exp().flatten(), torch.tensor([0.75, 0.25]))
        for i, cluster in enumerate((low, high)):
            assert_close(spn.leaf.pixels().mean[i], cluster.mean(0).flatten())
            assert_close(spn.leaf.pixels().stddev[i], cluster.std(0, correction=0).flatten())

    def test_missing_pixels_do_not_count(self):
        x = torch.randn(40, 1, 2, 2)
        observed = torch.rand(x.shape) < 0.5
        spn = SPN(whole((2, 2)), 1, likelihood=Normal())
        spn.em_step(torch.where(observed, x, torch.nan), observed, smoothing=0)
        wanted = [x[:, 0, i, j][observed[:, 0, i, j]] for i in range(2) for j in range(2)]
        assert_close(spn.leaf.pixels().mean[0], torch.stack([pixel.mean() for pixel in wanted]))
        assert_close(spn.leaf.pixels().stddev[0], torch.stack([pixel.std(correction=0) for pixel in wanted]))

    @pytest.mark.parametrize("smoothing", [0, 0.5])
    @pytest.mark.parametrize("likelihood", ["bernoulli", "categorical", "normal"])
    def test_pixels_that_are_never_seen(self, likelihood, smoothing):
        """They stay, but for further data of all values alike, where there is such a thing."""
        spn = make_spn(likelihood)
        before = [output.detach().clone() for output in spn.leaf.pixels.outputs]
        observed = torch.tensor([[True, True], [True, False]])
        spn.em_step(values(likelihood, 20, 1, 2, 2), observed, smoothing=smoothing)
        for old, new in zip(before, spn.leaf.pixels.outputs, strict=True):
            assert not (new[:6] == old[:6]).any()
            if likelihood == "normal" or not smoothing:
                assert torch.equal(new[6:], old[6:])
            else:
                assert_close(new[6:] - new[6:, :1], torch.zeros_like(new[6:]))
                assert likelihood == "categorical" or not new[6:].any()
        assert all(parameter.isfinite().all() for parameter in spn.parameters())

    def test_sums_that_are_never_reached_stay(self):
        spn = make_spn()
        root = spn.circuit.layers[-1]
        left = spn.circuit.layers[0]
        with torch.no_grad():
            root.logits.fill_(-2000)
            root.logits[..., 0] = 0  # the first product: unit 0 of both parts of one partition
        before = left.logits.detach().clone()
        spn.em_step(values("bernoulli", 20, 1, 2, 2), smoothing=0)
        changed = (left.logits != before).any(-1)  # [region, sum]
        assert int(changed.sum()) == 2 and not changed[:, 1].any()
        assert float(root.log_factors()[0].detach().min()) == pytest.approx(math.log(1e-12), rel=1e-6)


class TestBatches:
    @pytest.mark.parametrize("likelihood", LIKELIHOODS)
    def test_are_parts_of_one_step(self, likelihood):
        x = values(likelihood, 20, 1, 2, 2)
        observed = torch.rand(x.shape) < 0.7
        states = []
        for batch_size in (20, 7, 1):
            torch.manual_seed(0)
            spn = make_spn(likelihood)
            assert len(spn.fit_em(x, 2, observed, batch_size=batch_size)) == 3
            states.append(spn.state_dict())
        for state in states[1:]:
            for name, value in state.items():
                assert_close(value, states[0][name], rtol=1e-9, atol=1e-9)

    def test_statistics_add_up(self):
        spn = make_spn()
        expected = ExpectedStatistics(spn.circuit, spn.leaf)
        for _ in range(3):
            expected.add(torch.zeros(5, 8), torch.zeros(5, 8, 1))
        assert expected.rows == 15 and expected.log_likelihood == pytest.approx(0, abs=1e-12)

    def test_float32(self):
        spn = make_spn("normal").float()
        history = spn.fit_em(torch.randn(50, 1, 2, 2).float(), 20, smoothing=0)
        assert float(torch.tensor(history).diff().min()) > -1e-5
        assert {parameter.dtype for parameter in spn.parameters()} == {torch.float32}


class TestOptions:
    def test_stops_when_nothing_is_gained(self):
        spn = SPN(whole((1, 1)), 1)
        x = values("bernoulli", 20, 1, 1, 1)
        history = spn.fit_em(x, 100, smoothing=0)
        assert len(history) == 4 and history[1] == pytest.approx(history[-1])
        assert len(SPN(whole((1, 1)), 1).fit_em(x, 5, smoothing=0, tolerance=-1)) == 6

    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("batch_size", [1, 4, 9, 10, 256])
    def test_what_is_returned_are_means_over_rows(self, batch_size, masked):
        """Whatever the batches, the last of which may be smaller; rows differ, as others may not stand for them."""
        spn, x = make_spn("normal"), torch.linspace(0.1, 3.0, 10).reshape(10, 1, 1, 1) * torch.randn(10, 1, 2, 2)
        observed = torch.rand(x.shape) < torch.linspace(0, 1, 10).reshape(10, 1, 1, 1) if masked else None
        wanted, twin = [], copy.deepcopy(spn)
        for _ in range(2):
            wanted.append(twin.log_prob(x, observed).mean().item())
            assert twin.em_step(x, observed, batch_size=batch_size) == pytest.approx(wanted[-1], abs=1e-10)
        wanted.append(twin.log_prob(x, observed).mean().item())
        history = spn.fit_em(x, 2, observed, batch_size=batch_size, tolerance=-math.inf)
        assert history == pytest.approx(wanted, abs=1e-10)
        by_batch = [batch.mean().item() for batch in twin.log_prob(x, observed).split(batch_size)]
        assert 10 % batch_size in (0, 10) or abs(sum(by_batch) / len(by_batch) - wanted[-1]) > 0.01

    def test_progress(self, capsys):
        make_spn().fit_em(values("bernoulli", 4, 1, 2, 2), 2, progress=True)
        assert "EM" in capsys.readouterr().err

    @pytest.mark.parametrize(("options", "message"), REFUSED)
    def test_refused(self, options, message):
        spn = make_spn()
        before = [parameter.detach().clone() for parameter in spn.parameters()]
        with pytest.raises(ValueError, match=f"^{message}$"):
            spn.fit_em(**{"x": ZEROS} | options)
        assert all(torch.equal(*pair) for pair in zip(before, spn.parameters(), strict=True))

    def test_refused_without_statistics_or_data(self):
        spn = SPN(poon_domingos((2, 2), 1), likelihood=own_parts.Laplace())
        message = "^the likelihood Laplace has no sufficient statistics, which EM needs; train by gradient, or define"
        with pytest.raises(ValueError, match=message):
            spn.em_step(torch.randn(3, 1, 2, 2))
        spn = make_spn()
        with pytest.raises(ValueError, match="^there are no data to learn from; add"):
            ExpectedStatistics(spn.circuit, spn.leaf).maximise()


def test_a_likelihood_of_ones_own():
    """What the base class asks for suffices."""

    class Coin(Bernoulli):
        def statistics(self, x, weight):
            return (weight * x).sum(0).unsqueeze(-1)

        def uniform_statistics(self):
            return None

        def outputs_of(self, means):
            return (means.squeeze(-1).clamp(0.01, 0.99).logit(),)

    spn = SPN(whole((1, 1)), 1, likelihood=Coin())
    spn.em_step(torch.tensor([0.0, 1.0, 1.0]).reshape(3, 1, 1, 1), smoothing=1.0)
    assert spn.leaf.pixels().mean.item() == pytest.approx(2 / 3), "further data are like all of them"

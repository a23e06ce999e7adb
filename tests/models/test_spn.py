# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Vanilla sum-product networks: every query equals the sum over all induced trees and all states. EM: tests/infer."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from pyro_spvae import Circuit, CircuitELBO, log_likelihood, poon_domingos, quad_tree, random_binary_tree, whole
from pyro_spvae.guides import LeafGuide, NormalGuide
from pyro_spvae.infer import bound_terms
from pyro_spvae.likelihoods import Bernoulli, DiscretizedLogisticMixture, Normal
from pyro_spvae.models import SPN, SPVAE, VAE, Explanation, FactorizedLeaf
from pyro_spvae.queries.posterior import LeafDraws
from tests.circuits.oracle import enumerate_induced_trees
from tests.models import own_parts
from tests.spn_cases import DISCRETE, LIKELIHOODS, joint_log_prob, make_spn, states, values

GRID = poon_domingos((2, 2), 1)
GRAPHS = {
    "grid": GRID,
    "strip": poon_domingos((1, 3), 1),
    "ragged": random_binary_tree((5,), depth=1, repetitions=2, seed=0),
    "mixture": whole((2, 2)),
    "quad": quad_tree((4, 4), 2),
}
ENUMERABLE = ("grid", "ragged", "mixture")  # with their states


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_log_prob_is_the_sum_over_induced_trees(likelihood, graph):
    spn = make_spn(likelihood, GRAPHS[graph])
    x = values(likelihood, 6, *spn.event_shape)
    assert_close(spn.log_prob(x), joint_log_prob(spn, likelihood, x).logsumexp(-1))
    assert len(set(spn.log_prob(x).tolist())) > 1


@pytest.mark.parametrize("units", [2, 5])
def test_states_of_three_by_three_sum_to_one(units):
    spn = make_spn("bernoulli", poon_domingos((3, 3), 1), units=units)
    assert_close(spn.log_prob(states("bernoulli", (1, 3, 3))).exp().sum(), torch.tensor(1.0))


def test_channels_are_pixels_of_their_leaves():
    spn = SPN(poon_domingos((1, 2), 1), likelihood=Bernoulli(), channels=2)
    x = states("bernoulli", (2, 1, 2))
    assert_close(spn.log_prob(x), joint_log_prob(spn, "bernoulli", x).logsumexp(-1))
    assert_close(spn.log_prob(x).exp().sum(), torch.tensor(1.0))


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_marginals_are_those_of_trees_over_what_is_seen(likelihood):
    spn = make_spn(likelihood, GRAPHS["ragged"])
    x, observed = values(likelihood, 6, 5), torch.rand(6, 5) < 0.5
    found = spn.log_prob(torch.where(observed, x, torch.nan), observed)
    assert_close(found, joint_log_prob(spn, likelihood, x, observed).logsumexp(-1))


def test_the_marginal_of_nothing_is_exactly_one():
    found = make_spn().log_prob(torch.full((2, 1, 2, 2), torch.nan), torch.zeros(2, 2, dtype=torch.bool))
    assert_close(found, torch.zeros(2), rtol=0, atol=1e-15)


class TestExactness:
    """Nothing is latent besides the tree, so that particles do not matter, and cost nothing."""

    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("num_samples", [1, 2, 5000])
    @pytest.mark.parametrize("chunk_size", [1, 2048])
    def test_log_likelihood(self, num_samples, chunk_size, masked):
        spn = make_spn()
        x = values("bernoulli", 9, 1, 2, 2)
        observed = torch.rand(x.shape) < 0.6 if masked else None
        found = spn.log_likelihood(x, observed, num_samples=num_samples, chunk_size=chunk_size)
        assert torch.equal(found, spn.log_prob(x, observed).detach())

    def test_log_likelihood_does_each_datum_once(self):
        spn, sizes = make_spn(), []
        spn.leaf.register_forward_pre_hook(lambda leaf, args: sizes.append(args[0].shape[:-1].numel()))
        log_likelihood(spn.model, spn.guide, values("bernoulli", 100, 1, 2, 2), num_samples=5000)
        # the first datum tells that nothing is latent; the others come together
        assert sum(sizes) == 100 * spn.num_leaves and len(sizes) == 2 and sizes[0] <= spn.num_leaves

    @pytest.mark.parametrize("reduce", ["leaf", "root"])
    @pytest.mark.parametrize("vectorize", [True, False])
    @pytest.mark.parametrize("alpha", [0.0, 1.0, 0.5, -torch.inf])
    def test_every_bound_is_the_log_likelihood(self, alpha, vectorize, reduce):
        spn = make_spn("normal")
        x, observed = torch.randn(4, 1, 2, 2), torch.rand(4, 1, 2, 2) < 0.6
        elbo = CircuitELBO(3, alpha=alpha, vectorize_particles=vectorize, reduce=reduce)
        assert_close(elbo.bound(spn.model, spn.guide, x, observed), spn.log_prob(x, observed).detach())
        assert elbo.terms(spn.model, spn.guide, (x, observed), {}).log_weight.shape == (1, 4, 8)

    @pytest.mark.parametrize("gradient", ["iwae", "dreg"])
    @pytest.mark.parametrize("vectorize", [True, False])
    def test_gradients_are_those_of_log_prob(self, gradient, vectorize):
        spn = make_spn("normal")
        x = torch.randn(4, 1, 2, 2)
        elbo = CircuitELBO(3, gradient=gradient, vectorize_particles=vectorize)
        parameters = list(spn.parameters())
        found = torch.autograd.grad(elbo(spn.model, spn.guide)(x), parameters)
        wanted = torch.autograd.grad(-spn.log_prob(x).sum(), parameters)
        for one, other in zip(found, wanted, strict=True):
            assert_close(one, other)

    @pytest.fixture
    def spn(self):
        return make_spn()

    @pytest.fixture
    def x(self):
        return values("bernoulli", 5, 1, 2, 2)

    def test_terms_of_the_bound(self, spn, x):
        terms = bound_terms(spn.model, spn.guide, x, num_particles=4)
        assert_close(terms.elbo, spn.log_prob(x).detach())
        assert not terms.latent_kl.any() and (terms.tree_kl > 0).all()

    def test_one_draw_is_enough(self, spn, x):
        draws = LeafDraws.make(spn, spn.prepare(x), 100)
        assert draws.log_weight.shape == (1, 5, 8) and draws.sites == {}
        assert spn.posterior(x, num_particles=100).log_weight.shape == (1, 5, 8)

    def test_embedding_is_the_posterior_over_trees(self, spn, x):
        embedding = spn.embed(x, num_particles=7)
        joint = joint_log_prob(spn, "bernoulli", x).softmax(-1)
        trees = [leaves for _, leaves in enumerate_induced_trees(spn.circuit)]
        wanted = torch.stack([joint[:, [leaf in tree for tree in trees]].sum(-1) for leaf in range(spn.num_leaves)], -1)
        assert embedding.latents == {}
        assert_close(embedding.leaf_posterior, wanted)


class TestSamples:
    def test_frequencies(self):
        spn = make_spn()
        every = states("bernoulli", (1, 2, 2))
        samples = spn.sample(40_000)
        found = (samples.unsqueeze(1) == every).flatten(2).all(-1).double().mean(0)
        wanted = spn.log_prob(every).exp().detach()
        assert float(((found - wanted).abs() / (wanted * (1 - wanted) / 40_000).sqrt()).max()) < 4

    @pytest.mark.parametrize(("likelihood", "seed"), [("bernoulli", 1), ("categorical", 5)])
    def test_conditional_frequencies(self, likelihood, seed):
        """Not only pixel by pixel: whole completions have the probabilities of their states given what is seen."""
        torch.manual_seed(seed)
        spn = make_spn(likelihood)
        with torch.no_grad():
            for parameter in spn.parameters():
                parameter.mul_(3)  # strong dependence between pixels
        observed = torch.tensor([[True, False], [True, False]])
        x = states(likelihood, (1, 2, 2))[-2].unsqueeze(0)
        every = states(likelihood, (1, 2, 2))
        agrees = ((every == x) | ~observed).flatten(1).all(1)
        wanted = spn.log_prob(every[agrees]).softmax(0).detach()
        number = 20_000
        samples = spn.impute(x.expand(number, -1, -1, -1), observed)[0]
        found = (samples.unsqueeze(1) == every[agrees]).flatten(2).all(-1).double().mean(0)
        assert_close(found.sum(), torch.tensor(1.0))
        error = (wanted * (1 - wanted) / number).sqrt()
        assert float(((found - wanted).abs() / error).max()) < 4
        alone = [wanted.reshape(int(len(wanted) ** 0.5), -1).sum(axis) for axis in (1, 0)]
        independent = torch.outer(*alone).flatten()
        assert float(((independent - wanted).abs() / error).max()) > 10, "which independent pixels would not have"

    def test_means_and_paths(self):
        spn = make_spn("normal")
        start, end = spn.sample(3), spn.sample(3)
        path = spn.interpolate(start, end, steps=3)
        assert path.shape == (3, 3, 1, 2, 2)
        tree = spn.mpe(start).tree
        assert_close(path[0], spn.view.assemble(tree, spn.leaf.pixels().mean.detach()))
        assert spn.reconstruct(start).shape == start.shape


class TestMpe:
    @pytest.mark.parametrize("likelihood", DISCRETE)
    @pytest.mark.parametrize("graph", ENUMERABLE)
    def test_is_the_best_pair_of_tree_and_completion(self, likelihood, graph):
        spn = make_spn(likelihood, GRAPHS[graph])
        every = states(likelihood, spn.event_shape)
        joint = joint_log_prob(spn, likelihood, every)  # [state, tree]
        trees = [leaves for _, leaves in enumerate_induced_trees(spn.circuit)]
        x = values(likelihood, 8, *spn.event_shape)
        observed = torch.rand(x.shape) < 0.5
        found = spn.mpe(torch.where(observed, x, torch.nan), observed)
        for row, seen, best, tree, value in zip(x, observed, *found, strict=True):
            agrees = ((every == row) | ~seen).flatten(1).all(1)
            place = joint[agrees].argmax()
            state, chosen = place // joint.shape[1], int(place % joint.shape[1])
            assert_close(value, joint[agrees].max())
            assert torch.equal(best, every[agrees][state])
            assert set(tree.nonzero().flatten().tolist()) == trees[chosen]

    def test_of_nothing_seen_and_of_all_seen(self):
        spn = make_spn()
        every = states("bernoulli", (1, 2, 2))
        joint = joint_log_prob(spn, "bernoulli", every)
        found = spn.mpe()
        assert isinstance(found, Explanation) and found.x.shape == (1, 1, 2, 2)
        assert_close(found.log_prob, joint.max().unsqueeze(0))
        assert torch.equal(found.x[0], every[joint.max(-1).values.argmax()])
        found = spn.mpe(every)
        assert torch.equal(found.x, every)
        assert_close(found.log_prob, joint.max(-1).values)

    @pytest.mark.parametrize("likelihood", ["normal", "sigmoid"])
    def test_of_continuous_pixels(self, likelihood):
        """For each tree the best completion is known: the means of its leaves."""
        spn = make_spn(likelihood, GRAPHS["strip"])
        x, observed = values(likelihood, 6, 1, 1, 3), torch.tensor([[True, False, False]])
        means = spn.leaf.pixels().mean.detach()
        candidates = []
        for _, leaves in enumerate_induced_trees(spn.circuit):
            tree = torch.zeros(spn.num_leaves, dtype=torch.bool)
            tree[list(leaves)] = True
            candidates.append(torch.where(observed, x, spn.view.assemble(tree, means)))
        joint = torch.stack([joint_log_prob(spn, likelihood, one)[:, i] for i, one in enumerate(candidates)], -1)
        found = spn.mpe(x, observed)
        assert_close(found.log_prob, joint.max(-1).values)
        assert_close(found.x, torch.stack(candidates)[joint.argmax(-1), torch.arange(6)])
        # whatever else stands in one of the unseen entries has a lower density with this tree
        moved = torch.where(observed, x, found.x + 0.1 * torch.randn(x.shape))
        assert (spn.mpe(moved).log_prob < found.log_prob).all()

    def test_few_data_at_a_time(self, monkeypatch):
        spn = make_spn()
        x, observed = values("bernoulli", 7, 1, 2, 2), torch.rand(7, 1, 2, 2) < 0.5
        together = spn.mpe(x, observed)
        monkeypatch.setattr("pyro_spvae.queries.queries._EXACT_BLOCK", 3)
        assert all(torch.equal(one, other) for one, other in zip(together, spn.mpe(x, observed), strict=True))


class TestConstruction:
    def test_defaults(self):
        spn = SPN(GRID)
        assert isinstance(spn.leaf, FactorizedLeaf) and isinstance(spn.leaf.pixels.likelihood, Bernoulli)
        assert type(spn.leaf_guide) is LeafGuide and not spn.latents
        assert [output.shape for output in spn.leaf.pixels.outputs] == [(8, 1)]

    @pytest.mark.parametrize("likelihood", LIKELIHOODS)
    def test_units_of_a_region_differ_at_first_and_follow_the_seed(self, likelihood):
        outputs = []
        for _ in range(2):
            torch.manual_seed(3)
            outputs.append(list(make_spn(likelihood).leaf.pixels.outputs))
        assert all(torch.equal(one, other) for one, other in zip(*outputs, strict=True))
        first = outputs[0][0]
        assert len(first.unique()) == first.numel()
        x = values(likelihood, 50, 1, 2, 2)
        assert make_spn(likelihood).log_prob(x).isfinite().all()

    def test_initial_deviations(self):
        for likelihood, deviation in ((Normal(), 0.7), (Normal(mean="sigmoid"), 0.3), (Normal(scale="precision"), 0.7)):
            spn = SPN(GRID, likelihood=likelihood)
            assert_close(spn.leaf.pixels().stddev.detach(), torch.full((8, 1), deviation))

    def test_own_likelihoods(self):
        spn = SPN(GRID, likelihood=own_parts.Laplace())
        x, observed = torch.randn(3, 1, 2, 2), torch.rand(3, 1, 2, 2) < 0.5
        pixels = torch.distributions.Laplace(spn.leaf.pixels.outputs[0], 0.1).log_prob(spn.view(x))
        wanted = spn.circuit.log_prob(torch.where(spn.view(observed), pixels, 0.0).sum(-1))
        assert_close(spn.log_prob(x, observed), wanted)
        assert torch.equal(spn.log_likelihood(x, observed), spn.log_prob(x, observed).detach())


class Modeless(Bernoulli):
    def forward(self, outputs, mask=None):
        distribution = super().forward(outputs, mask)
        return distribution.mask(torch.ones(())) if mask is None else distribution.mask(torch.ones(()))


REFUSED = [
    (
        lambda: SPN(GRID, leaf=VAE(Normal())),
        "leaf is a VAE; one without latent variables whose density is known in closed form is needed",
    ),
    (
        lambda: SPN(GRID, leaf=FactorizedLeaf(Normal()), likelihood=Normal()),
        "leaf is given, so leave out the likelihood of the default leaf",
    ),
    (lambda: SPN(GRID, likelihood="normal"), "likelihood is a str; an instance of Likelihood is needed"),
    (lambda: SPN(GRID, guide=NormalGuide()), "a NormalGuide states the latent sites z, but the leaf declares none;"),
    (
        lambda: make_spn().mpe(None, torch.ones(2, 2, dtype=torch.bool)),
        "observed is given without x; give both, or neither$",
    ),
    (lambda: make_spn().mpe(torch.full((1, 1, 2, 2), 0.5)), "x holds the value 0.5 "),
    (
        lambda: SPN(GRID, likelihood=Modeless()).mpe(),
        "mpe needs the mode of the likelihood Modeless, which is not defined$",
    ),
]


@pytest.mark.parametrize("width", [4, 3])
def test_no_mode_is_needed_where_all_is_seen(width):
    """Nor where leaf regions of other sizes are padded."""
    likelihood = DiscretizedLogisticMixture(levels=3, components=2)
    spn = SPN(poon_domingos((1, width), 2), 2, likelihood=likelihood, channels=3)
    x = spn.sample(3)
    found = spn.mpe(x)
    assert torch.equal(found.x, x)
    again = spn.mpe(x, torch.ones_like(x, dtype=torch.bool))
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))
    with pytest.raises(ValueError, match="^mpe needs the mode"):
        spn.mpe(x, torch.arange(width) > 0)


@pytest.mark.parametrize(("ask", "message"), REFUSED)
def test_refused(ask, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        ask()


class TestStorage:
    def test_comes_back(self, tmp_path):
        spn = SPN(Circuit(GRID, 3, tie="shape", weights="cp"), likelihood=LIKELIHOODS["precision"]())
        x = torch.rand(4, 1, 2, 2)
        spn.save(tmp_path)
        for cls in (SPN, SPVAE):
            loaded = cls.load(tmp_path)
            assert type(loaded) is SPN and type(loaded.leaf_guide) is LeafGuide
            assert torch.equal(loaded.log_likelihood(x), spn.log_likelihood(x))
        assert loaded.fit_em(x, 3) == spn.fit_em(x, 3)

    def test_a_saved_spvae_is_no_spn_but_for_its_leaf(self, tmp_path):
        SPVAE(GRID).save(tmp_path)
        with pytest.raises(
            ValueError,
            match="leaf is a VAE; one without latent variables whose density is known in closed form is needed",
        ):
            SPN.load(tmp_path)
        spvae, x = SPVAE(GRID, 2, leaf=FactorizedLeaf(Normal())), torch.randn(3, 1, 2, 2)
        spvae.save(tmp_path)
        spn = SPN.load(tmp_path)
        assert type(spn) is SPN and type(SPVAE.load(tmp_path)) is SPVAE
        assert torch.equal(spn.log_likelihood(x), spvae.log_likelihood(x))


def test_fits_by_gradient():
    spn = make_spn("normal")
    x = torch.randn(60, 1, 2, 2) * torch.tensor([0.3, 2.0]) + 1
    before = spn.log_prob(x).mean().item()
    history = spn.fit(x, x[:20], epochs=15, lr=0.05, particles=3)
    assert len(history) == 15
    assert spn.log_prob(x).mean().item() > before + 0.5
    assert history[-1]["val_latent_kl"] == 0


def test_the_posters_network():
    """The vanilla SPN of the poster, whose count of sums takes two for the root."""
    spn = SPN(poon_domingos((28, 28), [4, 1]), units=2)
    counts = spn.circuit.regions.counts(2)
    assert spn.num_leaves == 1568 and counts["products"] == 51_744 and counts["sums"] + 1 == 9702
    x = (torch.rand(3, 1, 28, 28) < 0.2).double()
    before = spn.em_step(x)
    assert before == pytest.approx(28 * 28 * -0.8, rel=0.2)
    assert spn.log_prob(x).mean().item() > before + 100
    (-spn.log_prob(x).mean()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in spn.parameters())

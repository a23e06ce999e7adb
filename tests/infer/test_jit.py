# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Pyro's Jit objectives give the loss and the gradients of those that are not compiled, for batches of any size."""

from __future__ import annotations

from copy import deepcopy

import pyro
import pytest
import torch
from pyro.infer import (
    SVI,
    JitTrace_ELBO,
    JitTraceEnum_ELBO,
    JitTraceGraph_ELBO,
    JitTraceMeanField_ELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)

from pyro_spvae import Circuit, CircuitELBO, collapse_tree, poon_domingos, whole
from pyro_spvae.guides import HierarchicalGuide, LeafGuide, MixedGuide, NormalGuide
from pyro_spvae.likelihoods import (
    Bernoulli,
    Categorical,
    DiscretizedLogistic,
    DiscretizedLogisticMixture,
    LowRankCategorical,
    Normal,
)
from pyro_spvae.models import HVAE, VAE, FactorizedLeaf, MixedLeaf
from pyro_spvae.nn import MLP, Conv, MultiScale, PixelCNN, SEResNet
from pyro_spvae.nn.leaf_conv import LeafBatchNorm
from pyro_spvae.priors import MixtureOfGaussians, VampPrior
from tests.helpers import assert_same_gradients, collected_gradients, small_spvae

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Found vars in model but not guide"),  # the tree, which is drawn from the model
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

GRID, WHOLE = poon_domingos((4, 4), delta=2), whole((4, 4))
NET = {"filters": (2,), "stride": 1, "dense": 3}
ROWS = (6, 4, 1, 9)  # the first is recorded

JIT = {"trace": (Trace_ELBO, JitTrace_ELBO), "enum": (TraceEnum_ELBO, JitTraceEnum_ELBO)}
LEAVES = {
    "normal": lambda: {"likelihood": Normal()},
    "bernoulli": lambda: {"likelihood": Bernoulli()},
    "categorical": lambda: {"likelihood": Categorical(2)},
    "low rank": lambda: {"likelihood": LowRankCategorical(2, 2)},
    "logistic": lambda: {"likelihood": DiscretizedLogistic(2)},
    "logistic mixture": lambda: {"likelihood": DiscretizedLogisticMixture(2, components=2)},
    "mixture": lambda: {"likelihood": Bernoulli(), "prior": MixtureOfGaussians(3)},
    "hvae": lambda: {
        "leaf": HVAE(Bernoulli(), latent_dim=2, top_dim=2, hidden_dims=(3,), prior=VampPrior(3)),
        "guide": HierarchicalGuide(hidden_dims=(3,)),
    },
    "conv": lambda: {
        "leaf": VAE(Bernoulli(), 2, decoder=Conv(**NET)),
        "guide": NormalGuide(encoder=Conv(**NET)),
    },
    "se-resnet": lambda: {
        "leaf": VAE(Bernoulli(), 2, decoder=SEResNet(2, 1, norm="none", checkpoint=True)),
        "guide": NormalGuide(encoder=SEResNet(2, 1, dense=3, norm="none")),
    },
    "pixelcnn": lambda: {
        "leaf": VAE(Bernoulli(), 2, decoder=PixelCNN(filters=2, layers=1)),
        "guide": NormalGuide((3,)),
    },
    "normalised": lambda: {
        "leaf": VAE(Bernoulli(), 2, decoder=MLP((3,), normalise=True)),
        "guide": NormalGuide((3,)),
    },
    "multi-scale": lambda: {
        "leaf": VAE(Bernoulli(), 2, decoder=MultiScale(1, filters=2, blocks=1, padding="bottom-right")),
        "guide": NormalGuide((3,)),
    },
}


@pytest.fixture
def unordered():
    """The compiler may change the order in which sites draw; here it keeps it, so that one seed is one noise."""
    with torch.jit.optimized_execution(False):
        yield


def binary(rows):
    return torch.bernoulli(torch.full((rows, 1, 4, 4), 0.5))


def run(svi, spvae, args):
    """Loss and gradients after the same seed, parameters staying as they are."""
    pyro.set_rng_seed(3)
    spvae.zero_grad()
    return svi.loss_and_grads(svi.model, svi.guide, *args), collected_gradients(spvae)


def compare(spvae, model, kinds, *, recorded=ROWS[0], sizes=ROWS, masked=False, runs=1, **options):
    """
    :param int recorded: rows of the batch that the program is recorded from.
    :param int runs: of the program that is not compiled to reach the noise of the other.
    """
    plain, jit = (
        SVI(model, spvae.guide, pyro.optim.SGD({"lr": 0.0}), kind(max_plate_nesting=2, ignore_jit_warnings=True))
        for kind in kinds
    )
    x, observed = binary(max(sizes)), torch.rand(max(sizes), 1, 4, 4) < 0.7
    observed[:, :, :2, :2] = torch.arange(max(sizes)).reshape(-1, 1, 1, 1) % 2 == 0
    rows = lambda n: (x[:n], observed[:n]) if masked else (x[:n],)  # noqa: E731
    jit.step(*rows(recorded), **options)
    for n in sizes:
        loss, grads = run(jit, spvae, rows(n))
        pyro.set_rng_seed(3)
        for _ in range(runs - 1):
            plain.evaluate_loss(*rows(n))
        spvae.zero_grad()
        expected = plain.loss_and_grads(plain.model, plain.guide, *rows(n)) if runs > 1 else None
        wanted = collected_gradients(spvae)
        if runs == 1:
            expected, wanted = run(plain, spvae, rows(n))
        assert loss == pytest.approx(expected, rel=1e-11), n
        assert_same_gradients(grads, wanted)


@pytest.mark.usefixtures("unordered")
class TestEqualsTheObjectiveThatIsNotCompiled:
    @pytest.mark.parametrize("leaf", LEAVES)
    @pytest.mark.parametrize("regions", [WHOLE, GRID], ids=["one leaf", "circuit"])
    def test_leaves(self, regions, leaf):
        spvae = small_spvae(regions, units=1 if regions is WHOLE else 2, **LEAVES[leaf]())
        compare(spvae, spvae.model, JIT["trace"])

    @pytest.mark.parametrize("options", [{}, {"weights": "cp"}, {"tie": "shape"}], ids=str)
    @pytest.mark.parametrize("units", [2, 6])
    def test_circuits(self, units, options):
        spvae = small_spvae(Circuit(GRID, units, **options), None, likelihood=Bernoulli())
        compare(spvae, spvae.model, JIT["trace"])

    def test_leaves_of_several_kinds(self):
        leaf = MixedLeaf([VAE(Bernoulli(), 2, (3,)), FactorizedLeaf(Bernoulli())])
        spvae = small_spvae(GRID, leaf=leaf, guide=MixedGuide([NormalGuide((3,)), LeafGuide()]))
        compare(spvae, spvae.model, JIT["trace"])

    @pytest.mark.parametrize("kinds", JIT)
    @pytest.mark.parametrize("regions", [WHOLE, GRID], ids=["one leaf", "circuit"])
    def test_missing_entries(self, regions, kinds):
        spvae = small_spvae(regions, units=1 if regions is WHOLE else 2, likelihood=Bernoulli())
        compare(spvae, spvae.model, JIT[kinds], masked=True, sizes=(6, 4, 9))

    @pytest.mark.parametrize("leaf", ["mixture", "hvae"])
    def test_enumerated_trees(self, leaf):
        spvae = small_spvae(GRID, **LEAVES[leaf]())
        compare(spvae, spvae.model, JIT["enum"], sizes=(6, 4, 9))

    def test_recorded_from_one_row(self):
        spvae = small_spvae(GRID, likelihood=Bernoulli())
        compare(spvae, spvae.model, JIT["trace"], recorded=1)

    @pytest.mark.parametrize("leaf", ["normal", "mixture", "hvae"])
    def test_dense_graphs(self, leaf):
        spvae = small_spvae(WHOLE, units=1, **LEAVES[leaf]())
        compare(spvae, collapse_tree(spvae.model), (TraceGraph_ELBO, JitTraceGraph_ELBO))

    def test_mean_field(self):
        """Pyro records this one for every batch, which runs the program twice before."""
        spvae = small_spvae(WHOLE, units=1, likelihood=Bernoulli())
        compare(spvae, collapse_tree(spvae.model), (TraceMeanField_ELBO, JitTraceMeanField_ELBO), runs=3)


def test_normalisation_learns_of_each_batch_what_it_does_when_not_compiled():
    """Recorded from six rows or from one; one row has no statistics, and is normalised by the running ones."""
    for recorded in (6, 1):
        norm = LeafBatchNorm(2, 3)
        program = torch.jit.trace(norm, torch.randn(recorded, 6, 1, 1), check_trace=False)
        for rows in ROWS:
            x, plain = torch.randn(rows, 6, 1, 1), deepcopy(norm)
            torch.testing.assert_close(program(x), plain(x))
            torch.testing.assert_close(list(norm.buffers()), list(plain.buffers()))


def test_one_row_of_an_enumerated_tree_has_a_program_of_its_own():
    spvae = small_spvae(GRID, likelihood=Bernoulli())
    x = binary(5)
    elbo = JitTraceEnum_ELBO(max_plate_nesting=2, ignore_jit_warnings=True)
    svi = SVI(spvae.model, spvae.guide, pyro.optim.SGD({"lr": 0.0}), elbo)
    svi.step(x[:4], num=4)
    svi.step(x[4:], num=1)
    pyro.set_rng_seed(3)
    found = svi.step(x[4:], num=1)
    pyro.set_rng_seed(3)
    assert found == pytest.approx(TraceEnum_ELBO(max_plate_nesting=2).loss(spvae.model, spvae.guide, x[4:]), rel=1e-11)


def test_svi_trains_with_a_smaller_last_batch():
    """With the compiler's optimisations, where the noise may be another: the law is the same."""
    x = binary(1).expand(20, -1, -1, -1) * 1.0
    spvae = small_spvae(GRID, likelihood=Bernoulli())
    elbo = JitTraceEnum_ELBO(max_plate_nesting=2, ignore_jit_warnings=True)
    svi = SVI(spvae.model, spvae.guide, pyro.optim.Adam({"lr": 0.05}), elbo)
    losses = [sum(svi.step(batch) for batch in x.split(8)) / 20 for _ in range(12)]
    assert losses[-1] < losses[0] - 1
    own = CircuitELBO().loss(spvae.model, spvae.guide, x) / 20
    assert own == pytest.approx(losses[-1], abs=1.0)


@pytest.mark.parametrize("leaf", ["normal", "mixture", "hvae", "logistic"])
def test_following_draws_keeps_every_gradient(leaf):
    """TraceGraph_ELBO has the gradient of Trace_ELBO where every draw of the guide is reparameterised."""
    spvae, x = small_spvae(WHOLE, units=1, **LEAVES[leaf]()), binary(6)
    results = []
    for kind in (TraceGraph_ELBO, Trace_ELBO):
        model = collapse_tree(spvae.model)
        svi = SVI(model, spvae.guide, pyro.optim.SGD({"lr": 0.0}), kind(max_plate_nesting=2))
        results.append(run(svi, spvae, (x,)))
    (loss, grads), (expected, wanted) = results
    assert loss == pytest.approx(expected, rel=1e-12)
    assert_same_gradients(grads, wanted)


@pytest.mark.parametrize(
    "ask",
    [
        lambda spvae, x: CircuitELBO()(spvae.model, spvae.guide)(x),
        lambda spvae, x: spvae.log_likelihood(x, num_samples=2),
        lambda spvae, x: spvae.reconstruct(x, num_particles=2),
        lambda spvae, x: spvae.embed(x, num_particles=2).leaf_posterior,
    ],
)
def test_what_asks_for_values_is_not_recorded(ask):
    spvae, x = small_spvae(GRID, likelihood=Bernoulli()), binary(2)
    with pytest.raises(RuntimeError, match="cannot be recorded by torch.jit.trace; use torch.compile, or one of") as e:
        torch.jit.trace(lambda x: ask(spvae, x), (x,), check_trace=False)
    assert "\n" not in str(e.value)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""CircuitELBO against brute force over all induced trees and against Pyro's own objectives."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.poutine.subsample_messenger import _Subsample

from pyro_spvae import CircuitELBO, InducedTree, collapse_tree, poon_domingos, random_binary_tree, whole
from pyro_spvae.infer import bound_terms
from tests.circuits.oracle import enumerate_induced_trees
from tests.helpers import assert_same_gradients, collected_gradients, gradients, leaf_log_weights, small_spvae
from tests.infer.cases import annealed, two_layer
from tests.models.own_leaves import Kinds, KindsGuide

GRAPHS = {
    "2x2": lambda: poon_domingos((2, 2), delta=1),
    "1x3": lambda: poon_domingos((1, 3), delta=1),
    "2x1": lambda: poon_domingos((2, 1), delta=1),
    "random": lambda: random_binary_tree((2, 2), depth=2, repetitions=2, seed=3),
}


def brute_force(spvae, leaf):
    """log of the sum over all induced trees of weight times leaf values, ``[.., leaf] -> [..]``."""
    terms = [
        log_weight + leaf[..., sorted(leaves)].sum(-1) for log_weight, leaves in enumerate_induced_trees(spvae.circuit)
    ]
    return torch.stack(terms).logsumexp(0)


def data(spvae, rows=3):
    return torch.randn(rows, *spvae.event_shape)


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("units", [1, 2])
@pytest.mark.parametrize("num_particles", [1, 3])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 0.5, -math.inf])
def test_equals_brute_force_over_induced_trees(graph, units, num_particles, alpha):
    spvae = small_spvae(GRAPHS[graph](), units=units)
    x = data(spvae)
    log_weight = leaf_log_weights(spvae, x, num_particles)
    if alpha == 1:
        leaf = log_weight.mean(0)
    elif alpha == -math.inf:
        leaf = log_weight.max(0).values
    else:
        leaf = (((1 - alpha) * log_weight).exp().mean(0)).log() / (1 - alpha)
    expected = -brute_force(spvae, leaf).sum()

    pyro.set_rng_seed(1)
    loss = CircuitELBO(num_particles=num_particles, alpha=alpha)(spvae.model, spvae.guide)(x)
    torch.testing.assert_close(loss, expected, atol=1e-9, rtol=0)
    assert_same_gradients(gradients(spvae, loss), gradients(spvae, expected))


@pytest.mark.parametrize("handler", [lambda model: model, lambda model: config_enumerate(model, "parallel")])
def test_equals_trace_enum(handler):
    spvae = small_spvae(GRAPHS["random"]())
    x = data(spvae)
    results = []
    for elbo, model in ((TraceEnum_ELBO(max_plate_nesting=2), handler(spvae.model)), (CircuitELBO(), spvae.model)):
        pyro.set_rng_seed(1)
        loss = elbo.differentiable_loss(model, spvae.guide, x)
        results.append((loss.detach(), gradients(spvae, loss)))
    torch.testing.assert_close(results[1][0], results[0][0], atol=1e-9, rtol=0)
    assert_same_gradients(results[1][1], results[0][1])


def test_trace_enum_averages_bounds_of_single_particles():
    spvae = small_spvae()
    x = data(spvae)
    log_weight = leaf_log_weights(spvae, x, 4)
    expected = -torch.stack([brute_force(spvae, one) for one in log_weight]).mean(0).sum()
    pyro.set_rng_seed(1)
    elbo = TraceEnum_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=2)
    assert elbo.differentiable_loss(spvae.model, spvae.guide, x).item() == pytest.approx(expected.item(), abs=1e-9)


def test_root_reduction_averages_particles_at_the_root():
    spvae = small_spvae()
    x = data(spvae)
    log_weight = leaf_log_weights(spvae, x, 5)
    roots = torch.stack([brute_force(spvae, one) for one in log_weight])
    expected = -(roots.logsumexp(0) - math.log(5)).sum()
    pyro.set_rng_seed(1)
    loss = CircuitELBO(num_particles=5, reduce="root").differentiable_loss(spvae.model, spvae.guide, x)
    torch.testing.assert_close(loss, expected, atol=1e-9, rtol=0)
    assert_same_gradients(gradients(spvae, loss), gradients(spvae, expected))


@pytest.mark.parametrize("handler", [lambda model: model, collapse_tree], ids=["unchanged pair", "collapse_tree"])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")  # the tree, whose one value is drawn
def test_one_region_one_leaf_equals_pyros_bounds(alpha, handler):
    spvae = small_spvae(whole((2, 2)), units=1)
    x, options = data(spvae), {"num_particles": 4, "max_plate_nesting": 2, "vectorize_particles": True}
    results = []
    for elbo, model in (
        (Trace_ELBO(**options) if alpha else RenyiELBO(alpha, **options), handler(spvae.model)),
        (CircuitELBO(4, alpha=alpha), spvae.model),
    ):
        spvae.zero_grad(set_to_none=True)
        pyro.clear_param_store()
        pyro.set_rng_seed(1)
        results.append((elbo.loss_and_grads(model, spvae.guide, x), collected_gradients(spvae)))
    assert results[0][0] == pytest.approx(results[1][0], abs=1e-9)
    assert_same_gradients(results[1][1], results[0][1])


def kinds():
    """A guide without rsample."""
    return small_spvae(leaf=Kinds(3), guide=KindsGuide())


SUBSAMPLED = {
    "iwae": (small_spvae, {}),
    "iwae, root": (small_spvae, {"reduce": "root"}),
    "dreg": (small_spvae, {"gradient": "dreg"}),
    "dreg, root": (small_spvae, {"gradient": "dreg", "reduce": "root"}),
    "dreg, one by one": (small_spvae, {"gradient": "dreg", "vectorize_particles": False}),
    "dreg, two layers": (two_layer, {"gradient": "dreg"}),
    "vimco": (kinds, {}),
    "vimco, alpha 1": (kinds, {"alpha": 1.0}),
    "vimco, root": (kinds, {"reduce": "root"}),
    "vimco, one by one": (kinds, {"vectorize_particles": False}),
}


@pytest.mark.parametrize(("beta", "masked"), [(1.0, False), (0.4, True)])
@pytest.mark.parametrize("case", SUBSAMPLED)
def test_subsampling_scale_acts_outside_the_logarithm(case, beta, masked, monkeypatch):
    """Of B = 3 rows of N = 300 loss and gradients are N / B times those of the rows alone, by every estimator."""
    monkeypatch.setattr(_Subsample, "sample", lambda self: torch.arange(self.subsample_size or self.size))  # no noise
    build, options = SUBSAMPLED[case]
    spvae = build()
    x, programs = (data(spvae) > 0).double(), annealed(spvae, beta)
    observed = (torch.rand(spvae.event_shape) < 0.7,) if masked else ()
    losses, grads = [], []
    for size in ({}, {"size": 300}):
        pyro.set_rng_seed(1)
        loss = CircuitELBO(3, **options).differentiable_loss(*programs, x, *observed, **size)
        losses.append(loss.item())
        grads.append(gradients(spvae, loss))
    assert losses[1] == pytest.approx(100 * losses[0], abs=1e-8)
    assert_same_gradients(grads[1], {name: 100 * grad for name, grad in grads[0].items()}, atol=1e-8)
    guide = [grad.abs().max() for name, grad in grads[0].items() if name.startswith("leaf_guide")]
    assert max(guide) > 1e-3, "the estimator is at work"


def test_sites_outside_the_leaf_plate_are_added_outside():
    spvae = small_spvae()
    x = data(spvae)
    labels = torch.tensor([0.5, -1.0, 2.0])

    def model(x):
        result = spvae.model(x)
        with pyro.plate("data", dim=-2):
            pyro.sample("y", dist.Normal(torch.zeros(len(x), 1), 1.0), obs=labels.unsqueeze(-1))
        pyro.factor("regulariser", torch.tensor(-7.0))
        return result

    extra = dist.Normal(0.0, 1.0).log_prob(labels)
    for elbo in (CircuitELBO(3), CircuitELBO(3, reduce="root"), CircuitELBO(3, alpha=0.5)):
        pyro.set_rng_seed(1)
        plain = elbo.bound(spvae.model, spvae.guide, x)
        pyro.set_rng_seed(1)
        torch.testing.assert_close(elbo.bound(model, spvae.guide, x), plain + extra, atol=1e-9, rtol=0)
        pyro.set_rng_seed(1)
        assert elbo.loss(model, spvae.guide, x) == pytest.approx(-float((plain + extra).sum()) + 7.0, abs=1e-8)


def test_tree_that_is_conditioned_on_is_not_summed_out():
    spvae = small_spvae()
    x = data(spvae)
    tree = InducedTree(spvae.circuit).sample((3,))
    leaf = leaf_log_weights(spvae, x, 4).logsumexp(0) - math.log(4)
    expected = torch.where(tree, leaf, 0.0).sum(-1) + InducedTree(spvae.circuit).log_prob(tree)
    conditioned = poutine.condition(spvae.model, data={"tree": tree.unsqueeze(-2)})
    pyro.set_rng_seed(1)
    torch.testing.assert_close(CircuitELBO(4).bound(conditioned, spvae.guide, x), expected, atol=1e-9, rtol=0)


def test_bound_terms_add_up_and_are_divergences():
    spvae = small_spvae()
    x = data(spvae, 5)
    pyro.set_rng_seed(1)
    terms = bound_terms(spvae.model, spvae.guide, x, num_particles=3)
    pyro.set_rng_seed(1)
    elbo = CircuitELBO(3, alpha=1.0).bound(spvae.model, spvae.guide, x)
    torch.testing.assert_close(terms.elbo, elbo)
    torch.testing.assert_close(terms.reconstruction - terms.latent_kl - terms.tree_kl, elbo)
    assert (terms.tree_kl > 0).all()
    # divergence of the posterior over trees from the prior, by enumeration
    leaf = leaf_log_weights(spvae, x, 3).mean(0)
    trees = InducedTree(spvae.circuit).enumerate_support()
    log_prior = InducedTree(spvae.circuit).log_prob(trees)
    posterior = torch.stack([(log_prior + torch.where(trees, one, 0.0).sum(-1)).softmax(0) for one in leaf])
    expected = (posterior * (posterior.log() - log_prior)).sum(-1)
    torch.testing.assert_close(terms.tree_kl, expected)


def test_svi_and_elbo_module_train_alike():
    by_svi, by_module = small_spvae(), small_spvae()
    by_module.load_state_dict(by_svi.state_dict())
    x, losses = data(by_svi, 20), []
    svi = SVI(by_svi.model, by_svi.guide, pyro.optim.Adam({"lr": 0.02}), CircuitELBO(3))
    pyro.set_rng_seed(0)
    losses.append([svi.step(x) for _ in range(6)])
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    with pyro.settings.context(module_local_params=True), pyro.validation_enabled(False):
        loss_module = CircuitELBO(3)(by_module.model, by_module.guide)
        optimiser = torch.optim.Adam(loss_module.parameters(), lr=0.02)
        losses.append([])
        for _ in range(6):
            optimiser.zero_grad()
            loss = loss_module(x)
            loss.backward()
            optimiser.step()
            losses[1].append(loss.item())
    assert len(pyro.get_param_store()) == 0
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)

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
from pyro.nn import PyroModule, pyro_method

from pyro_spvae import CircuitELBO, InducedTree, collapse_tree, poon_domingos, random_binary_tree, whole
from pyro_spvae.infer import bound_terms, sample_tree
from pyro_spvae.likelihoods import Bernoulli
from tests.circuits.oracle import enumerate_induced_trees
from tests.helpers import (
    assert_same_gradients,
    collected_gradients,
    gradients,
    leaf_log_weights,
    particles,
    small_spvae,
)

GRAPHS = {
    "2x2": lambda: poon_domingos((2, 2), delta=1),
    "1x3": lambda: poon_domingos((1, 3), delta=1),
    "2x1": lambda: poon_domingos((2, 1), delta=1),
    "random": lambda: random_binary_tree((2, 2), depth=2, repetitions=2, seed=3),
}


def brute_force(spvae, leaf):
    """log of the sum over all induced trees of weight times leaf values, ``[.., leaf] -> [..]``."""
    terms = [log_weight + leaf[..., sorted(leaves)].sum(-1) for log_weight, leaves in enumerate_induced_trees(spvae.circuit)]
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


@pytest.mark.parametrize("graph", ["2x2", "1x3", "random"])
def test_equals_trace_enum_on_the_unchanged_pair(graph):
    spvae = small_spvae(GRAPHS[graph]())
    x = data(spvae)
    pyro.set_rng_seed(1)
    expected = TraceEnum_ELBO(max_plate_nesting=2).differentiable_loss(spvae.model, spvae.guide, x)
    expected_grads = gradients(spvae, expected)
    pyro.set_rng_seed(1)
    loss = CircuitELBO().differentiable_loss(spvae.model, spvae.guide, x)
    torch.testing.assert_close(loss, expected, atol=1e-9, rtol=0)
    assert_same_gradients(gradients(spvae, loss), expected_grads)


def test_trace_enum_averages_bounds_of_single_particles():
    spvae = small_spvae()
    x = data(spvae)
    log_weight = leaf_log_weights(spvae, x, 4)
    expected = -torch.stack([brute_force(spvae, one) for one in log_weight]).mean(0).sum()
    pyro.set_rng_seed(1)
    elbo = TraceEnum_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=2)
    assert elbo.differentiable_loss(spvae.model, spvae.guide, x).item() == pytest.approx(expected.item(), abs=1e-9)


def test_root_reduction_averages_particles_at_the_root_and_is_looser():
    spvae = small_spvae()
    x = data(spvae)
    log_weight = leaf_log_weights(spvae, x, 5)
    roots = torch.stack([brute_force(spvae, one) for one in log_weight])
    expected = -(roots.logsumexp(0) - math.log(5)).sum()
    pyro.set_rng_seed(1)
    loss = CircuitELBO(num_particles=5, reduce="root").differentiable_loss(spvae.model, spvae.guide, x)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-9)
    torch.manual_seed(2)
    by_leaf = [CircuitELBO(5).loss(spvae.model, spvae.guide, x) for _ in range(50)]
    by_root = [CircuitELBO(5, reduce="root").loss(spvae.model, spvae.guide, x) for _ in range(50)]
    assert sum(by_leaf) / 50 < sum(by_root) / 50 - 1


def test_sequential_particles_follow_the_same_law():
    spvae = small_spvae()
    x = data(spvae, 2)
    elbos = [CircuitELBO(3, vectorize_particles=vectorize) for vectorize in (True, False)]
    draws = torch.tensor([[e.loss(spvae.model, spvae.guide, x) for e in elbos] for _ in range(300)])
    error = (draws.var(0) / 300).sum().sqrt()
    assert abs(float(draws[:, 0].mean() - draws[:, 1].mean())) < 4 * float(error)
    assert CircuitELBO(3, vectorize_particles=False)(spvae.model, spvae.guide)(x).requires_grad


@pytest.mark.parametrize("num_particles", [1, 4])
def test_one_region_one_leaf_equals_pyros_bounds(num_particles):
    spvae = small_spvae(whole((2, 2)), units=1)
    x = data(spvae)
    pairs = [
        (RenyiELBO(0.0, num_particles, max_plate_nesting=2, vectorize_particles=True), 0.0),
        (Trace_ELBO(num_particles, max_plate_nesting=2, vectorize_particles=True), 1.0),
    ]
    for pyros, alpha in pairs:
        results = []
        for elbo in (pyros, CircuitELBO(num_particles, alpha=alpha)):
            spvae.zero_grad(set_to_none=True)
            pyro.clear_param_store()
            pyro.set_rng_seed(1)
            # Pyro's objectives see the tree site as one with a single possible value
            model = collapse_tree(spvae.model) if elbo is pyros else spvae.model
            loss = elbo.loss_and_grads(model, spvae.guide, x)
            results.append((loss, collected_gradients(spvae)))
        assert results[0][0] == pytest.approx(results[1][0], abs=1e-9)
        assert_same_gradients(results[1][1], results[0][1])


def test_subsampling_scale_acts_outside_the_logarithm():
    spvae = small_spvae()
    x = data(spvae)
    pyro.set_rng_seed(1)
    plain = CircuitELBO(3).differentiable_loss(spvae.model, spvae.guide, x)
    expected = gradients(spvae, 100 * plain)
    for size in (300,):
        pyro.set_rng_seed(1)
        state = torch.get_rng_state()

        class Fixed(CircuitELBO):
            """Draws the noise after the plate has drawn its subsample."""

            def _vectorized_num_particles(self, fn):
                wrapped = super()._vectorized_num_particles(fn)
                return wrapped

        del state
        torch.manual_seed(1)
        total = CircuitELBO(3).differentiable_loss(spvae.model, spvae.guide, x, size=size)
    # the plate's own random subsample moves the noise, so compare on equal weights: scale is a pure factor
    guide_trace = poutine.trace(particles(spvae.guide, 3)).get_trace(x, size=300)
    model = collapse_tree(poutine.replay(particles(spvae.model, 3), trace=guide_trace))
    from pyro_spvae.infer.leaf_terms import LeafTermCollector

    terms = LeafTermCollector(False).collect(poutine.trace(model).get_trace(x, size=300), guide_trace)
    assert terms.data_scale == pytest.approx(100)
    leaf = terms.log_weight.logsumexp(0) - math.log(3)
    assert float(brute_force(spvae, leaf).sum()) == pytest.approx(float(spvae.circuit(leaf).sum()))
    assert 50 < float(total / plain) < 200
    assert expected

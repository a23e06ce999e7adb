# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Theorems 1 and 2 of the SPVAE paper, and the importance sampler, against an exactly known evidence."""

from __future__ import annotations

import math
from functools import partial

import pyro
import pytest
import torch
from pyro import poutine

from pyro_spvae import SPVAE, CircuitELBO, log_likelihood, whole
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import VAE, DiscreteVAE
from pyro_spvae.nn import MLP, MultiScale
from tests.helpers import small_spvae
from tests.linear_gaussian import LinearGaussian


@pytest.fixture
def model():
    return LinearGaussian()


@pytest.fixture
def x(model):
    return torch.randn(6, 1, 2, 4)


def test_theorem_1(model, x):
    """The circuit over exact leaf ELBOs is below log p(x), and by the divergences alone."""
    exact = model.log_prob(x)
    bound = model.spvae.circuit(model.leaf_elbo(x)).detach()
    assert (bound < exact - 0.01).all()
    # alpha = 1 estimates every leaf ELBO without bias, within standard errors that are small
    terms = CircuitELBO(100_000, alpha=1.0).terms(model.spvae.model, model.spvae.guide, (x,), {}, None)
    error = terms.log_weight.std(0) / math.sqrt(100_000)
    assert ((terms.log_weight.mean(0) - model.leaf_elbo(x)).abs() < 5 * error).all()
    assert error.max().item() < 0.15  # a leaf ELBO without its divergence would be off by more than one nat


def test_theorem_2(model, x):
    """The expected bound is below log p(x) and rises towards it with the number of particles."""
    exact = model.log_prob(x)
    means, errors = [], []
    for num_particles, repeats in ((1, 5_000), (5, 2_500), (50, 500)):
        rows = x.repeat(repeats, 1, 1, 1)
        draws = CircuitELBO(num_particles).bound(model.spvae.model, model.spvae.guide, rows).reshape(repeats, len(x))
        means.append(draws.mean(0))
        errors.append(draws.std(0) / math.sqrt(repeats))
    for mean, error in zip(means, errors, strict=True):
        assert (mean < exact + 4 * error).all()
    assert (means[0] < means[1] - 4 * (errors[0] + errors[1])).all()
    assert (means[1] < means[2] - 4 * (errors[1] + errors[2])).all()
    assert float((exact - means[2]).max()) < 0.25 * float((exact - means[0]).min())


def test_renyi_bounds_are_ordered(model, x):
    """The bound falls with alpha (Li and Turner 2016, theorem 1), draw by draw."""
    bounds = []
    for alpha in (-math.inf, -1.0, 0.0, 0.5, 1.0, 2.0):
        pyro.set_rng_seed(5)
        bounds.append(CircuitELBO(5, alpha=alpha).bound(model.spvae.model, model.spvae.guide, x))
    for higher, lower in zip(bounds[:-1], bounds[1:], strict=True):
        assert (higher > lower).all()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
def test_log_likelihood_is_the_evidence_of_what_is_seen(ragged, masked):
    model = LinearGaussian(ragged)
    x, observed = 0.7 * torch.randn(5, *model.spvae.event_shape), None
    if masked:
        observed = torch.rand(x.shape) < 0.6
        observed[0] = False
        observed[1, :, :, :2] = False  # the first leaf region sees nothing
    spoilt = torch.where(observed, x, torch.nan) if masked else x
    estimate = model.spvae.log_likelihood(spoilt, observed, num_samples=100_000, chunk_size=20_000)
    assert not masked or estimate[0].item() == pytest.approx(0, abs=1e-9)
    torch.testing.assert_close(estimate, model.log_prob(x, observed), atol=0.02, rtol=0)


def test_unseen_leaf_contributes_exactly_nothing():
    model = LinearGaussian()
    x = torch.randn(3, 1, 2, 4)
    observed = torch.ones(1, 2, 4, dtype=torch.bool)
    observed[..., :2] = False
    terms = CircuitELBO(4).terms(model.spvae.model, model.spvae.guide, (x, observed), {}, None)
    assert (terms.log_weight[..., :2] == 0).all()
    assert (terms.log_weight[..., 2:] != 0).all()
    # and its parameters get no gradient
    loss = CircuitELBO(4)(model.spvae.model, model.spvae.guide)(x, observed)
    loss.backward()
    grad = model.spvae.leaf.pixels.decoder.stacks[0].weights[0].grad
    assert (grad[:2] == 0).all() and (grad[2:].abs().sum((1, 2)) > 0).all()


@pytest.fixture
def seen(monkeypatch):
    """The log-weights ``[particle, data, leaf]`` of each chunk that is drawn."""
    chunks, original = [], CircuitELBO.terms

    def record(self, *args):
        terms = original(self, *args)
        chunks.append(terms.log_weight)
        return terms

    monkeypatch.setattr(CircuitELBO, "terms", record)
    return chunks


class TestMode:
    """The estimate is of the model in evaluation mode, which it leaves as it was."""

    def test_statistics_of_batches_stay(self):
        decoder = MultiScale(smallest=2, filters=2, blocks=1)
        spvae = SPVAE(whole((4, 4)), 1, leaf=VAE(Bernoulli(), latent_dim=2, decoder=decoder)).double()
        x = (torch.rand(6, 1, 4, 4) < 0.4).double()
        before = {name: value.clone() for name, value in spvae.state_dict().items()}
        found = []
        for ask in (partial(log_likelihood, spvae.model, spvae.guide), spvae.log_likelihood):
            torch.manual_seed(0)
            found.append(ask(x, num_samples=20))
        torch.testing.assert_close(*found)
        masked = poutine.mask(spvae.model, mask=torch.tensor(True))
        log_likelihood(masked, spvae.guide, x, num_samples=2)
        assert all(torch.equal(value, before[name]) for name, value in spvae.state_dict().items())
        assert spvae.training and spvae.leaf.training

    def test_bits_are_bits(self):
        """And not the variables that smooth them in training."""
        spvae = small_spvae(whole((3,)), 1, leaf=DiscreteVAE(Bernoulli(), latent_dim=3))
        x = torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * 3)
        found = []
        for ask in (partial(log_likelihood, spvae.model, spvae.guide), spvae.log_likelihood):
            torch.manual_seed(0)
            found.append(ask(x, num_samples=20_000))
        torch.testing.assert_close(*found)
        assert found[0].exp().sum().item() == pytest.approx(1, abs=0.02)


class TestChunks:
    @pytest.mark.parametrize(("num_samples", "chunk_size"), [(7, 3), (10, 4), (5, 100), (13, 1), (8, 18)])
    def test_draws_exactly_the_samples_asked_for(self, model, x, seen, num_samples, chunk_size):
        """Every particle once: the sum of all weights over K, whatever the chunks."""
        spvae = model.spvae
        result = log_likelihood(spvae.model, spvae.guide, x, num_samples=num_samples, chunk_size=chunk_size)
        assert max(w.size(0) * w.size(1) for w in seen) <= chunk_size
        blocks = []
        while seen:
            block = [seen.pop(0)]
            while sum(w.size(0) for w in block) < num_samples:
                block.append(seen.pop(0))
            blocks.append(torch.cat(block))
        assert all(len(block) == num_samples for block in blocks)
        leaf = torch.cat([block.logsumexp(0) for block in blocks]) - math.log(num_samples)
        torch.testing.assert_close(result, spvae.circuit(leaf).detach())

    def test_samples_are_independent_between_leaves_and_chunks(self, model, x, seen):
        log_likelihood(model.spvae.model, model.spvae.guide, x[:1], num_samples=4000, chunk_size=1000)
        weights = torch.cat(seen)[:, 0]
        assert len(weights.unique(dim=0)) == 4000
        assert float((torch.corrcoef(weights.T) - torch.eye(4)).abs().max()) < 0.08

    def test_encodes_once(self, model, x):
        calls = []
        encoder: MLP = model.spvae.leaf_guide.z.network
        handle = encoder.register_forward_hook(lambda module, args, result: calls.append(len(args[0])))
        log_likelihood(model.spvae.model, model.spvae.guide, x, num_samples=50, chunk_size=20)
        handle.remove()
        assert sum(calls) == len(x)

    def test_leaves_no_trace_behind(self, model, x):
        pyro.clear_param_store()
        result = model.spvae.log_likelihood(x, num_samples=10)
        assert not result.requires_grad and result.shape == (6,)
        assert len(pyro.get_param_store()) == 0

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Numbers of half precision, of networks or of whole models: what is computed of them is not rounded to theirs."""

from __future__ import annotations

import copy

import pyro
import pytest
import torch

from pyro_spvae import SPVAE, Circuit, CircuitELBO, poon_domingos, whole
from pyro_spvae import distributions as law
from pyro_spvae import likelihoods as of
from pyro_spvae.conditionals import NormalPixels
from pyro_spvae.data import Column
from pyro_spvae.distributions.boltzmann import Boltzmann
from pyro_spvae.distributions.smoothing.registry import smoothed
from pyro_spvae.models import DLDPMM, DLGMM, SBVAE, DiscreteVAE
from pyro_spvae.priors import StickBreaking, Sticks, VampPrior

HALF = torch.bfloat16


def within_autocast():
    return torch.autocast("cpu", dtype=HALF)


UNITS = {
    "student-t": lambda: of.StudentT(location=1000.3, scale=0.1),
    "gamma": lambda: of.Gamma(location=1000.3, scale=0.1),
    "log-normal": lambda: of.LogNormal(location=5.3, scale=0.01),
    "normal, mean by a sigmoid": lambda: of.Normal(mean="sigmoid"),
    "discretised logistic": lambda: of.DiscretizedLogistic(256),
}


@pytest.mark.parametrize("name", list(UNITS))
def test_units_are_not_rounded_with_outputs(name):
    """Outputs of half precision give the law of the same outputs in single precision."""
    torch.manual_seed(0)
    likelihood = UNITS[name]().bind(leaves=2, pixels=3)
    outputs = tuple(torch.randn(2, size).to(HALF) for size in likelihood.heads)
    found, wanted = (likelihood(tuple(map(cast, outputs))) for cast in (lambda x: x, lambda x: x.float()))
    x = wanted.sample((50,)).float()
    torch.testing.assert_close(found.log_prob(x), wanted.log_prob(x), rtol=1e-6, atol=1e-5)
    assert found.mean.dtype == torch.float32 and torch.equal(found.mean, wanted.mean)


def test_coordinates_of_columns_are_not_rounded():
    columns = [Column(name, "real", location=1000.3, scale=0.1) for name in "ab"]
    pixels = NormalPixels(of.Columns(columns)).bind(leaves=1, pixels=2, scopes=((0, 1),))
    x = torch.tensor([[[1000.3, 1000.35]]]).float()
    wanted = pixels.float()().log_prob(x)
    torch.testing.assert_close(pixels.to(HALF)().log_prob(x), wanted, rtol=0, atol=0.05)  # of parameters, not of places


MOMENTS = {
    "categorical mean": lambda: law.LeafCategorical(normal(1, 2, 256)).mean,
    "categorical variance": lambda: law.LeafCategorical(normal(1, 2, 256)).variance,
    "mean log of a rest": lambda: law.Kumaraswamy(normal(3).exp(), normal(3).exp()).mean_log_rest,
    "covariance": lambda: law.LeafMultivariateNormal(normal(3), (torch.eye(3) + 0.3).tril().float()).covariance,
    "level mixture": lambda: law.LeafLevelMixture(normal(2, 3), normal(5, 3), normal(2, 5)).probs,
    "given seen": lambda: low_rank().given_seen(normal(3), torch.tensor([True, True, False])).mean,
    "covariance times": lambda: low_rank().covariance_times(normal(3)),
}


def normal(*shape):
    return torch.randn(shape, dtype=torch.float32)


def low_rank():
    return law.LeafLowRankNormal(normal(3), normal(3, 2), normal(3).exp())


@pytest.mark.parametrize("name", list(MOMENTS))
def test_moments_do_not_depend_on_autocast(name):
    found = []
    for context in (torch.no_grad(), within_autocast()):
        torch.manual_seed(0)
        with context:
            found.append(MOMENTS[name]())
    assert found[1].dtype == torch.float32 and torch.equal(*found)


def test_gradients_of_a_mixtures_draws_within_autocast():
    parameters = [
        torch.randn(4, 3, 2).float(),
        torch.rand(4, 3, 2).float() + 0.5,
        torch.randn(4, 3).log_softmax(-1).float(),
    ]
    grads = []
    for context in (torch.enable_grad(), within_autocast()):
        own = [parameter.clone().requires_grad_() for parameter in parameters]
        torch.manual_seed(0)
        with context:
            law.LeafGaussianMixture(*own).rsample((5,)).square().sum().backward()
        grads.append(torch.cat([parameter.grad.flatten() for parameter in own]))
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_draws_stay_inside_of_open_supports(dtype):
    torch.manual_seed(0)
    laws = [
        law.LeafBeta(torch.full((2000,), 50.0).to(dtype), torch.full((2000,), 1.5).to(dtype)),
        law.LeafBeta(torch.full((2000,), 0.02).to(dtype), torch.full((2000,), 1.5).to(dtype)),
        law.LeafGamma(torch.full((2000,), 0.05).to(dtype), torch.ones(2000).to(dtype)),
        law.LeafLogNormal(torch.full((2000,), -20.0).to(dtype), torch.ones(2000).to(dtype)),
    ]
    for one in laws:
        x = one.sample()
        assert x.dtype == dtype and bool((x > 0).all()) and bool(one.log_prob(x).isfinite())
        assert bool((x < 1).all()) or not isinstance(one, law.LeafBeta)


def test_levels_that_the_type_does_not_hold_are_drawn_in_single_precision():
    laws = [
        law.LeafCategorical(torch.zeros(500, 300).to(HALF)),
        law.LeafBinomial(1023, torch.full((500,), 6.0).to(HALF)),
        law.LeafDiscretizedLogistic(torch.full((500,), 0.98).to(HALF), torch.full((500,), -4.0).to(HALF), levels=1000),
    ]
    for one in laws:
        x = one.sample()
        assert x.dtype == torch.float32 and bool((x == x.round()).all()) and bool(one.log_prob(x).isfinite())
    assert law.LeafCategorical(torch.zeros(5, 256).to(HALF)).sample().dtype == HALF


def test_numbers_of_a_smoothed_machine_are_finite():
    machine = Boltzmann(torch.zeros(1, 4).to(HALF), torch.zeros(1, 2, 2).to(HALF))
    zeta = smoothed(machine, law.OverlappingLogistics()).sample((20_000,))
    assert zeta.dtype == HALF and bool(zeta.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{"alpha0": 300.0}, {"alpha0": 70_000.0}, {"alpha": 0.1}])
def test_sticks_are_normalised(options, dtype):
    """The constant is that of the concentrations, and these are what was asked for."""
    prior = Sticks(**options).bind(leaves=1, event_shape=(20,)).to(dtype)
    wanted = Sticks(**options).bind(leaves=1, event_shape=(20,)).double()
    beta = prior().base_dist
    fractions = prior().sample((50,))
    assert fractions.dtype == dtype and beta.log_prob(fractions).dtype == torch.float32
    expected = wanted().base_dist.log_prob(fractions.double())
    torch.testing.assert_close(beta.log_prob(fractions).double(), expected, rtol=1e-5, atol=1e-5)
    weights = StickBreaking(**options).bind(leaves=1, event_shape=(21,)).to(dtype)()
    assert weights.sample().dtype == dtype and bool(weights.log_prob(weights.sample()).isfinite())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weights", ["full", "cp"])
def test_circuits_are_evaluated_in_single_precision(weights, dtype):
    """Values and gradients are those of the same weights and leaf values in single precision."""
    torch.manual_seed(0)
    circuit = Circuit(poon_domingos((28, 28), 7), 6, weights=weights).to(dtype)
    single = copy.deepcopy(circuit).float()
    leaf = (-torch.rand(5, circuit.num_leaves) * 400 - 1000).to(dtype).requires_grad_()
    given = leaf.detach().float().requires_grad_()
    found, wanted = circuit(leaf), single(given)
    assert found.dtype == torch.float32 and torch.equal(found, wanted)
    found.sum().backward(), wanted.sum().backward()
    torch.testing.assert_close(leaf.grad, given.grad.to(dtype))
    assert all(torch.equal(a, b) for a, b in zip(circuit.log_weights(), single.log_weights(), strict=True))
    assert torch.equal(circuit.posterior(leaf), single.posterior(given))
    trees = circuit.sample((9,))
    log_prob = law.InducedTree(circuit).log_prob(trees)
    assert bool(log_prob.isfinite().all()) and torch.equal(log_prob, law.InducedTree(single).log_prob(trees))
    assert circuit.sample((2,), leaf).shape == (2, 5, circuit.num_leaves) and circuit.mpe(leaf)[1].isfinite().all()


MODELS = {
    "sbvae": lambda: {"leaf": SBVAE(of.Bernoulli())},
    "dlgmm": lambda: {"leaf": DLGMM(of.Bernoulli())},
    "dlgmm, summed": lambda: {"leaf": DLGMM(of.Bernoulli(), summed=True)},
    "dldpmm": lambda: {"leaf": DLDPMM(of.Bernoulli())},
    "discrete-vae": lambda: {"leaf": DiscreteVAE(of.Bernoulli(), latent_dim=4)},
    "vamp": lambda: {"likelihood": of.Bernoulli(), "prior": VampPrior(4)},
}


@pytest.mark.parametrize("name", list(MODELS))
def test_models_of_half_precision(name):
    """They draw, train and score; bounds are near those of single precision."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    spvae = SPVAE(whole((4, 4)), units=1, **MODELS[name]()).float()
    x = (torch.rand(40, 1, 4, 4) < 0.5).float()
    spvae.start(x)
    single = float(spvae.log_likelihood(x, num_samples=2000).mean())
    spvae.to(HALF)
    assert spvae.sample(2).dtype == HALF
    assert abs(float(spvae.log_likelihood(x.to(HALF), num_samples=2000).mean()) - single) < 0.2
    CircuitELBO(2).loss_and_grads(spvae.model, spvae.guide, x.to(HALF))
    assert all(bool(p.grad.isfinite().all()) for p in spvae.parameters() if p.grad is not None)

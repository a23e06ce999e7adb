# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""DVAE++ against exactly known evidence; every variant in single precision; its graphical model, and bad input."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro import poutine

from pyro_spvae import SPVAE, poon_domingos
from pyro_spvae.circuits import whole
from pyro_spvae.distributions import OverlappingExponentials, SpikeAndExponential
from pyro_spvae.guides import DVAEppGuide, NormalGuide
from pyro_spvae.infer import CircuitELBO, KLBalance, anneal, collapse_tree
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import VAE, DVAEpp
from pyro_spvae.nn import MultiScale
from pyro_spvae.priors import BoltzmannMachine, IndependentBits, StandardNormal
from pyro_spvae.testing.block_tests import moved_from_start

SMALL = {"groups": 2, "local_shape": (1, 2, 2), "channels": 3}
GUIDE = {"levels": 2, "channels": (3,), "hidden_dims": (4,)}
MACHINE = {"chains": 6, "sweeps": 2}


def images(rows=2, sides=(4, 4), seed=1):
    return (torch.rand(rows, 1, *sides, generator=torch.Generator().manual_seed(seed)) < 0.4).to(
        torch.get_default_dtype()
    )


def model(leaf, guide=None, sides=(4, 4), move=True):
    """One leaf of a whole image."""
    spvae = SPVAE(whole(sides), 1, leaf=leaf, guide=DVAEppGuide(**GUIDE) if guide is None else guide)
    if move:
        moved_from_start(spvae)
    return spvae.eval()


def joint(spvae, x, values):
    """log p(x, z, h) and log q(z, h | x) of values ``[value, 1, 1, *event]``, ``[value, row]`` each."""
    number = len(next(iter(values.values())))
    found = []
    data = {name: value.expand(number, len(x), *value.shape[2:]) for name, value in values.items()}
    for program, sites in ((collapse_tree(spvae.model), ("x", *values)), (spvae.guide, tuple(values))):
        plated = pyro.plate("value", number, dim=-3)(poutine.condition(program, data=data))
        trace = poutine.trace(plated).get_trace(x)
        trace.compute_log_prob()
        found.append(sum(trace.nodes[name]["log_prob"] for name in sites).squeeze(-1))
    return found


def check_estimate(found, log_p, log_q, samples, step=0.0):
    """An estimate of the evidence within its error, which follows from the variance of importance weights."""
    evidence = log_p.logsumexp(0) + step
    variance = ((2 * log_p - log_q).logsumexp(0) + step - 2 * evidence).exp() - 1
    error = (variance / samples).sqrt()
    assert bool((error < 0.1).all()) and bool(((found - evidence).abs() < 4.5 * error).all())


@pytest.fixture(params=["boltzmann", "independent", "scale by scale"])
def exact(request):
    """Two groups of 2 x 2 local bits and four global ones: all 4,096 values are listed."""
    torch.manual_seed(0)
    prior = IndependentBits() if request.param == "independent" else BoltzmannMachine(**MACHINE)
    decoder = MultiScale(smallest=2, filters=4, blocks=1) if request.param == "scale by scale" else None
    leaf = DVAEpp(Bernoulli(), 4, prior, local="bernoulli", decoder=decoder, **SMALL)
    spvae = model(leaf, DVAEppGuide(2, **GUIDE))
    spvae.prepare_evaluation()
    x = images()
    bits = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 12)[:, None, None]
    h1, h2 = (bits[..., start : start + 4].unflatten(-1, (1, 2, 2)) for start in (4, 8))
    with torch.no_grad():
        return spvae, x, *joint(spvae, x, {"z": bits[..., :4], "h1": h1, "h2": h2})


class TestBits:
    def test_the_guide_is_a_distribution_of_the_bits(self, exact):
        _, x, _, log_q = exact
        torch.testing.assert_close(log_q.logsumexp(0), torch.zeros(len(x)))

    def test_log_likelihood_is_the_evidence(self, exact):
        spvae, x, log_p, log_q = exact
        torch.manual_seed(2)
        check_estimate(spvae.log_likelihood(x, num_samples=20_000), log_p, log_q, 20_000)

    def test_bound_is_that_of_the_enumeration_below_the_evidence(self, exact):
        spvae, x, log_p, log_q = exact
        bound = (log_q.exp() * (log_p - log_q)).sum(0)
        assert bool((bound < log_p.logsumexp(0) - 1e-3).all())
        torch.manual_seed(3)
        draws = torch.stack([CircuitELBO(50, alpha=1.0).bound(spvae.model, spvae.guide, x) for _ in range(20)])
        assert bool(((draws.mean(0) - bound).abs() < 4.5 * draws.std(0) / len(draws) ** 0.5).all())

    @pytest.mark.parametrize("kl", ["analytic", "z"])
    def test_divergences_give_the_same_bound(self, exact, kl):
        spvae, x, log_p, log_q = exact
        bound = (log_q.exp() * (log_p - log_q)).sum(0)
        torch.manual_seed(4)
        draws = torch.stack([CircuitELBO(50, alpha=1.0, kl=kl).bound(spvae.model, spvae.guide, x) for _ in range(20)])
        assert bool(((draws.mean(0) - bound).abs() < 4.5 * draws.std(0) / len(draws) ** 0.5).all())


def test_normal_groups_against_quadrature():
    """Two bits, and two groups of one number on a grid of one position: sums and a grid of numbers."""
    torch.manual_seed(0)
    leaf = DVAEpp(Bernoulli(), 2, BoltzmannMachine(**MACHINE), groups=2, local_shape=(1, 1, 1), channels=3)
    spvae = model(leaf, DVAEppGuide(2, **GUIDE))
    spvae.prepare_evaluation()
    for group in spvae.leaf_guide.local.values():
        group.law.min_scale = 1.5  # so wide that importance weights have a variance
    x, line = images(), torch.linspace(-12.0, 12.0, 81)
    bits = torch.tensor([0.0, 1.0])
    grid = torch.cartesian_prod(bits, bits, line, line)[:, None, None]
    values = {"z": grid[..., :2], "h1": grid[..., 2:3, None, None], "h2": grid[..., 3:, None, None]}
    with torch.no_grad():
        log_p, log_q = joint(spvae, x, values)
    step = 2 * math.log(float(line[1] - line[0]))
    evidence = log_p.logsumexp(0) + step
    torch.testing.assert_close(log_q.logsumexp(0) + step, torch.zeros(2), rtol=0, atol=1e-4)
    bound = (log_q.exp() * (log_p - log_q)).sum(0) * math.exp(step)
    assert bool((bound < evidence - 1e-3).all())
    torch.manual_seed(2)
    check_estimate(spvae.log_likelihood(x, num_samples=20_000), log_p, log_q, 20_000, step)
    for kl in ("sample", "analytic", "z"):
        draws = torch.stack([CircuitELBO(50, alpha=1.0, kl=kl).bound(spvae.model, spvae.guide, x) for _ in range(20)])
        assert bool(((draws.mean(0) - bound).abs() < 4.5 * draws.std(0) / len(draws) ** 0.5 + 1e-4).all())


VARIANTS = {
    "normal-normal": (StandardNormal, None, "normal", "analytic"),
    "rolfe-normal": (lambda: BoltzmannMachine(**MACHINE), SpikeAndExponential(5), "normal", "analytic"),
    "rbm-normal": (lambda: BoltzmannMachine(**MACHINE), OverlappingExponentials((4, 20)), "normal", "analytic"),
    "rbm-bernoulli": (lambda: BoltzmannMachine(**MACHINE), None, "bernoulli", "z"),
    "bernoulli-bernoulli": (IndependentBits, None, "bernoulli", "sample"),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_finite_in_single_precision(variant):
    """At the start and after a hundred steps, with a warm-up and balanced groups."""
    prior, smoothing, local, kl = VARIANTS[variant]
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        torch.manual_seed(0)
        spvae = model(DVAEpp(Bernoulli(), 4, prior(), smoothing, local=local, **SMALL), move=False).train()
        x = images(8)
        objective = CircuitELBO(1, alpha=1.0, kl=kl, balance=KLBalance())
        optimiser = torch.optim.Adam(spvae.parameters(), lr=1e-2)
        losses = []
        for step in range(100):
            spvae.advance(step / 100)
            beta = min(1.0, (step + 1) / 50)
            loss = objective.differentiable_loss(anneal(spvae.model, beta), anneal(spvae.guide, beta, guide=True), x)
            optimiser.zero_grad()
            loss.backward()
            if step in (0, 99):
                gradients = {name: parameter.grad for name, parameter in spvae.named_parameters()}
                assert all(grad is not None and bool(grad.isfinite().all()) for grad in gradients.values())
            optimiser.step()
            losses.append(float(loss.detach()))
        assert sum(losses[-10:]) < sum(losses[:10])
    finally:
        torch.set_default_dtype(default)


def test_groups_depend_on_all_before_them_in_both_programs():
    torch.manual_seed(0)
    spvae = model(DVAEpp(Bernoulli(), 4, BoltzmannMachine(**MACHINE), **{**SMALL, "groups": 3}))
    x = images()
    names = ("z", "h1", "h2", "h3")
    for program in (collapse_tree(spvae.model), spvae.guide):
        torch.manual_seed(1)
        trace = poutine.trace(program).get_trace(x)
        values = {name: trace.nodes[name]["value"].detach() for name in names}
        for place, name in enumerate(names[:-1]):
            changed = {**values, name: 1 - values[name]}
            other = poutine.trace(poutine.condition(program, data=changed)).get_trace(x)
            for later in names:
                laws = [one.nodes[later]["fn"] for one in (trace, other)]
                same = torch.allclose(laws[0].log_prob(values[later]), laws[1].log_prob(values[later]))
                assert same == (names.index(later) <= place), f"{later} given {name}"


def test_features_of_the_data_are_computed_once_whatever_the_particles():
    spvae = model(DVAEpp(Bernoulli(), 4, BoltzmannMachine(**MACHINE), **SMALL))
    rows = []
    spvae.leaf_guide.pyramid.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    CircuitELBO(7).bound(spvae.model, spvae.guide, images(3))
    assert rows == [3]


def test_in_evaluation_bits_are_bits_and_in_training_smoothed():
    spvae = model(DVAEpp(Bernoulli(), 4, BoltzmannMachine(**MACHINE), local="bernoulli", **SMALL))
    for training in (False, True):
        trace = poutine.trace(spvae.train(training).guide).get_trace(images())
        for name in ("z", "h1", "h2"):
            value = trace.nodes[name]["value"]
            assert bool(((value == 0) | (value == 1)).all()) != training


def test_as_leaves_of_a_circuit():
    """Two by two regions with two leaves each: trains, is evaluated, drawn from, completed and embedded."""
    torch.manual_seed(0)
    leaf = DVAEpp(Bernoulli(), 4, BoltzmannMachine(**MACHINE), **SMALL)
    spvae = SPVAE(poon_domingos((8, 8), 4), 2, leaf=leaf, guide=DVAEppGuide(**GUIDE))
    assert spvae.num_leaves == 8
    x = images(30, (8, 8))
    x[..., 4:] = x[..., :4]
    metrics = spvae.fit(
        x, x[:10], objective="elbo", kl="analytic", particles=1, epochs=4, warmup=2, balance=True, batch_size=10
    )
    assert metrics[-1]["elbo"] > metrics[0]["elbo"]
    assert bool(spvae.log_likelihood(x[:3], num_samples=20).isfinite().all())
    observed = torch.zeros(1, 8, 8, dtype=torch.bool)
    observed[..., :4, :] = True
    completed = spvae.impute(x[:3], observed, 2, num_particles=10)
    assert bool((completed[..., :4, :] == x[:3, :, :4]).all())
    assert spvae.embed(x[:3]).latents["h2"].shape == (3, 8, 1, 2, 2) and spvae.sample(4).shape == (4, 1, 8, 8)


def test_the_guide_that_is_taken_by_default_is_its_own():
    spvae = SPVAE(whole((8, 8)), 1, leaf=DVAEpp(Bernoulli(), 4, **SMALL))
    assert type(spvae.leaf_guide) is DVAEppGuide and spvae.leaf_guide.hidden_dims == DVAEppGuide().hidden_dims == (128,)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: DVAEpp(Bernoulli(), groups=0), "groups is 0; a positive integer is needed"),
        (lambda: DVAEpp(Bernoulli(), local="beta"), "local is 'beta'; known are normal, bernoulli"),
        (lambda: DVAEpp(Bernoulli(), local_shape=(2, 2)), r"local_shape is \(2, 2\); variables at a position, height"),
        (lambda: DVAEpp(Bernoulli(), local_shape=(0, 2, 2)), r"local_shape is \(0, 2, 2\); variables at a position"),
        (lambda: DVAEpp(Bernoulli(), local_shape=7), "local_shape is 7; variables at a position, height and width"),
        (lambda: DVAEppGuide(hidden_dims=8), "hidden_dims is 8; "),
        (
            lambda: model(DVAEpp(Bernoulli(), 4, **{**SMALL, "local_shape": (1, 5, 4)})),
            "local_shape lies on a grid of 5 x 4, but the leaf's patches have 4 x 4 pixels; give a smaller one",
        ),
        (
            lambda: model(VAE(Bernoulli(), 4), DVAEppGuide(**GUIDE)),
            "a DVAEppGuide states the latent sites z, h1, but the leaf declares z; give a guide of these",
        ),
        (lambda: DVAEpp(Bernoulli(), prior=Bernoulli()), "prior is a Bernoulli; an instance of Prior is needed"),
        (lambda: DVAEpp(Bernoulli(), latent_dim=0), "latent_dim is 0; a positive integer is needed"),
        (lambda: DVAEppGuide(groups=0), "groups is 0; a positive integer is needed"),
        (lambda: DVAEppGuide(levels=0), "levels is 0; a positive integer is needed"),
        (
            lambda: model(DVAEpp(Bernoulli(), 4, **{**SMALL, "local_shape": (1, 3, 2)})),
            "local variables lie on a grid of 3 x 2, but the maps of the guide's pyramid have the sides 2 x 2, 1 x 1; ",
        ),
        (
            lambda: model(DVAEpp(Bernoulli(), 4, StandardNormal(), **SMALL), DVAEppGuide(2, **GUIDE)),
            "groups is 2, but the leaf's global variables are no bits; leave it out",
        ),
        (
            lambda: model(DVAEpp(Bernoulli(), 4, **SMALL), NormalGuide()),
            "a NormalGuide states the latent sites z, but the leaf declares z, h1, h2; give a guide of these",
        ),
        (
            lambda: model(DVAEpp(Bernoulli(), 5, **SMALL), DVAEppGuide(2, **GUIDE)),
            "groups is 2, which does not divide the 5 bits; groups are of equal size",
        ),
    ],
)
def test_refused(act, message):
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        act()

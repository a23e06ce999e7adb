# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Bounds of mixture leaves, on a model whose evidence is an integral over one dimension."""

from __future__ import annotations

import pyro
import pytest
import torch
from torch.distributions import Normal as Gaussian

from pyro_spvae import CircuitELBO, poon_domingos, whole
from pyro_spvae.conditionals import NormalComponents
from pyro_spvae.guides import MixtureGuide
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import DLDPMM, DLGMM, SPVAE
from pyro_spvae.reproduce.component_elbo import Eq1ELBO
from pyro_spvae.testing.block_tests import moved_from_start

MEANS = (-1.5, 0.0, 1.0)
DRAWS = 4000  # the gaps between bounds are twice the noise that is asked for


def make(kind=DLGMM, **options):
    """One leaf of two pixels and one latent dimension, three components."""
    torch.manual_seed(3)
    leaf = kind(Bernoulli(), 1, 3, means=MEANS, hidden_dims=(4,), **options)
    spvae = SPVAE(whole(2), 1, leaf=leaf, guide=MixtureGuide((4,)))
    moved_from_start(spvae)
    return spvae


def evidence(spvae, x):
    """log p(x): weights have the means of their prior, and the rest is an integral over z."""
    z = torch.linspace(-12, 12, 4001)
    with torch.no_grad():
        pixels = spvae.leaf.pixels(z.reshape(-1, 1, 1, 1)).log_prob(x.unsqueeze(-2)).squeeze(-1)  # [z, data]
        fractions = spvae.leaf.sticks().mean
    rest, weights = 1.0, []
    for fraction in fractions.tolist():
        weights.append(rest * fraction)
        rest *= 1 - fraction
    prior = sum(w * Gaussian(m, 1.0).log_prob(z).exp() for w, m in zip([*weights, rest], MEANS, strict=True))
    return ((prior.unsqueeze(-1) * pixels.exp()).sum(0) * float(z[1] - z[0])).log()


@pytest.fixture
def x():
    return torch.tensor([[0.0, 1.0], [1.0, 1.0]])


def mean(bound, spvae, x, draws=DRAWS):
    """The expectation of a bound of one draw, and the error of the estimate."""
    pyro.set_rng_seed(0)
    with torch.no_grad():
        values = bound(spvae.model, spvae.guide, x.repeat_interleave(draws, 0)).reshape(len(x), draws)
    return values.mean(1), values.std(1) / draws**0.5


@pytest.mark.parametrize(("kind", "options"), [(DLGMM, {"alpha": 0.7}), (DLDPMM, {"alpha0": 2.0})])
def test_the_papers_bound_the_enumerated_one_the_mixtures_and_the_evidence(x, kind, options):
    spvae, summed = make(kind, **options), make(kind, summed=True, **options)
    summed.load_state_dict(spvae.state_dict())
    bounds = [
        mean(Eq1ELBO().bound, spvae, x),
        mean(CircuitELBO(1, alpha=1.0, kl="analytic").bound, spvae, x),
        mean(CircuitELBO(1, alpha=1.0, kl="analytic").bound, summed, x),
        (evidence(spvae, x), torch.zeros(2)),
    ]
    for (low, low_error), (high, high_error) in zip(bounds[:-1], bounds[1:], strict=True):
        assert bool((low + 4 * (low_error + high_error) < high).all()), "each is below the next, by more than noise"


@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize(("kind", "options"), [(DLGMM, {"alpha": 0.7}), (DLDPMM, {"alpha0": 2.0})])
def test_importance_weights_find_the_evidence(x, kind, options, summed):
    spvae = make(kind, summed=summed, **options)
    (stack,) = spvae.leaf_guide.encoder.stacks
    with torch.no_grad():  # a guide wider than the prior, so that importance weights are bounded
        for head in (1, 2):  # of the fractions, which are nearly uniform
            stack.weights[head].mul_(0.1)
            stack.biases[head].mul_(0.1)
        stack.weights[4].zero_()
        stack.biases[4].fill_(1.5)
    pyro.set_rng_seed(0)
    found = spvae.log_likelihood(x, num_samples=100_000)
    torch.testing.assert_close(found, evidence(spvae, x), rtol=0, atol=0.02)


@pytest.mark.parametrize("summed", [False, True])
def test_equal_components_are_one(x, summed):
    """Whether their means are left out or all 0."""
    bounds = []
    for means in (None, (0, 0, 0)):
        torch.manual_seed(3)
        leaf = DLGMM(Bernoulli(), 1, 3, means=means, summed=summed, hidden_dims=(4,))
        spvae = SPVAE(whole(2), 1, leaf=leaf, guide=MixtureGuide((4,)))
        moved_from_start(spvae)
        pyro.set_rng_seed(0)
        bounds.append(CircuitELBO(5).bound(spvae.model, spvae.guide, x))
    torch.testing.assert_close(*bounds)


def test_the_papers_bound_term_by_term(x):
    """For one datum and draw, by loops over the components."""
    spvae = make()
    pyro.set_rng_seed(4)
    found = Eq1ELBO(1).bound(spvae.model, spvae.guide, x[:1])
    pyro.set_rng_seed(4)
    guide = pyro.poutine.trace(
        pyro.poutine.enum(pyro.plate("particles", 1, dim=-3)(spvae.guide), first_available_dim=-4)
    ).get_trace(x[:1])
    v, z = (guide.nodes[name]["value"] for name in ("v", "z"))
    fractions, (loc, scale) = spvae.leaf_guide.encode(spvae.view(x[:1]))
    q, p = fractions.base_dist, spvae.leaf.sticks().base_dist
    total, joint, mean_rest, rest = torch.zeros(()), torch.zeros(()), 1.0, 1.0
    for k in range(3):
        weight = mean_rest * (q.mean[0, 0, k] if k < 2 else 1.0)
        drawn = rest * (v[0, 0, 0, k] if k < 2 else 1.0)
        mean_rest, rest = mean_rest - weight, rest - drawn
        m, s, value = loc[0, 0, k, 0], scale[0, 0, k, 0], z[k].reshape(())
        fit = spvae.leaf.pixels(value.reshape(1, 1, 1)).log_prob(x[:1].unsqueeze(1)).squeeze()
        cross = -0.5 * ((m - MEANS[k]) ** 2 + s**2) - 0.5 * torch.log(torch.tensor(2 * torch.pi))
        total = total + weight * (fit + cross)
        joint = joint + drawn * Gaussian(m, s).log_prob(value).exp()
    divergence = torch.distributions.kl_divergence(q, p).sum()
    torch.testing.assert_close(found[0], total - divergence - joint.log())


def test_the_papers_bound_averages_over_draws(x):
    spvae = make()
    (one, error), (several, other) = (mean(Eq1ELBO(num).bound, spvae, x, 4000) for num in (1, 5))
    assert bool(((one - several).abs() < 4 * (error + other)).all())
    assert bool((other < 0.6 * error).all()), "by the square root of 5"
    pyro.set_rng_seed(0)
    loss = Eq1ELBO(5).differentiable_loss(spvae.model, spvae.guide, x)
    pyro.set_rng_seed(0)
    torch.testing.assert_close(-loss.detach(), Eq1ELBO(5).bound(spvae.model, spvae.guide, x).sum())


def test_the_papers_bound_refuses_what_it_is_not_of(x):
    one = make()
    for scaled in (pyro.poutine.scale(one.model, 0.5), lambda x: one.model(x, size=9)):
        with pytest.raises(ValueError, match="^Eq1ELBO takes no scale, but site . is scaled; train without warm-up or"):
            Eq1ELBO().differentiable_loss(scaled, one.guide, x)
    with pytest.raises(ValueError, match="^Eq1ELBO is of programs with the sites v, c and z; give a DLGMM that"):
        Eq1ELBO().bound(make(summed=True).model, make(summed=True).guide, x)
    leaf = DLGMM(Bernoulli(), 1, 3, hidden_dims=(4,))
    two = SPVAE(poon_domingos((2,), delta=1), 1, leaf=leaf, guide=MixtureGuide((4,)))
    with pytest.raises(ValueError, match="^Eq1ELBO is of a single leaf, but there are 2$"):
        Eq1ELBO().bound(two.model, two.guide, x)


REFUSED = [
    (lambda: DLGMM(Bernoulli(), alpha=0), "^alpha is 0; a positive number is needed$"),
    (lambda: DLDPMM(Bernoulli(), alpha0=-1), "^alpha0 is -1; a positive number is needed$"),
    (lambda: DLGMM(Bernoulli(), components=1), "^components is 1; at least 2 are needed$"),
    (lambda: DLDPMM(Bernoulli(), truncation=1), "^truncation is 1; at least 2 components are needed$"),
    (
        lambda: SPVAE(whole(2), 1, leaf=DLGMM(Bernoulli(), components=4, means=(0, 1))),
        "^means has 2 numbers, but there are 4 components; one each is needed$",
    ),
    (lambda: DLGMM(Bernoulli(), summed="yes"), "^summed is 'yes'; True or False is needed$"),
    (
        lambda: SPVAE(whole(2), 1, leaf=DLGMM(Bernoulli(), summed=True), guide=MixtureGuide(enumerate=False)),
        "^enumerate is False, but the leaf has summed=True and no component to draw; leave it out$",
    ),
    (lambda: DLGMM(Bernoulli(), means="ab"), "^means is 'ab'; a finite number for each component is needed$"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("means", [None, MEANS])
def test_weights_of_component_priors_may_be_made_where_they_matter(means):
    block = NormalComponents(means).bind(leaves=1, event_shape=(2,), components=3)
    log_weight, z, asked = torch.randn(5, 1, 3).log_softmax(-1), torch.randn(5, 1, 2), []
    laws = block.mixture(log_weight), block.mixture(lambda: asked.append(1) or log_weight)
    torch.testing.assert_close(laws[0].log_prob(z), laws[1].log_prob(z))
    assert len(asked) == (means is not None)
    loc = torch.tensor(means or (0.0,) * 3).reshape(3, 1, 1, 1).expand(3, 5, 1, 2)
    joint = log_weight.movedim(-1, 0) + Gaussian(loc, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(laws[0].log_prob(z), joint.logsumexp(0))

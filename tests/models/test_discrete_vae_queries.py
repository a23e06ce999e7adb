# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What discrete VAEs answer, against lists of all bits."""

from __future__ import annotations

import pytest
import torch
from pyro import poutine

from pyro_spvae import poon_domingos
from pyro_spvae.distributions.boltzmann import boltzmann
from pyro_spvae.guides import DiscreteGuide, LeafGuide, MixedGuide
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import SPVAE, DiscreteVAE, FactorizedLeaf, MixedLeaf
from pyro_spvae.priors import BitChain, BoltzmannMachine
from pyro_spvae.training import evaluation
from tests.models.bits_oracle import PRIORS, bits_of, discrete_vae, evidence, images, log_joint, log_pixels, log_prior
from tests.models.test_discrete_vae import log_guide

X = images()[[5, 14]]


def frequencies(z, values):
    """Of all bits ``values [value, 1, leaf, D]`` among draws ``z [.., leaf, D]``, ``[value, leaf]``."""
    drawn = z.reshape(-1, *z.shape[-2:])
    return (drawn.unsqueeze(0) == values).all(-1).double().mean(1)


def check_frequencies(found, wanted, draws):
    assert bool(((found - wanted).abs() < 4.5 * (wanted * (1 - wanted) / draws).sqrt() + 1e-9).all())


@pytest.mark.parametrize("training", [False, True])
def test_embeds_probabilities_of_bits(training):
    """Of one group they are exact; in whatever mode the model is, which it stays in."""
    spvae = discrete_vae(PRIORS["machine"](), groups=1).train(training)
    embedding = spvae.embed(X, num_particles=20)
    h = spvae.view(X) - spvae.leaf_guide.mean.mean
    torch.testing.assert_close(embedding.latents["z"], spvae.leaf_guide.z.network(h)[0].sigmoid().detach())
    assert spvae.training == training and spvae.leaf.smoothing.training == training


def test_embeds_averages_of_several_groups():
    spvae = discrete_vae(PRIORS["chain"]())
    z = bits_of(spvae)
    wanted = (log_guide(spvae, X, z).exp().unsqueeze(-1) * z).sum(0)
    found = spvae.embed(X, num_particles=20_000).latents["z"]
    check_frequencies(found, wanted, 20_000)


def test_the_first_groups_probabilities_are_exact_and_the_others_means_given_draws():
    spvae = discrete_vae(PRIORS["chain"]())
    h = spvae.view(X) - spvae.leaf_guide.mean.mean
    found = spvae.embed(X, num_particles=30).latents["z"]
    torch.testing.assert_close(found[..., :2], spvae.leaf_guide.z.network(h)[0].sigmoid().detach())
    assert bool(((found[..., 2:] * 30).frac() > 1e-6).any()), "no averages of 30 bits"


def test_active_units_of_several_groups_follow_the_data(monkeypatch):
    """The variance over data of the means of the guide, by listing all bits."""
    spvae = discrete_vae(PRIORS["chain"]())
    with torch.no_grad():
        for parameter in spvae.leaf_guide.parameters():
            parameter.mul_(3.0)
    monkeypatch.setattr(evaluation, "_DRAWS", 4000)
    z = bits_of(spvae)
    wanted = (log_guide(spvae, images(), z).exp().unsqueeze(-1) * z).sum(0).detach().var(0)
    torch.testing.assert_close(evaluation.mean_variances(spvae, images())["z"], wanted, rtol=0.05, atol=1e-3)
    assert evaluation.active_units(spvae, images())["z"] == int((wanted > 0.01).sum()) > 8


def test_active_units_of_groups_in_one_kind_of_leaf_among_others():
    """Of the first leaf of each region; the second has no bits."""
    leaf = MixedLeaf([DiscreteVAE(Bernoulli(), 4, BitChain(2)), FactorizedLeaf(Bernoulli())])
    spvae = SPVAE(poon_domingos((1, 4), 2), 2, leaf=leaf, guide=MixedGuide([DiscreteGuide(), LeafGuide()]))
    found = evaluation.mean_variances(spvae, images())["z"]
    assert found.shape == (4, 4) and bool((found[[0, 2]] != 0).any(1).all()) and bool((found[[1, 3]] == 0).all())


@pytest.mark.parametrize("prior", PRIORS)
def test_a_leaf_that_sees_nothing_has_its_priors_means(prior):
    spvae = discrete_vae(PRIORS[prior]())
    observed = torch.tensor([True, True, False, False]).expand(2, 1, 1, 4)
    found = spvae.embed(X, observed, num_particles=20_000).latents["z"]
    z = bits_of(spvae)
    wanted = (log_prior(spvae, z).exp().unsqueeze(-1) * z).sum(0).expand(2, -1, -1).detach()
    blind = ~spvae.view(observed.double()).bool().any(-1)[0]
    assert bool(blind.any()) and not bool(blind.all())
    check_frequencies(found[:, blind], wanted[:, blind], 20_000)


@pytest.mark.parametrize("prior", PRIORS)
def test_samples_have_the_frequencies_of_the_evidence(prior):
    spvae = discrete_vae(PRIORS[prior]())
    drawn = spvae.sample(20_000)
    found = (drawn.unsqueeze(0) == images().unsqueeze(1)).flatten(2).all(-1).double().mean(1)
    check_frequencies(found, evidence(spvae, images()).exp().detach(), 20_000)


def test_samples_of_a_machine_that_is_not_listed(monkeypatch):
    """Gibbs sampling from its persistent chains."""
    spvae = discrete_vae(BoltzmannMachine(chains=500, sweeps=15))
    monkeypatch.setattr(boltzmann, "LISTED_UNITS", 0)
    spvae.advance(0.0)
    drawn = spvae.sample(20_000)
    found = (drawn.unsqueeze(0) == images().unsqueeze(1)).flatten(2).all(-1).double().mean(1)
    check_frequencies(found, evidence(spvae, images()).exp().detach(), 20_000)


@pytest.mark.parametrize("prior", ["chain", "machine"])
def test_imputes_what_is_likely_given_what_is_seen(prior):
    spvae, rows, samples = discrete_vae(PRIORS[prior]()), 250, 20
    seen = torch.tensor([True, False, False, True])
    x = images()[9:10]
    filled = spvae.impute(x.expand(rows, 1, 1, 4), seen.expand(rows, 1, 1, 4), samples, num_particles=150)
    possible = (images() == x)[..., seen].flatten(1).all(-1)
    wanted = evidence(spvae, images()).exp().detach() * possible
    found = (filled.unsqueeze(0) == images()[:, None, None]).flatten(3).all(-1).double().mean((1, 2))
    assert bool((found[~possible] == 0).all())
    torch.testing.assert_close(found, wanted / wanted.sum(), rtol=0, atol=0.03)


@pytest.mark.parametrize(("prior", "groups"), [("independent", 1), ("chain", 2), ("machine", 4)])
def test_draws_bits_from_the_guide(prior, groups):
    spvae = discrete_vae(PRIORS[prior](), groups=groups)
    drawn = spvae.draw_latents(X, num_samples=20_000)["z"]
    z = bits_of(spvae)
    wanted = log_guide(spvae, X, z).exp().detach()
    for row in range(2):
        check_frequencies(frequencies(drawn[:, row], z), wanted[:, row], 20_000)


def test_the_posterior_is_that_of_the_bits():
    """Resampled by importance weights, as of a single leaf."""
    spvae = discrete_vae(PRIORS["machine"](), regions="leaf")
    x = X[:1].expand(2000, 1, 1, 4)
    drawn = poutine.trace(spvae.posterior(x, num_particles=200)).get_trace().nodes["z"]["value"]
    joint = log_joint(spvae, X[:1])[:, 0]
    found, wanted = frequencies(drawn, bits_of(spvae)), joint.softmax(0).detach()
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.045)
    guide = log_guide(spvae, X[:1], bits_of(spvae))[:, 0].exp().detach()
    assert float((wanted - guide).abs().max()) > 0.1


def test_samples_given_bits():
    spvae = discrete_vae(PRIORS["chain"](), regions="leaf")
    z = torch.tensor([1.0, 0.0, 1.0, 1.0])
    means = spvae.sample(3, {"z": z}, means=True)
    ones = torch.ones(1, 1, 1, 4)
    wanted = [log_pixels(spvae, z.expand(1, 1, 4), image).exp() for image in images()[[0, 15]]]
    assert means.shape == (3, 1, 1, 4) and bool((means == means[:1]).all())
    logits = spvae.leaf.pixels.decoder(2 * z.expand(1, 1, 4) - 1)[0] + spvae.leaf.pixels.data.output_0
    torch.testing.assert_close(means[:1].reshape(1, 1, 4), logits.sigmoid().detach())
    torch.testing.assert_close(means[0].prod(), wanted[1].squeeze().detach())
    torch.testing.assert_close((ones - means[:1]).prod(), wanted[0].squeeze().detach())
    for value in (0.5, 2.0):
        with pytest.raises(ValueError, match="given"):
            spvae.sample(3, {"z": value})


def test_interpolates_between_modes():
    """At the first half the likeliest bits of the start, then those of the end."""
    spvae = discrete_vae(PRIORS["machine"](), regions="leaf", groups=1)
    path = spvae.interpolate(X[:1], X[1:], 5)
    h = spvae.view(X) - spvae.leaf_guide.mean.mean
    modes = (spvae.leaf_guide.z.network(h)[0] > 0).double()
    logits = spvae.leaf.pixels.decoder(2 * modes - 1)[0] + spvae.leaf.pixels.data.output_0
    start, end = logits.sigmoid().detach().reshape(2, 1, 1, 1, 4)
    torch.testing.assert_close(path, torch.stack([start, start, end, end, end]))
    assert not torch.equal(start, end)


@pytest.mark.parametrize("prior", PRIORS)
def test_is_saved_with_all_that_it_answers_by(prior, tmp_path):
    """Chains and log Z of machines, the inverse temperature, the mean of the data."""
    spvae = discrete_vae(PRIORS[prior]())
    spvae.advance(0.5)
    spvae.save(tmp_path)
    again = SPVAE.load(tmp_path)
    state, other = spvae.state_dict(), again.state_dict()
    assert state.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in state.items())
    found = []
    for one in (spvae, again):
        torch.manual_seed(1)
        found.append((one.log_likelihood(X, num_samples=50), one.sample(5), one.embed(X).latents["z"]))
    assert all(map(torch.equal, *found))

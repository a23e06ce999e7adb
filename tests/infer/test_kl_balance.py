# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Balanced divergences in a warm-up, by hand; closed forms of some sites alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from pyro import poutine
from torch.distributions import Normal, kl_divergence

from pyro_spvae import VAE, poon_domingos
from pyro_spvae.guides import HierarchicalGuide
from pyro_spvae.infer import CircuitELBO, KLBalance, anneal
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import DLGMM, HVAE, SPVAE
from pyro_spvae.priors import MixtureOfGaussians
from pyro_spvae.training.fit_config import FitConfig
from pyro_spvae.training.own_objects import OwnObjects

X = (torch.rand(6, 1, 2, 4, generator=torch.Generator().manual_seed(1)) < 0.4).double()


def model(seed=0, regions=None):
    torch.manual_seed(seed)
    leaf = HVAE(Bernoulli(), 2, 3, hidden_dims=(5,))
    return SPVAE(poon_domingos((2, 4), 2) if regions is None else regions, leaf=leaf, guide=HierarchicalGuide((5,)))


def loss(spvae, beta, seed=3, particles=2, **options):
    torch.manual_seed(seed)
    objective = CircuitELBO(particles, alpha=1.0, **options)
    return objective.differentiable_loss(anneal(spvae.model, beta), anneal(spvae.guide, beta, guide=True), X)


def gradient(spvae, *args, **options):
    return torch.autograd.grad(loss(spvae, *args, **options), list(spvae.parameters()))


@pytest.mark.parametrize("kl", ["sample", "analytic", "z2"])
@pytest.mark.parametrize("by_size", [False, True])
@pytest.mark.parametrize("eps", [0.1, 2.0])
def test_is_the_bound_with_weights_held_constant(kl, by_size, eps):
    """The same loss and gradient as annealing with weights of sites that are known beforehand."""
    spvae, gamma = model(), 0.3
    balanced = {"balance": KLBalance(eps, by_size), "kl": kl}
    kls = {}
    for site, other in (("z2", "z1"), ("z1", "z2")):  # the mean of one site's divergence, from two weights of it
        high, low = (loss_of_leaves(spvae, {site: weight, other: gamma}, kl) for weight in (1.0, 0.5))
        kls[site] = (low - high).mean() / 0.5
    shares = {
        site: (abs(float(value)) + eps) / ({"z2": 3, "z1": 2}[site] if by_size else 1) for site, value in kls.items()
    }
    weights = {site: gamma * 2 * share / sum(shares.values()) for site, share in shares.items()}
    assert abs(weights["z1"] / gamma - 1) > 0.02
    torch.testing.assert_close(loss(spvae, gamma, **balanced), loss(spvae, weights, kl=kl))
    torch.testing.assert_close(gradient(spvae, gamma, **balanced), gradient(spvae, weights, kl=kl))


def loss_of_leaves(spvae, beta, kl):
    """Leaf bounds ``[particle, data, leaf]``."""
    torch.manual_seed(3)
    objective = CircuitELBO(2, alpha=1.0, kl=kl)
    return objective.terms(
        anneal(spvae.model, beta), anneal(spvae.guide, beta, guide=True), (X,), {}
    ).log_weight.detach()


@pytest.mark.parametrize("beta", [1.0, 0.0])
def test_at_full_weight_and_at_none_it_is_the_bound(beta):
    spvae = model()
    torch.testing.assert_close(loss(spvae, beta, balance=KLBalance()), loss(spvae, beta))
    torch.testing.assert_close(gradient(spvae, beta, balance=KLBalance()), gradient(spvae, beta))


def test_weights_are_shares_of_the_mean():
    weights = KLBalance(eps=0.5).weights({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([-0.5])}, {"a": 1, "b": 9})
    torch.testing.assert_close(weights["a"], torch.tensor(4 / 3))
    torch.testing.assert_close(weights["b"], torch.tensor(2 / 3))


def test_one_site_is_left_as_it_is():
    torch.manual_seed(0)
    spvae = SPVAE(poon_domingos((2, 4), 2), leaf=VAE(Bernoulli(), 2, hidden_dims=(5,)))
    torch.testing.assert_close(loss(spvae, 0.4, balance=KLBalance()), loss(spvae, 0.4))


class TestClosedFormBySite:
    def test_of_one_site_the_divergence_and_of_the_other_the_sample(self):
        """The difference from a bound that is sampled throughout is that of the one site."""
        spvae = model()
        objective = {kl: loss_of_leaves(spvae, 1.0, kl) for kl in ("sample", "z2", "analytic")}
        batch = spvae.prepare(X)
        q, p = spvae.leaf_guide.first(batch.features), spvae.leaf.prior()
        z2 = drawn(spvae)
        of_one = q.log_prob(z2) - p.log_prob(z2) - kl_divergence(q, p)
        torch.testing.assert_close(objective["z2"] - objective["sample"], of_one)
        assert not torch.allclose(objective["z2"], objective["analytic"])

    @pytest.mark.parametrize("kl", [("z2", "z1"), "z1, z2", "z2,z1", {"z1", "z2"}])
    def test_of_all_sites_is_the_analytic_bound(self, kl):
        spvae = model()
        torch.testing.assert_close(loss_of_leaves(spvae, 1.0, kl), loss_of_leaves(spvae, 1.0, "analytic"))
        assert CircuitELBO(alpha=1.0, kl=kl).kl == "z1, z2"


def drawn(spvae):
    torch.manual_seed(3)
    objective = CircuitELBO(2, alpha=1.0)
    trace = poutine.trace(objective._vectorized_num_particles(spvae.guide)).get_trace(spvae.prepare(X))
    return trace.nodes["z2"]["value"]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: KLBalance(-1), r"^eps is -1; a number of at least 0 is needed"),
        (lambda: KLBalance(by_size=1), "^by_size is 1; True or False is needed"),
        (lambda: CircuitELBO(balance=KLBalance()), r"^balance is given with alpha=0.0; it belongs to leaf ELBOs"),
        (lambda: CircuitELBO(alpha=1.0, balance=True), "^balance is a bool; an instance of KLBalance is needed"),
        (lambda: CircuitELBO(alpha=1.0, kl="z 1"), "^kl is 'z 1'; sample, analytic, or names of latent sites are"),
        (
            lambda: CircuitELBO(alpha=1.0, kl=("z", "analytic")),
            r"^kl is \('z', 'analytic'\); sample and analytic stand",
        ),
        (lambda: CircuitELBO(alpha=1.0, kl=()), r"^kl is \(\); sample, analytic, or names of latent sites are needed"),
        (lambda: loss(model(), 1.0, kl="exact"), "^kl names the site 'exact', but the latent sites are z2, z1"),
        (lambda: FitConfig(objective="elbo", balance=True), "^balance is given, but warmup is 0"),
        (lambda: FitConfig(balance=True, warmup=2), "^balance is given with the objective 'iwae'; it belongs to"),
        (
            lambda: FitConfig(objective="elbo", balance=True, warmup=2, estimator="nvil"),
            "^balance is given with the est",
        ),
        (lambda: FitConfig(kl="z"), "^kl is 'z', which needs the objective 'elbo'; objective is 'iwae'"),
    ],
)
def test_refused(act, message):
    with pytest.raises((ValueError, TypeError), match=message):
        act()


def test_a_site_without_a_divergence_is_refused_by_name():
    spvae = SPVAE(poon_domingos((2, 4), 2), leaf=VAE(Bernoulli(), 2, prior=MixtureOfGaussians(3)))
    with pytest.raises(
        ValueError, match="^kl names the site 'z', but no divergence of a LeafNormal from a LeafNormalMix"
    ):
        loss(spvae, 1.0, kl="z")


def test_runs_tell_balances_apart():
    described = [
        OwnObjects(CircuitELBO(alpha=1.0, balance=balance)).described()["objective"]
        for balance in (None, KLBalance(), KLBalance(0.2), KLBalance(by_size=True))
    ]
    assert len(set(described)) == 4 and "eps=0.2" in described[2]


def test_fits_with_it_and_the_same_again():
    config = {
        "epochs": 3,
        "warmup": 2,
        "objective": "elbo",
        "kl": "z2",
        "balance": True,
        "batch_size": 4,
        "particles": 1,
    }
    found = [model() for _ in range(3)]
    found[0].fit(X, X, **config)
    found[1].fit(X, X, **config)
    found[2].fit(X, X, **{**config, "balance": False})
    states = [torch.cat([each.flatten() for each in spvae.parameters()]) for spvae in found]
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    assert not torch.allclose(states[0], states[2])
    objective = CircuitELBO(1, alpha=1.0, kl=("z2",), balance=KLBalance())
    other = model()
    other.fit(X, X, objective=objective, epochs=3, warmup=2, batch_size=4)
    torch.testing.assert_close(torch.cat([each.flatten() for each in other.parameters()]), states[0], rtol=0, atol=0)
    assert dataclasses.replace(FitConfig(objective="elbo", kl=" z2 , z1")).kl == "z1, z2"


def test_after_an_enumerated_site_a_divergence_counts_as_in_the_bound():
    """By the probabilities of the values, not evenly."""

    class Seen(KLBalance):
        def weights(self, kls, sizes):
            self.kls = kls
            return super().weights(kls, sizes)

    torch.manual_seed(0)
    means = [-6.0, 0.0, 6.0]
    spvae = SPVAE(poon_domingos((2, 2), 1), units=2, leaf=DLGMM(Bernoulli(), 2, 3, means=means))
    elbo = CircuitELBO(20, alpha=1, kl="analytic", balance=Seen())
    collector = elbo._collector()
    model, guide = anneal(spvae.model, 0.5), anneal(spvae.guide, 0.5, guide=True)
    elbo.terms(model, guide, (spvae.sample(4),), {}, collector=collector)
    law, share = collector.guide_sites["z"]["fn"], collector.enumerated.log_share.exp()
    prior = Normal(torch.tensor(means).reshape(3, *[1] * law.loc.dim())[: len(law.loc)], 1.0)
    kl = kl_divergence(Normal(law.loc, law.scale), Normal(prior.loc.flatten(0, 1), 1.0)).sum(-1)  # [value, .., leaf]
    found, wanted = elbo.balance.kls["z"], (share * kl).sum(0)
    torch.testing.assert_close(found.mean(), wanted.mean())
    assert abs(float((kl.mean() - wanted.mean()).detach())) > 1

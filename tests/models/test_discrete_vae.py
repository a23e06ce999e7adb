# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Discrete VAEs in evaluation mode and without smoothing, against lists of all bits; what is refused."""

from __future__ import annotations

import math
import re

import pytest
import torch

from pyro_spvae import CircuitELBO, poon_domingos
from pyro_spvae.distributions import Unsmoothed
from pyro_spvae.guides import DiscreteGuide, NormalGuide
from pyro_spvae.infer import NVIL, VIMCO, Reinforce
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import SPVAE, VAE, DiscreteVAE
from pyro_spvae.nn import MLP
from pyro_spvae.priors import BitChain, BoltzmannMachine, IndependentBits, StandardNormal
from tests.helpers import gradients
from tests.models.bits_oracle import PRIORS, bits_of, discrete_vae, evidence, images, log_joint, log_pixels, log_prior

X = images()[[0, 5, 14]]


def log_guide(spvae, x, z):
    """log q(z) of bits ``[.., data, leaf, D]``, group by group by the networks."""
    bits, mean = spvae.leaf_guide.z, spvae.leaf_guide.mean
    h = spvae.view(x) - (0 if mean is None else mean.mean)
    total, each = 0, bits.group_sizes[0]
    for group in range(bits.groups):
        own, before = z[..., group * each : (group + 1) * each], z[..., : group * each]
        logits = bits.further[group - 1](h, 2 * before - 1)[0] if group else bits.network(h)[0]
        total = total + (own * logits - torch.nn.functional.softplus(logits)).sum(-1)
    return total


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("regions", ["circuit", "leaf"])
def test_log_likelihood_is_the_evidence(prior, regions):
    """In evaluation mode, of many draws; log Z of machines is exact."""
    spvae = discrete_vae(PRIORS[prior](), regions=regions)
    exact = evidence(spvae, images()).detach()
    torch.testing.assert_close(exact.exp().sum(), torch.tensor(1.0))
    torch.testing.assert_close(spvae.log_likelihood(X, num_samples=20_000), exact[[0, 5, 14]], rtol=0, atol=0.04)
    assert float(exact.std()) > 0.2


def test_a_log_normaliser_is_that_of_the_last_time_it_was_asked_for():
    spvae, found = discrete_vae(PRIORS["machine"](), regions="leaf"), []
    with torch.no_grad():
        spvae.leaf.prior.bias.add_(1.0)
    stale = spvae.leaf.prior.log_z.clone()
    for prepare in (False, True):
        if prepare:
            spvae.prepare_evaluation()
        torch.manual_seed(1)
        found.append(spvae.log_likelihood(X, num_samples=20))
    torch.testing.assert_close(found[0] - found[1], (spvae.leaf.prior.log_z - stale).expand(3))
    torch.testing.assert_close(spvae.leaf.prior.log_z, -log_prior(spvae, torch.zeros(1, 1, 4))[0])
    assert float(found[0][0] - found[1][0]) > 0.5


@pytest.mark.parametrize(
    ("prior", "groups"),
    [(prior, groups) for prior in PRIORS for groups in (1, 2, 4)],
)
def test_bounds_of_bits_by_hand(prior, groups):
    """The mean of log p(x, z) - log q(z) over all z, whether the divergence is sampled or computed."""
    spvae = discrete_vae(PRIORS[prior](), regions="leaf", groups=groups)
    log_q = log_guide(spvae, X, bits_of(spvae))  # [value, data, leaf]
    torch.testing.assert_close(log_q.exp().sum(0), torch.ones(3, 1))
    weight = log_joint(spvae, X) - log_q
    exact = (log_q.exp() * weight).sum(0)[:, 0].detach()
    particles = 4000
    for kl in ("sample", "analytic"):
        found = CircuitELBO(particles, alpha=1.0, kl=kl).bound(spvae.model, spvae.guide, X)
        spread = (log_q.exp() * weight.square()).sum(0)[:, 0] - exact.square()
        if kl == "analytic" and spvae.leaf_guide.z.groups == 1 and prior != "chain":
            spread = (log_q.exp() * log_pixels(spvae, bits_of(spvae), X).square()).sum(0)[:, 0]
            spread = spread - (log_q.exp() * log_pixels(spvae, bits_of(spvae), X)).sum(0)[:, 0].square()
        assert bool(((found - exact).abs() < 5 * (spread.clamp(min=1e-12) / particles).sqrt()).all()), kl
    assert bool((exact < evidence(spvae, X)).all())


ESTIMATORS = {
    "reinforce": (Reinforce, {"alpha": 1.0}),
    "nvil": (lambda: NVIL((4,)), {"alpha": 1.0}),
    "nvil, analytic": (lambda: NVIL((4,)), {"alpha": 1.0, "kl": "analytic"}),
    "vimco": (VIMCO, {"num_particles": 2}),
}


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_gradients_without_smoothing_are_unbiased(name, groups):
    """Of all parameters, those of the machine with its log Z included, against all that can be drawn."""
    make, options = ESTIMATORS[name]
    regions = "leaf" if options.get("num_particles", 1) > 1 else "circuit"
    spvae = discrete_vae(BoltzmannMachine(chains=5, sweeps=1), Unsmoothed(), regions, 2, groups, scale=0.5).train()
    x, elbo = X[1:2], CircuitELBO(**{"num_particles": 1} | options, estimator=make())
    z, leaves, particles = bits_of(spvae), spvae.num_leaves, elbo.num_particles
    log_q = log_guide(spvae, x, z)
    weight = log_joint(spvae, x) - log_q
    if elbo.kl == "analytic":
        weight = log_pixels(spvae, z, x) - divergence_given_draws(spvae, x, z)
    index = torch.cartesian_prod(*[torch.arange(4)] * (particles * leaves)).reshape(-1, particles, leaves)
    chance = log_q[index, 0, torch.arange(leaves)].sum((1, 2)).exp()
    drawn = weight[index, 0, torch.arange(leaves)].movedim(1, 0)  # [particle, draw, leaf]
    leaf = drawn.mean(0) if elbo.alpha == 1 else drawn.logsumexp(0) - math.log(particles)
    wanted = gradients(spvae, -(chance * spvae.circuit(leaf)).sum())
    repeats, batches = 2000, 12
    torch.manual_seed(0)
    rows = x.expand(repeats, *x.shape[1:])
    found = []
    for _ in range(batches):
        found.append(gradients(spvae, elbo.differentiable_loss(spvae.model, spvae.guide, rows) / repeats))
    for parameter, value in wanted.items():
        each = torch.stack([one[parameter] for one in found])
        error = each.std(0) / math.sqrt(batches) + 1e-9
        assert bool(((each.mean(0) - value).abs() < 6 * error).all()), parameter
    assert all(float(wanted[f"leaf.prior.{part}"].abs().max()) > 1e-3 for part in ("bias", "weight"))


def divergence_given_draws(spvae, x, z):
    """
    Of a machine of two bits: log Z less the entropies of the groups and the expected energy, each given the group in
    front as it was drawn; the same for all values where both bits are one group.
    """
    prior, p = spvae.leaf.prior, log_prior(spvae, z)
    log_z = -p[0]  # whose energy is 0
    first, second = prior.bias.unbind(-1)
    coupling = prior.weight[:, 0, 0]
    h = spvae.view(x) - spvae.leaf_guide.mean.mean
    bits = spvae.leaf_guide.z
    if bits.groups == 1:
        one, other = bits.network(h)[0].expand(4, -1, -1, -1).unbind(-1)
        front = one.sigmoid()
    else:
        one = bits.network(h)[0][..., 0].expand(4, -1, -1)
        other = bits.further[0](h, 2 * z[..., :1] - 1)[0][..., 0]
        front = z[..., 0]
    entropies = (torch.distributions.Bernoulli(logits=logits).entropy() for logits in (one, other))
    energy = -first * one.sigmoid() - second * other.sigmoid() - coupling * front * other.sigmoid()
    return log_z - sum(entropies) + energy


def test_states_its_options():
    leaf = DiscreteVAE(Bernoulli())
    assert leaf.latents["z"].event_shape == (16,) and isinstance(leaf.prior, IndependentBits)
    assert leaf.pixels.decoder.hidden_dims == (32, 32) and leaf.pixels.decoder.activation == "tanh"
    assert leaf.smoothing.beta == 8 and leaf.pixels.from_mean
    leaf = DiscreteVAE(Bernoulli(), 4, BitChain(2), hidden_dims=(), activation="relu", normalise=True)
    decoder = leaf.pixels.decoder
    assert (decoder.hidden_dims, decoder.activation, decoder.normalise) == ((), "relu", True)
    assert leaf.latents["z"].groups == 2
    own = MLP((3,))
    assert DiscreteVAE(Bernoulli(), decoder=own).pixels.decoder is own


class TestGuide:
    def made(self, prior=None, size=4, **options):
        guide = DiscreteGuide(**options)
        SPVAE(poon_domingos((2, 2), 1), leaf=DiscreteVAE(Bernoulli(), size, prior), guide=guide)
        return guide

    def test_has_the_groups_of_the_prior_unless_it_is_told(self):
        assert self.made().z.groups == 1 and self.made(BitChain(2)).z.groups == 2
        assert self.made(BitChain(2), groups=1).z.groups == 1 and self.made(groups=4).z.groups == 4

    def test_networks_are_as_it_is_told(self):
        guide = self.made(BitChain(2), hidden_dims=(5,), activation="relu", normalise=True)
        network, (further,) = guide.z.network, guide.z.further
        for each in (network, further):
            assert (each.hidden_dims, each.activation, each.normalise) == ((5,), "relu", True)
        assert network.networks == "shared"
        usual = self.made()
        assert (usual.z.network.hidden_dims, usual.z.network.activation) == ((32, 32), "tanh")

    def test_an_encoder_of_ones_own_is_that_of_the_first_group(self):
        own = MLP((3,))
        guide = self.made(BitChain(2), encoder=own, hidden_dims=(5,))
        assert guide.z.network is own and guide.z.further[0].hidden_dims == (5,)
        assert guide.options()["encoder"] is own

    def test_every_tensor_is_saved_once(self):
        state = self.made(BitChain(2), encoder=MLP((3,))).state_dict(keep_vars=True)
        assert state and len({id(value) for value in state.values()}) == len(state)

    def test_serves_other_leaves_of_bits(self):
        """What declares bits that nothing smooths."""
        guide = DiscreteGuide(2).bind(leaves=1, pixels=3, latents={"z": DiscreteVAE(Bernoulli(), 4).latents["z"]})
        assert guide.latent.smoothing.beta == 8


REFUSED = [
    (lambda: DiscreteVAE(Bernoulli(), 0), "latent_dim is 0; a positive integer is needed"),
    (lambda: DiscreteVAE(Bernoulli(), 3, BitChain(2)), "groups is 2, which does not divide the 3 bits"),
    (lambda: DiscreteVAE(Bernoulli(), 3, "bits"), "prior is a str; an instance of Prior is needed"),
    (lambda: DiscreteVAE(Bernoulli(), smoothing=8.0), "smoothing is a float; an instance of Smoothing is needed"),
    (lambda: DiscreteVAE(Bernoulli(), activation="gated", normalise=True), "normalise is True, but gated layers are"),
    (
        lambda: DiscreteVAE(Bernoulli(), decoder=MLP(), normalise=True),
        "decoder is given, so leave out the options of the default network (normalise)",
    ),
    (lambda: DiscreteVAE(Bernoulli(), from_mean=2), "from_mean is 2; True or False is needed"),
    (lambda: DiscreteGuide(0), "groups is 0; a positive integer is needed"),
    (lambda: DiscreteGuide(centre=None), "centre is None; True or False is needed"),
    (lambda: DiscreteGuide(hidden_dims=3), "hidden_dims is 3; a sequence of positive integers is needed"),
    (
        lambda: SPVAE(poon_domingos((2, 2), 1), leaf=DiscreteVAE(Bernoulli()), guide=DiscreteGuide(3)),
        "groups is 3, which does not divide the 16 bits; groups are of equal size",
    ),
    (
        lambda: SPVAE(
            poon_domingos((2, 2), 1), leaf=DiscreteVAE(Bernoulli()), guide=DiscreteGuide(encoder=MLP(), normalise=True)
        ),
        "encoder is given and there is one group of bits, so leave out the options of other networks (normalise)",
    ),
    (
        lambda: SPVAE(poon_domingos((2, 2), 1), leaf=DiscreteVAE(Bernoulli(), 4, StandardNormal())),
        "the leaf DiscreteVAE draws the site 'z' from the real numbers, but the leaf DiscreteVAE declares the integers",
    ),
    (
        lambda: SPVAE(poon_domingos((2, 2), 1), leaf=DiscreteVAE(Bernoulli()), guide=NormalGuide()),
        "the guide NormalGuide draws the site 'z' from the real numbers, but the leaf DiscreteVAE declares the integer",
    ),
    (
        lambda: SPVAE(poon_domingos((2, 2), 1), leaf=VAE(Bernoulli()), guide=DiscreteGuide()),
        "the guide DiscreteGuide draws the site 'z' from the integers from 0 to 1, but the leaf VAE declares the real",
    ),
]


@pytest.mark.parametrize(("act", "message"), REFUSED)
def test_refused(act, message):
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape(message)}"):
        act()

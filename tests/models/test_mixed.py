# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""VAE leaves and tractable leaves side by side in a region."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro import poutine

from pyro_spvae import CircuitELBO, poon_domingos, whole
from pyro_spvae.guides import LeafGuide, MixedGuide, NormalGuide
from pyro_spvae.likelihoods import Bernoulli, Binomial, DiscretizedLogistic, Normal
from pyro_spvae.models import SPVAE, VAE, FactorizedLeaf, MixedLeaf
from pyro_spvae.priors import VampPrior
from pyro_spvae.training.evaluation import mean_variances
from tests.models.own_leaves import Kinds, KindsGuide, Linear


def mixed(units=2, counts=None):
    leaf = MixedLeaf([VAE(Bernoulli(), latent_dim=2, hidden_dims=(4,)), FactorizedLeaf(Bernoulli())], counts)
    guide = MixedGuide([NormalGuide(hidden_dims=(4,)), LeafGuide()], counts)
    spvae = SPVAE(poon_domingos((2, 2), delta=1), units=units, leaf=leaf, guide=guide)
    with torch.no_grad():  # a guide wider than the prior, so that importance weights are bounded
        spvae.leaf_guide.subsets[0].program.z.network.stacks[1].biases[-1].add_(1.0)
    return spvae


@pytest.fixture
def x():
    return (torch.rand(5, 1, 2, 2) < 0.5).double()


@pytest.mark.parametrize("counts", [None, (1, 3)])
def test_the_guide_that_is_taken_by_default_is_one_for_each_part(x, counts):
    """One normal guide for all leaves would have a density of its own where nothing is latent."""
    torch.manual_seed(1)
    leaf = MixedLeaf([VAE(Bernoulli(), latent_dim=2, hidden_dims=(4,)), FactorizedLeaf(Bernoulli())], counts)
    spvae = SPVAE(poon_domingos((2, 2), delta=1), units=4, leaf=leaf)
    assert [type(subset.program) for subset in spvae.leaf_guide.subsets] == [NormalGuide, LeafGuide]
    given = mixed(4, counts)
    given.load_state_dict(given.state_dict() | {k: v for k, v in spvae.state_dict().items() if "guide" not in k})
    with torch.random.fork_rng():
        found, wanted = (one.log_likelihood(x, num_samples=4000).mean() for one in (spvae, given))
    torch.testing.assert_close(found, wanted, atol=0.02, rtol=0)


def test_leaf_weights_are_those_of_each_kind(x):
    """A tractable leaf's weight is its density, a VAE's p(x, z) / q(z)."""
    spvae = mixed()
    guide = poutine.trace(spvae.guide).get_trace(x)
    terms = CircuitELBO(num_particles=1).terms(
        poutine.replay(spvae.model, guide), poutine.replay(spvae.guide, guide), (x,), {}
    )
    patches = spvae.view(x)  # [B, L, 1]
    vae, factorized = (subset.program for subset in spvae.leaf.subsets)
    z = guide.nodes["z"]["value"]  # [B, L, 2]
    assert (z[:, 1::2] == 0).all() and (z[:, ::2] != 0).all()
    (logits,) = vae.pixels.decoder(z[:, ::2])
    q = spvae.leaf_guide.subsets[0].program.encode(patches[:, ::2])
    normal = torch.distributions.Normal
    expected_vae = (
        torch.distributions.Bernoulli(logits=logits).log_prob(patches[:, ::2]).sum(-1)
        + normal(0.0, 1.0).log_prob(z[:, ::2]).sum(-1)
        - normal(q.loc, q.scale).log_prob(z[:, ::2]).sum(-1)
    )
    expected = torch.distributions.Bernoulli(logits=factorized.pixels.outputs[0]).log_prob(patches[:, 1::2]).sum(-1)
    torch.testing.assert_close(terms.log_weight[0][:, ::2], expected_vae)
    torch.testing.assert_close(terms.log_weight[0][:, 1::2], expected)


def test_samples_have_the_densitys_frequencies():
    spvae = mixed()
    images = torch.cartesian_prod(*4 * [torch.tensor([0.0, 1.0])])
    frequencies = (spvae.sample(20_000).flatten(1)[:, None] == images).all(-1).double().mean(0)
    expected = spvae.log_likelihood(images.reshape(-1, 1, 2, 2), num_samples=4000).exp()
    torch.testing.assert_close(frequencies, expected, atol=0.015, rtol=0)


def test_dreg_reaches_every_parameter(x):
    spvae = mixed()
    CircuitELBO(num_particles=3, gradient="dreg")(spvae.model, spvae.guide)(x).backward()
    for name, parameter in spvae.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_dreg_of_an_exact_guide_has_no_noise(x):
    """Where q is the exact posterior of the VAEs, no draw has a gradient: q is scored with constant parameters."""
    spvae = mixed()
    q = spvae.leaf_guide.subsets[0].program.z
    with torch.no_grad():  # x does not depend on z, and q is the prior
        for parameter in (*spvae.leaf.subsets[0].program.pixels.decoder.parameters(), *q.network.parameters()):
            parameter.zero_()
        q.network.stacks[1].biases[-1].fill_(math.log(math.expm1(1 - q.min_scale)))
    found = {}
    for gradient in ("iwae", "dreg"):
        spvae.zero_grad()
        CircuitELBO(num_particles=3, gradient=gradient)(spvae.model, spvae.guide)(x).backward()
        found[gradient] = max(float(parameter.grad.abs().max()) for parameter in q.parameters())
    assert found["dreg"] < 1e-12 and found["iwae"] > 1e-3


def test_leaves_of_a_region_follow_the_counts():
    spvae = mixed(units=3, counts=(1, 2))
    assert [subset.index.tolist() for subset in spvae.leaf.subsets] == [[0, 3, 6, 9], [1, 2, 4, 5, 7, 8, 10, 11]]
    assert spvae.leaf.subsets[1].program.pixels.outputs[0].shape == (8, 1)


class Shifted(Normal):
    """Features of which 0 is that of no value in [0, 1]."""

    def features(self, x):
        return x + 2


LEVELS = 4
LIKELIHOODS = {
    "binomial": (lambda: Binomial(LEVELS - 1), lambda x: x / (LEVELS - 1)),
    "normal": (Normal, lambda x: x),
    "logistic": (lambda: DiscretizedLogistic(LEVELS), lambda x: (x + 0.5) / LEVELS),
    "own": (Shifted, lambda x: x + 2),
}


class TestPartsOfManyLikelihoods:
    """Of the same grey levels each part's guide sees its own features, and 0 where nothing is seen."""

    def make(self, regions, counts=(1, 2, 1, 1), **prior):
        leaves, guides = [], []
        for make, _ in LIKELIHOODS.values():
            own = {name: value() for name, value in prior.items()}
            leaves.append(VAE(make(), latent_dim=2, hidden_dims=(4,), **own))
            guides.append(NormalGuide(hidden_dims=(4,)))
        leaf, guide = MixedLeaf(leaves, counts), MixedGuide(guides, counts)
        return SPVAE(regions, units=5, leaf=leaf, guide=guide)

    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("shape", [(2, 2), (3, 2)], ids=["even", "ragged"])
    def test_features_and_encodings_are_each_parts_own(self, shape, masked):
        spvae = self.make(poon_domingos(shape, delta=2 if shape[0] == 3 else 1))
        x = torch.randint(LEVELS, (6, 1, *shape)).double()
        observed = torch.rand(x.shape) < 0.6 if masked else None
        batch = spvae.prepare(x, observed)
        counted = torch.ones_like(batch.patches) if batch.mask is None else batch.mask.expand(batch.patches.shape)
        encoding = spvae.leaf_guide.encode(batch.features)
        for subset, guide, own, (_, features) in zip(
            spvae.leaf.subsets, spvae.leaf_guide.subsets, encoding, LIKELIHOODS.values(), strict=True
        ):
            wanted = torch.where(subset.narrow(counted) > 0, features(subset.narrow(spvae.view(x))), 0.0)
            torch.testing.assert_close(subset.narrow(batch.features), wanted)
            torch.testing.assert_close(own.loc, guide.program.encode(wanted).loc)
            assert (wanted != 0).any() and (not masked or (wanted == 0).any())

    def test_values_that_are_not_seen_are_not_checked(self):
        spvae = self.make(poon_domingos((2, 2), delta=1))
        x = torch.randint(LEVELS, (4, 1, 2, 2)).double()
        observed = torch.rand(x.shape) < 0.6
        found = []
        for filler in (0.0, 0.5, -7.0, 1e30, math.nan):
            pyro.set_rng_seed(1)
            found.append(spvae.log_likelihood(torch.where(observed, x, filler), observed, num_samples=5))
        assert all(torch.equal(one, found[0]) for one in found)
        with pytest.raises(ValueError, match="^x holds the value 0.5 in row 0 .*; the likelihood Binomial accepts"):
            spvae.log_likelihood(torch.where(observed, 0.5, x), observed, num_samples=5)

    @pytest.mark.parametrize("given", [False, True])
    def test_pseudo_inputs_start_as_features_of_their_part(self, given):
        x = torch.randint(LEVELS, (3, 1, 2, 2)).double()
        options = {"data": x} if given else {"components": 3, "init": "data", "frozen": True}
        spvae = self.make(poon_domingos((2, 2), delta=1), prior=lambda: VampPrior(**options))
        spvae.start(x)
        for subset, (_, features) in zip(spvae.leaf.subsets, LIKELIHOODS.values(), strict=True):
            wanted = features(subset.narrow(spvae.view(x)))
            rows = [torch.tensor(sorted(one.flatten(1).tolist())) for one in (subset.program.prior.inputs, wanted)]
            torch.testing.assert_close(*rows)


REFUSED = [
    (lambda: mixed(counts=(1,)), r"counts is \(1,\); a positive integer for each of the 2 parts"),
    (lambda: mixed(counts=(1, 0)), r"counts is \(1, 0\)"),
    (lambda: mixed(counts=(2, 1)), r"counts is \(2, 1\); their sum must divide"),
    (lambda: mixed(counts=2), r"counts is 2; a positive integer for each of the 2 parts"),
    (lambda: MixedLeaf(5), "parts is 5; a list of instances of LeafModel is needed"),
    (lambda: MixedGuide(5), "parts is 5; a list of instances of LeafGuide is needed"),
    (lambda: MixedLeaf(list("ab")), "an entry of parts is a str; an instance of LeafModel is needed"),
    (
        lambda: MixedLeaf([Linear({"a_1": (2,)}), VAE(Normal(), 2)]),
        "the first part has the latent site 'a_1', whose end is another's",
    ),
    (
        lambda: SPVAE(
            whole((2, 2)), 2, leaf=MixedLeaf([VAE(Bernoulli(), 2), FactorizedLeaf(Bernoulli())]), guide=NormalGuide()
        ),
        "guide is one NormalGuide for the leaves of all 2 parts; give a MixedGuide with one for each, LeafGuide()",
    ),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_refused(make, message):
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        make()


class TestPartsOfManyKinds:
    """Vectors of different sizes, a categorical variable that the guide sums over, and nothing latent."""

    @pytest.fixture
    def spvae(self):
        leaves = [VAE(Bernoulli(), 2, (3,)), VAE(Bernoulli(), 5, (3,)), Kinds(3), FactorizedLeaf(Bernoulli())]
        guides = [NormalGuide((3,)), NormalGuide((3,)), KindsGuide("parallel"), LeafGuide()]
        counts = (1, 1, 2, 1)
        leaf, guide = MixedLeaf(leaves, counts), MixedGuide(guides, counts)
        return SPVAE(poon_domingos((1, 2), delta=1), units=5, leaf=leaf, guide=guide)

    @pytest.fixture
    def x(self):
        return torch.cartesian_prod(*2 * [torch.tensor([0.0, 1.0])]).reshape(4, 1, 1, 2)

    @pytest.mark.parametrize("vectorize", [True, False])
    @pytest.mark.parametrize("num", [1, 3])
    def test_what_is_summed_over_is_exact(self, spvae, x, num, vectorize):
        terms = CircuitELBO(num, vectorize_particles=vectorize).terms(spvae.model, spvae.guide, (x,), {})
        assert terms.log_weight.shape == (num, 4, 10)
        for place in (2, 3):
            subset = spvae.leaf.subsets[place]
            own = subset.narrow(spvae.view(x))
            evidence = subset.program.evidence(own) if place == 2 else subset.program.pixels().log_prob(own)
            torch.testing.assert_close(
                subset.narrow(terms.log_weight.unsqueeze(-1))[..., 0], evidence.expand(num, 4, -1)
            )

    def test_densities_sum_to_one(self, spvae, x):
        with torch.no_grad():  # guides wider than the prior, so that importance weights are bounded
            for subset in spvae.leaf_guide.subsets[:2]:
                subset.program.z.network.stacks[1].biases[-1].add_(1.0)
        found = spvae.log_likelihood(x.repeat(20, 1, 1, 1), num_samples=500).reshape(20, 4).exp().sum(-1)
        assert abs(found.mean() - 1) < 5 * found.std() / 20**0.5 < 0.02

    def test_queries(self, spvae, x):
        latents = spvae.embed(x, num_particles=3).latents
        shapes = {site: value.shape[1:] for site, value in latents.items()}
        assert shapes == {"z": (10, 2), "z_1": (10, 5), "c_2": (10, 3)}
        index = spvae.leaf.subsets[2].index
        own = latents["c_2"][:, index]
        torch.testing.assert_close(own.sum(-1), torch.ones(4, 4))
        assert (own > 0).all() and latents["c_2"].sum() == own.sum()
        seen = torch.tensor([[True, False]])
        filled = spvae.impute(x, seen, num_samples=2, num_particles=3)
        assert torch.equal(filled[..., 0], x[..., 0].expand(2, -1, -1, -1))
        assert set(filled.unique().tolist()) == {0.0, 1.0}
        assert {site: value.shape for site, value in mean_variances(spvae, x).items()} == shapes

    def test_gradients_reach_every_parameter(self, spvae, x):
        CircuitELBO(3)(spvae.model, spvae.guide)(x).backward()
        silent = {name for name, parameter in spvae.named_parameters() if parameter.grad.abs().max() < 1e-12}
        # the bound does not depend on the weights of a sum that is exact
        assert silent == {"leaf_guide.subsets.2.program.weight"}

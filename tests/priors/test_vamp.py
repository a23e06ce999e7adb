# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""VampPriors inside models: log-likelihoods, mixed leaves, storage, the swap."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro.infer import SVI
from torch import nn
from torch.distributions import MultivariateNormal

from pyro_spvae import CircuitELBO, poon_domingos, whole
from pyro_spvae.distributions import LeafNormalMixture
from pyro_spvae.guides import LeafGuide, MixedGuide, NormalGuide
from pyro_spvae.likelihoods import Bernoulli, Normal
from pyro_spvae.models import SPVAE, VAE, FactorizedLeaf, MixedLeaf
from pyro_spvae.priors import MixtureOfGaussians, VampPrior
from tests.helpers import small_spvae
from tests.priors.cases import GRID, vamp


class TestLogLikelihood:
    """A decoder that is linear: p(x) is a mixture of normals, known exactly."""

    def exact(self, regions, components=3):
        spvae = vamp(components, regions=regions, units=2, hidden_dims=(), likelihood=Normal(min_scale=0.1))
        loc, raw = spvae.leaf.pixels.decoder.stacks
        encoder, spread = spvae.leaf_guide.z.network.stacks
        with torch.no_grad():
            raw.weights[0].zero_()
            encoder.weights[0].mul_(0.5)
            spread.weights[0].zero_()
            spread.biases[0].fill_(0.6)  # a guide as wide as the prior: importance weights are bounded
            loc.weights[0].mul_(2)
        sigma = 0.1 + nn.functional.softplus(raw.biases[0].squeeze(1))  # [L, P]
        mixture = spvae.leaf.prior()

        def log_prob(x):
            patches = spvae.view(x)
            leaf = torch.empty(len(x), spvae.num_leaves)
            for place in range(spvae.num_leaves):
                weight = loc.weights[0][place]
                terms = []
                for k in range(components):
                    mean = mixture.loc[k, place] @ weight + loc.biases[0][place, 0]
                    spread = weight.T @ mixture.scale[k, place].square().diag() @ weight
                    normal = MultivariateNormal(mean, spread + sigma[place].square().diag())
                    terms.append(normal.log_prob(patches[:, place]))
                leaf[:, place] = torch.stack(terms).logsumexp(0) - math.log(components)
            return spvae.circuit(leaf).detach()

        return spvae, log_prob

    @pytest.mark.parametrize(
        ("regions", "chunk_size"),
        [(whole((2, 2)), 1700), (whole((2, 2)), 10**6), (poon_domingos((2, 4), delta=2), 4096)],
    )
    def test_is_exact_in_the_limit_whatever_the_chunks(self, regions, chunk_size):
        spvae, log_prob = self.exact(regions)
        x = torch.rand(6, *spvae.event_shape)
        found = spvae.log_likelihood(x, num_samples=20_000, chunk_size=chunk_size)
        torch.testing.assert_close(found, log_prob(x), atol=0.03, rtol=0)
        few = spvae.log_likelihood(x.repeat(100, 1, 1, 1), num_samples=1, chunk_size=chunk_size).reshape(100, 6)
        assert (few.mean(0) < log_prob(x)).all(), "a lower bound in expectation"

    def test_the_prior_is_what_is_sampled(self):
        spvae, log_prob = self.exact(whole((1, 2)))
        drawn = spvae.sample(30_000).reshape(-1, 2)
        line = torch.linspace(-12, 12, 161)
        grid = torch.cartesian_prod(line, line)
        mass = log_prob(grid.reshape(-1, 1, 1, 2)).exp() * (line[1] - line[0]) ** 2
        assert mass.sum().item() == pytest.approx(1, abs=1e-4)
        for statistic in (lambda x: x[:, 0], lambda x: x[:, 1], lambda x: x[:, 0] * x[:, 1], lambda x: x[:, 0].sin()):
            error = statistic(drawn).std() / len(drawn) ** 0.5
            assert abs(statistic(drawn).mean() - (mass * statistic(grid)).sum()) < 4.5 * error


class TestMixed:
    def make(self):
        priors = VampPrior(3), VampPrior(data=torch.rand(4, 1, 3, 2)), VampPrior(2, init="data")
        leaf = MixedLeaf([*(VAE(Normal(), 2, (3,), prior) for prior in priors), FactorizedLeaf(Normal())])
        guide = MixedGuide([*(NormalGuide((3,)) for _ in priors), LeafGuide()])
        return SPVAE(poon_domingos((3, 2), delta=2), units=4, leaf=leaf, guide=guide)

    def test_each_part_sees_its_own_encoder_leaves_and_padding(self):
        spvae = self.make()
        assert spvae.wanted_rows == 2
        x = torch.rand(7, 1, 3, 2)
        spvae.start(x)
        assert spvae.wanted_rows == 0
        for place in range(3):
            part, guide = (one.subsets[place].program for one in (spvae.leaf, spvae.leaf_guide))
            q = guide.posterior(part.prior.inputs)
            assert torch.equal(part.prior().loc, q.loc)
            index = spvae.leaf.subsets[place].index
            mask = spvae.view.mask[index]
            assert index.tolist() == [place, 4 + place]
            assert torch.equal(part.prior.mask, mask)
            assert (part.prior.inputs[:, ~mask] == 0).all()
        started = spvae.leaf.subsets[2].program.prior
        own = spvae.view.patches(x)[:, spvae.leaf.subsets[2].index]
        distance = (started.inputs.unsqueeze(1) - own).abs().amax((-1, -2)).min(-1).values
        assert (distance < 0.06).all(), "the rows' patches of these leaves"
        frozen = spvae.leaf.subsets[1].program.prior
        assert frozen.inputs.shape == (4, 2, 4) and (frozen.inputs[:, frozen.mask] > 0).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: VampPrior(3, weights="learned", range=(-1, 2), mean=0.4, std=0.05),
        lambda: VampPrior(data=torch.rand(4, 1, 2, 2)),
        lambda: VampPrior(3, data=torch.rand(4, 1, 2, 2), frozen=False),
        lambda: VampPrior(3, init="data"),
        lambda: MixtureOfGaussians(3, 0.4, 0.1),
    ],
)
def test_load_gives_the_same_and_needs_no_data(make, tmp_path):
    spvae = small_spvae(prior=make(), likelihood=Bernoulli())
    x = (torch.rand(5, 1, 2, 2) < 0.5).double()
    spvae.start(x)
    spvae.save(tmp_path)
    loaded = SPVAE.load(tmp_path)
    assert loaded.wanted_rows == 0
    assert loaded.leaf.prior.options() == spvae.leaf.prior.options()
    assert list(dict(loaded.named_parameters())) == list(dict(spvae.named_parameters()))
    values = []
    for one in (spvae, loaded):
        pyro.set_rng_seed(1)
        values.append((one.log_likelihood(x, num_samples=5), one.sample(3), one.embed(x).latents["z"]))
    assert all(torch.equal(*pair) for pair in zip(*values, strict=True))


def test_a_user_swaps_the_prior_by_passing_another_object():
    """One VAE and leaves of a circuit; every prior trains, samples and imputes."""
    x = (torch.rand(100, 1, 1, 1) < 0.5).double().expand(100, 1, 2, 2)
    seen = torch.tensor([True, True, False, False]).reshape(1, 2, 2)
    for regions, units in ((whole((2, 2)), 1), (GRID, 2)):
        for prior in (None, MixtureOfGaussians(3), VampPrior(data=x[:3]), VampPrior(3, weights="learned")):
            pyro.clear_param_store()
            spvae = SPVAE(regions, units=units, likelihood=Bernoulli(), latent_dim=2, hidden_dims=(4,), prior=prior)
            svi = SVI(spvae.model, spvae.guide, pyro.optim.Adam({"lr": 0.1}), CircuitELBO(2))
            losses = [svi.step(x) for _ in range(20)]
            assert sum(losses[-4:]) < sum(losses[:4])
            assert spvae.sample(3).shape == (3, 1, 2, 2)
            filled = spvae.impute(x[:5], seen, num_particles=20)[0]
            assert torch.equal(filled[..., 0, :], x[:5, ..., 0, :]) and set(filled.unique().tolist()) <= {0.0, 1.0}
            assert spvae.embed(x[:5], seen).latents["z"].isfinite().all(), (
                "leaves that see nothing have the prior's mean"
            )
            if prior is not None:
                assert isinstance(spvae.leaf.prior(), LeafNormalMixture)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""VampPriors inside models: pseudo-inputs, encoder, how often it runs, storage, what is refused."""

from __future__ import annotations

import copy
import math
import weakref

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI
from torch import nn
from torch.distributions import MultivariateNormal

from pyro_spvae import CircuitELBO, poon_domingos, whole
from pyro_spvae.distributions import LeafNormal, LeafNormalMixture
from pyro_spvae.guides import HierarchicalGuide, LeafGuide, MixedGuide, NoLatents, NormalGuide
from pyro_spvae.likelihoods import Bernoulli, Binomial, Normal
from pyro_spvae.models import HVAE, SPVAE, VAE, FactorizedLeaf, MixedLeaf
from pyro_spvae.nn import MLP
from pyro_spvae.priors import MixtureOfGaussians, VampPrior
from tests.helpers import collected_gradients, gradients, small_spvae
from tests.models import own_parts

GRID = poon_domingos((2, 2), delta=1)


def vamp(components=3, regions=GRID, units=2, **options):
    """A small model whose pseudo-inputs are where the hardtanh has a derivative."""
    names = ("likelihood", "latent_dim", "hidden_dims", "channels")
    model = {name: options.pop(name) for name in names if name in options}
    spvae = small_spvae(regions, units, prior=VampPrior(components, **options), **model)
    if isinstance(spvae.leaf.prior.pseudo_inputs, nn.Parameter):
        with torch.no_grad():
            spvae.leaf.prior.pseudo_inputs.uniform_(0.1, 0.9)
    return spvae


def data(spvae, rows=5):
    return torch.rand(rows, *spvae.event_shape)


def count(network):
    """A list that grows with every call of a network, by the number of its rows."""
    calls: list[int] = []
    network.register_forward_hook(lambda module, args, result: calls.append(len(args[0])))
    return calls


class TestPseudoInputs:
    def test_start_as_normals_of_the_papers_mean_and_deviation(self):
        prior = VampPrior().bind(leaves=2, latent_dim=1, pixels=50)
        assert prior.components == 500 and prior.pseudo_inputs.shape == (2, 500, 50)
        assert prior.pseudo_inputs.mean().item() == pytest.approx(0.05, abs=3e-4)
        assert prior.pseudo_inputs.std().item() == pytest.approx(0.01, rel=0.02)
        other = VampPrior(400, mean=0.5, std=0.02).bind(leaves=1, latent_dim=1, pixels=50)
        assert other.pseudo_inputs.mean().item() == pytest.approx(0.5, abs=1e-3)
        assert other.pseudo_inputs.std().item() == pytest.approx(0.02, rel=0.03)
        assert (VampPrior(2, mean=0.3, std=0).bind(leaves=1, latent_dim=1, pixels=3).pseudo_inputs == 0.3).all()

    @pytest.mark.parametrize("limits", [(0.0, 1.0), (-0.5, 0.25), [0.2, 0.9]])
    def test_are_held_in_their_range(self, limits):
        spvae = vamp(range=limits)
        prior = spvae.leaf.prior
        with torch.no_grad():
            prior.pseudo_inputs.normal_()
        expected = prior.pseudo_inputs.clamp(*limits).movedim(0, 1)
        assert prior.inputs.shape == (3, spvae.num_leaves, spvae.view.pixels)
        assert torch.equal(prior.inputs, expected)
        assert prior.inputs.min() == limits[0] and prior.inputs.max() == limits[1]
        q = spvae.leaf_guide.posterior(expected)
        assert torch.equal(prior().loc, q.loc) and torch.equal(prior().scale, q.scale)
        (grad,) = torch.autograd.grad(prior.inputs.sum(), prior.pseudo_inputs)
        inside = (prior.pseudo_inputs > limits[0]) & (prior.pseudo_inputs < limits[1])
        assert torch.equal(grad, inside.double()) and not inside.all() and inside.any()

    def test_go_through_the_encoder_as_they_are(self):
        """The encoder sees features; pseudo-inputs are features already and are not turned into them again."""
        spvae = vamp(likelihood=Binomial(255))
        prior = spvae.leaf.prior
        q = spvae.leaf_guide.posterior(prior.pseudo_inputs.movedim(0, 1))
        assert torch.equal(prior().loc, q.loc)

    def test_padding_of_ragged_regions_does_not_matter(self):
        spvae = vamp(regions=poon_domingos((3, 2), delta=2), units=2)
        prior, mask = spvae.leaf.prior, spvae.view.mask
        assert mask is not None and not mask.all()
        z = torch.randn(4, spvae.num_leaves, 2)
        expected = prior().log_prob(z)
        (grad,) = torch.autograd.grad(expected.sum(), prior.pseudo_inputs)
        outside = ~mask.unsqueeze(1).expand_as(grad)
        assert (grad[outside] == 0).all() and (grad[~outside] != 0).all()
        assert (prior.inputs.movedim(0, 1)[outside] == 0).all()
        with torch.no_grad():
            prior.pseudo_inputs[outside] = 0.77
        assert torch.equal(prior().log_prob(z), expected)
        # a range without 0 would fill the padding with something that data have not
        q = vamp(regions=poon_domingos((3, 2), delta=2), range=(0.5, 1.0)).leaf.prior
        assert (q.inputs.movedim(0, 1)[outside] == 0).all()


class TestData:
    @pytest.mark.parametrize("likelihood", [Normal, lambda: Binomial(255)])
    def test_pseudo_inputs_are_features_of_patches_of_the_data(self, likelihood):
        regions = poon_domingos((4, 4), delta=2)
        x = torch.randint(256, (6, 1, 4, 4)).double()
        spvae = small_spvae(regions, prior=VampPrior(data=x), likelihood=likelihood())
        prior = spvae.leaf.prior
        assert prior.components == 6 and prior.frozen and prior.wanted_rows == 0
        features = spvae.leaf.features(spvae.view(x))  # [6, L, P]
        order = [int((features == one).all(-1).all(-1).nonzero()) for one in prior.inputs]
        assert sorted(order) == list(range(6)), "whole data, each of them once"
        assert order != sorted(order), "in random order"

    def test_some_of_the_data_are_drawn_at_random_without_repetition(self):
        x = torch.arange(10.0).reshape(10, 1, 1, 1).expand(10, 1, 2, 2).double() / 10
        chosen = set()
        for _ in range(30):
            values = small_spvae(prior=VampPrior(3, data=x)).leaf.prior.inputs[:, 0, 0].tolist()
            assert len(set(values)) == 3
            chosen |= set(values)
        assert len(chosen) == 10

    def test_frozen_ones_are_not_clipped_and_not_trained(self):
        x = 3 * torch.randn(4, 1, 2, 2)
        spvae = small_spvae(prior=VampPrior(data=x))
        prior = spvae.leaf.prior
        assert "leaf.prior.pseudo_inputs" in spvae.state_dict()
        assert "leaf.prior.pseudo_inputs" not in dict(spvae.named_parameters())
        assert prior.inputs.abs().max() > 1
        before = prior.pseudo_inputs.clone()
        mixture = prior().loc.detach().clone()
        svi = SVI(spvae.model, spvae.guide, pyro.optim.Adam({"lr": 0.05}), CircuitELBO(2))
        for _ in range(5):
            svi.step(x)
        assert torch.equal(prior.pseudo_inputs, before)
        assert not torch.equal(prior().loc, mixture), "the encoder is trained"

    def test_learned_ones_start_with_noise_and_are_trained(self):
        x = torch.full((400, 1, 2, 2), 0.5, dtype=torch.float64)
        spvae = SPVAE(GRID, prior=VampPrior(data=x, frozen=False, std=0.03))
        noise = spvae.leaf.prior.pseudo_inputs - 0.5
        assert noise.std().item() == pytest.approx(0.03, rel=0.05) and abs(noise.mean().item()) < 0.003
        before = spvae.leaf.prior.pseudo_inputs.clone()
        SVI(spvae.model, spvae.guide, pyro.optim.Adam({"lr": 0.05}), CircuitELBO(2)).step(x[:5])
        assert (spvae.leaf.prior.pseudo_inputs != before).all()
        frozen = small_spvae(prior=VampPrior(data=x)).leaf.prior
        assert torch.equal(frozen.inputs, torch.full_like(frozen.inputs, 0.5)), "frozen ones have no noise"

    def test_integers_and_other_types_become_the_models(self):
        x = torch.randint(256, (3, 1, 2, 2), dtype=torch.uint8)
        spvae = SPVAE(GRID, prior=VampPrior(data=x), likelihood=Binomial(255))
        found = spvae.leaf.prior.inputs.sum((1, 2)).sort().values
        expected = (spvae.view(x.double()) / 255).sum((1, 2)).sort().values
        torch.testing.assert_close(found, expected)

    def test_padding_is_zero(self):
        spvae = SPVAE(poon_domingos((3, 2), delta=2), prior=VampPrior(data=1 + torch.rand(4, 1, 3, 2)))
        inputs = spvae.leaf.prior.inputs
        assert (inputs[:, ~spvae.view.mask] == 0).all() and (inputs[:, spvae.view.mask] >= 1).all()

    def test_the_data_are_not_kept(self):
        prior = VampPrior(data=torch.rand(4, 1, 2, 2))
        small_spvae(prior=prior)
        assert prior.data is None and prior._given is None


class TestInitialise:
    def make(self, components=4, **options):
        return SPVAE(GRID, likelihood=Normal(), prior=VampPrior(components, init="data", **options))

    def test_is_asked_for_before_use(self):
        spvae = self.make()
        message = (
            r"^the pseudo-inputs of this VampPrior start from data, which it has not seen; call spvae.initialise\(x\)"
        )
        for use in (
            lambda: spvae.sample(),
            lambda: spvae.log_likelihood(torch.rand(2, 1, 2, 2), num_samples=2),
            lambda: CircuitELBO()(spvae.model, spvae.guide)(torch.rand(2, 1, 2, 2)),
            lambda: spvae.leaf.prior.inputs,
            lambda: spvae.leaf.prior(),
        ):
            with pytest.raises(ValueError, match=message):
                use()

    @pytest.mark.parametrize("frozen", [False, True])
    def test_takes_rows_once(self, frozen):
        spvae = self.make(frozen=frozen, std=1e-9)
        assert spvae.wanted_rows == 4
        x = torch.rand(9, 1, 2, 2)
        spvae.initialise(x)
        prior = spvae.leaf.prior
        features = spvae.view(x)
        distance = (prior.inputs.unsqueeze(1) - features).abs().amax((-1, -2))  # [4, 9]
        assert (distance.min(-1).values < 1e-7).all() and len(distance.argmin(-1).unique()) == 4
        assert spvae.wanted_rows == 0 and isinstance(prior.pseudo_inputs, nn.Parameter) != frozen
        before = prior.pseudo_inputs.clone()
        spvae.initialise(torch.rand(9, 1, 2, 2))
        assert torch.equal(prior.pseudo_inputs, before), "a second call changes nothing"
        assert spvae.log_likelihood(x, num_samples=3).isfinite().all()

    def test_entries_that_are_not_seen_are_zero(self):
        spvae = self.make(frozen=True)
        x = torch.full((4, 1, 2, 2), torch.nan)
        x[..., 0, :] = 0.5
        observed = torch.zeros(1, 2, 2, dtype=torch.bool)
        observed[..., 0, :] = True
        spvae.initialise(x, observed)
        inputs = spvae.leaf.prior.inputs[..., 0]  # leaves 0 to 3 are the upper pixels
        assert (inputs[:, :4] == 0.5).all() and (inputs[:, 4:] == 0).all()

    def test_takes_features(self):
        spvae = SPVAE(GRID, likelihood=Binomial(255), prior=VampPrior(4, init="data", frozen=True))
        x = torch.randint(256, (4, 1, 2, 2)).double()
        spvae.initialise(x)
        torch.testing.assert_close(spvae.leaf.prior.inputs.sum(0), spvae.view(x).sum(0) / 255)

    def test_too_few_rows_are_refused(self):
        spvae = self.make()
        with pytest.raises(ValueError, match="^components is 4, but there are 3 data; at most as many as data are"):
            spvae.initialise(torch.rand(3, 1, 2, 2))
        assert spvae.wanted_rows == 4

    def test_models_that_start_from_nothing_want_none(self):
        for prior in (None, MixtureOfGaussians(2), VampPrior(3), VampPrior(data=torch.rand(3, 1, 2, 2))):
            spvae = SPVAE(GRID, prior=prior)
            assert spvae.wanted_rows == 0
            state = {name: value.clone() for name, value in spvae.state_dict().items()}
            spvae.initialise(torch.rand(1, 1, 2, 2))
            assert all(torch.equal(value, state[name]) for name, value in spvae.state_dict().items())

    def test_a_loaded_state_has_started(self):
        spvae, other = self.make(), self.make()
        spvae.initialise(torch.rand(9, 1, 2, 2))
        other.load_state_dict(spvae.state_dict())
        assert other.wanted_rows == 0
        assert torch.equal(other.leaf.prior().loc, spvae.leaf.prior().loc)

    def test_a_copy_starts_for_itself(self):
        spvae = self.make()
        other = copy.deepcopy(spvae)
        spvae.initialise(torch.rand(9, 1, 2, 2))
        assert spvae.wanted_rows == 0 and other.wanted_rows == 4


class TestGradients:
    @pytest.mark.parametrize("gradient", ["iwae", "dreg"])
    @pytest.mark.parametrize("weights", ["uniform", "learned"])
    def test_reach_pseudo_inputs_encoder_and_weights(self, gradient, weights):
        spvae = vamp(weights=weights)
        CircuitELBO(3, gradient=gradient)(spvae.model, spvae.guide)(data(spvae)).backward()
        for name, grad in collected_gradients(spvae).items():
            assert grad.abs().sum() > 0, name

    def test_equal_finite_differences_under_one_seed(self):
        """The pathwise gradient of a bound with fixed noise is its derivative, in a random direction of everything."""
        spvae = vamp(weights="learned")
        x = data(spvae)
        elbo = CircuitELBO(3)
        parameters = dict(spvae.named_parameters())
        pyro.set_rng_seed(1)
        grads = gradients(spvae, elbo(spvae.model, spvae.guide)(x))
        for chosen in ("leaf.prior.pseudo_inputs", "leaf.prior.logits", "leaf_guide", ""):
            direction = {n: torch.randn_like(p) * n.startswith(chosen) for n, p in parameters.items()}
            values = []
            for step in (1e-6, -2e-6):
                with torch.no_grad():
                    for name, parameter in parameters.items():
                        parameter.add_(step * direction[name])
                pyro.set_rng_seed(1)
                values.append(elbo.loss(spvae.model, spvae.guide, x))
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.add_(1e-6 * direction[name])
            slope = sum(float((grads[name] * direction[name]).sum()) for name in parameters)
            assert abs(slope) > 1e-3
            assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, rel=1e-5)

    def test_doubly_reparameterised_gradients_of_the_prior_are_the_same_and_of_the_encoder_in_the_mean(self):
        """Pseudo-inputs act on the prior alone. The encoder acts by the prior too, which dreg must leave as it is."""
        spvae = vamp(regions=whole((1, 2)), units=1, likelihood=Normal(min_scale=0.5))
        x = data(spvae, 1).expand(50, 1, 1, 2)
        draws = {"iwae": [], "dreg": []}
        for seed in range(100):
            own = {}
            for gradient, kept in draws.items():
                pyro.set_rng_seed(seed)
                found = gradients(spvae, CircuitELBO(4, gradient=gradient)(spvae.model, spvae.guide)(x) / 50)
                own[gradient] = found["leaf.prior.pseudo_inputs"]
                encoder = [grad.flatten() for name, grad in found.items() if name.startswith("leaf_guide")]
                kept.append(torch.cat(encoder))
            torch.testing.assert_close(own["dreg"], own["iwae"], rtol=1e-9, atol=1e-12)
        iwae, dreg = (torch.stack(kept) for kept in draws.values())
        error = ((iwae.var(0) + dreg.var(0)) / 100).sqrt()
        different = (iwae.mean(0) - dreg.mean(0)).abs() / error.clamp(min=1e-12)
        assert different.max() < 4.5
        # and without the way through the prior it would be another
        with pytest.MonkeyPatch.context() as patch:
            cut = VampPrior.forward

            def forward(self):
                return cut(self).detach()

            patch.setattr(VampPrior, "forward", forward)
            pyro.set_rng_seed(0)
            found = gradients(spvae, CircuitELBO(4)(spvae.model, spvae.guide)(x[:1].expand(5000, 1, 1, 2)) / 5000)
        without = torch.cat([grad.flatten() for name, grad in found.items() if name.startswith("leaf_guide")])
        assert ((without - iwae.mean(0)).abs() / error.clamp(min=1e-12)).max() > 12

    @pytest.mark.parametrize("gradient", ["iwae", "dreg"])
    def test_reach_everything_of_two_layers(self, gradient):
        leaf = HVAE(Normal(), 2, 3, (4,), prior=VampPrior(3, weights="learned"))
        spvae = SPVAE(GRID, leaf=leaf, guide=HierarchicalGuide((4,)))
        CircuitELBO(3, gradient=gradient)(spvae.model, spvae.guide)(data(spvae)).backward()
        for name, grad in collected_gradients(spvae).items():
            assert grad.abs().sum() > 0, name


class TestEncoder:
    def test_is_registered_once(self):
        spvae = vamp()
        names = [name for name, _ in spvae.named_parameters()]
        assert len({id(p) for p in spvae.parameters()}) == len(names) == len(set(names))
        assert [name for name in names if name.startswith("leaf.prior")] == ["leaf.prior.pseudo_inputs"]
        every = [name for name, _ in spvae.named_parameters(remove_duplicate=False)]
        assert every == names
        assert set(spvae.state_dict()) == set(names)

    def test_pyro_states_each_parameter_once(self):
        spvae = vamp()
        trace = poutine.trace(spvae.model, param_only=True).get_trace(data(spvae))
        owners = [site["value"].unconstrained() for site in trace.nodes.values() if site["type"] == "param"]
        assert len({id(owner) for owner in owners}) == len(owners)

    def test_a_deep_copy_ties_prior_and_guide_to_each_other(self):
        spvae = vamp()
        other = copy.deepcopy(spvae)
        x = data(spvae)
        z = torch.randn(spvae.num_leaves, 2)
        expected = spvae.leaf.prior().log_prob(z)
        pyro.set_rng_seed(1)
        values = spvae.log_likelihood(x, num_samples=5)
        assert torch.equal(other.leaf.prior().log_prob(z), expected)
        with torch.no_grad():
            for parameter in other.leaf_guide.parameters():
                parameter.add_(0.1)
        q = other.leaf_guide.posterior(other.leaf.prior.inputs)
        assert torch.equal(other.leaf.prior().loc, q.loc), "the copy's prior sees the copy's encoder"
        assert not torch.equal(other.leaf.prior().log_prob(z), expected)
        assert torch.equal(spvae.leaf.prior().log_prob(z), expected), "and not the original's"
        pyro.set_rng_seed(1)
        assert torch.equal(spvae.log_likelihood(x, num_samples=5), values)
        with torch.no_grad():
            for parameter in spvae.leaf_guide.parameters():
                parameter.zero_()
        assert torch.equal(other.leaf.prior().loc, q.loc)

    @pytest.mark.parametrize("particles", [1, 7])
    @pytest.mark.parametrize("gradient", ["iwae", "dreg"])
    def test_sees_pseudo_inputs_once_a_step(self, particles, gradient):
        spvae = vamp(components=3)
        calls = count(spvae.leaf_guide.encoder)
        for step in (1, 2):
            CircuitELBO(particles, gradient=gradient)(spvae.model, spvae.guide)(data(spvae, 5)).backward()
            assert sorted(calls) == [3] * step + [5] * step

    def test_sees_pseudo_inputs_once_for_particles_one_after_the_other(self):
        spvae = vamp(components=3)
        calls = count(spvae.leaf_guide.encoder)
        CircuitELBO(4, vectorize_particles=False)(spvae.model, spvae.guide)(data(spvae, 5)).backward()
        assert sorted(calls) == [3, 5]

    def test_sees_pseudo_inputs_once_a_log_likelihood_and_each_datum_once(self):
        spvae = vamp(components=11)
        calls = count(spvae.leaf_guide.encoder)
        x = data(spvae, 10)
        for chunk_size, blocks in ((1, [1] * 10), (100, [2] * 5), (10_000, [10])):
            calls.clear()
            spvae.log_likelihood(x, num_samples=50, chunk_size=chunk_size)
            assert calls.count(11) == 1
            assert sorted(calls) == sorted([11, *blocks]), chunk_size
        calls.clear()
        spvae.log_likelihood(x, torch.ones(1, 2, 2, dtype=torch.bool), num_samples=50, chunk_size=100)
        assert calls.count(11) == 1

    def test_what_it_said_of_data_is_forgotten_from_block_to_block(self):
        """Memory does not grow with the data."""
        spvae = vamp(components=11)
        said: list[weakref.ref[torch.Tensor]] = []
        alive = []

        def hook(module, args, result):
            alive.append(sum(one() is not None for one in said))
            said.append(weakref.ref(result[0]))

        spvae.leaf_guide.encoder.register_forward_hook(hook)
        spvae.log_likelihood(data(spvae, 12), num_samples=50, chunk_size=50)
        assert len(said) == 13 and max(alive) <= 2

    def test_is_asked_anew_after_a_step(self):
        """Nothing that was computed with old parameters is used again."""
        spvae = vamp()
        x = data(spvae)
        first = CircuitELBO(2).loss(spvae.model, spvae.guide, x)
        with torch.no_grad():
            spvae.leaf.prior.pseudo_inputs.copy_(1 - spvae.leaf.prior.pseudo_inputs)
        fresh = SPVAE(GRID, likelihood=Normal(), latent_dim=2, hidden_dims=(3,), prior=VampPrior(3))
        fresh.load_state_dict(spvae.state_dict())
        values = []
        for one in (spvae, fresh):
            pyro.set_rng_seed(1)
            values.append(CircuitELBO(2).loss(one.model, one.guide, x))
        assert values[0] == values[1] != first


class TestLogLikelihood:
    """A decoder that is linear: p(x) is a mixture of normals, known exactly."""

    def exact(self, regions, components=3):
        spvae = vamp(components, regions=regions, units=2, hidden_dims=(), likelihood=Normal(min_scale=0.1))
        loc, raw = spvae.leaf.decoder.stacks
        encoder, spread = spvae.leaf_guide.encoder.stacks
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

    @pytest.mark.parametrize("chunk_size", [700, 4096, 10**6])
    @pytest.mark.parametrize("regions", [whole((2, 2)), poon_domingos((2, 4), delta=2)])
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
        guide = MixedGuide([*(NormalGuide((3,)) for _ in priors), NoLatents()])
        return SPVAE(poon_domingos((3, 2), delta=2), units=4, leaf=leaf, guide=guide)

    def test_each_part_sees_its_own_encoder_leaves_and_padding(self):
        spvae = self.make()
        assert spvae.wanted_rows == 2
        x = torch.rand(7, 1, 3, 2)
        spvae.initialise(x)
        assert spvae.wanted_rows == 0
        for place in range(3):
            part, guide = spvae.leaf.parts[place], spvae.leaf_guide.parts[place]
            q = guide.posterior(part.prior.inputs)
            assert torch.equal(part.prior().loc, q.loc)
            index = spvae.leaf.index[place]
            mask = spvae.view.mask[index]
            assert index.tolist() == [place, 4 + place]
            assert torch.equal(part.prior.mask, mask)
            assert (part.prior.inputs[:, ~mask] == 0).all()
        started = spvae.leaf.parts[2].prior
        own = spvae.view.patches(x)[:, spvae.leaf.index[2]]
        distance = (started.inputs.unsqueeze(1) - own).abs().amax((-1, -2)).min(-1).values
        assert (distance < 0.06).all(), "the rows' patches of these leaves"
        frozen = spvae.leaf.parts[1].prior
        assert frozen.inputs.shape == (4, 2, 4) and (frozen.inputs[:, frozen.mask] > 0).all()

    def test_trains_saves_and_answers(self, tmp_path):
        spvae = self.make()
        x = torch.rand(12, 1, 3, 2)
        spvae.fit(x, epochs=2, batch_size=4)
        assert spvae.wanted_rows == 0
        spvae.save(tmp_path)
        loaded = SPVAE.load(tmp_path)
        values = []
        for one in (spvae, loaded):
            pyro.set_rng_seed(1)
            values.append((one.log_likelihood(x, num_samples=3), one.sample(3), one.impute(x, x[0] < 0.5)))
        assert all(torch.equal(*pair) for pair in zip(*values, strict=True))

    def test_a_guide_of_ones_own_has_no_encoder(self):
        leaf = MixedLeaf([VAE(Normal(), 2, (3,), VampPrior(3)), FactorizedLeaf(Normal())])
        with pytest.raises(
            ValueError, match="^this VampPrior has no encoder; pass it to a model with a guide that has"
        ):
            SPVAE(GRID, leaf=leaf, guide=own_parts.LinearGuide()).sample(1)


class TestStorage:
    @pytest.mark.parametrize(
        "make",
        [
            lambda: VampPrior(3),
            lambda: VampPrior(3, weights="learned", range=(-1, 2), mean=0.4, std=0.05),
            lambda: VampPrior(data=torch.rand(4, 1, 2, 2)),
            lambda: VampPrior(3, data=torch.rand(4, 1, 2, 2), frozen=False),
            lambda: MixtureOfGaussians(3, 0.4, 0.1),
        ],
    )
    def test_load_gives_the_same_and_needs_no_data(self, make, tmp_path):
        spvae = small_spvae(prior=make(), likelihood=Bernoulli())
        spvae.save(tmp_path)
        loaded = SPVAE.load(tmp_path)
        assert loaded.wanted_rows == 0
        assert loaded.leaf.prior.options() == spvae.leaf.prior.options()
        assert list(dict(loaded.named_parameters())) == list(dict(spvae.named_parameters()))
        x = (torch.rand(5, 1, 2, 2) < 0.5).double()
        values = []
        for one in (spvae, loaded):
            pyro.set_rng_seed(1)
            values.append((one.log_likelihood(x, num_samples=5), one.sample(3), one.embed(x).latents["z"]))
        assert all(torch.equal(*pair) for pair in zip(*values, strict=True))

    def test_a_model_that_waits_for_data_comes_back_as_it_was(self, tmp_path):
        """Saved before it has started, it still has to; saved after, it has."""
        spvae = SPVAE(GRID, prior=VampPrior(3, init="data"))
        spvae.initialise(torch.rand(3, 1, 2, 2))
        spvae.save(tmp_path)
        loaded = SPVAE.load(tmp_path)
        assert loaded.wanted_rows == 0 and torch.equal(loaded.leaf.prior.inputs, spvae.leaf.prior.inputs)

    def test_other_precision(self):
        spvae = vamp()
        x = data(spvae)
        torch.set_default_dtype(torch.float32)
        small = copy.deepcopy(spvae).float()
        assert small.leaf.prior().loc.dtype == torch.float32
        z = torch.randn(4, spvae.num_leaves, 2, dtype=torch.float64)
        torch.testing.assert_close(
            small.leaf.prior().log_prob(z.float()).double(), spvae.leaf.prior().log_prob(z), rtol=1e-5, atol=1e-5
        )
        assert small.log_likelihood(x.float(), num_samples=4).dtype == torch.float32


class OtherSize(NormalGuide):
    """A posterior of another size than the site."""

    def posterior(self, x):
        q = self.encode(x)
        return LeafNormal(q.loc[..., :1], q.scale[..., :1])


class NotNormal(NormalGuide):
    def posterior(self, x):
        q = self.encode(x)
        return dist.Normal(q.loc, q.scale).to_event(1)


class WideGuide(LeafGuide):
    """Draws one value too many."""

    def build(self, leaves, pixels, latent_dim):
        self.loc = nn.Parameter(torch.zeros(leaves, latent_dim + 1))

    def forward(self, x):
        pyro.sample("z", dist.Normal(self.loc.expand(*x.shape[:-1], -1), 1.0).to_event(1))


class WidePrior(own_parts.Forgetful):
    """One value more than it is asked for."""

    def build(self, leaves, latent_dim):
        self.loc = nn.Parameter(torch.zeros(leaves, latent_dim + 1))

    def forward(self):
        return dist.Normal(self.loc, 1.0).to_event(1)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"components": 0}, "components is 0; a positive integer is needed"),
            ({"components": -3}, "components is -3; a positive integer is needed"),
            ({"components": 2.0}, "components is 2.0; a positive integer is needed"),
            ({"components": True}, "components is True; a positive integer is needed"),
            (
                {"components": 4, "data": torch.zeros(3, 1, 2, 2)},
                "components is 4, but there are 3 data; at most as many as data are accepted",
            ),
            (
                {"data": torch.zeros(0, 4)},
                r"data is of shape \[0, 4\]; a tensor \[rows, \.\.\] of at least one datum is",
            ),
            (
                {"data": torch.zeros(4)},
                r"data is of shape \[4\]; a tensor \[rows, \.\.\] of at least one datum is needed",
            ),
            ({"data": [[0.0]]}, r"data is a list; a tensor \[rows, \.\.\] of at least one datum is needed"),
            ({"data": torch.full((2, 2), torch.nan)}, "data hold NaN or infinite values; finite values are needed"),
            ({"data": torch.zeros(3, 4), "init": "normal"}, "init is 'normal', but data are given, from which"),
            ({"init": "random"}, "init is 'random'; known are normal, data"),
            ({"frozen": True}, "frozen is True, but init is 'normal'; frozen pseudo-inputs are data: give data, or"),
            ({"frozen": 1}, "frozen is 1; True or False is needed"),
            ({"mean": math.inf}, "mean is inf; a finite number is needed"),
            ({"mean": "0"}, "mean is '0'; a finite number is needed"),
            ({"std": -0.1}, "std is -0.1; a number of at least 0 is needed"),
            ({"std": math.nan}, "std is nan; a number of at least 0 is needed"),
            ({"range": (1.0, 0.0)}, r"range is \(1.0, 0.0\); two finite numbers, the smaller one first, are needed"),
            ({"range": (0.0, 0.0)}, r"range is \(0.0, 0.0\); two finite numbers"),
            ({"range": (0.0,)}, r"range is \(0.0,\); two finite numbers"),
            ({"range": (-math.inf, 0.0)}, r"range is \(-inf, 0.0\); two finite numbers"),
            ({"range": 1.0}, "range is 1.0; two finite numbers"),
            ({"weights": "equal"}, "weights is 'equal'; known are uniform, learned"),
            ({"weights": None}, "weights is None; known are uniform, learned"),
        ],
    )
    def test_options(self, options, message):
        with pytest.raises(ValueError, match=f"^{message}") as error:
            VampPrior(**options)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("shape", [(3, 2, 2), (3, 1, 2, 3), (3, 4), (3, 1, 1, 2, 2), (4, 4, 1, 1)])
    def test_data_of_another_shape(self, shape):
        message = r"^data have shape .*; the model's region graph and channels need \[data, 1, 2, 2\]$"
        with pytest.raises(ValueError, match=message):
            small_spvae(prior=VampPrior(data=torch.zeros(shape)))

    @pytest.mark.parametrize(
        ("guide", "message"),
        [
            (
                own_parts.LinearGuide,
                r"the guide LinearGuide has no encoder that a VampPrior could use; define posterior\(self, x\), or "
                "choose another prior",
            ),
            (
                OtherSize,
                "the guide's posterior has latent size 1, but the prior's is 2; one size is needed",
            ),
            (NotNormal, "a VampPrior needs a guide whose posterior is a LeafNormal, but it is a Independent"),
        ],
    )
    def test_guides_that_do_not_fit_when_the_model_is_made(self, guide, message):
        for prior in (VampPrior(3), VampPrior(3, init="data")):
            with pytest.raises(ValueError, match=f"^{message}$"):
                SPVAE(GRID, leaf=VAE(Normal(), 2, (3,), prior), guide=guide())

    def test_guide_from_the_bottom_up(self):
        message = (
            r"^a VampPrior needs q\(z2 \| x\), which a HierarchicalGuide of the order bottom-up has not; choose "
            "order='top-down', or another prior$"
        )
        with pytest.raises(ValueError, match=message):
            SPVAE(GRID, leaf=HVAE(Normal(), prior=VampPrior(3)), guide=HierarchicalGuide(order="bottom-up"))

    def test_prior_and_guide_of_other_sizes(self):
        x = torch.rand(2, 1, 2, 2)
        spvae = SPVAE(GRID, leaf=VAE(Normal(), 2, (3,)), guide=WideGuide())
        message = "^the latent size of the site 'z' is 2, but the guide draws values of size 3; one size is needed"
        for use in (lambda: spvae.log_likelihood(x, num_samples=1), lambda: CircuitELBO()(spvae.model, spvae.guide)(x)):
            with pytest.raises(ValueError, match=message):
                use()
        spvae = SPVAE(GRID, leaf=VAE(Normal(), 2, (3,), WidePrior()))
        message = r"^the latent size of the site 'z' is 2, but its prior has events of shape \[3\]; \[2\] is needed"
        with pytest.raises(ValueError, match=message):
            spvae.sample(1)

    def test_alone_without_a_guide(self):
        message = (
            r"^this VampPrior has no encoder; pass it to a model with a guide that has one, or call connect\(...\)$"
        )
        with pytest.raises(ValueError, match=message):
            VampPrior(3).bind(leaves=1, latent_dim=2, pixels=4)()
        with pytest.raises(ValueError, match=message):
            VAE(Normal(), prior=VampPrior(3)).bind(leaves=1, pixels=4)()

    def test_one_prior_for_two_models(self):
        prior = VampPrior(3)
        small_spvae(prior=prior)
        with pytest.raises(ValueError, match="^this VampPrior is bound already"):
            small_spvae(prior=prior)

    def test_what_is_no_prior(self):
        with pytest.raises(TypeError, match="^prior is the class VampPrior; an instance of Prior is needed$"):
            small_spvae(prior=VampPrior)

    def test_trying_the_encoder_leaves_no_trace(self):
        """Making a model asks the encoder once, without learning statistics from it."""

        class Normalised(MLP):
            def build(self, leaves, inputs, outputs):
                super().build(leaves, inputs, outputs)
                self.norm = nn.BatchNorm1d(leaves)

            def forward(self, x):
                return super().forward(self.norm(x))

        guide = NormalGuide(encoder=Normalised((3,)))
        SPVAE(GRID, leaf=VAE(Normal(), 2, (3,), VampPrior(3)), guide=guide)
        assert guide.encoder.norm.num_batches_tracked == 0 and guide.training


def test_a_user_swaps_the_prior_by_passing_another_object():
    """One VAE and leaves of a circuit; every prior trains, samples and imputes."""
    x = (torch.rand(20, 1, 1, 1) < 0.5).double().expand(20, 1, 2, 2)
    seen = torch.tensor([True, True, False, False]).reshape(1, 2, 2)
    for regions, units in ((whole((2, 2)), 1), (GRID, 2)):
        for prior in (
            None,
            MixtureOfGaussians(3),
            VampPrior(3),
            VampPrior(data=x[:3]),
            VampPrior(3, weights="learned"),
        ):
            pyro.clear_param_store()
            spvae = SPVAE(regions, units=units, likelihood=Bernoulli(), latent_dim=2, hidden_dims=(4,), prior=prior)
            svi = SVI(spvae.model, spvae.guide, pyro.optim.Adam({"lr": 0.05}), CircuitELBO(2))
            losses = [svi.step(x) for _ in range(40)]
            assert sum(losses[-5:]) < sum(losses[:5])
            assert spvae.sample(3).shape == (3, 1, 2, 2)
            filled = spvae.impute(x, seen)[0]
            assert torch.equal(filled[..., 0, :], x[..., 0, :]) and set(filled.unique().tolist()) <= {0.0, 1.0}
            assert spvae.embed(x, seen).latents["z"].isfinite().all(), "leaves that see nothing have the prior's mean"
            if prior is not None:
                assert isinstance(spvae.leaf.prior(), LeafNormalMixture)

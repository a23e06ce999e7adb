# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""VampPriors and the guide's encoder: gradients, copies, how often it runs."""

from __future__ import annotations

import copy
import weakref

import pyro
import pytest
import torch
from pyro import poutine

from pyro_spvae import CircuitELBO, whole
from pyro_spvae.guides import HierarchicalGuide
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import HVAE, SPVAE
from pyro_spvae.priors import VampPrior
from tests.helpers import collected_gradients, gradients
from tests.priors.cases import GRID, check_slope, count, data, vamp


class TestGradients:
    @pytest.mark.parametrize("layers", [1, 2])
    def test_that_are_doubly_reparameterised_reach_everything(self, layers):
        spvae = vamp(weights="learned")
        if layers > 1:
            leaf = HVAE(Normal(), 2, 3, (4,), prior=VampPrior(3, weights="learned"))
            spvae = SPVAE(GRID, leaf=leaf, guide=HierarchicalGuide((4,)))
        CircuitELBO(3, gradient="dreg")(spvae.model, spvae.guide)(data(spvae)).backward()
        for name, grad in collected_gradients(spvae).items():
            assert grad.abs().sum() > 0, name

    def test_equal_finite_differences_under_one_seed(self):
        """The pathwise gradient of a bound with fixed noise is its derivative."""
        spvae = vamp(weights="learned")
        x, elbo = data(spvae), CircuitELBO(3)

        def loss():
            pyro.set_rng_seed(1)
            return elbo(spvae.model, spvae.guide)(x)

        grads = gradients(spvae, loss())
        for chosen in ("leaf.prior.pseudo_inputs", "leaf.prior.logits", "leaf_guide", ""):
            pyro.set_rng_seed(2)
            check_slope({n: p for n, p in spvae.named_parameters() if n.startswith(chosen)}, grads, loss)

    def test_doubly_reparameterised_ones_are_the_same_or_the_same_in_the_mean(self, monkeypatch):
        """Pseudo-inputs act on the prior alone. The encoder acts by the prior too, which dreg must leave as it is."""
        spvae = vamp(regions=whole((1, 2)), units=1, likelihood=Normal(min_scale=0.5))
        x = data(spvae, 1).expand(150, 1, 1, 2)
        draws = {"iwae": [], "dreg": []}
        for seed in range(40):
            own = {}
            for gradient, kept in draws.items():
                pyro.set_rng_seed(seed)
                found = gradients(spvae, CircuitELBO(4, gradient=gradient)(spvae.model, spvae.guide)(x) / 150)
                own[gradient] = found["leaf.prior.pseudo_inputs"]
                encoder = [grad.flatten() for name, grad in found.items() if name.startswith("leaf_guide")]
                kept.append(torch.cat(encoder))
            torch.testing.assert_close(own["dreg"], own["iwae"], rtol=1e-9, atol=1e-12)
        iwae, dreg = (torch.stack(kept) for kept in draws.values())
        error = ((iwae.var(0) + dreg.var(0)) / 40).sqrt()
        different = (iwae.mean(0) - dreg.mean(0)).abs() / error.clamp(min=1e-12)
        assert different.max() < 4.5
        # and without the way through the prior it would be another
        forward = VampPrior.forward
        monkeypatch.setattr(VampPrior, "forward", lambda self: forward(self).detach())
        pyro.set_rng_seed(0)
        found = gradients(spvae, CircuitELBO(4)(spvae.model, spvae.guide)(x[:1].expand(5000, 1, 1, 2)) / 5000)
        without = torch.cat([grad.flatten() for name, grad in found.items() if name.startswith("leaf_guide")])
        assert ((without - iwae.mean(0)).abs() / error.clamp(min=1e-12)).max() > 12


class TestEncoder:
    def test_is_registered_once(self):
        spvae = vamp()
        names = [name for name, _ in spvae.named_parameters()]
        assert len({id(p) for p in spvae.parameters()}) == len(names) == len(set(names))
        assert [name for name in names if name.startswith("leaf.prior")] == ["leaf.prior.pseudo_inputs"]
        every = [name for name, _ in spvae.named_parameters(remove_duplicate=False)]
        assert every == names
        assert set(spvae.state_dict()) == {*names, "circuit._extra_state"}, "and what structure they belong to"

    def test_pyro_states_each_parameter_once(self):
        spvae = vamp()
        trace = poutine.trace(spvae.model, param_only=True).get_trace(data(spvae))
        owners = [site["value"].unconstrained() for site in trace.nodes.values() if site["type"] == "param"]
        assert len({id(owner) for owner in owners}) == len(owners)

    def test_a_deep_copy_ties_prior_and_guide_to_each_other(self):
        spvae = vamp()
        other = copy.deepcopy(spvae)
        z = torch.randn(spvae.num_leaves, 2)
        expected = spvae.leaf.prior().log_prob(z)
        assert torch.equal(other.leaf.prior().log_prob(z), expected)
        with torch.no_grad():
            for parameter in other.leaf_guide.parameters():
                parameter.add_(0.1)
        q = other.leaf_guide.posterior(other.leaf.prior.inputs)
        assert torch.equal(other.leaf.prior().loc, q.loc), "the copy's prior sees the copy's encoder"
        assert not torch.equal(other.leaf.prior().log_prob(z), expected)
        assert torch.equal(spvae.leaf.prior().log_prob(z), expected), "and not the original's"
        with torch.no_grad():
            for parameter in spvae.leaf_guide.parameters():
                parameter.zero_()
        assert torch.equal(other.leaf.prior().loc, q.loc)

    @pytest.mark.parametrize(
        "options",
        [
            {"num_particles": 1},
            {"num_particles": 7, "gradient": "dreg"},
            {"num_particles": 4, "vectorize_particles": False},
        ],
    )
    def test_sees_pseudo_inputs_once_a_step(self, options):
        spvae = vamp(components=3)
        calls = count(spvae.leaf_guide.z.network)
        for step in (1, 2):
            CircuitELBO(**options)(spvae.model, spvae.guide)(data(spvae, 5)).backward()
            assert sorted(calls) == [3] * step + [5] * step

    def test_sees_pseudo_inputs_once_a_log_likelihood_and_each_datum_once(self):
        spvae = vamp(components=11)
        calls = count(spvae.leaf_guide.z.network)
        x = data(spvae, 10)
        for chunk_size, blocks in ((1, [1] * 10), (10, [2] * 5), (1000, [10])):
            calls.clear()
            spvae.log_likelihood(x, num_samples=5, chunk_size=chunk_size)
            assert calls.count(11) == 1
            assert sorted(calls) == sorted([11, *blocks]), chunk_size
        calls.clear()
        spvae.log_likelihood(x, torch.ones(1, 2, 2, dtype=torch.bool), num_samples=5, chunk_size=10)
        assert calls.count(11) == 1

    def test_what_it_said_of_data_is_forgotten_from_block_to_block(self):
        """Memory does not grow with the data."""
        spvae = vamp(components=11)
        said: list[weakref.ref[torch.Tensor]] = []
        alive = []

        def hook(module, args, result):
            alive.append(sum(one() is not None for one in said))
            said.append(weakref.ref(result[0]))

        spvae.leaf_guide.z.network.register_forward_hook(hook)
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

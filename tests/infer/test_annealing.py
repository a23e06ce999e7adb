# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""KL annealing against hand algebra: what it scales, where, and what the gradients are."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from pyro import poutine

from pyro_spvae import CircuitELBO, Latent, collapse_tree, whole
from pyro_spvae.distributions import LeafNormal, LeafStandardNormal
from pyro_spvae.guides import LeafGuide
from pyro_spvae.infer import renyi_mean
from pyro_spvae.infer.annealing import AnnealMessenger, anneal
from pyro_spvae.models import LeafModel
from tests.helpers import assert_same_gradients, collected_gradients, gradients, leaf_log_weights, small_spvae
from tests.infer.test_dreg import two_layer
from tests.infer.test_vimco import TwoBits
from tests.linear_gaussian import LinearGaussian

OBJECTIVES = [
    {"num_particles": 1},
    {"num_particles": 3},
    {"num_particles": 3, "alpha": 1.0},
    {"num_particles": 3, "alpha": 0.5},
    {"num_particles": 3, "reduce": "root"},
    {"num_particles": 3, "vectorize_particles": False},
    {"num_particles": 3, "gradient": "dreg"},
]


def annealed(spvae, beta):
    return anneal(spvae.model, beta), anneal(spvae.guide, beta, guide=True)


class TestValue:
    @pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
    def test_elbo_of_linear_gaussian_leaves(self, beta):
        """alpha=1, in the limit of many particles: E_q log p(x|z) - beta KL(q || p) of every leaf, exactly."""
        model = LinearGaussian()
        with torch.no_grad():  # away from the prior
            model.spvae.leaf_guide.z.network.stacks[0].biases[0].add_(1.0)
        x = 0.5 * torch.randn(2, 1, 2, 4)
        q = model.spvae.leaf_guide.encode(model.spvae.view(x))
        prior = td.Normal(torch.zeros(()), torch.ones(()))
        kl = td.kl_divergence(td.Normal(q.loc, q.scale), prior).sum(-1)
        expected = model.spvae.circuit(model.leaf_elbo(x) + (1 - beta) * kl).detach()
        bound = CircuitELBO(100_000, alpha=1.0).bound(*annealed(model.spvae, beta), x)
        torch.testing.assert_close(bound, expected, atol=0.1, rtol=0)
        others = [model.spvae.circuit(model.leaf_elbo(x) + (1 - other) * kl) for other in {0.0, 0.3, 1.0} - {beta}]
        assert min(float((other.detach() - expected).abs().min()) for other in others) > 0.3

    @pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, -math.inf])
    @pytest.mark.parametrize("beta", [0.0, 0.25, 1.0])
    def test_beta_acts_inside_the_mean_over_particles(self, alpha, beta):
        """log w = log p(x|z) + beta (log p(z) - log q(z)), every particle and leaf, by Pyro's own traces."""
        spvae = small_spvae()
        x = torch.randn(3, 1, 2, 2)
        full = leaf_log_weights(spvae, x, 4)
        pyro.set_rng_seed(1)
        trace = poutine.trace(pyro.plate("particles", 4, dim=-3)(spvae.guide)).get_trace(x)
        z = trace.nodes["z"]["value"]
        likelihood = spvae.leaf.pixels.likelihood(spvae.leaf.pixels.decoder(z)).log_prob(spvae.view(x))
        leaf = renyi_mean(likelihood + beta * (full - likelihood), alpha)
        pyro.set_rng_seed(1)
        bound = CircuitELBO(4, alpha=alpha).bound(*annealed(spvae, beta), x)
        torch.testing.assert_close(bound, spvae.circuit(leaf).detach(), atol=1e-10, rtol=0)

    def test_missing_pixels_and_subsampling(self):
        spvae = small_spvae()
        x, observed = torch.randn(3, 1, 2, 2), torch.tensor([[True, False], [True, True]])
        full = leaf_log_weights(spvae, x, 2, observed=observed)
        pyro.set_rng_seed(1)
        z = poutine.trace(pyro.plate("particles", 2, dim=-3)(spvae.guide)).get_trace(x, observed).nodes["z"]["value"]
        mask = spvae.view(observed.expand(1, 2, 2)).unsqueeze(0)
        likelihood = spvae.leaf.pixels.likelihood(spvae.leaf.pixels.decoder(z), mask).log_prob(spvae.view(x))
        leaf = torch.where(mask.any(-1), likelihood + 0.4 * (full - likelihood), 0.0)
        expected = -spvae.circuit(renyi_mean(leaf)).sum()
        pyro.set_rng_seed(1)
        torch.randperm(30)
        pair = annealed(spvae, 0.4)
        loss = CircuitELBO(2).loss(*pair, x, observed)
        pyro.set_rng_seed(1)
        assert CircuitELBO(2).loss(*pair, x, observed) == pytest.approx(expected.item(), abs=1e-9)
        pyro.set_rng_seed(1)
        assert CircuitELBO(2).loss(*pair, x, observed, size=30) == pytest.approx(10 * loss, abs=1e-8)

    def test_observed_latent_sites_are_left_alone(self):
        spvae = small_spvae()
        trace = poutine.trace(spvae.model).get_trace(num=3)
        values = {name: trace.nodes[name]["value"] for name in ("tree", "z", "x")}
        for names in (("x",), ("z", "x"), ("tree", "z", "x")):
            model = poutine.condition(spvae.model, data={name: values[name] for name in names})
            sites = poutine.trace(anneal(model, 0.3)).get_trace(num=3).nodes
            assert {name for name in values if sites[name]["scale"] != 1} == {"z"} - set(names)


class TestGradient:
    @pytest.mark.parametrize("options", OBJECTIVES)
    def test_beta_of_one_changes_nothing_bit_for_bit(self, options):
        spvae = small_spvae()
        x = torch.randn(3, 1, 2, 2)
        results = []
        for pair in ((spvae.model, spvae.guide), annealed(spvae, 1.0)):
            pyro.set_rng_seed(3)
            loss = CircuitELBO(**options)(*pair)(x)
            results.append((loss.detach(), gradients(spvae, loss)))
        assert torch.equal(results[0][0], results[1][0])
        assert all(torch.equal(grad, results[1][1][name]) for name, grad in results[0][1].items())

    @pytest.mark.parametrize("options", OBJECTIVES)
    @pytest.mark.parametrize("build", [small_spvae, two_layer])
    def test_beta_of_zero_leaves_no_parameter_without_gradient(self, build, options):
        spvae = build()
        objective = CircuitELBO(**options)(*annealed(spvae, 0.0))
        objective(torch.randn(3, *spvae.event_shape)).backward()
        assert all(parameter.grad is not None for parameter in spvae.parameters())
        assert all(parameter.grad.isfinite().all() for parameter in spvae.parameters())

    def test_at_zero_only_the_likelihood_is_left(self):
        """The guide's gradient is then that of E_q log p(x|z) through z alone."""
        spvae = small_spvae()
        x = torch.randn(3, 1, 2, 2)
        pyro.set_rng_seed(3)
        loss = CircuitELBO(alpha=1.0)(*annealed(spvae, 0.0))(x)
        pyro.set_rng_seed(3)
        z = poutine.trace(spvae.guide).get_trace(x).nodes["z"]["value"]
        likelihood = spvae.leaf.pixels.likelihood(spvae.leaf.pixels.decoder(z)).log_prob(spvae.view(x))
        assert_same_gradients(gradients(spvae, loss), gradients(spvae, -spvae.circuit(likelihood).sum()))

    @pytest.mark.parametrize("beta", [0.0, 0.4])
    def test_dreg_has_the_expectation_of_the_plain_gradient(self, beta):
        spvae = small_spvae(latent_dim=1, hidden_dims=())
        x = torch.randn(1, 1, 2, 2).expand(4000, -1, -1, -1)
        means = []
        for gradient in ("iwae", "dreg"):
            objective = CircuitELBO(3, gradient=gradient)(*annealed(spvae, beta))
            draws = [gradients(spvae, objective(x) / 4000) for _ in range(12)]
            means.append({name: torch.stack([draw[name] for draw in draws]) for name in draws[0]})
        guide = [name for name in means[0] if name.startswith("leaf_guide")]
        signal = 0.0
        for name in guide:
            plain, dreg = means[0][name], means[1][name]
            error = (plain.var(0) + dreg.var(0)).div(12).sqrt() + 1e-12
            assert ((plain.mean(0) - dreg.mean(0)).abs() < 5.5 * error).all(), name
            signal = max(signal, float((plain.mean(0).abs() / error).max()))
        assert signal > 20

    @pytest.mark.parametrize("beta", [0.0, 0.4])
    @pytest.mark.parametrize("alpha", [0.0, 1.0])
    def test_score_function_gradient_is_unbiased(self, alpha, beta):
        """A guide without rsample: beta scales log q in the weight, never the score. All draws enumerated."""
        program = TwoBits()
        x = torch.tensor([[1.0, 0.0]])
        draws = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4).reshape(-1, 2, 1, 2)  # [16, K, B, L]
        prior, proposal = dist.Bernoulli(logits=program.prior), dist.Bernoulli(logits=x @ program.proposal)
        logits = torch.where(draws.unsqueeze(-1) > 0, program.decoder[0], program.decoder[1])
        likelihood = dist.Bernoulli(logits=logits).log_prob(x).sum(-1)
        log_weight = likelihood + beta * (prior.log_prob(draws) - proposal.log_prob(draws))
        chance = proposal.log_prob(draws).sum((1, 2, 3)).exp()
        leaf = log_weight.mean(1) if alpha else log_weight.exp().mean(1).log()
        expected = gradients(program, -(chance * program.spvae.circuit(leaf).squeeze(-1)).sum())
        elbo = CircuitELBO(2, alpha=alpha)
        estimates = [
            gradients(program, elbo.differentiable_loss(*annealed(program, beta), x.expand(4000, -1)) / 4000)
            for _ in range(25)
        ]
        for name, value in expected.items():
            sample = torch.stack([estimate[name] for estimate in estimates])
            error = sample.std(0) / math.sqrt(25) + 1e-12
            assert ((sample.mean(0) - value).abs() < 5 * error).all(), name
        noise = torch.stack([estimate["proposal"] for estimate in estimates]).std(0) / math.sqrt(25)
        assert float(noise.max()) < 0.1 * float(expected["proposal"].abs().max())


class TestHandler:
    def test_the_objective_holds_the_parameters_and_beta_may_change(self):
        spvae = small_spvae()
        x = torch.randn(3, 1, 2, 2)
        model, guide = annealed(spvae, 0.0)
        objective = CircuitELBO(2)(model, guide)
        assert sorted(map(id, objective.parameters())) == sorted(map(id, spvae.parameters()))
        for beta in (0.0, 0.5, 1.0):
            model.beta = guide.beta = beta
            pyro.set_rng_seed(1)
            changed = objective(x)
            pyro.set_rng_seed(1)
            assert torch.equal(changed, CircuitELBO(2)(*annealed(spvae, beta))(x))

    def test_under_local_parameters(self):
        """The way the trainer runs it."""
        results = []
        for local in (False, True):
            with pyro.settings.context(module_local_params=local):
                pyro.set_rng_seed(0)
                pyro.clear_param_store()
                spvae = small_spvae()
                CircuitELBO(2, gradient="dreg")(*annealed(spvae, 0.3))(torch.ones(3, 1, 2, 2)).backward()
                results.append(collected_gradients(spvae))
        assert_same_gradients(*results)

    def test_a_context_manager_and_functions(self):
        def program():
            with pyro.plate("data", 2, dim=-2):
                outside = pyro.sample("outside", dist.Normal(torch.zeros(2, 1), 1.0))
                with pyro.plate("leaf", 3, dim=-1):
                    pyro.sample("inside", dist.Normal(outside, 1.0))

        for trace in (
            poutine.trace(anneal(program, 0.5)).get_trace(),
            poutine.trace(AnnealMessenger(0.5)(program)).get_trace(),
        ):
            assert {name: trace.nodes[name]["scale"] for name in ("outside", "inside")} == {"outside": 1, "inside": 0.5}

    @pytest.mark.parametrize("beta", [-0.1, math.nan, math.inf, True, "1", None])
    def test_beta_out_of_range_is_refused(self, beta):
        message = f"^beta is {beta!r}; a number of at least 0 is needed$"
        with pytest.raises(ValueError, match=message):
            anneal(lambda: None, beta)
        program = anneal(lambda: None, 0.5)
        with pytest.raises(ValueError, match=message):
            program.beta = beta
        assert program.beta == 0.5


class WithFactor(LeafModel):
    """A factor of the model is evidence; one of the guide, here the volume change of a flow, is a part of log q."""

    latents = {"z": Latent(1)}

    def build(self, leaves, pixels):
        self.loc = torch.nn.Parameter(torch.randn(leaves, pixels))

    def forward(self, x=None, mask=None):
        z = pyro.sample("z", LeafStandardNormal(1))
        pyro.factor("soft", -z.squeeze(-1).square())
        return pyro.sample("x", LeafNormal(self.loc + z, torch.tensor(0.5), mask), obs=x)


class WithFactorGuide(LeafGuide):
    def build(self, leaves, pixels):
        self.weight = torch.nn.Parameter(torch.randn(leaves, pixels, 1))
        self.stretch = torch.nn.Parameter(torch.randn(leaves))

    def forward(self, x):
        loc = torch.einsum("blp,lpd->bld", x, self.weight)
        base = pyro.sample("base", LeafNormal(torch.zeros_like(loc), torch.tensor(1.0)), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Delta(loc + self.stretch.exp().unsqueeze(-1) * base, event_dim=1))
        pyro.factor("volume", -self.stretch.expand(loc.shape[:-1]), has_rsample=True)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_factors_are_what_they_are(alpha, beta):
    """log w = log p(x|z) + soft + beta (log p(z) - log q(z)), where log q has the guide's factor."""
    spvae = small_spvae(whole((2, 2)), units=1, leaf=WithFactor(), guide=WithFactorGuide())
    x = torch.randn(3, 1, 2, 2)
    torch.manual_seed(1)
    loss = CircuitELBO(4, alpha=alpha).differentiable_loss(*annealed(spvae, beta), x)
    torch.manual_seed(1)
    trace = poutine.trace(pyro.plate("particles", 4, dim=-3)(spvae.guide)).get_trace(x)
    base, z = trace.nodes["base"]["value"], trace.nodes["z"]["value"]
    log_q = dist.Normal(0.0, 1.0).log_prob(base).sum(-1) - spvae.leaf_guide.stretch
    log_p = dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    evidence = dist.Normal(spvae.leaf.loc + z, 0.5).log_prob(spvae.view(x)).sum(-1) - z.squeeze(-1).square()
    expected = -renyi_mean(evidence + beta * (log_p - log_q), alpha).sum()
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
    assert_same_gradients(gradients(spvae, loss), gradients(spvae, expected))


def test_a_weight_for_each_site():
    """log w = log p(x|z1, z2) + sum of beta_s (log p - log q), sites that are not named counting once."""
    spvae, x = two_layer(), torch.randn(3, 1, 1, 2)
    weights = {"z2": 0.25}
    losses = []
    for programs in (annealed(spvae, weights), annealed(spvae, {"z2": 0.25, "z1": 1.0})):
        torch.manual_seed(1)
        losses.append(CircuitELBO(3).differentiable_loss(*programs, x))
    torch.manual_seed(1)
    guide_trace = poutine.trace(pyro.plate("particles", 3, dim=-3)(spvae.guide)).get_trace(x)
    model = collapse_tree(poutine.replay(pyro.plate("particles", 3, dim=-3)(spvae.model), trace=guide_trace))
    model_trace = poutine.trace(model).get_trace(x)
    for trace in (guide_trace, model_trace):
        trace.compute_log_prob()
    ratio = {n: model_trace.nodes[n]["log_prob"] - guide_trace.nodes[n]["log_prob"] for n in ("z1", "z2")}
    leaf = renyi_mean(model_trace.nodes["x"]["log_prob"] + 0.25 * ratio["z2"] + ratio["z1"])
    expected = -spvae.circuit(leaf).sum()
    expected_gradients = gradients(spvae, expected)
    for loss in losses:
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
        assert_same_gradients(gradients(spvae, loss), expected_gradients)
    with pytest.raises(ValueError, match="^beta of 'z2' is -1; a number of at least 0 is needed"):
        anneal(spvae.model, {"z2": -1})
    with pytest.raises(ValueError, match=r"^gradient='dreg' needs one poutine.scale for all sites of the guide"):
        CircuitELBO(3, gradient="dreg").differentiable_loss(*annealed(spvae, weights), x)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""KL annealing against hand algebra: what it scales, where, and what the gradients are."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_spvae import CircuitELBO, Latent, whole
from pyro_spvae.distributions import LeafNormal, LeafStandardNormal
from pyro_spvae.guides import LeafGuide
from pyro_spvae.infer import renyi_mean
from pyro_spvae.infer.annealing import AnnealMessenger, anneal
from pyro_spvae.models import LeafModel
from tests.helpers import assert_same_gradients, collected_gradients, gradients, small_spvae
from tests.infer.cases import annealed, traces, two_layer

OBJECTIVES = [
    {"num_particles": 1},
    {"num_particles": 3},
    {"num_particles": 3, "alpha": 1.0},
    {"num_particles": 3, "alpha": 0.5},
    {"num_particles": 3, "reduce": "root"},
    {"num_particles": 3, "vectorize_particles": False},
    {"num_particles": 3, "gradient": "dreg"},
]


class TestValue:
    @pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, -math.inf])
    @pytest.mark.parametrize("beta", [0.0, 0.25, 1.0])
    @pytest.mark.parametrize("observed", [None, torch.tensor([[True, False], [True, True]])], ids=["whole", "missing"])
    def test_beta_acts_inside_the_mean_over_particles(self, alpha, beta, observed):
        """log w = log p(x|z) + beta (log p(z) - log q(z)), every particle and leaf, by Pyro's own traces."""
        spvae = small_spvae()
        x = torch.randn(3, 1, 2, 2)
        guide, model = traces(spvae, x, 4, observed)
        latent = model["z"]["log_prob"] - guide["z"]["log_prob"]
        leaf = renyi_mean(model["x"]["log_prob"] + beta * latent, alpha)
        expected = -spvae.circuit(leaf).sum()
        pyro.set_rng_seed(1)
        loss = CircuitELBO(4, alpha=alpha).differentiable_loss(*annealed(spvae, beta), x, observed)
        torch.testing.assert_close(loss, expected, atol=1e-9, rtol=0)
        assert_same_gradients(gradients(spvae, loss), gradients(spvae, expected))

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

    def test_weights_of_sites_that_there_are_not_are_refused(self):
        spvae = small_spvae()
        x = torch.ones(3, 1, 2, 2)
        for program in (anneal(spvae.model, {"z": 0.5, "y": 0.5}), AnnealMessenger({"y": 0.5})(spvae.guide)):
            with pytest.raises(ValueError, match="^beta names the site 'y', but the latent sites are z$"):
                program(x)
        assert poutine.trace(spvae.model).get_trace(x).nodes["z"]["scale"] == 1  # the handler has gone
        fixed = poutine.condition(spvae.model, {"z": poutine.trace(spvae.model).get_trace(x).nodes["z"]["value"]})
        trace = poutine.trace(anneal(fixed, {"z": 0.5})).get_trace(x)
        assert trace.nodes["z"]["scale"] == 1  # one that has its value is a site all the same, and counts once
        with pytest.raises(ValueError, match="^beta names the site 'y', but no site is latent$"):
            anneal(lambda: None, {"y": 0.5})()
        with pytest.raises(KeyError, match="^'of its own'$"):  # an error of the program comes first
            anneal(_fails, {"y": 0.5})()

    @pytest.mark.parametrize("beta", [-0.1, math.nan, math.inf, True, "1", None])
    def test_beta_out_of_range_is_refused(self, beta):
        program = anneal(lambda: None, 0.5)
        for act in (lambda: anneal(lambda: None, beta), lambda: setattr(program, "beta", beta)):
            with pytest.raises(ValueError, match=f"^beta is {beta!r}; a number of at least 0 is needed$"):
                act()
        assert program.beta == 0.5


def _fails():
    raise KeyError("of its own")


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
    for given in (weights, {"z2": 0.25, "z1": 1.0}):
        torch.manual_seed(1)
        losses.append(CircuitELBO(3).differentiable_loss(*annealed(spvae, given), x))
    guide, model = traces(spvae, x, 3)
    ratio = {name: model[name]["log_prob"] - guide[name]["log_prob"] for name in ("z1", "z2")}
    leaf = renyi_mean(model["x"]["log_prob"] + 0.25 * ratio["z2"] + ratio["z1"])
    expected = -spvae.circuit(leaf).sum()
    expected_gradients = gradients(spvae, expected)
    for loss in losses:
        torch.testing.assert_close(loss, expected, rtol=0, atol=1e-10)
        assert_same_gradients(gradients(spvae, loss), expected_gradients)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Gradients through latent bits, against enumeration of all that can be drawn."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro.infer import SVI
from torch.distributions import Independent, RelaxedBernoulli

from pyro_spvae import SPVAE, CircuitELBO, whole
from pyro_spvae.distributions import FactorialBernoulli, Unsmoothed
from pyro_spvae.guides import DiscreteGuide
from pyro_spvae.infer import NVIL, REBAR, VIMCO, Concrete, MuProp, Reinforce, StraightThrough, anneal
from pyro_spvae.infer.estimators.relaxed import RelaxedBits
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import DiscreteVAE
from tests.helpers import gradients, small_spvae
from tests.infer.discrete_cases import X, bits_spvae, expected_bound

UNBIASED = {
    "vimco": (VIMCO, 2),
    "reinforce": (Reinforce, 1),
    "nvil": (lambda: NVIL((4,)), 1),
    "muprop": (MuProp, 1),
    "muprop with a baseline": (lambda: MuProp((4,)), 1),
    "rebar": (REBAR, 1),
    "rebar of another scale": (lambda: REBAR(0.3, 0.7, learn=False), 1),
}
OBJECTIVES = {
    "elbo": {"alpha": 1.0},
    "analytic": {"alpha": 1.0, "kl": "analytic"},
    "iwae": {"num_particles": 2},
    "root": {"num_particles": 2, "reduce": "root"},
    "renyi": {"num_particles": 2, "alpha": 0.5},
}


def estimates(estimator, objective, beta=1.0, repeats=2000, batches=12):
    """Means over draws of the gradient, ``[batch, ..]`` by parameter, and the gradient that they should have."""
    spvae = bits_spvae()
    model, guide = spvae.model, spvae.guide
    if beta != 1:
        model, guide = anneal(model, beta), anneal(guide, beta, guide=True)
    elbo = CircuitELBO(**objective, estimator=estimator)
    torch.manual_seed(0)
    rows = X.expand(repeats, *X.shape[1:])
    found = [gradients(spvae, elbo.differentiable_loss(model, guide, rows) / repeats) for _ in range(batches)]
    wanted = gradients(spvae, -expected_bound(spvae, elbo, beta))
    return {name: torch.stack([one[name] for one in found]) for name in wanted}, wanted


def assert_unbiased(found, wanted):
    for name, value in wanted.items():
        error = found[name].std(0) / math.sqrt(len(found[name])) + 1e-10
        assert bool(((found[name].mean(0) - value).abs() < 5 * error).all()), name


COMBINATIONS = [
    *((name, objective) for name in UNBIASED for objective in OBJECTIVES if " " not in name and objective != "renyi"),
    *((name, objective) for name in UNBIASED for objective in ("elbo", "root") if " " in name),
    ("nvil", "renyi"),
]


@pytest.mark.parametrize(("name", "objective"), COMBINATIONS)
def test_gradients_are_unbiased(name, objective):
    make, least = UNBIASED[name]
    options = OBJECTIVES[objective]
    if options.get("num_particles", 1) < least:
        options = options | {"num_particles": least}
    found, wanted = estimates(make(), options)
    assert_unbiased(found, wanted)
    # errors are small enough to see a term that is missing
    slopes = found["leaf_guide.bias"]
    noise = float(slopes.std(0).max()) / math.sqrt(len(slopes)) / float(wanted["leaf_guide.bias"].abs().max())
    assert noise < (0.3 if name == "reinforce" else 0.1)


@pytest.mark.parametrize("name", ["nvil", "muprop", "rebar"])
def test_annealing_weighs_the_bound_and_never_the_score(name):
    assert_unbiased(*estimates(UNBIASED[name][0](), {"alpha": 1.0}, beta=0.3))


def spread(make, batches=25, repeats=200):
    """Total variance of the mean gradient of some draws."""
    found, _ = estimates(make(), {"alpha": 1.0}, batches=batches, repeats=repeats)
    return float(found["leaf_guide.bias"].var(0).sum())


def test_what_a_control_variate_knows_it_takes_away():
    plain, nvil, muprop, rebar = (spread(UNBIASED[name][0]) for name in ("reinforce", "nvil", "muprop", "rebar"))
    assert nvil < 0.1 * plain and rebar < 0.1 * plain
    assert muprop < 0.7 * nvil


class TestLearnedControls:
    def train(self, estimator, rows, lr, steps):
        """Fits what belongs to an estimator by the gradients that the loss carries, the model's parameters held."""
        spvae = bits_spvae()
        loss = CircuitELBO(1, alpha=1.0, estimator=estimator)(spvae.model, spvae.guide)
        optimiser = torch.optim.Adam(estimator.parameters(), lr)
        for _ in range(steps):
            optimiser.zero_grad()
            with pyro.validation_enabled(False):
                loss(rows).backward()
            optimiser.step()
        return spvae, loss.elbo

    def test_a_baseline_learns_what_log_weights_are(self):
        """The mean log-weight of each datum and leaf."""
        x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).reshape(4, 1, 1, 2)
        estimator = NVIL((8,))
        spvae, elbo = self.train(estimator, x.repeat(40, 1, 1, 1), 0.1, 70)
        with torch.no_grad():
            terms = elbo.terms(spvae.model, spvae.guide, (x.repeat_interleave(2000, 0),), {})
            found = estimator.network(spvae.prepare(x).features)[0].squeeze(-1) + estimator.average
        wanted = terms.log_weight.reshape(4, 2000, -1).mean(1)
        torch.testing.assert_close(found, wanted, rtol=0, atol=0.3)
        assert float(wanted.std(0).max()) > 0.8, "or the average alone would do"

    def test_the_first_batch_sets_the_average(self):
        estimator = NVIL((8,))
        spvae, elbo = self.train(estimator, X.expand(500, 1, 1, 2), 0.0, 1)
        with torch.no_grad():
            terms = elbo.terms(spvae.model, spvae.guide, (X.expand(2000, 1, 1, 2),), {})
        torch.testing.assert_close(estimator.average, terms.log_weight[0].mean(0), rtol=0, atol=0.2)

    def test_scale_and_temperature_move_towards_less_variance(self):
        """From values that are far off."""
        estimator = REBAR(temperature=3.0, scale=-1.0)
        before = spread(lambda: REBAR(3.0, -1.0, learn=False))
        self.train(estimator, X.expand(60, 1, 1, 2), 0.2, 25)
        assert bool((estimator.eta > 0.3).all()) and bool((estimator.log_temperature.exp() != 3.0).all())
        assert spread(lambda: estimator) < 0.5 * before

    def test_slopes_of_the_spread_are_its_derivatives(self):
        """In the logarithm of the temperature and in the scale, by differences, under the same noise."""
        spvae, law = bits_spvae(), {}

        def squares(log_temperature, scale):
            """The sum of squared gradients in the logits, of which the guide's bias is the sum, for one datum."""
            estimator = REBAR(math.exp(log_temperature), scale)
            torch.manual_seed(5)
            loss = CircuitELBO(1, alpha=1.0, estimator=estimator).differentiable_loss(spvae.model, spvae.guide, X)
            slopes = torch.autograd.grad(loss, [estimator.log_temperature, estimator.eta], retain_graph=True)
            law["slopes"] = [float(slope.sum()) for slope in slopes]
            torch.manual_seed(5)
            # without the gradient that the bound itself has in the guide
            elbo = CircuitELBO(1, alpha=1.0, estimator=estimator)
            bias = spvae.leaf_guide.bias
            (whole,) = torch.autograd.grad(loss, bias)
            torch.manual_seed(5)
            terms = elbo.terms(spvae.model, spvae.guide, (X,), {})
            (own,) = torch.autograd.grad(-elbo._root(terms)[0].sum(), bias)
            return float((whole - own).square().sum())

        at, step = (math.log(0.7), 0.8), 1e-4
        squares(*at)
        found = law["slopes"]
        for number in range(2):
            moved = [[value + sign * step * (place == number) for place, value in enumerate(at)] for sign in (1, -1)]
            wanted = (squares(*moved[0]) - squares(*moved[1])) / (2 * step)
            assert found[number] == pytest.approx(wanted, rel=1e-5)
            assert abs(wanted) > 1e-4


@pytest.mark.parametrize("reduce", ["leaf", "root"])
@pytest.mark.parametrize("name", ["nvil", "muprop with a baseline", "rebar"])
def test_what_a_leaf_draws_that_sees_nothing_has_no_gradient(name, reduce):
    spvae = bits_spvae()
    observed = torch.tensor([[[False, True]]])
    elbo = CircuitELBO(2, reduce=reduce, estimator=UNBIASED[name][0]())
    loss = elbo.differentiable_loss(spvae.model, spvae.guide, X.expand(5, 1, 1, 2), observed)
    gradient = gradients(spvae, loss)["leaf_guide.bias"]
    blind = ~spvae.view(observed.to(X.dtype).unsqueeze(0)).bool().any(-1)[0]
    assert bool(blind.any()) and not bool(blind.all())
    assert bool((gradient[blind] == 0).all()) and bool((gradient[~blind].abs() > 1e-9).any())


@pytest.mark.parametrize("name", UNBIASED)
def test_values_are_those_of_the_bound(name):
    spvae = bits_spvae()
    elbo = CircuitELBO(2, estimator=UNBIASED[name][0]())
    torch.manual_seed(1)
    loss = elbo.differentiable_loss(spvae.model, spvae.guide, X)
    torch.manual_seed(1)
    torch.testing.assert_close(-loss.detach(), CircuitELBO(2).bound(spvae.model, spvae.guide, X).sum())


class TestRelaxed:
    LOGITS = torch.tensor([[[-1.5, 0.4]]], dtype=torch.float64)

    @pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
    def test_the_concrete_density_is_torchs(self, temperature):
        law = RelaxedBits(FactorialBernoulli(self.LOGITS), temperature)
        other = Independent(RelaxedBernoulli(torch.tensor(temperature), logits=self.LOGITS), 1)
        y = torch.rand(7, 1, 1, 2)
        torch.testing.assert_close(law.log_prob(y), other.log_prob(y))
        torch.manual_seed(0)
        found = law.rsample((20_000,))
        mean, again = found.mean(0), other.rsample((20_000,)).mean(0)
        assert bool(((mean - again).abs() < 5 * found.std(0) * (2 / 20_000) ** 0.5).all())

    def test_the_mass_is_extended_linearly(self):
        bits = FactorialBernoulli(self.LOGITS)
        law = RelaxedBits(bits, 0.5, density=False)
        corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).unsqueeze(1).unsqueeze(1)
        weights = torch.tensor([0.5, 0.3, 0.2])
        at = (weights.reshape(-1, 1, 1, 1) * corners).sum(0)
        torch.testing.assert_close(law.log_prob(at), torch.einsum("n,n...->...", weights, bits.log_prob(corners)))

    def test_straight_through_draws_bits_and_goes_back_by_their_probabilities(self):
        logits = self.LOGITS.clone().requires_grad_()
        drawn = RelaxedBits(FactorialBernoulli(logits), 1.0, hard=True, density=False).rsample((4000,))
        assert set(drawn.unique().tolist()) == {0.0, 1.0}
        q = self.LOGITS.sigmoid()
        assert bool(((drawn.mean(0) - q).abs() < 5 * (q * (1 - q) / 4000).sqrt()).all())
        weights = torch.randn(4000, 1, 1, 2)
        (slope,) = torch.autograd.grad((weights * drawn).sum(), logits)
        torch.testing.assert_close(slope, weights.sum(0) * q * (1 - q))

    @pytest.mark.parametrize("estimator", [StraightThrough(), Concrete(), Concrete(form="mass")], ids=repr)
    def test_they_change_gradients_alone(self, estimator):
        """Without gradients values are bits, and the bound is that of the model; with them all parameters have one."""
        spvae = bits_spvae()
        elbo = CircuitELBO(2, estimator=estimator)
        torch.manual_seed(1)
        found = elbo.bound(spvae.model, spvae.guide, X)
        torch.manual_seed(1)
        torch.testing.assert_close(found, CircuitELBO(2).bound(spvae.model, spvae.guide, X))
        rows = X.expand(200, 1, 1, 2)
        loss = elbo.differentiable_loss(spvae.model, spvae.guide, rows)
        assert all(bool((slope != 0).any()) for slope in gradients(spvae, loss).values())
        assert not type(estimator).unbiased

    def test_the_concrete_objective_is_a_bound_of_the_relaxed_model(self):
        """In the mean below log of the mean weight, which many draws estimate; the mass at relaxed values is not."""
        spvae, bounds = bits_spvae(), {}
        rows = X.expand(4000, 1, 1, 2)
        for form in ("density", "mass"):
            one, many = (CircuitELBO(k, estimator=Concrete(0.5, form)) for k in (1, 200))
            loose = -one.differentiable_loss(spvae.model, spvae.guide, rows).detach() / 4000
            tight = -many.differentiable_loss(spvae.model, spvae.guide, rows[:40]).detach() / 40
            bounds[form] = float(loose), float(tight)
        assert bounds["density"][0] < bounds["density"][1] + 0.02

    def test_the_gradient_is_biased(self):
        found, wanted = estimates(StraightThrough(), {"alpha": 1.0})
        with pytest.raises(AssertionError):
            assert_unbiased(found, wanted)


def test_svi_trains_the_estimators_own_parameters():
    spvae, estimator = bits_spvae(), NVIL((4,))
    svi = SVI(spvae.model, spvae.guide, pyro.optim.Adam({"lr": 0.01}), CircuitELBO(1, estimator=estimator))
    svi.step(X.expand(20, 1, 1, 2))
    before = [parameter.detach().clone() for parameter in estimator.parameters()]
    svi.step(X.expand(20, 1, 1, 2))
    assert len(before) == 4
    assert all(not torch.equal(old, new) for old, new in zip(before, estimator.parameters(), strict=True))


@pytest.mark.parametrize("make", [lambda: NVIL((4,)), lambda: REBAR(learn=False)])
def test_an_estimator_goes_where_its_model_goes(make):
    """As to another device: it has met the model before."""
    spvae, estimator = bits_spvae(), make()
    loss = CircuitELBO(1, estimator=estimator)(spvae.float().model, spvae.guide)
    loss(X.float())
    kept = list(estimator.parameters())
    loss = CircuitELBO(1, estimator=estimator)(spvae.double().model, spvae.guide)
    assert loss(X).dtype == torch.float64
    state = estimator.state_dict()
    assert state and all(value.dtype == torch.float64 for value in state.values())
    assert all(one is other for one, other in zip(kept, estimator.parameters(), strict=True)), "of an optimiser"


def test_refusals():
    spvae, normal = bits_spvae(), small_spvae(whole((1, 2)), 1)
    for make, message in (
        (lambda: CircuitELBO(estimator="nvil"), "estimator is a str; an instance of Estimator is needed"),
        (
            lambda: CircuitELBO(gradient="dreg", estimator=NVIL()),
            "estimator is given with gradient='dreg', which needs guides that have use for none",
        ),
        (lambda: REBAR(0.0), "temperature is 0.0; a positive number is needed"),
        (lambda: REBAR(scale="one"), "scale is 'one'; a number is needed"),
        (lambda: Concrete(-1), "temperature is -1; a positive number is needed"),
        (lambda: Concrete(form="soft"), "form is 'soft'; known are density, mass"),
        *(
            (lambda kind=kind: kind(5), "hidden_dims is 5; a sequence of positive integers is needed")
            for kind in (NVIL, MuProp)
        ),
        (lambda: NVIL(None), "hidden_dims is None; NVIL needs a baseline, and without one is Reinforce"),
        *(
            (
                lambda estimator=estimator: CircuitELBO(1, estimator=estimator).differentiable_loss(
                    normal.model, normal.guide, X
                ),
                f"estimator is a {name}, but gradients pass through all that the guide draws; leave it out$",
            )
            for name, estimator in (("NVIL", NVIL()), ("Concrete", Concrete()), ("StraightThrough", StraightThrough()))
        ),
        (
            lambda: CircuitELBO(1).differentiable_loss(spvae.model, spvae.guide, X),
            "CircuitELBO: the guide has sites without rsample, whose gradient by VIMCO needs num_particles of at least",
        ),
    ):
        with pytest.raises((ValueError, TypeError), match="^" + message.replace("(", r"\(")):
            make()


@pytest.mark.parametrize("estimator", [MuProp, REBAR], ids=["muprop", "rebar"])
def test_batch_normalisation_learns_nothing_of_further_passes(estimator):
    """Their values are no bits: running statistics are those of an estimator that has no such passes."""
    found = []
    for own in (Reinforce, estimator):
        torch.manual_seed(0)
        leaf = DiscreteVAE(Bernoulli(), latent_dim=4, smoothing=Unsmoothed(), hidden_dims=(8,), normalise=True)
        spvae = SPVAE(whole((2, 2)), units=1, leaf=leaf, guide=DiscreteGuide(hidden_dims=(8,)))
        x = (torch.rand(30, 1, 2, 2) < 0.5).double()
        spvae.train()
        spvae.start(x)
        CircuitELBO(2, estimator=own()).differentiable_loss(spvae.model, spvae.guide, x).backward()
        found.append({name: value for name, value in spvae.named_buffers() if "running" in name})
    assert any(bool((value != 1).any()) for name, value in found[0].items() if "running_var" in name)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])

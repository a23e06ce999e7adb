# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Pyro's parameter store never stands for a model's parameters without a word."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.contrib.autoname import scope
from pyro.infer import SVI, JitTrace_ELBO, Predictive, RenyiELBO, Trace_ELBO, TraceEnum_ELBO
from pyro.nn import PyroModule, PyroParam, PyroSample, pyro_method
from torch import nn
from torch.distributions import constraints

from pyro_spvae import CircuitELBO, whole
from pyro_spvae.blocks import Program, unstated
from pyro_spvae.evaluating import lean
from pyro_spvae.infer import param_store
from pyro_spvae.likelihoods import Bernoulli
from pyro_spvae.models import SPN, SPVAE, VAE
from tests.helpers import small_spvae

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Found vars in model but not guide"),
]
REFUSED = (
    "^the parameter store holds another tensor than this model's parameter '.*', of another model or loaded from a file"
)
OBJECTIVES = {
    "trace": lambda: Trace_ELBO(),
    "enum": lambda: TraceEnum_ELBO(max_plate_nesting=2),
    "renyi": lambda: RenyiELBO(num_particles=2),
    "jit": lambda: JitTrace_ELBO(ignore_jit_warnings=True),
    "circuit": lambda: CircuitELBO(2),
}


@pytest.fixture
def x():
    return torch.bernoulli(torch.full((4, 1, 2, 2), 0.5))


def model(**options):
    return small_spvae(likelihood=Bernoulli(), **options)


def svi_of(spvae, objective=None):
    return SVI(spvae.model, spvae.guide, pyro.optim.Adam({"lr": 0.1}), objective or TraceEnum_ELBO(max_plate_nesting=2))


def state(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def moved(module, before):
    """Names of the parameters that are others than before."""
    return [name for name, value in module.named_parameters() if not torch.equal(value, before[name])]


@pytest.fixture
def trained(x):
    """A model whose parameters are in the store."""
    spvae = model()
    svi_of(spvae).step(x)
    assert len(pyro.get_param_store()) == len(list(spvae.parameters()))
    return spvae


def test_svi_of_parameters_that_are_in_no_store_is_refused_in_a_sentence(x):
    spvae = model()
    before = state(spvae)
    with (
        pyro.settings.context(module_local_params=True),
        pytest.raises(ValueError, match="module_local_params is True"),
    ):
        svi_of(spvae, CircuitELBO(2)).step(x)
    assert not moved(spvae, before)
    svi_of(spvae, CircuitELBO(2)).step(x)
    assert len(moved(spvae, before)) == len(before)


class TestAnotherModel:
    @pytest.mark.parametrize("validate", [True, False])
    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_is_not_trained_in_the_place_of_this_one(self, trained, x, objective, validate):
        second, first = model(), state(trained)
        before = state(second)
        with pyro.validation_enabled(validate):
            with pytest.raises(ValueError, match=REFUSED) as error:
                svi_of(second, OBJECTIVES[objective]()).step(x)
            assert "pyro.clear_param_store()" in str(error.value).partition("\nTrace Shapes")[0]  # which Pyro adds
            assert not moved(second, before) and not moved(trained, first)
            pyro.clear_param_store()
            svi_of(second, OBJECTIVES[objective]()).step(x)
        assert len(moved(second, before)) == len(before) and not moved(trained, first)

    @pytest.mark.parametrize(
        "other",
        [
            lambda: small_spvae(leaf=VAE(Bernoulli(), 2, (3, 3))),  # other shapes and more names
            lambda: SPN(whole((2, 2)), 1, likelihood=Bernoulli()),
            lambda: model(units=3),
        ],
    )
    def test_of_another_architecture(self, trained, x, other):
        second = other()
        if state(second).keys() & state(trained).keys():
            with pytest.raises(ValueError, match=REFUSED):
                svi_of(second).step(x)
        else:
            before = state(second)
            svi_of(second).step(x)
            assert len(moved(second, before)) == len(before)

    def test_harms_nothing_where_nothing_is_trained(self, trained, x):
        """What is computed is that of the model itself."""
        second = model()
        found = []
        for _ in range(2):
            pyro.set_rng_seed(1)
            found.append(
                [
                    Predictive(second.model, num_samples=2)(num=2)["image"],
                    torch.tensor(TraceEnum_ELBO(max_plate_nesting=2).loss(second.model, second.guide, x)),
                    CircuitELBO().bound(second.model, second.guide, x),
                    second.log_likelihood(x, num_samples=3),
                ]
            )
            pyro.clear_param_store()
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))

    def test_of_a_file_or_a_copy(self, trained, x, tmp_path):
        trained.save(tmp_path)
        expected = trained.log_likelihood(x, num_samples=3)
        for second in (SPVAE.load(tmp_path), copy.deepcopy(trained)):
            assert second.log_likelihood(x, num_samples=3).shape == expected.shape
            assert CircuitELBO().bound(second.model, second.guide, x).isfinite().all()
            with pytest.raises(ValueError, match=REFUSED):
                svi_of(second).step(x)
        svi_of(trained).step(x)

    def test_does_not_matter_to_a_module_with_parameters_of_its_own(self, trained, x):
        second = model()
        before = state(second)
        with pyro.settings.context(module_local_params=True):
            loss = CircuitELBO(2)(second.model, second.guide)
            optimiser = torch.optim.SGD(loss.parameters(), lr=0.1)
            loss(x).backward()
            optimiser.step()
        assert len(moved(second, before)) == len(before)
        second.fit(x, epochs=1)
        svi_of(trained).step(x)


def test_the_same_model_again(trained, x):
    trained.to(torch.float64)
    trained.load_state_dict(state(model()))
    for objective in OBJECTIVES.values():
        before = state(trained)
        svi_of(trained, objective()).step(x)
        assert len(moved(trained, before)) == len(before)


class Two(PyroModule):
    """Two models in a larger one, each by names of its own."""

    def __init__(self):
        super().__init__()
        self.first, self.second = model(), model()

    @pyro_method
    def model(self, x):
        with scope(prefix="first"):
            self.first.model(x)
        with scope(prefix="second"):
            self.second.model(x)

    @pyro_method
    def guide(self, x):
        with scope(prefix="first"):
            self.first.guide(x)
        with scope(prefix="second"):
            self.second.guide(x)


def test_several_models_in_a_larger_module(x):
    both = Two()
    before = state(both)
    svi = SVI(both.model, both.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    svi.step(x)
    assert len(moved(both, before)) == len(before)
    svi.step(x)
    with pytest.raises(ValueError, match=REFUSED):
        other = Two()
        SVI(other.model, other.guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO()).step(x)


class TestStoreThatWasLoaded:
    @pytest.fixture
    def fresh(self, trained, tmp_path):
        """A new model, beside parameters of a trained one that the store has from a file."""
        pyro.get_param_store().save(tmp_path / "store.pt")
        pyro.clear_param_store()
        pyro.get_param_store().load(tmp_path / "store.pt")
        return model()

    @pytest.mark.parametrize(
        "ask",
        [
            lambda spvae, x: spvae.model(num=2),
            lambda spvae, x: spvae.guide(x),
            lambda spvae, x: Predictive(spvae.model, num_samples=2)(num=2),
            lambda spvae, x: svi_of(spvae).step(x),
            lambda spvae, x: svi_of(spvae).evaluate_loss(x),
            lambda spvae, x: spvae.log_likelihood(x, num_samples=3),
            lambda spvae, x: spvae.sample(2),
            lambda spvae, x: spvae.embed(x, num_particles=2),
        ],
    )
    def test_is_not_overlooked(self, fresh, x, ask):
        with pytest.raises(ValueError, match=REFUSED) as error:
            ask(fresh, x)
        assert "spvae.save and SPVAE.load" in str(error.value)
        pyro.clear_param_store()
        ask(fresh, x)

    def test_of_the_same_values_changes_no_answer_and_trains_nothing(self, fresh, trained, x):
        assert trained.log_likelihood(x, num_samples=3).isfinite().all()
        assert Predictive(trained.model, num_samples=2)(num=2)["image"].shape[0] == 2
        with pytest.raises(ValueError, match=REFUSED):
            svi_of(trained).step(x)

    def test_after_a_step(self, trained, x, tmp_path):
        """The model goes on, and then an earlier state is loaded."""
        pyro.get_param_store().save(tmp_path / "store.pt")
        svi = svi_of(trained)
        svi.step(x)
        pyro.get_param_store().load(tmp_path / "store.pt")
        with pytest.raises(ValueError, match=REFUSED):
            trained.model(num=2)

    def test_a_state_dict_restores_a_model(self, trained, x):
        pyro.clear_param_store()
        second = model()
        second.load_state_dict(trained.state_dict())
        assert not moved(second, state(trained))
        svi_of(second).step(x)

    def test_other_tensors_in_the_store_are_nobodys_business(self, trained, x):
        pyro.param("circuit", torch.zeros(2))
        pyro.module("leaf", nn.Linear(1, 1))
        svi_of(trained).step(x)
        assert trained.sample(2).shape == (2, 1, 2, 2)


def test_all_names_are_looked_at_once(x, monkeypatch):
    spvae = model()
    svi = svi_of(spvae)
    svi.step(x)
    svi.step(x)
    monkeypatch.setattr(param_store, "_look", None)
    for _ in range(3):
        svi.step(x)
        spvae.sample(2)
    assert len(pyro.get_param_store()) == len(list(spvae.parameters()))


def test_every_name_counts(trained):
    *_, last = pyro.get_param_store()
    pyro.clear_param_store()
    pyro.param(last, torch.zeros(1))
    with pytest.raises(ValueError, match=f"parameter '{last}'".replace("$", r"\$")):
        trained.model(num=2)


class TestWhereParametersAreUnstated:
    """As training and evaluation run programs."""

    def test_traces_hold_none(self, x):
        spvae = model()
        for program in (spvae.guide, spvae.model):
            of_all = poutine.trace(program).get_trace(x)
            with lean():
                trace = poutine.trace(program).get_trace(x)
            assert len(of_all.param_nodes) > 0
            assert set(trace.nodes) == set(of_all.nodes) - set(of_all.param_nodes)
            assert poutine.trace(program).get_trace(x).param_nodes == of_all.param_nodes

    @pytest.mark.parametrize("options", [{}, {"gradient": "dreg"}, {"alpha": 1.0, "kl": "analytic"}])
    def test_loss_and_gradients_are_the_same(self, x, options):
        spvae, found = model(), []
        for where in (nullcontext, lean):
            with where():
                torch.manual_seed(1)
                loss = CircuitELBO(2, **options).differentiable_loss(spvae.model, spvae.guide, x)
                found.append([loss, *torch.autograd.grad(loss, list(spvae.parameters()))])
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))

    def test_what_pyro_makes_of_attributes_is_made(self):
        """A parameter with a constraint, one that is random, and a program within."""

        class Inner(Program):
            def __init__(self):
                super().__init__()
                self.linear = nn.Linear(1, 1)
                self.scale = PyroParam(torch.tensor(0.5), constraints.positive)
                self.weight = PyroSample(dist.Normal(0.0, 1.0))

        class Outer(Program):
            def __init__(self):
                super().__init__()
                self.inner = Inner()
                self.shift = nn.Parameter(torch.tensor(2.0))

            def forward(self):
                return self.shift, self.inner.linear, self.inner.scale, self.inner.weight

        with pyro.settings.context(module_local_params=True), unstated():
            outer = Outer()
            trace = poutine.trace(outer).get_trace()
        shift, linear, scale, weight = trace.nodes["_RETURN"]["value"]
        assert shift is outer.shift and linear is outer.inner.linear
        torch.testing.assert_close(scale, torch.tensor(0.5))
        assert trace.nodes["inner.weight"]["value"] is weight
        assert trace.param_nodes == ["inner.scale"]

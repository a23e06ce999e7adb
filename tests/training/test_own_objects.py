# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Objectives, optimisers and weights of sites that a user gives as objects in the place of names."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO

from pyro_spvae.circuits import whole
from pyro_spvae.data.seeds import noise_seed
from pyro_spvae.guides import HierarchicalGuide
from pyro_spvae.infer import CircuitELBO
from pyro_spvae.likelihoods import Normal
from pyro_spvae.models import HVAE
from pyro_spvae.training.batches import Batches
from pyro_spvae.training.run import open_run
from pyro_spvae.training.run_folder import RunFolder
from pyro_spvae.training.train import resume, train
from tests.helpers import small_spvae
from tests.training.cases import TINY, same, stopped_after, untimed

OPTIONS = {"epochs": 2, "batch_size": 8, "patience": 9}
PLATES = {"vectorize_particles": True, "max_plate_nesting": 2}
ONE_BY_ONE: Any = {"vectorize_particles": False}
PYROS = [Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, RenyiELBO]


def rows(number=24):
    return torch.rand(number, 1, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def one_leaf():
    torch.manual_seed(0)
    return small_spvae(whole((2, 2)), units=1)


def circuit():
    torch.manual_seed(0)
    return small_spvae()


def two_layers():
    torch.manual_seed(0)
    leaf = HVAE(Normal(), latent_dim=2, top_dim=1, hidden_dims=(3,))
    return small_spvae(whole((2, 2)), units=1, leaf=leaf, guide=HierarchicalGuide(hidden_dims=(3,)))


def fit(spvae, **options):
    """The parameters that a model ends with, and its metrics without timings."""
    lines = spvae.fit(rows(), rows(8), **(OPTIONS | options))
    return spvae.state_dict(), [untimed(line) for line in lines]


def first_batch():
    """The rows that one step on all of them sees, with torch at the noise of that step."""
    x, _ = Batches(rows(), None, 24, seed=0)(0, 0)
    torch.manual_seed(noise_seed(0, 0, stream=4))
    return x


class TestObjective:
    @pytest.mark.parametrize(
        ("make", "objective", "named"),
        [
            (circuit, CircuitELBO(3), {}),
            (circuit, CircuitELBO(3, alpha=1.0), {"objective": "elbo"}),
            (circuit, CircuitELBO(3, alpha=1.0, kl="analytic"), {"objective": "elbo", "kl": "analytic"}),
            (circuit, CircuitELBO(3, alpha=-math.inf), {"objective": "vr-max"}),
            (circuit, CircuitELBO(3, alpha=0.5, reduce="root"), {"objective": "renyi", "alpha": 0.5, "reduce": "root"}),
            (circuit, CircuitELBO(3, gradient="dreg"), {"gradient": "dreg"}),
            (one_leaf, Trace_ELBO(3, **PLATES), {"objective": "trace-elbo"}),
            (one_leaf, TraceEnum_ELBO(num_particles=3, **PLATES), {"objective": "trace-enum-elbo"}),
            (one_leaf, TraceMeanField_ELBO(3, **PLATES), {"objective": "trace-mean-field-elbo"}),
            (one_leaf, RenyiELBO(0.5, 3, **PLATES), {"objective": "pyro-renyi-elbo", "alpha": 0.5}),
        ],
    )
    @pytest.mark.parametrize("warmup", [0, 2])
    def test_is_the_one_that_it_names_bit_for_bit(self, make, objective, named, warmup):
        state, lines = fit(make(), objective=objective, warmup=warmup)
        other, other_lines = fit(make(), particles=3, warmup=warmup, **named)
        assert lines == other_lines and same(state, other)

    @pytest.mark.parametrize(
        ("objective", "ours"),
        [
            (Trace_ELBO(2, vectorize_particles=True), CircuitELBO(2, alpha=1.0)),
            (Trace_ELBO(2), CircuitELBO(2, alpha=1.0, **ONE_BY_ONE)),
            (TraceEnum_ELBO(num_particles=2), CircuitELBO(2, alpha=1.0, **ONE_BY_ONE)),
            (TraceMeanField_ELBO(2), CircuitELBO(2, alpha=1.0, kl="analytic", **ONE_BY_ONE)),
            (RenyiELBO(num_particles=2), CircuitELBO(2, **ONE_BY_ONE)),
        ],
    )
    def test_of_pyro_as_it_comes_is_our_bound(self, objective, ours):
        (state, (line,)), (other, (our_line,)) = (fit(one_leaf(), objective=o, epochs=1) for o in (objective, ours))
        assert line["elbo"] == pytest.approx(our_line["elbo"], rel=1e-9)
        for name, value in state.items():
            torch.testing.assert_close(value, other[name], rtol=1e-7, atol=1e-9, msg=name)

    def test_of_a_whole_run_is_that_of_fit_and_goes_on_as_it_was(self, tmp_path):
        config = dataclasses.replace(TINY, objective="renyi", alpha=0.5, particles=3)
        train(config, tmp_path / "named")
        own, objective = dataclasses.replace(TINY, particles=3), CircuitELBO(3, alpha=0.5)
        with stopped_after(70):
            train(own, tmp_path / "own", objective=objective)
        for other, said in ((None, "none"), (CircuitELBO(3), r"CircuitELBO\(.*alpha=0.0.*\)")):
            with pytest.raises(ValueError, match=rf"^objective is {said}, but the run .*own was started with Circuit"):
                resume(tmp_path / "own", objective=other)
        resume(tmp_path / "own", objective=objective)
        named, found = (RunFolder(tmp_path / name) for name in ("named", "own"))
        assert same(named.load("best.pt")["model"], found.load("best.pt")["model"])
        assert [untimed(line) for line in named.read_metrics()] == [untimed(line) for line in found.read_metrics()]


class TestOptimiser:
    def test_makes_its_own_step(self):
        spvae = circuit()
        before = {name: value.clone() for name, value in spvae.named_parameters()}
        loss = CircuitELBO(3).differentiable_loss(spvae.model, spvae.guide, first_batch()) / 24
        gradients = torch.autograd.grad(loss, list(spvae.parameters()))
        pyro.clear_param_store()
        fit(spvae, epochs=1, batch_size=24, particles=3, optimiser=lambda p: torch.optim.SGD(p, lr=0.1))
        for (name, value), gradient in zip(spvae.named_parameters(), gradients, strict=True):
            torch.testing.assert_close(value.detach(), before[name] - 0.1 * gradient, rtol=1e-9, atol=1e-12, msg=name)

    @pytest.mark.parametrize("schedule", ["plateau", "cosine"])
    def test_an_object_a_function_and_a_name_are_one(self, schedule):
        options = {"lr": 0.01, "weight_decay": 0.1}
        function, spvae = functools.partial(torch.optim.AdamW, fused=True, **options), circuit()
        state, lines = fit(circuit(), optimiser="adamw", schedule=schedule, **options)
        for own, made in ((function, circuit()), (function(spvae.parameters()), spvae)):
            other, other_lines = fit(made, optimiser=own, schedule=schedule)
            assert lines == other_lines
            assert same(state, other)

    @pytest.mark.parametrize("kind", [torch.optim.NAdam, torch.optim.Rprop, torch.optim.RMSprop, torch.optim.Adafactor])
    def test_any_of_torch_is_taken_and_moves_what_it_holds(self, kind):
        spvae, before = circuit(), circuit().state_dict()
        fit(spvae, optimiser=kind(spvae.leaf.parameters()))
        changed = {name.partition(".")[0] for name, v in spvae.state_dict().items() if not torch.equal(v, before[name])}
        assert changed == {"leaf"}


class TestBeta:
    @pytest.mark.parametrize("beta", [{"z2": 0.5}, {"z1": 0.0, "z2": 2.0}])
    def test_weighs_sites(self, beta):
        """log p(x | z) + beta_1 log w(z1) + beta_2 log w(z2), by Pyro's own traces of the first batch."""
        spvae, x = two_layers(), first_batch()
        guide = poutine.trace(spvae.guide).get_trace(x)
        model = poutine.trace(poutine.replay(spvae.model, trace=guide)).get_trace(x)
        expected = model.log_prob_sum(lambda name, site: name == "x")
        for name in ("z1", "z2"):
            prior, posterior = (trace.log_prob_sum(lambda n, site, name=name: n == name) for trace in (model, guide))
            expected = expected + beta.get(name, 1.0) * (prior - posterior)
        pyro.clear_param_store()
        _, (line,) = fit(spvae, beta=beta, particles=1, batch_size=24, epochs=1)
        assert line["elbo"] == pytest.approx(expected.item() / 24, rel=1e-9)

    def test_equal_ones_are_one_number_and_rise_in_warm_up(self):
        state, lines = fit(two_layers(), beta={"z1": 0.5, "z2": 0.5}, warmup=2)
        other, other_lines = fit(two_layers(), beta=0.5, warmup=2)
        assert lines == other_lines and same(state, other)


class TestRuns:
    """Records of objects, and resumption."""

    def options(self, spvae, lr=0.01, vectorised=True, **more):
        optimiser = torch.optim.SGD(spvae.parameters(), lr=lr, momentum=0.9)
        objective = CircuitELBO(3, alpha=0.5, vectorize_particles=vectorised)
        return {"objective": objective, "optimiser": optimiser, "beta": {"z2": 0.5}} | more

    @pytest.fixture
    def stopped(self, tmp_path):
        """Stops a run in the middle of its second epoch."""

        def stop(**more):
            spvae = two_layers()
            options = self.options(spvae, **more)
            with stopped_after(4):
                fit(spvae, out=tmp_path / "run", **options)
            return tmp_path / "run", spvae, options

        return stop

    @pytest.mark.parametrize("used", [False, True])
    @pytest.mark.parametrize("more", [{}, {"objective": TraceEnum_ELBO, "schedule": "cosine"}])
    def test_go_on_bit_for_bit(self, stopped, more, used):
        """Also with the very objects that the first steps have changed."""
        more = {name: value if isinstance(value, str) else value() for name, value in more.items()}
        run, spvae, options = stopped(**more)
        if not used:
            spvae = two_layers()
            options = self.options(spvae, **more)
        state, lines = fit(spvae, out=run, resume=True, **options)
        unbroken = two_layers()
        other, other_lines = fit(unbroken, **self.options(unbroken, **more))
        assert lines == other_lines and same(state, other)
        assert same(open_run(run).spvae.state_dict(), other)

    def test_are_named(self, stopped):
        run, *_ = stopped()
        record, config = (json.loads((run / name).read_text()) for name in ("data.json", "config.json"))
        assert record["objective"].startswith("CircuitELBO(") and "alpha=0.5" in record["objective"]
        assert record["optimiser"].startswith("SGD(lr=0.01, momentum=0.9, ") and record["beta"] == {"z2": 0.5}
        assert (config["objective"], config["alpha"], config["particles"]) == ("renyi", 0.5, 3)

    @pytest.mark.parametrize(
        ("more", "now", "then"),
        [
            ({"lr": 0.02}, r"optimiser is 'SGD\(lr=0.02, .*", r"'SGD\(lr=0.01, "),
            ({"optimiser": torch.optim.SGD}, r"optimiser is 'SGD\(lr=0.001, .*", r"'SGD\(lr=0.01, "),
            ({"optimiser": "adam"}, "optimiser is None", r"'SGD\("),
            ({"vectorised": False}, "objective is .*_particles=False.*", ".*_particles=True"),
            ({"objective": "renyi", "alpha": 0.5, "particles": 3}, "objective is None", ".CircuitELBO"),
            ({"objective": CircuitELBO(4, alpha=0.5)}, "particles is 4", "3"),
            ({"beta": {"z2": 0.25}}, "beta is {'z2': 0.25}", "{'z2': 0.5}"),
            ({"beta": 1.0}, "beta is None", "{'z2': 0.5}"),
        ],
    )
    def test_of_other_objects_are_not_resumed(self, stopped, more, now, then):
        run, spvae, _ = stopped()
        with pytest.raises(ValueError, match=f"^{now}, but the run .* was started with {then}"):
            fit(spvae, out=run, resume=True, **self.options(spvae, **more))


OURS, FOREIGN = CircuitELBO(3), "optimiser holds parameters that are not the model's; make it of spvae.parameters"
HAS = "is given, but objective is a CircuitELBO, which has its own; leave it out"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(
            ({"objective": OURS, name: value}, f"{name} {HAS}")
            for name, value in {
                "particles": 3,
                "alpha": 0.5,
                "kl": "sample",
                "reduce": "leaf",
                "estimator": "nvil",
            }.items()
        ),
        ({"objective": Trace_ELBO(), "gradient": "dreg"}, "gradient is given, but objective is a Trace_ELBO, which h"),
        ({"objective": CircuitELBO}, "objective is the class CircuitELBO; a name, CircuitELBO or an ELBO of Pyro is"),
        ({"objective": TraceGraph_ELBO()}, "objective is a TraceGraph_ELBO; CircuitELBO and Pyro's Trace_ELBO, "),
        *(({"objective": kind()}, f"objective is a {kind.__name__}, but the circuit has 8 leaves, ") for kind in PYROS),
        ({"optimiser": 3}, "optimiser is a int; a name, a torch optimiser, or a function of parameters that makes"),
        ({"optimiser": torch.optim.SGD, "lr": 0.1}, "lr is given, but optimiser is a SGD, which has its own; leave"),
        ({"optimiser": torch.optim.AdamW, "weight_decay": 0.1}, "weight_decay is given, but optimiser is a AdamW, "),
        ({"optimiser": lambda p: None}, "optimiser makes a NoneType; a torch optimiser is needed"),
        ({"optimiser": lambda p: torch.optim.SGD(circuit().parameters())}, FOREIGN),
        ({"optimiser": torch.optim.SGD(circuit().parameters())}, FOREIGN),
        ({"optimiser": torch.optim.LBFGS}, "optimiser is a LBFGS, whose step evaluates the loss several times; one"),
        ({"beta": {"z": 0.5, "w": 1.0}}, "beta names the site 'w'; the latent sites of the leaves are z$"),
        ({"beta": {"z": -1}}, "beta of 'z' is -1; a number of at least 0 is needed"),
    ],
)
def test_refusals_come_before_anything_is_written(options, message, tmp_path):
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        fit(circuit(), out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("schedule", ["linear", "cosine", "one-cycle"])
def test_an_optimisers_rates_are_its_own_again(schedule):
    """After a schedule has brought them down, so that it trains again."""
    spvae = circuit()
    own = list(spvae.parameters())
    optimiser = torch.optim.Adam([{"params": own[:1], "lr": 0.02}, {"params": own[1:]}], lr=0.01)
    rates = []
    for _ in range(2):
        metrics = spvae.fit(rows(), rows(8), optimiser=optimiser, schedule=schedule, **OPTIONS)
        rates.append([line["lr"] for line in metrics])
        assert [group["lr"] for group in optimiser.param_groups] == [0.02, 0.01]
    assert rates[0] == pytest.approx(rates[1]) and rates[0][0] > rates[0][-1]


def test_rates_of_groups_are_known_to_a_run(tmp_path):
    def made(rate):
        return lambda parameters: torch.optim.Adam([{"params": list(parameters), "lr": rate}])

    spvae = circuit()
    fit(spvae, optimiser=made(0.01), out=tmp_path / "run")
    with pytest.raises(ValueError, match=r"^optimiser is .Adam\(.*0\.5.*, but the run .* was started with"):
        fit(spvae, optimiser=made(0.5), out=tmp_path / "run", resume=True, epochs=4)
    assert fit(spvae, optimiser=made(0.01), out=tmp_path / "run", resume=True, epochs=4)


def test_optimisers_without_a_rate_are_refused():
    class Still(torch.optim.Optimizer):
        def __init__(self, parameters):
            super().__init__(parameters, {})

        def step(self, closure=None):
            pass

    with pytest.raises(ValueError, match="^optimiser is a Still without a learning rate, which schedules set$"):
        fit(circuit(), optimiser=Still)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Objectives, optimisers and weights of sites that a user gives as objects in the place of names."""

from __future__ import annotations

import functools
import math

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
from pyro_spvae.training.trainer import Trainer
from tests.helpers import small_spvae

OPTIONS = {"epochs": 2, "batch_size": 8, "patience": 9}
PLATES = {"vectorize_particles": True, "max_plate_nesting": 2}
ONE_BY_ONE = {"vectorize_particles": False}
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


def fitted(make, **options):
    """The parameters that a new model ends with, and its metrics without timings."""
    spvae = make()
    lines = spvae.fit(rows(), rows(8), **(OPTIONS | options))
    kept = [{k: v for k, v in line.items() if k not in ("seconds", "images_per_second")} for line in lines]
    return spvae.state_dict(), kept


def assert_same(one, other, rtol=0.0):
    (state, lines), (others, other_lines) = one, other
    for name, value in state.items():
        torch.testing.assert_close(value, others[name], rtol=rtol, atol=rtol, msg=name)
    assert all(line == pytest.approx(second, rel=rtol) for line, second in zip(lines, other_lines, strict=True))


def moved(make, options):
    before = make().state_dict()
    return any(not torch.equal(before[name], value) for name, value in fitted(make, **options)[0].items())


class TestObjective:
    @pytest.mark.parametrize(
        ("objective", "named"),
        [
            (CircuitELBO(3), {}),
            (CircuitELBO(3, alpha=1.0), {"objective": "elbo"}),
            (CircuitELBO(3, alpha=1.0, kl="analytic"), {"objective": "elbo", "kl": "analytic"}),
            (CircuitELBO(3, alpha=-math.inf), {"objective": "vr-max"}),
            (CircuitELBO(3, alpha=0.5, reduce="root"), {"objective": "renyi", "alpha": 0.5, "reduce": "root"}),
            (CircuitELBO(3, gradient="dreg"), {"gradient": "dreg"}),
        ],
    )
    def test_is_the_one_that_it_names_bit_for_bit(self, objective, named):
        by_name = fitted(circuit, particles=3, **named)
        assert_same(fitted(circuit, objective=objective), by_name)
        assert_same(fitted(circuit, objective=objective, warmup=2), fitted(circuit, particles=3, warmup=2, **named))

    @pytest.mark.parametrize(
        ("objective", "named"),
        [
            (Trace_ELBO(3, **PLATES), "trace-elbo"),
            (TraceEnum_ELBO(num_particles=3, **PLATES), "trace-enum-elbo"),
            (TraceMeanField_ELBO(3, **PLATES), "trace-mean-field-elbo"),
            (RenyiELBO(0.5, 3, **PLATES), "pyro-renyi-elbo"),
        ],
    )
    def test_of_pyro_is_the_one_that_it_names(self, objective, named):
        options = {"alpha": 0.5} if named == "pyro-renyi-elbo" else {}
        by_name = fitted(one_leaf, objective=named, particles=3, **options)
        assert_same(fitted(one_leaf, objective=objective), by_name)

    @pytest.mark.parametrize(
        ("objective", "ours"),
        [
            (Trace_ELBO(2), CircuitELBO(2, alpha=1.0, **ONE_BY_ONE)),
            (TraceEnum_ELBO(num_particles=2), CircuitELBO(2, alpha=1.0, **ONE_BY_ONE)),
            (TraceMeanField_ELBO(2), CircuitELBO(2, alpha=1.0, kl="analytic", **ONE_BY_ONE)),
            (RenyiELBO(num_particles=2), CircuitELBO(2, **ONE_BY_ONE)),
        ],
    )
    def test_of_pyro_as_it_comes_is_our_bound(self, objective, ours):
        (state, lines), (others, other_lines) = (fitted(one_leaf, objective=o, epochs=1) for o in (objective, ours))
        assert lines[0]["elbo"] == pytest.approx(other_lines[0]["elbo"], rel=1e-9)
        for name, value in state.items():
            torch.testing.assert_close(value, others[name], rtol=1e-7, atol=1e-9, msg=name)

    @pytest.mark.parametrize("kind", PYROS)
    def test_of_pyro_is_refused_for_several_leaves(self, kind, tmp_path):
        message = (
            f"^objective is a {kind.__name__}, but the circuit has 8 leaves, whose tree the guide would have to draw"
        )
        with pytest.raises(ValueError, match=message):
            circuit().fit(rows(), objective=kind(num_particles=2), out=tmp_path / "run")
        assert not (tmp_path / "run").exists()


class TestOptimiser:
    def test_makes_its_own_step(self):
        spvae = circuit()
        before = {name: value.clone() for name, value in spvae.named_parameters()}
        x, _ = Batches(rows(), None, 24, seed=0)(0, 0)
        torch.manual_seed(noise_seed(0, 0, stream=4))
        loss = CircuitELBO(3).differentiable_loss(spvae.model, spvae.guide, x) / 24
        gradients = torch.autograd.grad(loss, list(spvae.parameters()))
        pyro.clear_param_store()
        spvae.fit(rows(), rows(8), epochs=1, batch_size=24, particles=3, optimiser=lambda p: torch.optim.SGD(p, lr=0.1))
        for (name, value), gradient in zip(spvae.named_parameters(), gradients, strict=True):
            torch.testing.assert_close(value.detach(), before[name] - 0.1 * gradient, rtol=1e-9, atol=1e-12, msg=name)

    @pytest.mark.parametrize("schedule", ["plateau", "cosine"])
    def test_an_object_a_function_and_a_name_are_one(self, schedule):
        options = {"lr": 0.01, "weight_decay": 0.1}
        function = functools.partial(torch.optim.AdamW, fused=True, **options)
        spvae = circuit()
        lines = spvae.fit(rows(), rows(8), optimiser=function(spvae.parameters()), schedule=schedule, **OPTIONS)
        named = fitted(circuit, optimiser="adamw", schedule=schedule, **options)
        assert_same(fitted(circuit, optimiser=function, schedule=schedule), named)
        assert_same((spvae.state_dict(), [{"lr": line["lr"]} for line in lines]), (named[0], _only_lr(named[1])))

    @pytest.mark.parametrize("kind", [torch.optim.NAdam, torch.optim.Rprop, torch.optim.RMSprop, torch.optim.Adafactor])
    def test_any_of_torch_is_taken(self, kind):
        assert moved(circuit, {"optimiser": kind})

    def test_of_some_parameters_leaves_the_others_alone(self):
        spvae, before = circuit(), circuit().state_dict()
        spvae.fit(rows(), optimiser=torch.optim.SGD(spvae.leaf.parameters(), lr=0.1), **OPTIONS)
        changed = {name.partition(".")[0] for name, v in spvae.state_dict().items() if not torch.equal(v, before[name])}
        assert changed == {"leaf"}


def _only_lr(lines):
    return [{"lr": line["lr"]} for line in lines]


class TestBeta:
    def test_weighs_sites(self):
        """log p(x | z) + log w(z1) + beta log w(z2), by Pyro's own traces of the first batch."""
        spvae = two_layers()
        x, _ = Batches(rows(), None, 24, seed=0)(0, 0)
        torch.manual_seed(noise_seed(0, 0, stream=4))
        guide = poutine.trace(spvae.guide).get_trace(x)
        model = poutine.trace(poutine.replay(spvae.model, trace=guide)).get_trace(x)
        guide.compute_log_prob()
        model.compute_log_prob()
        ratio = {name: model.nodes[name]["log_prob_sum"] - guide.nodes[name]["log_prob_sum"] for name in ("z1", "z2")}
        for beta in ({"z2": 0.5}, {"z1": 0.0, "z2": 2.0}):
            expected = model.nodes["x"]["log_prob_sum"] + sum(beta.get(name, 1.0) * r for name, r in ratio.items())
            pyro.clear_param_store()
            (line,) = fitted(two_layers, beta=beta, particles=1, batch_size=24, epochs=1)[1]
            assert line["elbo"] == pytest.approx(expected.item() / 24, rel=1e-9)

    def test_equal_ones_are_one_number_and_rise_in_warm_up(self):
        assert_same(fitted(two_layers, beta={"z1": 0.5, "z2": 0.5}, warmup=2), fitted(two_layers, beta=0.5, warmup=2))


class TestRuns:
    """Records of objects, and resumption."""

    def options(self, spvae, rate=0.01, vectorised=True, **more):
        optimiser = torch.optim.SGD(spvae.parameters(), lr=rate, momentum=0.9)
        objective = CircuitELBO(3, alpha=0.5, vectorize_particles=vectorised)
        return OPTIONS | {"objective": objective, "optimiser": optimiser, "beta": {"z2": 0.5}} | more

    def stopped(self, path, monkeypatch, **more):
        advance = Trainer._advance
        monkeypatch.setattr(Trainer, "_advance", lambda self, *args: advance(self, *args) or self.step == 4)
        spvae = two_layers()
        options = self.options(spvae, **more)
        with pytest.raises(KeyboardInterrupt):
            spvae.fit(rows(), rows(8), out=path, **options)
        monkeypatch.undo()
        return spvae, options

    def test_are_named_and_go_on_bit_for_bit(self, tmp_path, monkeypatch):
        self.stopped(tmp_path / "run", monkeypatch)
        record = RunFolder(tmp_path / "run").read_json("data.json")
        assert record["objective"].startswith("CircuitELBO(") and "alpha=0.5" in record["objective"]
        assert record["optimiser"].startswith("SGD(lr=0.01, momentum=0.9, ") and record["beta"] == {"z2": 0.5}
        config = RunFolder(tmp_path / "run").read_json("config.json")
        assert (config["objective"], config["alpha"], config["particles"]) == ("renyi", 0.5, 3)
        again, unbroken = two_layers(), two_layers()
        lines = again.fit(rows(), rows(8), out=tmp_path / "run", resume=True, **self.options(again))
        unbroken.fit(rows(), rows(8), **self.options(unbroken))
        assert_same((again.state_dict(), []), (unbroken.state_dict(), []))
        assert_same((open_run(tmp_path / "run").spvae.state_dict(), []), (unbroken.state_dict(), []))
        assert len(lines) == 2

    def test_go_on_with_the_very_objects_after_they_were_used(self, tmp_path, monkeypatch):
        more = {"objective": TraceEnum_ELBO(), "schedule": "cosine"}  # both of which the first steps change
        spvae, options = self.stopped(tmp_path / "run", monkeypatch, **more)
        spvae.fit(rows(), rows(8), out=tmp_path / "run", resume=True, **options)
        unbroken = two_layers()
        unbroken.fit(rows(), rows(8), **self.options(unbroken, objective=TraceEnum_ELBO(), schedule="cosine"))
        assert_same((spvae.state_dict(), []), (unbroken.state_dict(), []))

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            ({"rate": 0.02}, r"optimiser is 'SGD\(lr=0.02, .*', but the run .* was started with 'SGD\(lr=0.01, "),
            ({"optimiser": torch.optim.SGD}, r"optimiser is 'SGD\(lr=0.001, .*', but the run .* 'SGD\(lr=0.01, "),
            ({"optimiser": "adam"}, r"optimiser is None, but the run .* was started with 'SGD\("),
            ({"vectorised": False}, "objective is 'CircuitELBO.*=False.*', but the run .* 'CircuitELBO.*=True"),
            ({"objective": "renyi", "alpha": 0.5, "particles": 3}, "objective is None, but the run .* 'CircuitELBO"),
            ({"objective": CircuitELBO(4, alpha=0.5)}, "particles is 4, but the run .* was started with 3"),
            ({"beta": {"z2": 0.25}}, "beta is {'z2': 0.25}, but the run .* was started with {'z2': 0.5}"),
            ({"beta": 1.0}, "beta is None, but the run .* was started with {'z2': 0.5}"),
        ],
    )
    def test_of_other_objects_are_not_resumed(self, tmp_path, monkeypatch, more, message):
        self.stopped(tmp_path / "run", monkeypatch)
        spvae = two_layers()
        with pytest.raises(ValueError, match=f"^{message}"):
            spvae.fit(rows(), rows(8), out=tmp_path / "run", resume=True, **self.options(spvae, **more))


LBFGS = torch.optim.LBFGS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"objective": CircuitELBO(3), "particles": 3},
            "particles is given, but objective is a CircuitELBO, which has",
        ),
        (
            {"objective": CircuitELBO(3), "alpha": 0.5},
            "alpha is given, but objective is a CircuitELBO, which has its own",
        ),
        (
            {"objective": CircuitELBO(3), "kl": "analytic"},
            "kl is given, but objective is a CircuitELBO, which has its own",
        ),
        (
            {"objective": Trace_ELBO(), "gradient": "dreg"},
            "gradient is given, but objective is a Trace_ELBO, which has",
        ),
        (
            {"objective": CircuitELBO},
            "objective is the class CircuitELBO; a name, CircuitELBO or an ELBO of Pyro is needed",
        ),
        ({"objective": TraceGraph_ELBO()}, "objective is a TraceGraph_ELBO; CircuitELBO and Pyro's Trace_ELBO, "),
        ({"objective": "elbo", "optimiser": 3}, "optimiser is a int; a name, a torch optimiser, or a function of "),
        (
            {"optimiser": torch.optim.SGD, "lr": 0.1},
            "lr is given, but optimiser is a SGD, which has its own; leave it ",
        ),
        ({"optimiser": torch.optim.AdamW, "weight_decay": 0.1}, "weight_decay is given, but optimiser is a AdamW, "),
        ({"optimiser": lambda p: None}, "optimiser makes a NoneType; a torch optimiser is needed"),
        (
            {"optimiser": lambda p: torch.optim.SGD(circuit().parameters())},
            "optimiser holds parameters that are not the",
        ),
        (
            {"optimiser": torch.optim.SGD(circuit().parameters())},
            "optimiser holds parameters that are not the model's;",
        ),
        ({"optimiser": LBFGS}, "optimiser is a LBFGS, whose step evaluates the loss several times; one that takes"),
        ({"beta": {"z": 0.5, "w": 1.0}}, "beta names the site 'w'; the latent sites of the leaves are z$"),
        ({"beta": {"z": -1}}, "beta of 'z' is -1; a number of at least 0 is needed"),
    ],
)
def test_refusals_come_before_anything_is_written(options, message, tmp_path):
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        circuit().fit(rows(), out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()

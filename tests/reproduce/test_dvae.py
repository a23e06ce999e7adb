# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Experiments of the DVAE++ paper: models, objectives, and the command that prints ours beside theirs."""

from __future__ import annotations

import json
import shlex
import statistics

import pytest
import torch

from pyro_spvae.data import DataSet
from pyro_spvae.data.values import Values
from pyro_spvae.distributions.smoothing import OverlappingExponentials, SpikeAndExponential, Unsmoothed
from pyro_spvae.infer.estimators import NVIL, REBAR, VIMCO, Concrete, MuProp
from pyro_spvae.priors import BitChain, BoltzmannMachine, IndependentBits
from pyro_spvae.reproduce import dvae as paper
from pyro_spvae.reproduce.dvae import NETS, DiscreteExperiment, methods, of_table
from pyro_spvae.reproduce.over_seeds import with_seeds
from pyro_spvae.reproduce.published import DISCRETE
from pyro_spvae.reproduce.run import command_line
from pyro_spvae.training.build import build_model
from pyro_spvae.training.objective import build_objective
from pyro_spvae.training.reading import modelled
from pyro_spvae.training.resolve import resolve
from tests.cli_cases import invoke


def experiment(net="linear", method="marginal", data="mnist", **options):
    return DiscreteExperiment(data, net, method, **options)


def model(*args, **options):
    """A model of an experiment; needs no data."""
    blank = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    data = DataSet("mnist", blank, blank, blank, Values.grey_levels(256))
    config = resolve(experiment(*args, **options).configuration(), data)
    return build_model(config, modelled(config, data))


def shapes(network):
    """Inputs and outputs of the layers of a perceptron."""
    return [tuple(weight.shape[1:]) for stack in network.stacks for weight in stack.weights]


class TestModels:
    @pytest.mark.parametrize(
        ("net", "hidden"), [("linear", ()), ("nonlinear", (200, 200)), ("1-linear", ()), ("1-nonlinear", (200, 200))]
    )
    def test_networks_of_one_layer(self, net, hidden):
        spvae = model(net, "joint")
        sizes = [784, *hidden, 200]
        encoder, decoder = spvae.leaf_guide.z.network, spvae.leaf.pixels.decoder
        assert shapes(encoder) == list(zip(sizes, sizes[1:], strict=False))
        assert shapes(decoder) == list(zip(sizes[::-1], sizes[-2::-1], strict=False))
        for network in (encoder, decoder):
            assert [len(stack.norms) for stack in network.stacks] == [2 if net == "1-nonlinear" else 0]
            assert not hidden or network.activation == "tanh"
        assert isinstance(spvae.leaf.prior, IndependentBits) and spvae.leaf_guide.z.groups == 1

    @pytest.mark.parametrize(("net", "hidden"), [("2-linear", ()), ("2-nonlinear", (200, 200))])
    def test_networks_of_two_layers(self, net, hidden):
        spvae = model(net, "joint")
        prior, guide = spvae.leaf.prior, spvae.leaf_guide.z
        assert spvae.latents["z"].event_shape == (400,)
        assert isinstance(prior, BitChain) and prior.groups == guide.groups == 2
        assert prior.hidden_dims == guide.hidden_dims == hidden and prior.normalise == guide.normalise == bool(hidden)
        assert shapes(prior.networks[0]) == list(zip((200, *hidden), (*hidden, 200), strict=True))
        assert shapes(spvae.leaf.pixels.decoder)[0][0] == 400
        machine = model(net, "rbm").leaf.prior
        assert isinstance(machine, BoltzmannMachine) and tuple(machine.weight.shape) == (1, 200, 200)

    @pytest.mark.parametrize("net", ["linear", "2-nonlinear"])
    def test_inputs_are_centred_and_outputs_start_at_the_mean(self, net):
        spvae = model(net, "joint")
        data = (torch.rand(400, 1, 28, 28) < torch.rand(784).view(1, 28, 28)).float()
        spvae.start(data)
        mean = data.mean(0).flatten()
        features = spvae.leaf_guide.mean(data.flatten(2))
        torch.testing.assert_close(features.mean(0).flatten(), torch.zeros_like(mean), atol=1e-5, rtol=0)
        [stack] = spvae.leaf.pixels.decoder.stacks
        with torch.no_grad():
            for weight in stack.weights[-1:]:
                weight.zero_()
        found = spvae.sample(3, means=True).flatten(1)
        torch.testing.assert_close(found, mean.clamp(0.001, 0.999).expand(3, -1), atol=2e-3, rtol=0)

    @pytest.mark.parametrize("number", NETS)
    def test_priors_of_methods(self, number):
        kinds = {"rbm": BoltzmannMachine, "rbm-rolfe": BoltzmannMachine}
        net = NETS[number][0]
        for method in methods(number):
            prior = model(net, method).leaf.prior
            assert type(prior) is kinds.get(method, IndependentBits)
            if method in kinds:
                assert tuple(prior.weight.shape) == (1, 100, 100)


class TestProtocol:
    @pytest.mark.parametrize(
        ("method", "estimator"), [("nvil", NVIL), ("muprop", MuProp), ("rebar", REBAR), ("concrete", Concrete)]
    )
    def test_estimators_see_bits(self, method, estimator):
        objective = build_objective(experiment("nonlinear", method).configuration())
        assert type(objective.estimator) is estimator and objective.kl == "sample"
        assert isinstance(model("nonlinear", method).leaf.smoothing, Unsmoothed)
        if method == "concrete":
            assert objective.estimator.form == "mass" and objective.estimator.temperature == 0.5

    @pytest.mark.parametrize("net", [*NETS[1], *NETS[2]])
    def test_bounds_of_smoothed_bits(self, net):
        for method in ("joint", "marginal"):
            objective = build_objective(experiment(net, method).configuration())
            assert type(objective.estimator) is VIMCO, "which has nothing to do"
            assert objective.alpha == 1 and objective.num_particles == 1
            assert objective.kl == ("analytic" if method == "joint" else "sample")
            assert isinstance(model(net, method).leaf.smoothing, OverlappingExponentials)

    def test_inverse_temperatures(self):
        smoothing = model("linear", "marginal").leaf.smoothing
        assert float(smoothing.beta) in (5, 6, 7, 8), "of the range that the paper searched"
        smoothing.advance(1.0)
        assert float(smoothing.beta) in (12, 14, 16, 18)
        for net, (overlapping, spike) in {"1-linear": (12, 5), "1-nonlinear": (14, 5), "2-nonlinear": (10, 4)}.items():
            for method, kind, beta in (
                ("rbm", OverlappingExponentials, overlapping),
                ("rbm-rolfe", SpikeAndExponential, spike),
            ):
                smoothing = model(net, method).leaf.smoothing
                assert type(smoothing) is kind and float(smoothing.beta) == beta
                smoothing.advance(1.0)
                assert float(smoothing.beta) == beta
        for net, pair in {"1-linear": (14, 4), "1-nonlinear": (12, 4), "2-nonlinear": (10, 4)}.items():
            leaves = [experiment(net, method, "omniglot_burda").configuration().leaf for method in ("rbm", "rbm-rolfe")]
            assert [f"(beta={beta})" in leaf for beta, leaf in zip(pair, leaves, strict=True)] == [True, True]

    def test_schedules(self):
        for number, samples, steps in ((1, 100, 2_000_000), (2, 4000, 1_000_000)):
            config = experiment(NETS[number][0], "joint").configuration()
            assert config.samples == samples and config.epochs * 500 == steps
            assert config.warmup == (0 if number == 1 else 0.3 * config.epochs)
            assert config.optimiser == "adam" and config.patience > 25, "the number of validations"

    @pytest.mark.parametrize("number", NETS)
    @pytest.mark.parametrize("data", ["static_mnist", "omniglot_burda"])
    def test_methods_of_a_table_are_trained_alike(self, number, data):
        configs = [cell.configuration() for cell in of_table(number, data, budget="small")]
        same = ("epochs", "batch_size", "lr", "schedule", "optimiser", "samples", "validate_every", "preprocess")
        assert {tuple(getattr(config, name) for name in same) for config in configs} == {
            tuple(getattr(configs[0], name) for name in same)
        }
        assert configs[0].preprocess == ("none" if data == "static_mnist" else "binarize-static")


class TestCells:
    def test_tables_are_the_papers(self):
        for number, count in ((1, 2 * 6), (2, 4 * 4)):
            cells = of_table(number, "mnist")
            assert len(cells) == count
            for data in ("static_mnist", "omniglot_burda"):
                theirs = [(net, row) for (of, net), row in DISCRETE.items() if of == data and net in NETS[number]]
                found = [(cell.net, cell.method) for cell in cells]
                assert found == [(net, method) for net, row in theirs for method in row]

    def test_names_of_run_folders_differ(self):
        cells = [
            cell
            for number in NETS
            for data in ("mnist", "static_mnist", "omniglot_burda")
            for budget in ("paper", "small", "tiny")
            for cell in with_seeds(of_table(number, data, budget=budget), (0, 1))
        ]
        assert len({cell.name for cell in cells}) == len(cells) == 28 * 3 * 3 * 2

    @pytest.mark.parametrize("number", [1, 2])
    def test_the_tiny_budget_has_all_that_is_annealed_in_a_hundred_steps(self, number):
        for cell in of_table(number, "mnist", budget="tiny"):
            config = cell.configuration()
            steps = config.epochs * -(-round(config.fraction * 50_000) // config.batch_size)
            assert 90 <= steps <= 110 and config.epochs > 1 and (config.warmup > 0) == (number == 2)

    @pytest.mark.parametrize(
        ("act", "message"),
        [
            (lambda: experiment(data="digits"), "data is 'digits'; known are static_mnist, mnist, omniglot_burda"),
            (
                lambda: experiment("3-linear"),
                "net is '3-linear'; known are linear, nonlinear, 1-linear, 2-linear, 1-nonlinear, 2-nonlinear",
            ),
            (
                lambda: experiment(method="vimco"),
                "method is 'vimco'; known are nvil, muprop, rebar, concrete, joint, marginal, rbm, rbm-rolfe",
            ),
            (lambda: experiment(budget="big"), "budget is 'big'; known are paper, small, tiny"),
            (
                lambda: experiment("linear", "rbm"),
                "method is 'rbm', but the net 'linear' is of Table 1, which has nvil, muprop, rebar, concrete, joint, "
                "marginal",
            ),
            (
                lambda: experiment("1-linear", "nvil"),
                "method is 'nvil', but the net '1-linear' is of Table 2, which has rbm, rbm-rolfe, joint, marginal",
            ),
            (lambda: of_table(3, "mnist"), "table is 3; known are 1, 2"),
            (
                lambda: of_table(1, "mnist", ("linear", "2-linear")),
                "net is '2-linear', but Table 1 has linear, nonlinear",
            ),
        ],
    )
    def test_refuses(self, act, message):
        with pytest.raises(ValueError) as error:
            act()
        assert str(error.value) == message


@pytest.fixture(scope="module")
def done(tiny_mnist, tmp_path_factory):
    """Tiny models of two epochs, of both tables."""
    patch = pytest.MonkeyPatch()
    patch.setattr(paper, "_STEPS", dict.fromkeys(NETS, {"paper": 1000, "small": 1000}))
    patch.setattr(paper, "_BITS", 8)
    patch.setattr(paper, "_HIDDEN", "(6,6)")
    patch.setattr(paper, "_CHAINS", {"paper": "chains=10,sweeps=2", "small": "chains=10,sweeps=2"})
    patch.setattr(paper, "SAMPLES", {1: dict.fromkeys(("paper", "small"), 5), 2: dict.fromkeys(("paper", "small"), 20)})
    patch.setattr("pyro_spvae.training.train._write_pictures", lambda *args: None)
    out = tmp_path_factory.mktemp("runs")
    common = ("--data-dir", tiny_mnist, "--out", out, "--budget", "small")
    asked = {
        "first": ("--table", 1, "--net", "linear", "--seeds", 2),
        "second": ("--net", "1-linear,2-nonlinear", "--method", "rbm,rbm-rolfe,joint"),
        "one": ("--net", "2-linear", "--method", "rbm", "--seed", 3),
    }
    printed = {name: invoke("reproduce", "dvae", *arguments, *common) for name, arguments in asked.items()}
    yield out, printed
    patch.undo()


def results(out, name):
    return json.loads((out / "dvae" / name / "results.json").read_text())


class TestCommand:
    def test_likelihoods_stand_beside_the_papers_over_seeds(self, done):
        out, printed = done
        text = printed["first"].output
        assert printed["first"].exit_code == 0, text
        assert (
            "data        mnist, binarised once by the seeds 0 to 1, as the files of static_mnist are not in data_dir"
            in text
        )
        for method, (mean, deviation) in DISCRETE["static_mnist", "linear"].items():
            folder = f"mnist-table1-linear-{method}-budget-small"
            found = [results(out, name) for name in (folder, f"{folder}-seed-1")]
            assert found[0]["log_likelihood"] != found[1]["log_likelihood"]
            assert {each["samples"] for each in found} == {5} and {each["steps"] for each in found} == {2}
            ours = [each["log_likelihood"] for each in found]
            cell = f"{statistics.mean(ours):.2f} ± {statistics.stdev(ours):.2f} ({mean:.2f} ± {deviation:.2f})"
            assert f"| {cell} |" in text
        assert "seeds 0, 1" in text

    def test_normalisers_are_stated(self, done):
        out, printed = done
        text = printed["second"].output
        assert printed["second"].exit_code == 0, text
        for net in ("1-linear", "2-nonlinear"):
            for method in ("rbm", "rbm-rolfe", "joint"):
                found = results(out, f"mnist-table2-{net}-{method}-budget-small")
                assert found["samples"] == 20
                for stated in found.get("stated", {}).values():
                    assert f"{stated['log_z']:.2f}" in text
                assert bool(found.get("stated")) == method.startswith("rbm")
        report = (out / "report.md").read_text()
        assert "Table 1, 5 samples" in report and "Table 2, 20 samples" in report

    def test_one_run_prints_its_own_figures(self, done):
        out, printed = done
        text = printed["one"].output
        assert printed["one"].exit_code == 0, text
        found = results(out, "mnist-table2-2-linear-rbm-budget-small-seed-3")
        assert f"{found['log_likelihood']:.2f}" in text and "-94.15 ± 0.45" in text
        assert "log-likelihood (nats, 20)" in text and "log Z" in text

    def test_curves_are_drawn(self, done):
        out, _ = done
        report = (out / "report.md").read_text()
        for name in ("dvae-curves-table1-mnist-small.png", "dvae-curves-table2-mnist-small.png"):
            assert (out / name).stat().st_size > 5_000 and f"]({name})" in report

    def test_the_command_that_is_reported_runs_the_cell(self, tiny_mnist):
        cell = experiment("2-linear", "rbm-rolfe", budget="small", seed=2)
        _, *arguments = shlex.split(command_line(cell))
        result = invoke(*arguments, "--dry-run", "--data-dir", tiny_mnist)
        assert result.exit_code == 0 and f"--- dvae: {cell.name} ---" in result.output, result.output

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--seeds", 2, "--seed", 1), "seeds is 2 and seed is 1; give one of them"),
            (("--table", 3), "table is 3; known are 1, 2"),
            (("--net", "linear,1-linear"), "net is 'linear', but Table 2 has 1-linear, 2-linear, 1-nonlinear"),
            (("--table", 2, "--method", "rbm,nvil"), "method is 'nvil', but the net '1-linear' is of Table 2"),
        ],
    )
    def test_refuses(self, arguments, message):
        result = invoke("reproduce", "dvae", *arguments)
        assert result.exit_code == 2 and message in result.output, result.output

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Table 3 and Figure 4 of the DVAE++ paper: models, objectives, and the command that prints ours beside theirs."""

from __future__ import annotations

import json
import shlex
import statistics

import pytest
import torch

from pyro_spvae import plots
from pyro_spvae.data import DataSet
from pyro_spvae.data.values import Values
from pyro_spvae.distributions import OverlappingExponentials, SpikeAndExponential
from pyro_spvae.infer import CircuitELBO
from pyro_spvae.likelihoods import Bernoulli, DiscretizedLogisticMixture
from pyro_spvae.nn import MultiScale, SEResNet
from pyro_spvae.priors import BoltzmannMachine, IndependentBits, StandardNormal
from pyro_spvae.queries.held import Held
from pyro_spvae.reproduce import dvaepp as paper
from pyro_spvae.reproduce.dvaepp import ROWS, ConvolutionalExperiment, of_table
from pyro_spvae.reproduce.global_report import global_table
from pyro_spvae.reproduce.over_seeds import with_seeds
from pyro_spvae.reproduce.published import GLOBAL
from pyro_spvae.reproduce.report import beside_paper
from pyro_spvae.reproduce.run import command_line
from pyro_spvae.reproduce.vampprior import VampExperiment
from pyro_spvae.training.build import _programs, build_model
from pyro_spvae.training.objective import build_objective
from pyro_spvae.training.reading import modelled
from pyro_spvae.training.resolve import resolve
from tests.cli_cases import invoke
from tests.reproduce.cases import finished

#: the paper's rows: prior of the global variables, what smooths them, local variables, closed divergences
PAPER = {
    "normal-normal": (StandardNormal, None, False, "analytic"),
    "rolfe-normal": (BoltzmannMachine, SpikeAndExponential, False, "analytic"),
    "rbm-normal": (BoltzmannMachine, OverlappingExponentials, False, "analytic"),
    "rbm-bernoulli": (BoltzmannMachine, OverlappingExponentials, True, "z"),
    "bernoulli-bernoulli": (IndependentBits, OverlappingExponentials, True, "sample"),
}
#: its data sets: sides, global variables, sides of the local grid, whether pixels come scale by scale, preprocessing
SETS = {
    "static_mnist": (28, 16, 7, False, "none"),
    "mnist": (28, 16, 7, False, "binarize"),
    "omniglot_burda": (28, 16, 7, True, "binarize"),
    "caltech101_silhouettes": (28, 16, 7, True, "none"),
    "cifar10": (32, 128, 8, True, "integers"),
}
SMALLEST = paper._Size(2, 1, (2, 3, 3), 1, 1000, 5, 3e-3, "chains=6,sweeps=2")


def experiment(data="mnist", model="rbm-normal", **options):
    return ConvolutionalExperiment(data, model, **options)


def blank(data):
    """Two rows of the shape and the values of a data set."""
    levels = 2 if data in ("static_mnist", "caltech101_silhouettes") else 256
    x = torch.zeros(2, 3 if data == "cifar10" else 1, SETS[data][0], SETS[data][0], dtype=torch.uint8)
    return DataSet(data, x, x, x, Values.grey_levels(levels))


def resolved(cell):
    """The configuration of an experiment, and rows as it models them; needs no data."""
    data = blank(cell.data)
    config = resolve(cell.configuration(), data)
    return config, modelled(config, data)


def programs(cell):
    """Leaf and guide of an experiment, not yet bound."""
    return _programs(*resolved(cell))


class TestModels:
    @pytest.mark.parametrize("model", PAPER)
    def test_rows_are_the_papers(self, model):
        prior, smoothing, bits, kl = PAPER[model]
        cell = experiment(model=model)
        leaf, guide = programs(cell)
        assert type(leaf.prior) is prior and leaf.latents["z"].is_discrete == (prior is not StandardNormal)
        assert all(leaf.latents[f"h{group}"].is_discrete == bits for group in range(1, 17))
        assert smoothing is None or type(leaf.smoothing) is smoothing and float(leaf.smoothing.beta) in (5, 8)
        assert guide.groups == (None if model == "normal-normal" else 2)
        objective = build_objective(cell.configuration())
        assert type(objective) is CircuitELBO and (objective.alpha, objective.num_particles) == (1, 1)
        assert objective.kl == kl and objective.balance is not None

    @pytest.mark.parametrize("data", SETS)
    def test_sizes_are_the_papers(self, data):
        sides, above, grid, by_scale, preprocess = SETS[data]
        config, rows = resolved(experiment(data))
        leaf, guide = _programs(config, rows)
        shapes = {name: latent.event_shape for name, latent in leaf.latents.items()}
        assert shapes == {"z": (above,), **{f"h{group}": (32, grid, grid) for group in range(1, 17)}}
        assert guide.pyramid.levels == 3 and leaf.map_shape[1:] == (grid, grid)
        decoder, likelihood = leaf.pixels.decoder, leaf.pixels.likelihood
        assert isinstance(decoder, MultiScale if by_scale else SEResNet)
        if data == "cifar10":
            assert type(likelihood) is DiscretizedLogisticMixture and likelihood.coupled and likelihood.levels == 256
            assert decoder.padding == "none"
        else:
            assert type(likelihood) is Bernoulli and (not by_scale or decoder.padding == "bottom-right")
        assert (config.structure, config.units, config.preprocess, config.samples) == ("whole", 1, preprocess, 4000)
        assert rows.event_shape[1:] == (sides, sides)

    @pytest.mark.parametrize(("data", "model"), list(zip(SETS, PAPER, strict=True)))
    def test_rows_and_sets_can_be_made(self, data, model, monkeypatch):
        """What is bound agrees: grids, maps, the likelihood's channels, groups of the guide."""
        monkeypatch.setattr(paper, "_SIZES", {"paper": SMALLEST})
        torch.manual_seed(0)
        config, rows = resolved(experiment(data, model, groups=4))
        spvae = build_model(config, rows).eval()
        x = spvae.sample(1)
        assert x.shape[1:] == rows.event_shape and spvae.latents["z"].event_shape == (SETS[data][1],)
        assert spvae.embed(x).latents["h2"].shape == (1, 1, 1, SETS[data][2], SETS[data][2])

    def test_the_posterior_of_global_bits_is_in_groups(self):
        for groups in (1, 2, 4):
            leaf, guide = programs(experiment(groups=groups))
            assert guide.groups == groups and leaf.latents["z"].event_shape[0] % groups == 0


class TestProtocol:
    @pytest.mark.parametrize("data", SETS)
    @pytest.mark.parametrize("budget", ["paper", "small", "tiny"])
    def test_balanced_warm_up_of_three_tenths(self, data, budget):
        config = experiment(data, budget=budget).configuration()
        assert abs(config.warmup - 0.3 * config.epochs) <= 0.5 and config.balance == (config.warmup > 0)
        assert config.patience > config.epochs and config.schedule == "cosine"
        rows = {"omniglot_burda": 23_000, "caltech101_silhouettes": 4_100, "cifar10": 40_000}.get(data, 50_000)
        steps = {"paper": 500_000, "small": 10_000, "tiny": 100}[budget]
        an_epoch = -(-round(config.fraction * rows) // config.batch_size)
        assert (config.fraction == 1) == (budget != "tiny") and config.warmup > 0
        assert abs(config.epochs * an_epoch - steps) <= max(an_epoch / 2, an_epoch - steps)

    def test_rows_of_a_table_are_trained_alike(self):
        own = ("leaf", "guide", "kl")
        for budget in ("paper", "small", "tiny"):
            found = [cell.configuration().to_dict() for cell in of_table("mnist", None, budget)]
            assert len({json.dumps({k: v for k, v in one.items() if k not in own}) for one in found}) == 1
            assert len({one["leaf"] for one in found}) == 5

    def test_seed_device_and_folder_are_handed_on(self):
        config = experiment(seed=3).configuration("there", "cpu")
        assert (config.seed, config.data_dir, config.device) == (3, "there", "cpu")


class TestCells:
    def test_the_table_is_the_papers(self):
        assert tuple(ROWS) == tuple(PAPER) and tuple(GLOBAL) == tuple(SETS)
        for data in SETS:
            assert [(cell.data, cell.model) for cell in of_table(data, None, "paper")] == [(data, row) for row in PAPER]
        cells = with_seeds(of_table(None, ("rbm-normal",), "small", 1), (0, 4))
        assert [cell.data for cell in cells] == ["mnist"] * 2
        cell = cells[1]
        assert cell == experiment(budget="small", groups=1, seed=4)

    def test_published_numbers(self):
        """A column and a row as they are printed: nats, of CIFAR10 bits/dim."""
        of_rbm = {data: rows["rbm-normal"] for data, rows in GLOBAL.items()}
        assert list(of_rbm.values()) == [-79.17, -78.49, -92.38, -81.88, 3.38]
        assert list(GLOBAL["mnist"].values()) == [-78.59, -78.65, -78.49, -79.55, -79.62]
        assert list(GLOBAL["cifar10"].values()) == [3.40, 3.39, 3.38, 3.59, 3.62]
        assert list(GLOBAL["caltech101_silhouettes"].values()) == [-82.24, -81.95, -81.88, -85.40, -86.57]

    def test_names_of_run_folders_differ(self):
        cells = [
            cell
            for data in SETS
            for budget in ("paper", "small", "tiny")
            for groups in (1, 2, 4)
            for cell in with_seeds(of_table(data, None, budget, groups), (0, 1))
        ]
        assert len({cell.name for cell in cells}) == len(set(cells)) == 5 * 5 * 3 * 3 * 2
        assert experiment().name == "mnist-rbm-normal"
        assert experiment(budget="small", groups=4, seed=2).name == "mnist-rbm-normal-budget-small-groups-4-seed-2"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"data": "digits"},
                "data is 'digits'; known are static_mnist, mnist, omniglot_burda, caltech101_silhouettes, cifar10",
            ),
            ({"model": "rbm"}, "model is 'rbm'; known are " + ", ".join(PAPER)),
            ({"budget": "large"}, "budget is 'large'; known are paper, small, tiny"),
            *(({"groups": groups}, f"groups is {groups!r}; 1, 2 or 4 is needed") for groups in (0, 3, 8, None)),
        ],
    )
    def test_refuses(self, options, message):
        with pytest.raises(ValueError) as error:
            experiment(**options)
        assert str(error.value) == message


class TestReport:
    def test_seeds_are_one_line_beside_the_paper(self, tmp_path):
        machine = {"stated": {"leaf.prior": {"log_z": 11.25, "log_z_error": 0.02}}}
        runs = [
            finished(tmp_path / "a", experiment(model="bernoulli-bernoulli"), -90.0),
            finished(tmp_path / "b", experiment(seed=1), -80.0, **machine),
            finished(tmp_path / "c", experiment(), -81.0, **machine),
            finished(tmp_path / "d", experiment(groups=1), -82.0, **machine),
        ]
        titles, rule, *lines = global_table(runs)
        columns = [title.strip() for title in titles.strip("| ").split("|")]
        assert rule == "|" + "---|" * len(columns) and len(lines) == 3
        rows = [dict(zip(columns, map(str.strip, line[1:-1].split("|")), strict=True)) for line in lines]
        both = next(row for row in rows if row["how"] == "budget paper, 2 groups, seeds 0, 1")
        assert both["ours"] == f"-80.50 ± {statistics.stdev((-80, -81)):.2f}" and both["paper"] == "-78.49"
        assert (both["global"], both["local"]) == ("RBM, overlapping", "normal") and both[
            "single-sample bound"
        ] == "-84.50"
        assert both["log Z"].count("11.25") == 2 and both["samples"] == "4,000" and both["parameters"] == "1,234,567"
        assert rows[-1]["global"] == "Bernoulli", "the paper's order"
        assert (rows[-1]["ours"], rows[-1]["paper"], rows[-1]["bits/dim"]) == ("-90.00", "-79.62", "")

    def test_of_colours_bits_stand_beside_the_papers_bits(self, tmp_path):
        cells = [experiment("cifar10", seed=seed) for seed in (0, 1)]
        runs = [
            finished(tmp_path / f"{cell.seed}", cell, -7500.0, bits)
            for cell, bits in zip(cells, (3.5, 3.6), strict=True)
        ]
        [line] = global_table(runs)[2:]
        assert "| 3.550 | 3.38 |" in line, "a mean over seeds, as all else"

    @pytest.mark.parametrize(
        ("cell", "paper"), [(experiment("cifar10"), "3.38"), (VampExperiment("frey_faces"), "4.63")]
    )
    def test_bits_stand_beside_bits_and_nats_alone(self, tmp_path, cell, paper):
        finished(tmp_path / "run", cell, -7500.0, 3.6, active_units={"z": 3})
        lines = {line[:28].strip(): line[28:].split() for line in beside_paper(tmp_path / "run")}
        assert lines["bits/dim"] == ["3.600", paper] and lines["log-likelihood (nats, 4,000)"][-1] == "-"

    def test_nats_stand_beside_nats(self, tmp_path):
        finished(tmp_path / "run", experiment(), -81.0, 0.15)
        lines = {line[:28].strip(): line[28:].split() for line in beside_paper(tmp_path / "run")}
        assert lines["log-likelihood (nats, 4,000)"] == ["-81.00", "±", "0.50", "-78.49"] and "bits/dim" not in lines


@pytest.fixture(scope="module")
def done(tiny_mnist, tmp_path_factory):
    """Tiny models of two epochs, of two seeds, and the figure of one of them."""
    patch = pytest.MonkeyPatch()
    patch.setattr(paper, "_SIZES", dict.fromkeys(("paper", "small", "tiny"), SMALLEST))
    patch.setattr("pyro_spvae.training.train._write_pictures", lambda *args: None)
    grids = []
    grid = plots.image_grid
    patch.setattr(
        plots, "image_grid", lambda x, *args, **options: grids.append((x, options)) or grid(x, *args, **options)
    )
    held, make = [], Held.make
    patch.setattr(Held, "make", lambda root, hold, *args: held.append(hold) or make(root, hold, *args))
    out = tmp_path_factory.mktemp("runs")
    common = ("--data-dir", tiny_mnist, "--out", out, "--budget", "small")
    asked = {
        "table": ("--model", "rbm-normal", "--seeds", 2),
        "figure": ("--figure", 4),
    }
    printed = {name: invoke("reproduce", "dvaepp", *arguments, *common) for name, arguments in asked.items()}
    yield out, printed, (grids, held)
    patch.undo()


class TestCommand:
    def test_likelihoods_stand_beside_the_papers_over_seeds(self, done):
        out, printed, _ = done
        text = printed["table"].output
        assert printed["table"].exit_code == 0, text
        report = (out / "report.md").read_text()
        name = "mnist-rbm-normal-budget-small"
        found = [json.loads((out / "dvaepp" / each / "results.json").read_text()) for each in (name, f"{name}-seed-1")]
        ours = [each["log_likelihood"] for each in found]
        assert ours[0] != ours[1] and {each["samples"] for each in found} == {5}
        cell = f"| {statistics.mean(ours):.2f} ± {statistics.stdev(ours):.2f} |"
        assert cell in text and cell in report and "| -78.49 |" in report and "DVAE++, Table 3" in report
        for each in found:
            assert f"{each['log_likelihood']:.2f}" in text
            assert all(f"{stated['log_z']:.2f}" in text for stated in each["stated"].values()) and each["stated"]

    def test_the_figure_has_lines_that_share_their_global_variables(self, done):
        out, printed, (grids, held) = done
        name = "mnist-rbm-normal-budget-small"
        assert printed["figure"].exit_code == 0, printed["figure"].output
        picture = out / f"dvaepp-figure4-{name}.png"
        assert f"written to  {picture}" in printed["figure"].output and picture.stat().st_size > 2_000
        [(x, options)] = grids
        assert held == [("z",)]
        assert x.shape == (25, 1, 28, 28) and options["columns"] == 5

    @pytest.mark.parametrize("cell", [experiment("omniglot_burda", "rbm-bernoulli", groups=1, seed=2), experiment()])
    def test_the_command_that_is_reported_names_the_cell(self, cell):
        program, verb, table, *options = shlex.split(command_line(cell))
        given = {name[2:]: value for name, value in zip(options[::2], options[1::2], strict=True)}
        types = {"groups": int, "seed": int}
        again = ConvolutionalExperiment(**{name: types.get(name, str)(value) for name, value in given.items()})
        assert (program, verb, table) == ("pyro-spvae", "reproduce", "dvaepp") and again == cell

    def test_the_command_that_is_reported_runs_the_cell(self, tiny_mnist):
        """It alone, also where all its options are the default ones."""
        for cell in (experiment(model="normal-normal", groups=1, seed=2, budget="tiny"), experiment(budget="tiny")):
            _, *arguments = shlex.split(command_line(cell))
            result = invoke(*arguments, "--dry-run", "--data-dir", tiny_mnist)
            assert result.exit_code == 0 and f"--- dvaepp: {cell.name} ---" in result.output, result.output
            assert result.output.count("---") == 2

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--seeds", 2, "--seed", 1), "seeds is 2 and seed is 1; give one of them"),
            (("--groups", 3), "groups is 3; 1, 2 or 4 is needed"),
            (("--model", "rbm-normal,rbm"), "model is 'rbm'; known are normal-normal, rolfe-normal, rbm-normal, rbm-"),
            (("--table", 2), "--table"),
            (("--figure", 3), "--figure"),
            (("--seeds", 0), "--seeds"),
            (("--data", "digits"), "--data"),
        ],
    )
    def test_refuses(self, arguments, message):
        result = invoke("reproduce", "dvaepp", *arguments)
        assert result.exit_code == 2 and message in result.output, result.output

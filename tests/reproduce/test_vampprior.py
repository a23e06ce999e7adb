# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The VampPrior paper: sizes, protocol, tables, and the command on a tiny MNIST."""

from __future__ import annotations

import json
import math
import shlex

import matplotlib.pyplot as plt
import pytest
import torch

from pyro_spvae.data import load_data
from pyro_spvae.priors import MixtureOfGaussians, StandardNormal, VampPrior
from pyro_spvae.reproduce import vampprior as paper
from pyro_spvae.reproduce.published import VAMP, VAMP_OTHERS
from pyro_spvae.reproduce.run import command_line
from pyro_spvae.reproduce.vampprior import TABLES, VampExperiment, of_figure, of_table
from pyro_spvae.training.build import build_model
from pyro_spvae.training.reading import modelled
from pyro_spvae.training.resolve import resolve
from tests.cli_cases import invoke

PIXELS = 28 * 28


def cells_of(cells, number, *given, budget="paper"):
    """The cells of a table or figure, of given data, models, priors and components."""
    return cells(number, *(*given, None, None, None, None)[:4], budget)


def build(experiment, folder):
    data = load_data("mnist", data_dir=folder)
    config = resolve(experiment.configuration(str(folder)), data)
    return build_model(config, modelled(config, data))


class TestSizes:
    @pytest.mark.parametrize(("model", "count"), [("vae", 1_116_864), ("hvae", 2_431_024), ("convhvae", 1_385_821)])
    def test_are_the_papers(self, model, count, tiny_mnist):
        for prior, more in (("standard", 0), ("vamp", 500 * PIXELS), ("vamp-data", 0), ("mog", 500 * (40 + 40 + 1))):
            spvae = build(VampExperiment(model=model, prior=prior), tiny_mnist)
            assert sum(parameter.numel() for parameter in spvae.parameters()) == count + more

    def test_priors_are_those_that_are_named(self, tiny_mnist):
        kinds = {"standard": StandardNormal, "mog": MixtureOfGaussians, "vamp": VampPrior, "vamp-data": VampPrior}
        for prior, kind in kinds.items():
            components = None if prior == "standard" else 7
            made = build(VampExperiment(prior=prior, components=components), tiny_mnist).leaf.prior
            assert type(made) is kind and getattr(made, "components", None) == components
            assert getattr(made, "frozen", False) == (prior == "vamp-data")

    def test_networks_are_gated_and_start_as_the_authors_do(self, tiny_mnist):
        torch.manual_seed(0)
        spvae = build(VampExperiment(), tiny_mnist)
        (stack,) = spvae.leaf_guide.z.network.stacks
        shapes = [(1, 784, 300), (1, 300, 300), (1, 300, 40)]  # of values and gates, and of mean and scale
        assert [tuple(weight.shape) for weight in stack.weights] == [shape for shape in shapes for _ in range(2)]
        for weight in stack.weights:
            assert abs(float(weight.detach().std()) / (2 / weight.size(1)) ** 0.5 - 1) < 0.03


class TestProtocol:
    def test_is_the_papers(self):
        config = VampExperiment().configuration()
        assert (config.optimiser, config.lr, config.batch_size) == ("adam-normgrad", 5e-4, 100)
        assert (config.epochs, config.warmup, config.patience, config.samples) == (2000, 100, 51, 5000)
        assert (config.objective, config.particles, config.preprocess) == ("elbo", 1, "binarize")
        assert config.validate_every is None  # after every epoch

    @pytest.mark.parametrize("model", ["vae", "hvae", "convhvae"])
    def test_the_recipe_best_differs_in_training_alone(self, model):
        paper, best = (VampExperiment(model=model, recipe=recipe).configuration() for recipe in ("paper", "best"))
        lr, batch_size = (2e-3, 100) if model == "convhvae" else (4e-3, 500)
        assert (best.optimiser, best.lr, best.schedule) == ("adam-normgrad", lr, "one-cycle")
        assert best.batch_size == batch_size
        assert (best.epochs, best.warmup, best.samples) == (400, 40, 5000) and best.patience > best.epochs
        differing = {name for name, value in paper.to_dict().items() if best.to_dict()[name] != value}
        assert differing - {"batch_size"} == {"objective", "gradient", "lr", "schedule", "epochs", "warmup", "patience"}
        assert (best.objective, best.gradient, best.particles) == ("iwae", "dreg", 1)  # the bound of one sample

    def test_a_few_images_are_few_batches_of_the_recipe_best_too(self):
        best = VampExperiment(budget="tiny", recipe="best").configuration()
        assert (best.batch_size, best.lr) == (100, 2e-3)

    def test_the_small_budget_has_as_many_epochs_by_either_recipe(self):
        for model in ("vae", "convhvae"):
            paper, best = (
                VampExperiment(model=model, budget="small", recipe=recipe).configuration()
                for recipe in ("paper", "best")
            )
            for name in ("epochs", "warmup", "samples", "validate_every"):
                assert getattr(paper, name) == getattr(best, name)

    def test_grey_data_have_logistic_pixels(self):
        for data in ("frey_faces", "histopathology"):
            assert VampExperiment(data=data).configuration().likelihood == "discretized-logistic(edges=truncated)"
        assert VampExperiment(data="caltech101_silhouettes").configuration().likelihood == "bernoulli"

    def test_pseudo_inputs_start_as_the_authors_do(self):
        assert "components=500, mean=0.05, std=0.01" in VampExperiment(prior="vamp").configuration().prior
        assert "mean=0.5, std=0.02" in VampExperiment(data="frey_faces", prior="vamp").configuration().prior
        assert "components=1000" in VampExperiment(data="omniglot_burda", prior="vamp").configuration().prior

    def test_small_budget_of_the_convolutional_model_is_some_500_steps(self):
        rows = {"mnist": 50_000, "caltech101_silhouettes": 4_100, "frey_faces": 1_565}
        for data, count in rows.items():
            config = VampExperiment(data, "convhvae", "vamp", "small").configuration()
            assert 450 <= config.epochs * math.ceil(count / config.batch_size) <= 550
            assert config.warmup == 0 and config.validate_every == 100
        assert VampExperiment("mnist", "convhvae", "vamp").configuration().validate_every is None

    def test_sum_product_leaves_differ_in_the_prior_alone(self):
        one, other = (VampExperiment(model="spvae", prior=p).configuration().to_dict() for p in ("standard", "vamp"))
        assert [key for key in one if one[key] != other[key]] == ["prior"]


class TestCells:
    def test_tables(self):
        cells = cells_of(of_table, 3)
        assert {(cell.data, cell.model, cell.prior) for cell in cells} == {
            ("mnist", model, prior) for model in ("vae", "hvae", "convhvae") for prior in ("standard", "vamp")
        }
        assert len(cells_of(of_table, 1)) == 36
        [cell] = of_table(None, None, None, ("mog",), None, "small")
        assert cell == VampExperiment("mnist", "vae", "mog", "small")
        for of, number in ((of_table, 3), (of_figure, 2), (of_figure, 4)):
            assert {cell.recipe for cell in of(number, None, None, None, None, "small", "best")} == {"best"}

    def test_names_of_run_folders_say_what_is_not_usual(self):
        assert VampExperiment(budget="small", seed=2, recipe="best").name == (
            "mnist-vae-standard-budget-small-recipe-best-seed-2"
        )
        assert VampExperiment(budget="small", seed=2).name == "mnist-vae-standard-budget-small-seed-2"

    def test_figure_2_varies_the_number_of_components(self):
        cells = cells_of(of_figure, 2)
        assert {cell.model for cell in cells} == {"hvae"} and {cell.data for cell in cells} == {"static_mnist"}
        assert [cell.components for cell in cells if cell.prior == "vamp"] == [1, 100, 500, 1000]
        assert [cell.components for cell in cells if cell.prior == "standard"] == [None]

    def test_figures_4_to_6_show_three_models(self):
        for figure in (4, 5, 6):
            shown = [(cell.model, cell.prior) for cell in cells_of(of_figure, figure)]
            assert shown == [("vae", "standard"), ("hvae", "vamp"), ("convhvae", "vamp")]

    def test_published_numbers_are_of_cells_that_can_be_run(self):
        for data, model, prior in VAMP:
            assert VampExperiment(data, model, prior).name == f"{data}-{model}-{prior}"
        assert set(VAMP_OTHERS) <= set(TABLES[1])
        for data in TABLES[1]:  # better with the VampPrior, but for one cell
            gains = [abs(VAMP[data, m, "vamp"]) < abs(VAMP[data, m, "standard"]) for m in ("vae", "hvae", "convhvae")]
            assert gains == [True, True, data != "caltech101_silhouettes"]

    @pytest.mark.parametrize(
        ("act", "message"),
        [
            (lambda: VampExperiment(model="gan"), "model is 'gan'; known are vae, hvae, convhvae, spvae"),
            (lambda: VampExperiment(prior="flow"), "prior is 'flow'; known are standard, mog, vamp, vamp-data"),
            (lambda: VampExperiment(components=5), "components is 5, but the standard prior has none; leave it out"),
            (lambda: VampExperiment(prior="mog", components=0), "components is 0; a positive integer is needed"),
            (
                lambda: VampExperiment("frey_faces", "spvae"),
                "data is 'frey_faces', but the model is 'spvae'; accepted is mnist",
            ),
            (lambda: VampExperiment(recipe="tuned"), "recipe is 'tuned'; known are best, paper"),
            (
                lambda: VampExperiment(model="spvae", recipe="best"),
                "recipe is 'best', but the model is 'spvae', which is trained as in its own table; leave it out",
            ),
            (lambda: cells_of(of_table, 6), "table is 6; known are 1, 2, 3, 4, 5"),
            (
                lambda: cells_of(of_table, 2, "mnist"),
                "data is 'mnist', but table 2 is of static_mnist; leave one of them out",
            ),
            (lambda: cells_of(of_figure, 1), "figure is 1; known are 2, 3, 4, 5, 6"),
        ],
    )
    def test_refuses(self, act, message):
        with pytest.raises(ValueError) as error:
            act()
        assert str(error.value) == message


@pytest.fixture(scope="module")
def done(tiny_mnist, tmp_path_factory):
    """Tiny models of two epochs, both priors, one and two layers."""
    patch = pytest.MonkeyPatch()
    patch.setattr(paper, "_BUDGETS", {"paper": (2, 1, 5, 30), "small": (2, 1, 5, 20)})
    patch.setattr(paper, "_HIDDEN", 20)
    patch.setattr(paper, "_LATENT", 3)
    out = tmp_path_factory.mktemp("runs")
    common = ("--data-dir", tiny_mnist, "--out", out, "--budget", "small", "--components", "6")
    printed = invoke("reproduce", "vampprior", "--model", "vae,hvae", "--prior", "standard,vamp", *common)
    figures = {
        n: invoke("reproduce", "vampprior", "--figure", n, "--data", "mnist", "--model", "vae,hvae", *common)
        for n in (3, 4, 5, 6)
    }
    yield out, printed, figures
    patch.undo()


class TestCommand:
    def test_prints_ours_beside_the_papers(self, done):
        out, printed, _ = done
        assert printed.exit_code == 0, printed.output
        results = json.loads((out / "vampprior" / "mnist-hvae-vamp-6-budget-small" / "results.json").read_text())
        assert f"{results['log_likelihood']:.2f}" in printed.output
        assert "| budget small, recipe paper, seed 0 |" in printed.output
        assert "| mnist | vae | standard normal |" in printed.output and "| -84.50 |" in printed.output
        assert "Others on mnist, as the paper quotes them: VAE (L=2) + VGP -81.32" in printed.output

    def test_a_mixture_of_another_size_is_not_compared(self, done):
        _, printed, _ = done
        assert "-82.38" not in printed.output and "-81.24" not in printed.output

    @pytest.mark.parametrize("figure", [3, 4, 5, 6])
    def test_figures_are_drawn_from_the_runs(self, done, figure):
        out, _, figures = done
        assert figures[figure].exit_code == 0, figures[figure].output
        assert (out / f"vampprior-figure{figure}.png").stat().st_size > 5_000

    def test_wide_strips_stand_one_below_the_other(self, done):
        out, _, _ = done
        height, width = plt.imread(out / "vampprior-figure5.png").shape[:2]
        [strip, *_] = out.glob("vampprior/*/figures/reconstructions.png")
        one_height, one_width = plt.imread(strip).shape[:2]
        assert height / width > 2 * one_height / one_width

    def test_the_command_that_is_reported_runs_the_cell(self, tiny_mnist):
        for recipe in ("paper", "best"):
            experiment = VampExperiment("mnist", "hvae", "vamp", "small", 9, 2, recipe)
            _, *arguments = shlex.split(command_line(experiment))
            result = invoke(*arguments, "--dry-run", "--data-dir", tiny_mnist)
            assert result.exit_code == 0 and f"--- vampprior: {experiment.name} ---" in result.output

    def test_refuses(self):
        for arguments, message in (
            (("--table", "1", "--figure", "2"), "table is 1 and figure is 2; give one of them"),
            (("--components", "a"), "components is 'a'; positive integers separated by commas are needed"),
            (("--table", "7"), "table is 7; known are 1, 2, 3, 4, 5"),
        ):
            result = invoke("reproduce", "vampprior", *arguments)
            assert result.exit_code == 2 and message in result.output

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Experiments of the DLGMM paper: sizes, bounds, nearest neighbours, and the command that prints ours beside theirs."""

from __future__ import annotations

import json
import shlex

import pytest
import torch

from pyro_spvae.data import DataSet
from pyro_spvae.data.values import Values
from pyro_spvae.reproduce import dlgmm as paper
from pyro_spvae.reproduce.binary_sets import usual_data
from pyro_spvae.reproduce.component_elbo import Eq1ELBO
from pyro_spvae.reproduce.dlgmm import MixtureExperiment, of_figure, of_table
from pyro_spvae.reproduce.neighbours import neighbour_errors
from pyro_spvae.reproduce.published import MIXTURES, NEIGHBOURS
from pyro_spvae.reproduce.run import command_line
from pyro_spvae.training.build import build_model
from pyro_spvae.training.reading import modelled
from pyro_spvae.training.resolve import resolve
from tests.cli_cases import invoke

COMMON = ("mnist", None, None, "zero", "small", "best")


def model(**options):
    """A model of an experiment; needs no data."""
    blank = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    data = DataSet("mnist", blank, blank, blank, Values.grey_levels(256))
    config = resolve(MixtureExperiment(**options).configuration(), data)
    return build_model(config, modelled(config, data))


class TestProtocol:
    @pytest.mark.parametrize(
        ("name", "latents"),
        [
            ("gauss-vae", {"z": (25,)}),
            ("sb-vae", {"pi": (25,)}),
            ("dlgmm", {"v": (2,), "z": (25,)}),
            ("dldpmm", {"v": (16,), "z": (25,)}),
        ],
    )
    def test_sizes_are_the_papers(self, name, latents):
        spvae = model(model=name)
        assert {site: latent.event_shape for site, latent in spvae.latents.items()} == latents
        [decoder] = spvae.leaf.pixels.decoder.stacks
        assert [tuple(weight.shape) for weight in decoder.weights] == [(1, 25, 500), (1, 500, 784)]
        [encoder] = [module for module in spvae.leaf_guide.modules() if hasattr(module, "stacks")]
        assert tuple(encoder.stacks[0].weights[0].shape) == (1, 784, 500)

    def test_the_papers_recipe_is_theirs(self):
        config = MixtureExperiment(recipe="paper").configuration()
        assert (config.optimiser, config.lr, config.batch_size, config.patience) == ("adam", 3e-4, 100, 30)
        assert (config.schedule, config.particles, config.samples) == ("constant", 1, 5000)
        assert config.leaf == "dlgmm(components=3)" and config.guide == "mixture(scale=exp)"
        assert isinstance(MixtureExperiment(recipe="paper").objective, Eq1ELBO)
        assert MixtureExperiment(recipe="paper", bound="mixture").objective is None
        assert MixtureExperiment(model="gauss-vae", recipe="paper").objective is None

    @pytest.mark.parametrize(("bound", "sites"), [("mixture", {"v", "z"}), ("enumerated", {"v", "c", "z"})])
    def test_bounds_are_forms_of_one_model(self, bound, sites):
        spvae = model(bound=bound)
        assert spvae.latents.keys() == sites
        assert spvae.state_dict().keys() == model().state_dict().keys()

    def test_components_of_figure_2(self):
        [normal, mixture] = of_figure(2, "mnist", "small", "best")
        assert (normal.model, mixture.model, mixture.prior) == ("gauss-vae", "dlgmm", "spread")
        spvae = model(prior="spread", bound="enumerated")
        assert spvae.leaf.parts.means == (-1.5, -0.75, 0, 0.75, 1.5)


class TestCells:
    def test_tables(self):
        assert [cell.model for cell in of_table("likelihood", *COMMON)] == list(MIXTURES)
        assert [cell.model for cell in of_table("kNN", *COMMON)] == list(NEIGHBOURS)
        models = ("sb-vae", "dlgmm", "dldpmm")
        cells = of_table("likelihood", "mnist", models, "enumerated", "spread", "small", "best")
        found = [(cell.bound, cell.prior) for cell in cells]
        assert found == [(None, "zero"), ("enumerated", "spread"), ("enumerated", "zero")]

    def test_names_of_run_folders_differ(self):
        options = [{"model": name, "data": data} for name in MIXTURES for data in ("mnist", "static_mnist")]
        options += [{"bound": "eq1"}, {"bound": "mixture"}, {"prior": "spread"}, {"recipe": "paper"}, {"seed": 2}]
        options += [{"budget": "small"}]
        assert len({MixtureExperiment(**option).name for option in options}) == len(options)

    def test_larochelles_files_are_taken_where_they_are(self, tmp_path):
        assert usual_data(None) == usual_data(str(tmp_path)) == "mnist"
        for split in ("train", "valid", "test"):
            (tmp_path / f"binarized_mnist_{split}.amat").touch()
        assert usual_data(str(tmp_path)) == "static_mnist"
        assert MixtureExperiment("static_mnist").configuration().preprocess == "none"
        assert MixtureExperiment("mnist").configuration().preprocess == "binarize-static"

    @pytest.mark.parametrize(
        ("act", "message"),
        [
            (lambda: MixtureExperiment(model="gan"), "model is 'gan'; known are gauss-vae, sb-vae, dlgmm, dldpmm"),
            (lambda: MixtureExperiment(bound="eq2"), "bound is 'eq2'; known are mixture, enumerated, eq1"),
            (
                lambda: MixtureExperiment(model="sb-vae", bound="eq1"),
                "bound is 'eq1', but the sb-vae is no mixture; leave it out",
            ),
            (
                lambda: MixtureExperiment(model="dldpmm", prior="spread"),
                "prior is 'spread', but the model is 'dldpmm'; accepted is dlgmm",
            ),
            (
                lambda: of_table("kNN", "mnist", ("sb-vae", "gauss-vae"), "eq1", *COMMON[3:]),
                "bound is 'eq1', but none of sb-vae, gauss-vae is a mixture; leave it out",
            ),
            (
                lambda: of_table("kNN", "mnist", ("dldpmm",), None, "spread", *COMMON[4:]),
                "prior is 'spread', which is of the dlgmm, but the models are dldpmm; leave it out",
            ),
            (lambda: of_table("3", *COMMON), "table is '3'; known are kNN, likelihood"),
            (
                lambda: of_table("kNN", "static_mnist", *COMMON[1:]),
                "data is 'static_mnist', but table kNN needs labels, which mnist has; leave it out",
            ),
            (lambda: of_figure(3, "mnist", "small", "best"), "figure is 3; known is 2"),
            (
                lambda: of_figure(2, "static_mnist", "small", "best"),
                "data is 'static_mnist', but figure 2 shows classes, which mnist has; leave it out",
            ),
        ],
    )
    def test_refuses(self, act, message):
        with pytest.raises(ValueError) as error:
            act()
        assert str(error.value) == message


class TestNeighbours:
    def test_counts_majorities_among_the_nearest(self):
        torch.manual_seed(0)
        points, asked = torch.randn(60, 3), torch.randn(40, 3)
        labels, wanted = torch.randint(4, (60,)), torch.randint(4, (40,))
        for k, error in neighbour_errors(points, 3 * labels, asked, 3 * wanted, (1, 3, 10)).items():
            nearest = labels[torch.cdist(asked, points).topk(k, largest=False).indices]
            votes = torch.nn.functional.one_hot(nearest, 4).sum(1)
            assert error == pytest.approx(float((votes.argmax(1) != wanted).float().mean()))

    @pytest.mark.parametrize(
        ("sizes", "message"),
        [
            ((5, 5, 2, 2), "neighbours is 6, but there are 5 points; at most so many are accepted"),
            ((8, 7, 2, 2), r"labels has shape \[7\]; one for each of the 8 rows is needed"),
            ((8, 8, 2, 3), r"asked_labels has shape \[3\]; one for each of the 2 rows is needed"),
        ],
    )
    def test_refuses(self, sizes, message):
        a, b, c, d = sizes
        with pytest.raises(ValueError, match=f"^{message}$"):
            neighbour_errors(torch.zeros(a, 2), torch.zeros(b).long(), torch.zeros(c, 2), torch.zeros(d).long(), (6,))


@pytest.fixture(scope="module")
def done(tiny_mnist, tmp_path_factory):
    """Tiny models of two epochs, all of both tables, and of the figure."""
    patch = pytest.MonkeyPatch()
    patch.setattr(paper, "_EPOCHS", {name: {"paper": 2, "small": 2} for name in ("best", "paper")})
    for name in ("_STICK_EPOCHS", "_SLOW_EPOCHS"):
        patch.setattr(paper, name, {"paper": 2, "small": 2})
    patch.setattr(paper, "_HIDDEN", 10)
    patch.setattr(paper, "_LATENT", 3)
    patch.setattr(paper, "_PIECES", 4)
    patch.setattr(paper, "_TRUNCATION", 4)
    patch.setitem(paper.SAMPLES, "small", (5, 20))
    out = tmp_path_factory.mktemp("runs")
    common = ("--data-dir", tiny_mnist, "--out", out, "--budget", "small")
    asked = {
        "likelihood": ("--table", "likelihood"),
        "kNN": ("--table", "kNN"),
        "figure": ("--figure", "2"),
        "paper": ("--model", "dlgmm", "--recipe", "paper"),
    }
    printed = {name: invoke("reproduce", "dlgmm", *arguments, *common) for name, arguments in asked.items()}
    yield out, printed
    patch.undo()


class TestCommand:
    def test_likelihoods_stand_beside_the_papers(self, done):
        out, printed = done
        text = printed["likelihood"].output
        assert printed["likelihood"].exit_code == 0, text
        assert (
            "data        mnist, binarised once by the seed 0, as the files of static_mnist are not in data_dir" in text
        )
        for name, theirs in MIXTURES.items():
            results = json.loads((out / "dlgmm" / f"mnist-{name}-budget-small" / "results.json").read_text())
            assert f"{results['log_likelihood']:.2f}" in text and f"{theirs:.2f}" in text
            assert results["samples"] == 20

    def test_errors_of_neighbours_stand_beside_the_papers(self, done):
        out, printed = done
        text = printed["kNN"].output
        assert printed["kNN"].exit_code == 0, text
        scores = json.loads((out / "dlgmm" / "mnist-sb-vae-budget-small" / "scores.json").read_text())
        assert scores.keys() == {"kNN", "likelihood"}, "one is kept when the other is added"
        assert f"{'5 neighbours, error':28}{100 * scores['kNN']['errors']['5']:>20.2f} %      8.65 %" in text

    def test_the_figure_is_drawn(self, done):
        out, printed = done
        assert printed["figure"].exit_code == 0, printed["figure"].output
        assert (out / "dlgmm-figure2.png").stat().st_size > 5_000

    def test_the_papers_bound_trains_and_is_named(self, done):
        out, printed = done
        assert printed["paper"].exit_code == 0, printed["paper"].output
        record = json.loads((out / "dlgmm" / "mnist-dlgmm-recipe-paper-budget-small" / "data.json").read_text())
        assert record["objective"].startswith("Eq1ELBO(")
        assert "eq. (1)" in invoke("reproduce", "report", "--out", out).output

    def test_the_command_that_is_reported_runs_the_cell(self, tiny_mnist):
        experiment = MixtureExperiment(bound="eq1", prior="spread", recipe="paper", budget="small", seed=2)
        _, *arguments = shlex.split(command_line(experiment))
        result = invoke(*arguments, "--dry-run", "--data-dir", tiny_mnist)
        assert result.exit_code == 0 and f"--- dlgmm: {experiment.name} ---" in result.output, result.output

    def test_refuses(self):
        for arguments, message in (
            (("--table", "kNN", "--figure", "2"), "table is kNN and figure is 2; give one of them"),
            (("--figure", "1"), "figure is 1; known is 2"),
            (("--figure", "2", "--model", "dldpmm"), "model is 'dldpmm', but figure 2 has models of its own; leave"),
            (("--figure", "2", "--bound", "eq1"), "bound is 'eq1', but figure 2 has models of its own; leave it out"),
            (("--figure", "2", "--prior", "spread"), "prior is 'spread', but figure 2 has models of its own; leave"),
        ):
            result = invoke("reproduce", "dlgmm", *arguments)
            assert result.exit_code == 2 and message in result.output, result.output

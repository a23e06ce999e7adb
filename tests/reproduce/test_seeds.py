# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Experiments of several seeds: the same cells, and one line of a table with mean and standard deviation."""

from __future__ import annotations

import dataclasses
import json
import statistics

import pytest

from pyro_spvae.reproduce import cells, figures
from pyro_spvae.reproduce.dlgmm import MixtureExperiment
from pyro_spvae.reproduce.over_seeds import with_seeds
from pyro_spvae.reproduce.poster import PosterExperiment
from pyro_spvae.reproduce.race_report import race_sections
from pyro_spvae.reproduce.report import write_report
from pyro_spvae.reproduce.spvae import Experiment
from pyro_spvae.reproduce.timing import TimeExperiment
from pyro_spvae.reproduce.vampprior import VampExperiment
from tests.cli_cases import invoke, refused
from tests.reproduce.cases import finished

COMMANDS = {
    "spvae-table1": ("--model", "vae,spvae"),
    "spvae-figure2": ("--fractions", "0.1"),
    "spvae-figure3": (),
    "spvae-time": (),
    "poster": ("--model", "vae"),
    "vampprior": ("--model", "hvae"),
    "dlgmm": (),
    "dvae": ("--net", "linear", "--method", "nvil"),
    "dvaepp": ("--model", "normal-normal"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_seeds(name, monkeypatch, tmp_path):
    """Each of its cells with each of the seeds, those of a cell one after the other."""
    asked = []
    monkeypatch.setattr(cells, "show_cells", lambda found, *options: asked.extend(found))
    for words in (("--seeds", 3), ("--seed", 3), ()):
        result = invoke("reproduce", name, *COMMANDS[name], *words, "--budget", "tiny", "--dry-run")
        assert result.exit_code == 0, result.output
        expected = {"--seeds": [0, 1, 2], "--seed": [3]}.get(words[0] if words else "", [0])
        assert {one.table for one in asked} == {name}
        kinds = list(dict.fromkeys(dataclasses.replace(one, seed=0) for one in asked))
        assert asked == with_seeds(kinds, expected) and len({one.name for one in asked}) == len(asked)
        asked.clear()
    said = refused("reproduce", name, "--seeds", 2, "--seed", 1, "--out", tmp_path)
    assert said == "seeds is 2 and seed is 1; give one of them\n" and not list(tmp_path.iterdir())


def test_all_of_table_1_is_one_command(monkeypatch):
    asked = []
    monkeypatch.setattr(cells, "show_cells", lambda found, *options: asked.extend(found))
    words = ("--data", "all", "--pixels", "all", "--model", "all", "--dry-run")
    assert invoke("reproduce", "spvae-table1", *words).exit_code == 0
    assert len(asked) == len(set(asked)) == 3 * 2 * 4
    assert refused("reproduce", "spvae-table1", "--model", "vae,gan").startswith("model is 'gan'; known are spvae, vae")


def table(path, *cells_of, values=(-80.0, -81.5, -84.0), **results):
    """Lines of the report's tables about a cell of several seeds, by title of column."""
    for number, cell in enumerate(with_seeds(cells_of, range(len(values)))):
        finished(path / cell.table / cell.name, cell, values[number % len(values)], **results)
    lines = [line for line in write_report(path).read_text().splitlines() if line.startswith("|")]
    titles = [title.strip() for title in lines[0].strip("| ").split("|")]
    return [list(zip(titles, map(str.strip, line[1:-1].split("|")), strict=True)) for line in lines[2:]]


class TestTables:
    @pytest.fixture(autouse=True)
    def no_pictures(self, monkeypatch):
        monkeypatch.setattr("pyro_spvae.reproduce.report.draw_figures", lambda *args: {})

    SPREAD = f"{statistics.mean((-80, -81.5, -84)):.2f} ± {statistics.stdev((-80, -81.5, -84)):.2f}"

    @pytest.mark.parametrize(
        ("cell", "column", "results"),
        [
            (PosterExperiment("vae"), "ours", {}),
            (Experiment(), "ours", {}),
            (VampExperiment(), "ours", {"active_units": {"z": 3}}),
            (MixtureExperiment(), "log-likelihood", {"best_epoch": 3}),
        ],
    )
    def test_seeds_are_one_line(self, tmp_path, cell, column, results):
        [line] = table(tmp_path, cell, **results)
        assert (column, self.SPREAD) in line and dict(line)["how"].endswith("seeds 0, 1, 2")
        assert "± is the standard deviation over seeds" in (tmp_path / "report.md").read_text()

    def test_a_single_seed_has_the_error_over_images(self, tmp_path):
        [line] = table(tmp_path, PosterExperiment("vae"), values=(-80.0,))
        assert ("ours", "-80.00 ± 0.50") in line and dict(line)["how"].endswith("seed 0")
        assert "over seeds" not in (tmp_path / "report.md").read_text()

    def test_bounds_of_figure_2_are_means(self, tmp_path):
        [line] = table(tmp_path, Experiment(fraction=0.1, figure=2))
        spread = f"{-81.83333 - 4:.1f} ± {statistics.stdev((-80, -81.5, -84)):.1f}"
        assert dict(line)["ours"] == spread

    def test_neighbours_and_few_samples_are_means(self, tmp_path):
        for cell, error in zip(with_seeds([MixtureExperiment()], (0, 1)), (0.25, 0.125), strict=True):
            run = finished(tmp_path / "dlgmm" / cell.name, cell, -80.0, best_epoch=3)
            scores = {"kNN": {"errors": {str(k): error for k in (3, 5, 10)}}}
            scores["likelihood"] = {"samples": 50, "log_likelihood": -80 - 8 * error, "standard_error": 1.0}
            (run.path / "scores.json").write_text(json.dumps(scores))
        text = write_report(tmp_path).read_text()
        assert text.count(f"| 18.75 ± {statistics.stdev((25, 12.5)):.2f} % |") == 3
        assert f"| -81.50 ± {statistics.stdev((82, 81)):.2f} | 50 |" in text


def test_races_of_several_seeds_are_one_table(tmp_path):
    def write(experiment, ratio):
        path = tmp_path / "spvae-time" / experiment.name
        path.mkdir(parents=True)
        ratios = {"five-sample bound": ratio, "5,000-sample log-likelihood": None}
        race = {"experiment": dataclasses.asdict(experiment), "ratios": ratios, "lines": [f"| {experiment.seed} |"]}
        (path / "race.json").write_text(json.dumps(race))

    for seed, ratio in enumerate((0.5, 0.25, 0.375)):
        write(TimeExperiment(seed=seed), ratio)
    write(TimeExperiment(budget="tiny"), 0.9)
    (several, lines), (alone, own) = race_sections(tmp_path)
    assert (several, alone) == ("Time: mnist, continuous, paper, best", "Time: mnist, continuous, tiny, best")
    assert "seeds 0, 1, 2" in lines[0]
    assert lines[-2:] == [
        "| five-sample bound | 0.375 ± 0.125 | 3 of 3 |",
        "| 5,000-sample log-likelihood |  | 0 of 3 |",
    ]
    assert own[0] == "| 0 |" and own[-1].startswith("Budget tiny: ")


def test_points_of_curves_are_means_over_seeds(tmp_path):
    cells_of = with_seeds([Experiment(fraction=fraction, figure=2) for fraction in (0.3, 0.1)], (0, 1))
    values = (-10.0, -20.0, -50.0, -52.0)
    runs = [finished(tmp_path / one.name, one, value) for one, value in zip(cells_of, values, strict=True)]
    x, y = figures._means(runs, lambda run: run.experiment["fraction"], lambda run: run.results["elbo"])
    assert (x, y) == ([0.1, 0.3], [-55.0, -19.0])

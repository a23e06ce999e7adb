# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What a dry run says of time, and that all work which may take long says that it goes on."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from pyro_spvae.reproduce import dlgmm, race, run, spvae
from pyro_spvae.reproduce.timing import TimeExperiment
from pyro_spvae.training.forecast import Forecast
from pyro_spvae.training.pace import Pace
from tests.cli_cases import invoke, refused
from tests.reproduce.killed import shrink
from tests.training.cases import stopped_after


def reproduce(*words):
    result = invoke("reproduce", *words)
    assert result.exit_code == 0, result.output
    return result.output


def times(output):
    return [line.removeprefix("time        about ") for line in output.splitlines() if line.startswith("time ")]


class TestDryRun:
    @pytest.fixture(autouse=True)
    def known(self, monkeypatch):
        """A minute of training and half of one of evaluation, of whatever is planned."""
        self.asked = []
        for module in (run, race):
            monkeypatch.setattr(module, "forecast", lambda *given: self.asked.append(given) or Forecast(60.0, 30.0))

    def test_times_of_each_cell_and_of_all(self, tiny_mnist, tmp_path):
        words = ("poster", "--model", "vae,spn", "--seeds", 2, "--budget", "tiny", "--dry-run")
        output = reproduce(*words, "--data-dir", tiny_mnist, "--out", tmp_path / "out")
        assert times(output) == ["90 s at most, and its pictures"] * 4 + ["6 min at most of all 4 cells"]
        assert len(self.asked) == 4 and not (tmp_path / "out").exists()
        assert [line for line in output.splitlines() if line.startswith("---")] == [
            f"--- poster: {name}-budget-tiny{seed} ---" for name in ("vae", "spn") for seed in ("", "-seed-1")
        ]

    def test_of_the_race_both_are_trained_and_one_is_scored(self, tiny_mnist, tmp_path):
        output = reproduce("spvae-time", "--dry-run", "--data-dir", tiny_mnist, "--out", tmp_path / "out")
        assert times(output) == ["2 min at most, and its pictures"]
        assert len(self.asked) == 2 and not (tmp_path / "out").exists()
        assert all(watched is job.test for job, watched in self.asked), "by the test rows they are stopped"

    def test_models_are_trained_by_their_own_objective(self, tiny_mnist):
        reproduce("dlgmm", "--model", "dlgmm", "--recipe", "paper", "--dry-run", "--data-dir", tiny_mnist)
        [(job,)] = self.asked
        assert type(job.objective).__name__ == "Eq1ELBO"


def test_a_dry_run_measures_models(tiny_mnist, tmp_path):
    """Real ones."""
    words = ("dlgmm", "--model", "gauss-vae", "--budget", "tiny", "--dry-run", "--data-dir", tiny_mnist)
    [line] = times(reproduce(*words, "--out", tmp_path / "out"))
    assert line.endswith(" at most, and its pictures") and not (tmp_path / "out").exists()


@pytest.fixture
def told(monkeypatch):
    """What is said to be going on, by whatever."""
    names = []
    during = Pace.during

    @contextmanager
    def listening(self, what):
        names.append(what)
        with during(self, what):
            yield

    monkeypatch.setattr(Pace, "during", listening)
    shrink(monkeypatch.setattr)
    return names


class TestGoingOn:
    """Lines themselves are tested with Pace."""

    def test_evaluation_neighbours_and_pictures(self, told, tiny_mnist, tmp_path):
        common = ("--model", "gauss-vae", "--budget", "small", "--data-dir", tiny_mnist, "--out", tmp_path)
        reproduce("dlgmm", "--table", "kNN", "--seeds", 2, *common)
        assert told == ["evaluating", "neighbours"] * 2 + ["pictures"]

    def test_figures(self, told, tiny_mnist, tmp_path, monkeypatch):
        """Of each seed one, by that seed's models."""
        monkeypatch.setattr(dlgmm, "_SLOW_EPOCHS", {"small": 1})
        common = ("--budget", "small", "--data-dir", tiny_mnist, "--out", tmp_path)
        output = reproduce("dlgmm", "--figure", 2, "--seeds", 2, *common)
        assert told.count("t-SNE") == 2
        for name in ("dlgmm-figure2.png", "dlgmm-figure2-seed-1.png"):
            assert (tmp_path / name).exists() and f"written to  {tmp_path / name}" in output

    def test_embeddings_and_races(self, told, tiny_mnist, tmp_path, monkeypatch):
        monkeypatch.setattr(spvae, "_FIGURE_SAMPLES", {"small": 5})
        common = ("--budget", "small", "--data-dir", tiny_mnist, "--out", tmp_path)
        reproduce("spvae-figure3", *common)
        assert told == ["evaluating", "embedding"]
        told.clear()
        reproduce("spvae-time", "--recipe", "tuned", *common)
        assert told == ["scoring"]


def test_the_folder_of_a_report_is_named_once(tmp_path):
    assert refused("reproduce", "report", tmp_path / "a", "--out", tmp_path / "b") == (
        f"folder is {tmp_path / 'a'} and out is {tmp_path / 'b'}; give one of them\n"
    )
    said = refused("reproduce", "report", tmp_path)
    assert said.startswith(f"the folder {tmp_path} holds no finished experiments and none that was begun; run one")


class TestReplacedRace:
    EXPERIMENT = TimeExperiment(recipe="tuned", budget="small")

    @pytest.fixture
    def path(self, tmp_path):
        """The folder of a race, as far as its file says."""
        path = tmp_path / self.EXPERIMENT.table / self.EXPERIMENT.name
        path.mkdir(parents=True)
        (path / "race.json").write_text("{}")
        return path

    @pytest.fixture
    def replace(self, tmp_path, monkeypatch):
        shrink(monkeypatch.setattr)
        return lambda data: race.race(self.EXPERIMENT, tmp_path, data_dir=str(data), overwrite=True)

    def names(self, path):
        return sorted(one.name for one in path.parent.iterdir())

    def test_is_kept_where_the_data_are_missing(self, path, replace, tmp_path):
        with pytest.raises(ValueError, match="mnist"):
            replace(tmp_path / "none")
        assert (path / "race.json").read_text() == "{}" and self.names(path) == [path.name]

    def test_comes_back_where_the_new_one_cannot_be_made(self, path, replace, tiny_mnist, monkeypatch):
        def fail(*args):
            raise ValueError("no")

        monkeypatch.setattr(race, "_trainer", fail)
        with pytest.raises(ValueError, match="^no$"):
            replace(tiny_mnist)
        assert [one.name for one in path.iterdir()] == ["race.json"] and self.names(path) == [path.name]

    def test_is_gone_when_the_new_one_runs(self, path, replace, tiny_mnist):
        with stopped_after(1):
            replace(tiny_mnist)
        assert not (path / "race.json").exists() and (path / "vae").exists() and self.names(path) == [path.name]

    def test_nothing_else_is_replaced(self, path, replace, tiny_mnist):
        (path / "race.json").rename(path / "mine.txt")
        with pytest.raises(ValueError, match="^the folder .* exists and is no race, so it is not overwritten; choose"):
            replace(tiny_mnist)
        assert (path / "mine.txt").exists()

    def test_a_damaged_one_is_refused(self, path, tmp_path):
        for content, what in (("{}", "'lines' or 'ratios'"), ('{"lines": [], "ratios": {}}', "'configs'")):
            (path / "race.json").write_text(content)
            with pytest.raises(ValueError, match=f"race.json lacks {what}; run the experiment again by --overwrite$"):
                race.race(self.EXPERIMENT, tmp_path)


@pytest.mark.parametrize(
    ("start", "experiment"),
    [
        (run.run, dlgmm.MixtureExperiment(model="gauss-vae", budget="small")),
        (race.race, TimeExperiment(recipe="tuned", budget="small")),
    ],
)
def test_who_stops_is_told_how_to_go_on(start, experiment, tiny_mnist, tmp_path, monkeypatch):
    """By the command that was given, since others know nothing of objectives, scores and turns."""
    shrink(monkeypatch.setattr)
    path = tmp_path / experiment.table / experiment.name
    with stopped_after(2, match=f"^stopped in {path}, everything is saved; the same command goes on with it$"):
        start(experiment, tmp_path, data_dir=str(tiny_mnist))
    lines = []
    start(experiment, tmp_path, data_dir=str(tiny_mnist), report=lines.append)
    assert any(line.startswith("resuming    ") for line in lines)

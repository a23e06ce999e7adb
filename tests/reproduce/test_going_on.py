# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""A command of several experiments that is killed ends, when it is given again, as if it never had been."""

from __future__ import annotations

import json
import math

import pytest

from pyro_spvae.reproduce.asked import unfinished
from pyro_spvae.reproduce.race import Racer, _take_turns
from pyro_spvae.training.run_folder import RunFolder
from tests.cli_cases import Forked, invoke
from tests.reproduce.killed import EPOCHS, act
from tests.training.cases import assert_same_outcome, untimed

VAMP = ("vampprior", "--model", "vae", "--prior", "standard,vamp", "--components", "5")
NEIGHBOURS = ("dlgmm", "--table", "kNN", "--model", "gauss-vae,dlgmm")
TIME = ("spvae-time", "--recipe", "tuned")
FIRST, SECOND = "mnist-vae-standard-budget-small", "mnist-vae-vamp-5-budget-small"
RACED = "mnist-continuous-budget-small-recipe-tuned"


@pytest.fixture(scope="module")
def run(tiny_mnist):
    """Runs a command into a folder, until a moment if one is named."""

    def make(words, out, moment=None):
        return Forked(act, moment, *words, "--budget", "small", "--data-dir", tiny_mnist, "--out", out)

    return make


def state_of(out):
    return {one.path.name: (one.state, one.epoch, one.epochs) for one in unfinished(out)}


@pytest.fixture(scope="module")
def cells(run, tmp_path_factory):
    """Two cells that were never stopped, and what was printed."""
    out = tmp_path_factory.mktemp("cells")
    return out, run(VAMP, out).succeed().stdout


@pytest.fixture(scope="module")
def finished_race(run, tmp_path_factory):
    """The folder of a race that was never stopped."""
    out = tmp_path_factory.mktemp("race")
    run(TIME, out).succeed()
    return out / "spvae-time" / RACED


class TestCells:
    def test_progress_says_which_cell_of_how_many(self, cells):
        out, printed = cells
        lines = [line for line in printed.splitlines() if line.startswith("cell ")]
        assert [line.partition(",")[0].split()[1:] for line in lines] == [["1", "of", "2"], ["2", "of", "2"]]
        assert not unfinished(out) and "## Unfinished" not in printed

    def test_killed_in_the_middle_of_the_second(self, run, cells, tmp_path):
        assert run(VAMP, tmp_path, "in a step of the second cell").codes == [-9]
        assert state_of(tmp_path) == {SECOND: ("begun", 2, EPOCHS)}
        report = invoke("reproduce", "report", tmp_path).output
        finished, _, rest = report.partition("## Unfinished")
        [line] = [line for line in rest.splitlines() if SECOND in line]
        metrics = RunFolder(tmp_path / "vampprior" / SECOND).read_metrics()
        best = max(line["val_elbo"] for line in metrics)
        assert line.startswith(
            f"| vampprior | {SECOND} | begun | 2 of {EPOCHS} | {best:.2f} | `pyro-spvae reproduce vamp"
        )
        assert "| VampPrior |" not in finished and "| standard normal |" in finished
        before = (tmp_path / "vampprior" / FIRST / "results.json").stat().st_mtime_ns
        printed = run(VAMP, tmp_path).succeed().stdout
        assert printed.count("finished    before") == 1 and printed.count("resuming") == 1
        for name in (FIRST, SECOND):
            assert_same_outcome(tmp_path / "vampprior" / name, cells[0] / "vampprior" / name)
        assert (tmp_path / "vampprior" / FIRST / "results.json").stat().st_mtime_ns == before
        assert not unfinished(tmp_path)

    def test_cells_that_were_not_begun_are_known(self, run, cells, tmp_path):
        assert run(VAMP, tmp_path, "before the second cell is made").codes == [-9]
        assert state_of(tmp_path) == {SECOND: ("not begun", None, None)}
        report = invoke("reproduce", "report", "--out", tmp_path).output
        assert f"| vampprior | {SECOND} | not begun |  |  | `pyro-spvae reproduce vampprior" in report


def test_scores_that_a_run_has_not_by_itself(run, tmp_path):
    """Killed after the run, before its neighbours were looked for."""
    run(NEIGHBOURS, tmp_path / "whole").succeed()
    assert run(NEIGHBOURS, tmp_path / "run", "before it is scored").codes == [-9]
    run(NEIGHBOURS, tmp_path / "run").succeed()
    for name in ("gauss-vae", "dlgmm"):
        one, other = (tmp_path / out / "dlgmm" / f"mnist-{name}-budget-small" for out in ("run", "whole"))
        assert_same_outcome(one, other)
        scores = json.loads((one / "scores.json").read_text())
        assert scores["kNN"] and scores == json.loads((other / "scores.json").read_text())


class TestRace:
    @pytest.mark.parametrize(
        "moment",
        [
            "in a turn",
            "in the middle of a turn's files",
            "while the last value is scored",
            "before the race is written",
        ],
    )
    def test_goes_on_by_its_turns(self, run, finished_race, tmp_path, moment):
        assert run(TIME, tmp_path, moment).codes == [-9]
        begun = [one for one in unfinished(tmp_path) if one.state == "begun"]
        assert begun and all(one.path.parent.name == RACED for one in begun)
        run(TIME, tmp_path).succeed()
        path = tmp_path / "spvae-time" / RACED
        assert outcome(path) == outcome(finished_race) and not unfinished(tmp_path)
        for name in ("spvae", "vae"):
            lines, other = (list(map(untimed, RunFolder(of / name).read_metrics())) for of in (path, finished_race))
            assert lines == other and lines

    def test_another_configuration_is_refused(self, run, finished_race):
        path = finished_race / "race.json"
        kept = path.read_text()
        values = json.loads(kept)
        values["configs"]["vae"]["lr"] = 0.5
        path.write_text(json.dumps(values))
        ended = run(TIME, finished_race.parent.parent)
        path.write_text(kept)
        assert ended.codes == [2] and "vae, has lr 0.5, but 0.001 is asked for; choose another --out" in ended.stderr
        assert ended.stderr.count("\n") == 1


def outcome(path):
    """Steps and bounds of both, and the score; seconds are those of the clock."""
    race = json.loads((path / "race.json").read_text())
    curves = {name: [(point["step"], point["bound"]) for point in curve] for name, curve in race["curves"].items()}
    assert all(curves.values())
    return curves, race["vae_score"]


class Scripted:
    """A trainer whose validations are known, one a step, as far as it has come."""

    class config:  # noqa: N801
        validate_every = 1

    def __init__(self, name, bounds, done, log):
        self.name, self.bounds, self.log = name, bounds, log
        self.metrics = [self.line(step) for step in range(1, done + 1)]

    def line(self, step):
        return {"step": step, "step_seconds": float(step), "val_elbo": self.bounds[step - 1]}

    @property
    def step(self):
        return len(self.metrics)

    @property
    def finished(self):
        return self.step == len(self.bounds)

    def run(self, max_steps):
        if max_steps:
            self.log.append(self.name)
            if len(self.log) == self.log.limit:
                raise KeyboardInterrupt
            self.metrics.append(self.line(self.step + 1))


class Log(list):
    """Turns that are taken, the last of which is not done."""

    def __init__(self, limit):
        self.limit = limit


BOUNDS = {"spvae": [0.0, 3.0, 2.0, 2.5, 6.0, 6.5, 9.0], "vae": [1.0, 2.0, 5.0, 5.5, 4.0]}


def raced(done, limit):
    """Both from where they were: their trainers, curves and the turns that were taken."""
    log = Log(limit)
    trainers = {name: Scripted(name, bounds, done[name], log) for name, bounds in BOUNDS.items()}
    racers = {name: Racer(trainer) for name, trainer in trainers.items()}
    try:
        _take_turns(racers["spvae"], racers["vae"], lambda: 8.0)
    except KeyboardInterrupt:
        pass
    return {name: trainer.step for name, trainer in trainers.items()}, {n: r.curve for n, r in racers.items()}, [*log]


def test_turns_are_those_of_a_race_that_was_never_stopped():
    """Wherever it is stopped: which turns come next depends on those before alone."""
    start = dict.fromkeys(BOUNDS, 0)
    done, curves, turns = raced(start, math.inf)
    assert turns == ["vae", "spvae", "vae", "spvae", "vae", "spvae", "vae", "spvae", "vae", "spvae", "spvae", "spvae"]
    for limit in range(1, len(turns) + 1):
        at, _, before = raced(start, limit)
        again, found, after = raced(at, math.inf)
        assert before[:-1] + after == turns and found == curves and again == done

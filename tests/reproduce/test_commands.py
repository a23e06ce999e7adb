# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Commands that reports print run the same experiment again, from the same files into the same folder."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import get_args

import pytest

from pyro_spvae.reproduce import cells
from pyro_spvae.reproduce.asked import note_asked, unfinished
from pyro_spvae.reproduce.finished import Finished
from pyro_spvae.reproduce.places import OUT, with_places
from pyro_spvae.reproduce.published import Pixels
from pyro_spvae.reproduce.report import beside_paper, write_report
from pyro_spvae.reproduce.run import command_line
from pyro_spvae.reproduce.spvae import Experiment
from pyro_spvae.reproduce.timing import TimeExperiment
from pyro_spvae.reproduce.vampprior import VampExperiment
from tests.cli_cases import invoke
from tests.reproduce.cases import experiments, finished

MORE = [
    Experiment(fraction=0.123456789, figure=2),
    Experiment(layers=3, seed=2, budget="small", protocol="clean"),
    *(Experiment(recipe=recipe, latent_dim=dim, figure=3) for recipe in ("best", "tuned") for dim in (2, 5)),
    *(TimeExperiment(pixels=pixels, recipe=recipe) for pixels in get_args(Pixels) for recipe in ("best", "paper")),
    VampExperiment(prior="vamp", components=9, recipe="best"),
]


@pytest.fixture
def asked(monkeypatch):
    """What a command would run, and how."""

    def ask(command):
        seen = []
        monkeypatch.setattr(cells, "run_cells", lambda found, *args, **how: seen.append((found, args[0], how)) or [])
        program, *words = shlex.split(command)
        result = invoke(*words)
        assert program == "pyro-spvae" and result.exit_code == 0, result.output
        [run] = seen
        return run

    return ask


def test_run_the_experiment_and_no_other(asked):
    """Of figures only those points that their commands have."""
    made = [one for one in experiments("tiny") if getattr(one, "figure", None) != 3]
    assert {one.table for one in (*made, *MORE)} == {
        *("spvae-table1", "spvae-figure2", "spvae-figure3", "spvae-time"),
        *("poster", "vampprior", "dlgmm", "dvae", "dvaepp"),
    }
    for one in (*made, *MORE):
        assert asked(command_line(one))[0] == [one]


def test_fractions_are_named_in_full():
    one, other = (Experiment(fraction=fraction, figure=2) for fraction in (0.123456789, 0.1234567))
    assert one.name != other.name and "-0.123456789" in one.name


def test_places_are_those_that_were_given(asked, tmp_path):
    command = with_places(command_line(Experiment()), tmp_path / "my runs", "/my data")
    [found], out, how = asked(command)
    assert (found, out, how["data_dir"]) == (Experiment(), tmp_path / "my runs", "/my data")


@pytest.mark.parametrize("out", [OUT, Path.cwd() / OUT, Path(f"{OUT}/")])
def test_the_usual_folder_is_left_out(out):
    assert with_places("command", out, None) == "command"


class TestReport:
    CELL = Experiment(model="vae", pixels="discrete")
    COMMAND = command_line(CELL)

    @pytest.fixture(autouse=True)
    def no_pictures(self, monkeypatch):
        monkeypatch.setattr("pyro_spvae.reproduce.report.draw_figures", lambda *args: {})

    @pytest.fixture
    def run(self, tmp_path):
        run = finished(tmp_path / self.CELL.table / self.CELL.name, self.CELL, -80.0)
        (run.path / "config.json").write_text(json.dumps(self.CELL.configuration("/my data").to_dict()))
        return run

    def test_of_finished_runs(self, run, tmp_path):
        command = f"{self.COMMAND} --data-dir '/my data' --out {tmp_path}"
        assert list(beside_paper(run.path))[-1].endswith(f"  {command}")
        assert f"\n{command}\n" in write_report(tmp_path).read_text()

    def test_of_begun_runs(self, run, tmp_path):
        (run.path / "results.json").unlink()
        note_asked(self.CELL, tmp_path)
        [one] = unfinished(tmp_path)
        assert (one.state, one.command) == ("begun", f"{self.COMMAND} --data-dir '/my data' --out {tmp_path}")

    @pytest.mark.parametrize(("given", "wanted"), [(None, ""), ("my data", f" --data-dir '{Path.cwd()}/my data'")])
    def test_of_runs_that_are_not_begun(self, tmp_path, given, wanted):
        note_asked(self.CELL, tmp_path, "another")
        note_asked(self.CELL, tmp_path, given)
        [one] = unfinished(tmp_path)
        assert (one.state, one.command) == ("not begun", f"{self.COMMAND}{wanted} --out {tmp_path}")

    def test_a_finished_run_that_was_killed_before_it_said_what_it_is_is_known_by_its_note(self, run, tmp_path):
        (run.path / "reproduce.json").unlink()
        note_asked(self.CELL, tmp_path)
        assert Finished.read(run.path).experiment == dataclasses.asdict(self.CELL)
        assert "-80.00" in write_report(tmp_path).read_text()

    def test_what_is_being_replaced_is_not_listed(self, run, tmp_path):
        (run.path).rename(run.path.with_name(f".{run.path.name}.old"))
        with pytest.raises(ValueError, match="holds no finished experiments and none that was begun"):
            write_report(tmp_path)

    @pytest.mark.parametrize(
        ("file", "content", "message"),
        [
            ("{run}.json", "[]", "{run}.json holds a list; the note of an experiment is an object"),
            ("{run}/metrics.jsonl", '{"step": 3}\n', "{run}/metrics.jsonl has a line without 'val_elbo' or 'epoch'"),
            ("{run}/config.json", "[]", "{run}/config.json lacks 'epochs'; run the experiment again by --overwrite"),
            (
                "{out}/spvae-time/x/race.json",
                "{{}}",
                "{out}/spvae-time/x/race.json lacks 'lines' or 'ratios'; run the experiment again by --overwrite",
            ),
            (
                "{out}/spvae-time/x/race.json",
                '{{"lines": [], "ratios": {{}}, "experiment": {{}}}}',
                "{out}/spvae-time/x/race.json does not say what was run; run the experiment again by --overwrite",
            ),
        ],
    )
    def test_damaged_files_are_told_of_in_one_sentence(self, run, tmp_path, file, content, message):
        (run.path / "results.json").unlink()
        known = {"run": run.path, "out": tmp_path}
        path = Path(file.format(**known))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content.replace("{{", "{").replace("}}", "}"))
        with pytest.raises(ValueError) as error:
            write_report(tmp_path)
        assert str(error.value) == f"the file {message.format(**known)}"

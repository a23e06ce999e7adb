# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The commands that use runs, as their users see them: output, files, messages and exit codes."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import numpy as np
import pytest

from pyro_spvae import commands
from pyro_spvae.commands.listing import info, shown
from tests.cli_cases import invoke, refused
from tests.commands.cases import load, names
from tests.commands.test_help import VERBS

STEMS = {"sample": "samples", "impute": "test-left"}  # of files, elsewhere "test"
NEEDED = {"impute": ("--observed", "left")}


@pytest.mark.parametrize("verb", VERBS)
def test_an_answer_lies_in_the_run(digits, verb):
    result = invoke(verb, digits, *NEEDED.get(verb, ()))
    assert result.exit_code == 0, result.output
    ends = (".json", ".npz", ".png") if verb == "evaluate" else (".npz", ".png")
    answers = [f"{STEMS.get(verb, 'test')}{end}" for end in ends]
    assert names(digits / verb) == answers
    assert {f"written to  {digits / verb / name}" for name in answers} <= set(result.stdout.splitlines())
    assert result.stderr == ""


OPTIONS = {
    "evaluate": {"samples": 3, "particles": 2, "observed": "top", "chunk_size": 64, "split": "validation", "seed": 3},
    "sample": {"num": 3, "means": True, "seed": 3, "device": "cpu"},
    "reconstruct": {"num": 3, "particles": 7, "data": "digits", "split": "train"},
    "impute": {"observed": "left", "num": 2, "completions": 1, "means": True, "particles": 7},
    "interpolate": {"num": 2, "steps": 3, "particles": 7, "data_dir": "somewhere", "seed": 4},
    "embed": {"num": 4, "sums": False, "particles": 7, "panels": 1, "grid": 3, "download": True},
}


@pytest.mark.parametrize("verb", VERBS)
def test_options_are_those_of_the_function(verb, digits, tmp_path):
    function, options = getattr(commands, verb), OPTIONS[verb]
    assert options.keys() <= inspect.signature(function).parameters.keys()
    flags = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}" if value is not False else f"--no-{name}"
        flags += [flag] if isinstance(value, bool) else [flag, value]
    result = invoke(verb, digits, *flags, "--out", tmp_path / "told")
    assert result.exit_code == 0, result.output
    lines = []
    function(str(digits), **options, out=str(tmp_path / "called"), report=lines.append)
    assert result.stdout.replace("told", "called").splitlines() == lines
    assert names(tmp_path / "told") == names(tmp_path / "called")
    (path,) = (tmp_path / "told").glob("*.npz")
    found, wanted = load(path), load(tmp_path / "called" / path.name)
    assert found.keys() == wanted.keys() and all(np.array_equal(found[key], wanted[key]) for key in wanted)


class TestRefusals:
    @pytest.mark.parametrize("verb", [*VERBS, "info"])
    def test_no_run(self, verb, tmp_path):
        needed = NEEDED.get(verb, ())
        assert "there is no run folder" in refused(verb, tmp_path / "nothing", *needed)
        (tmp_path / "empty").mkdir()
        missing = "is no run and holds none" if verb == "info" else "is no run: it has no config.json and data.json\n"
        assert missing in refused(verb, tmp_path / "empty", *needed)
        assert not list((tmp_path / "empty").iterdir())

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (("evaluate", "--device", "cuda:99"), "device is 'cuda:99', but torch finds"),
            (("evaluate", "--data", "nonsense"), "'nonsense' is no known data set"),
            (("evaluate", "--observed", "some"), "observed is 'some'; accepted are left, right"),
            (("evaluate", "--observed", "none.npy"), "observed is the file none.npy, which cannot be read"),
            (("evaluate", "--samples", "0"), "--samples"),
            (("evaluate", "--split", "half"), "--split"),
            (("sample", "-n", "0"), "--num"),
            (("sample", "--seed", "-1"), "--seed"),
            (
                ("impute",),
                "observed is not given, but no entry of the split test of digits is missing; accepted are left",
            ),
            (("interpolate", "-n", "126"), "num is 126 pairs, but the split test of digits has 250 rows"),
            (("interpolate", "--steps", "1"), "--steps"),
            (("embed", "--grid", "0"), "--grid"),
            (("embed", "--nonsense"), "No such option"),
        ],
    )
    def test_unfit_options(self, digits, tmp_path, args, message):
        verb, *options = args
        assert message in refused(verb, digits, *options, "--out", tmp_path / "out")
        assert not (tmp_path / "out").exists()


class TestInfo:
    def test_a_table_and_json(self, digits):
        result = invoke("info", digits)
        assert result.exit_code == 0 and result.stdout.splitlines() == shown(info([digits]))
        result = invoke("info", digits.parent, "--json")
        assert result.exit_code == 0 and json.loads(result.stdout) == info([digits.parent])
        results = json.loads((digits / "results.json").read_text())
        (row,) = info([digits])
        known = ("parameters", "log_likelihood", "standard_error", "bits_per_dim", "seconds", "samples")
        assert {name: row[name] for name in known} == {name: results[name] for name in known}
        assert (row["data"], row["status"]) == ("digits", "finished")
        assert row["model"] == "poon-domingos 4 2x2, latent 3, hidden 8, cp weights"

    def test_damaged_runs_in_a_folder_are_told_apart_from_the_table(self, digits, tmp_path):
        (tmp_path / "runs" / "bad").mkdir(parents=True)
        for name in ("config.json", "data.json"):
            (tmp_path / "runs" / "bad" / name).write_text("{")
        result = invoke("info", digits, tmp_path / "runs", "--json")
        assert result.exit_code == 0
        assert {row["status"] for row in json.loads(result.stdout)} == {"finished", "damaged"}
        assert result.stderr.startswith("note        ") and result.stderr.count("\n") == 1
        assert "bad/config.json" in refused("info", tmp_path / "runs" / "bad")


def test_what_reads_the_output_may_end_first():
    """As ``| head -0`` does: no word about the pipe, and no traceback."""
    command = [sys.executable, "-m", "pyro_spvae", "train", "digits", "--dry-run"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()  # at once: what is read may end after all has been written, and then nothing fails
        said = process.stderr.read()
    assert process.returncode == 1 and "ipe" not in said and "Traceback" not in said

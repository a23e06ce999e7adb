# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The commands that use runs, as their users see them: help, output, files, messages and exit codes."""

from __future__ import annotations

import importlib
import inspect
import json

import pytest

from pyro_spvae import cli
from pyro_spvae.verbs.info import info, table
from tests.cli_cases import QUICK, invoke, python, train

VERBS = ("evaluate", "sample", "reconstruct", "impute", "interpolate", "embed")
ANSWERS = {
    "evaluate": ("test.json", "test.npz", "test.png"),
    "sample": ("samples.npz", "samples.png"),
    "reconstruct": ("test.npz", "test.png"),
    "impute": ("test-left.npz", "test-left.png"),
    "interpolate": ("test.npz", "test.png"),
    "embed": ("test.npz", "test.png"),
}
NEEDED = {"impute": ("--observed", "left")}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "digits"
    train("digits", "--out", run, *QUICK, "--device", "cpu", "--quiet")
    return run


def callback(verb):
    """The function that a command runs."""
    (found,) = (
        command.callback
        for command in cli.app.registered_commands
        if (command.name or command.callback.__name__) == verb
    )
    return found


def refused(*args):
    """What a command says that ends with exit code 2: one line."""
    result = invoke(*args)
    assert result.exit_code == 2, result.output
    assert result.stdout == "" and result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    return result.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_an_answer_lies_in_the_run(digits, verb):
    result = invoke(verb, digits, *NEEDED.get(verb, ()))
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (digits / verb).iterdir()) == sorted(ANSWERS[verb])
    for name in ANSWERS[verb]:
        assert f"written to  {digits / verb / name}" in result.stdout.splitlines()
    assert result.stderr == ""


@pytest.mark.parametrize("verb", VERBS)
def test_options_are_those_of_the_function_with_its_defaults(verb):
    function = getattr(importlib.import_module(f"pyro_spvae.verbs.{verb}"), verb)
    wanted = {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in ("path", "report", "progress")
    }
    found = {name: p.default for name, p in inspect.signature(callback(verb)).parameters.items() if name != "run"}
    if "no_sums" in found:
        found["sums"] = not found.pop("no_sums")
    assert found == wanted


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_reaches_the_function(verb, monkeypatch, tmp_path):
    module = importlib.import_module(f"pyro_spvae.verbs.{verb}")
    asked = {}
    monkeypatch.setattr(module, verb, lambda path, **options: asked.update(path=path, **options))
    given = {
        "data": "mnist",
        "data_dir": "somewhere",
        "download": True,
        "split": "train",
        "samples": 11,
        "chunk_size": 12,
        "particles": 13,
        "observed": "top",
        "num": 14,
        "means": True,
        "completions": 15,
        "steps": 16,
        "panels": 17,
        "grid": 18,
        "sums": False,
        "seed": 19,
        "device": "cpu",
        "out": tmp_path,
    }
    given = {name: value for name, value in given.items() if name in inspect.signature(callback(verb)).parameters}
    if verb == "embed":
        given["sums"] = False
    flags = []
    for name, value in given.items():
        flag = "--no-sums" if name == "sums" else f"--{name.replace('_', '-')}"
        flags += [flag] if isinstance(value, bool) else [flag, value]
    result = invoke(verb, "folder", *flags)
    assert result.exit_code == 0, result.output
    assert str(asked.pop("path")) == "folder" and asked.pop("report") is not None
    asked.pop("progress", None)
    assert asked == given


@pytest.mark.parametrize("verb", [*VERBS, "info"])
def test_help_shows_defaults_and_does_not_import_torch(verb):
    code = (
        f"import sys; sys.argv = ['pyro-spvae', {verb!r}, '--help']\nfrom pyro_spvae.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    print(end.code)\n"
        "print(sorted({'torch', 'numpy', 'matplotlib', 'pyro', 'sklearn'} & sys.modules.keys()))"
    )
    result = python("-c", code)
    assert result.returncode == 0, result.stderr
    *text, code, imported = result.stdout.splitlines()
    assert (code, imported) == ("0", "[]")
    words = " ".join(" ".join(text).replace("│", " ").split())
    if verb == "info":
        assert "--json" in words and "nats" in words
        return
    assert "the run's" in words and f"RUN/{verb}" in words
    defaults = [p.default for p in inspect.signature(callback(verb)).parameters.values()]
    for default in defaults:
        if isinstance(default, int) and not isinstance(default, bool):
            assert f"[default: {default}]" in words
    if verb in ("evaluate", "impute"):
        assert "half of an image that is SEEN" in words and "random:P" in words
    if verb == "evaluate":
        assert "nats" in words and "no bits/dim" in words and "torchrun --nproc-per-node 2" in words


class TestRefusals:
    @pytest.mark.parametrize("verb", [*VERBS, "info"])
    def test_no_run(self, verb, tmp_path):
        needed = NEEDED.get(verb, ())
        assert "there is no run folder" in refused(verb, tmp_path / "nothing", *needed)
        (tmp_path / "empty").mkdir()
        assert "is no run" in refused(verb, tmp_path / "empty", *needed)
        assert not list((tmp_path / "empty").iterdir())

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (("evaluate", "--device", "cuda:99"), "device is 'cuda:99', but torch finds"),
            (("evaluate", "--data", "nonsense"), "'nonsense' is no known data set"),
            (("evaluate", "--observed", "some"), "observed is 'some'; accepted are left, right"),
            (("evaluate", "--observed", "none.npy"), "observed is the file none.npy, which cannot be read"),
            (("evaluate", "--samples", "0"), "--samples"),
            (("evaluate", "--split", "all"), "--split"),
            (("sample", "-n", "0"), "--num"),
            (("sample", "--seed", "-1"), "--seed"),
            (("sample", "--seed", str(2**63)), "seed is 9223372036854775808; an integer from 0 to 2^63 - 1 is needed"),
            (("reconstruct", "-n", "1000"), "num is 1000, but the split test of digits has 250 rows"),
            (("impute",), "Missing option '--observed'"),
            (("impute", "--observed", "random:2"), "a probability above 0 and at most 1 is needed"),
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

    def test_a_file_in_the_way(self, digits, tmp_path):
        (tmp_path / "out").touch()
        assert "is no folder" in refused("sample", digits, "--out", tmp_path / "out")


def test_the_printed_table_of_evaluate(digits, tmp_path):
    result = invoke("evaluate", digits, "--out", tmp_path)
    written = json.loads((tmp_path / "test.json").read_text())
    first, second, *_ = result.stdout.splitlines()
    assert first == "test of digits: 250 rows, 10 samples"
    assert f"{written['log_likelihood']:.2f}  nats, standard error {written['standard_error']:.2f}" in second


class TestInfo:
    def test_a_table(self, digits):
        result = invoke("info", digits)
        assert result.exit_code == 0 and result.stdout.splitlines() == table(info([digits]))
        results = json.loads((digits / "results.json").read_text())
        (row,) = info([digits])
        known = ("parameters", "log_likelihood", "standard_error", "bits_per_dim", "seconds", "samples")
        assert {name: row[name] for name in known} == {name: results[name] for name in known}
        assert (row["data"], row["status"]) == ("digits", "finished")
        assert row["model"] == "poon-domingos 4 2x2, latent 3, hidden 8"

    def test_json(self, digits):
        result = invoke("info", digits.parent, "--json")
        assert result.exit_code == 0 and json.loads(result.stdout) == info([digits.parent])

    def test_damaged_runs_in_a_folder_are_told_apart_from_the_table(self, digits, tmp_path):
        (tmp_path / "runs" / "bad").mkdir(parents=True)
        for name in ("config.json", "data.json"):
            (tmp_path / "runs" / "bad" / name).write_text("{")
        result = invoke("info", digits, tmp_path / "runs", "--json")
        assert result.exit_code == 0
        assert {row["status"] for row in json.loads(result.stdout)} == {"finished", "damaged"}
        assert result.stderr.startswith("note        ") and result.stderr.count("\n") == 1
        assert "bad/config.json" in refused("info", tmp_path / "runs" / "bad")

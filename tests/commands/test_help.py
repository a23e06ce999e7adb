# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""What the commands say of themselves, without waiting for torch."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re

import pytest

from pyro_spvae import __version__, commands
from pyro_spvae.commands import training
from pyro_spvae.commands.app import app
from pyro_spvae.data import DATA_SETS
from pyro_spvae.registry import names
from pyro_spvae.training.config import TrainConfig
from tests.cli_cases import invoke, python
from tests.commands.test_listing import RESULTS, write_run

VERBS = ("evaluate", "sample", "reconstruct", "impute", "interpolate", "embed")
SAID = {
    "": ("train", "demo"),
    "-h": ("train", "demo"),
    "demo -h": ("--seed",),
    "reproduce": ("spvae-table1", "vampprior", "dvaepp"),
    "reproduce dvaepp --help": ("--figure", "rbm-normal, rbm-bernoulli", "1, 2 or 4", "4,000 samples", "cifar10"),
    "sample --help": ("of --hold z --copies 5 one draw of z", "64, in whole lines of copies"),
    "reproduce vampprior --help": ("--components",),
    "info --help": ("--json", "nats"),
    "--version": (__version__,),
    "evaluate --help": ("half of an image that is SEEN", "random:P", "nats", "no bits/dim", "--nproc-per-node 2"),
    "impute --help": ("half of an image that is SEEN", "random:P"),
}
CODE = """
import contextlib, io, json, sys
from pyro_spvae.commands import main
told = {}
for words in %r:
    sys.argv = ["pyro-spvae", *words.split()]
    with contextlib.redirect_stdout(io.StringIO()) as text:
        try:
            main()
        except SystemExit as end:
            assert not end.code or words == "reproduce", (words, end.code)
    told[words] = text.getvalue()
heavy = {"torch", "pyro", "numpy", "matplotlib", "sklearn"} & sys.modules.keys()
assert not heavy, heavy
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What was printed by the words that asked for it, in a process that imported nothing heavy."""
    info = f"info {write_run(tmp_path_factory.mktemp('help') / 'run', RESULTS)}"
    result = python("-c", CODE % [*SAID, info, "train --help", *(f"{verb} --help" for verb in VERBS)])
    assert result.returncode == 0, result.stderr
    assert "-86.39 +- 0.78" in json.loads(result.stdout)[info]
    return {words: " ".join(text.replace("│", " ").split()) for words, text in json.loads(result.stdout).items()}


@pytest.mark.parametrize("words", SAID)
def test_help_says(told, words):
    assert words == "--version" or "Usage: " in told[words]
    assert all(part in told[words] for part in SAID[words])


@pytest.mark.parametrize("verb", VERBS)
def test_help_and_documentation_have_every_option_and_default(told, verb):
    text, function = told[f"{verb} --help"], getattr(commands, verb)
    parameters = inspect.signature(function).parameters
    assert "the run's" in text and f"RUN/{verb}" in text
    for name in parameters.keys() - {"path", "report", "progress", "sums"}:
        assert f"--{name.replace('_', '-')} " in text
    for default in (parameter.default for parameter in parameters.values()):
        if isinstance(default, int) and not isinstance(default, bool):
            assert f"[default: {default}]" in text
    documented = re.findall(r"^:param (\w+): \w", inspect.getdoc(function), re.MULTILINE)
    assert documented == list(parameters)
    with pytest.raises(TypeError, match="nonsense"):
        function("folder", nonsense=1, **({"observed": "left"} if verb == "impute" else {}))


def test_train_help_shows_every_field_with_defaults_and_units(told):
    text, config = told["train --help"], TrainConfig()
    for field in dataclasses.fields(TrainConfig):
        assert field.name == "data" or re.search(f"--{field.name.replace('_', '-')}[ ,]", text)
    shown = [config.particles, config.patience, config.likelihood, config.epochs]
    for default in ("digits", *shown):
        assert f"Default: {default}." in text
    assert "Learning rate; 0.005 by default, of models without latent variables 0.03." in text
    chosen = (
        "every inner region; 4 by default, of",
        "all processes; 128 by default, of",
        "; 32,32 by default, of VAEs",
    )
    assert all(words in text for words in chosen)
    assert "a tenth of the time of training, 10 to 5000. More" in text
    units = ("nats per row", "higher is better", "pixels", "Most epochs", "standard-normal")
    choices = ("quad-tree", "categorical", "leaky_relu", "dreg", "shared", "dvaepp", "boltzmann-machine", "se-resnet")
    choices += (*names("estimator"), *names("smoothing"))
    assert text.count("or package.module:Class; options in brackets") == 7, "of the estimator, too"
    assert all(word in text for word in (*units, *choices, *DATA_SETS))
    fields = {field.name for field in dataclasses.fields(TrainConfig)}
    runs = {"out", "resume", "config", "overwrite", "dry_run", "download", "quiet"}
    assert inspect.signature(training.train).parameters.keys() == fields | runs


def test_descriptions_fit_into_a_narrow_terminal():
    """Behind the first paragraph lines are shown as they stand, and longer ones are broken once more."""
    groups = [app, *(group.typer_instance for group in app.registered_groups)]
    told = [inspect.getdoc(command.callback) for group in groups for command in group.registered_commands]
    assert len(told) > 15 and all(told)
    lines = [line for text in told for line in text.partition("\n\n")[2].partition("\n:")[0].splitlines()]
    assert not [line for line in lines if len(line) > 78]


def test_module_and_version():
    result = python("-m", "pyro_spvae", "--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"pyro-spvae {__version__}\n", "")
    assert invoke().exit_code == 0

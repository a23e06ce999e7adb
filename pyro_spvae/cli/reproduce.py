# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""``reproduce``: the papers' tables and figures, each by one command."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyro_spvae.cli.app import command, option, say
from pyro_spvae.reproduce.published import Pixels, SpvaeData, SpvaeModel
from pyro_spvae.reproduce.spvae import Budget, Experiment, Protocol, Recipe

if TYPE_CHECKING:
    from pyro_spvae.training.config import TrainConfig

_WHAT, _HOW, _RUN = "What is run", "How", "Files and machine"

group = typer.Typer(
    help="Retrain what the papers report, and print our numbers beside theirs.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_Data = Annotated[SpvaeData, option("Data set; svhn and cifar10 in grey, as in the paper.", _WHAT)]
_Pixels = Annotated[Pixels, option("Gaussian on [0, 1], or binomial on 0..255.", _WHAT)]
_Model = Annotated[SpvaeModel, option("Which model of the table.", _WHAT)]
_Budget = Annotated[Budget, option("paper, or small: 20 minutes on two cores.", _HOW)]
_Protocol = Annotated[
    Protocol,
    option("paper: the authors' scaling and noise; clean: pixels as they are or dequantised, with bits/dim.", _HOW),
]
_Recipe = Annotated[
    Recipe,
    option(
        "How it is parameterised and fitted. best: ours, with no more parameters than theirs; tuned: ours, with their "
        "sizes; paper: theirs.",
        _HOW,
    ),
]
_Seed = Annotated[int, option("Decides split, initial parameters, order and noise.", _HOW, min=0)]
_DataDir = Annotated[
    str | None, option("Folder of data sets.", _RUN, "--data-dir", metavar="FOLDER", show_default=False)
]
_Out = Annotated[Path, option("Folder of all experiments.", _RUN, "--out", "-o", metavar="FOLDER")]
_Device = Annotated[str, option("auto (cuda if there is one, else cpu), cpu, cuda, cuda:N or mps.", _RUN)]
_Overwrite = Annotated[bool, option("Train again what was run before.", _RUN, "--overwrite")]
_Download = Annotated[bool, option("Download a missing data set into data_dir.", _RUN, "--download")]
_DryRun = Annotated[bool, option("Print the resolved protocol and parameter counts, and stop.", _RUN, "--dry-run")]

_DEFAULT_OUT = Path("runs/reproduce")


def _add(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return lambda function: command(function, group, name)


@_add("spvae-table1")
def table_1(
    data: _Data = "mnist",
    pixels: _Pixels = "continuous",
    model: _Model = "spvae",
    budget: _Budget = "paper",
    protocol: _Protocol = "paper",
    recipe: _Recipe = "best",
    layers: Annotated[int, option("Hidden layers; 3 is the paper's control of depth.", _WHAT, min=2, max=3)] = 2,
    seed: _Seed = 0,
    data_dir: _DataDir = None,
    out: _Out = _DEFAULT_OUT,
    device: _Device = "auto",
    overwrite: _Overwrite = False,
    download: _Download = False,
    dry_run: _DryRun = False,
) -> None:
    """
    Table 1 of the SPVAE paper: test log-likelihood with 5000 samples.

    A command trains one cell, goes on with it if it was stopped, and prints it
    beside the paper's. Both train on all images in a proper shuffle; the
    authors' released code saw the first 17,384 only.
    """
    experiment = Experiment(data, pixels, model, budget, protocol, recipe, layers=layers, seed=seed)
    config = experiment.configuration(data_dir, device)
    if dry_run:
        _plan("spvae-table1", [(experiment, config)], download)
        return
    _run("spvae-table1", experiment, config, out, overwrite, download)


@_add("spvae-table2")
def table_2(
    data: Annotated[SpvaeData | None, option("Data set; all by default.", _WHAT, show_default=False)] = None,
    recipe: _Recipe = "tuned",
) -> None:
    """
    Table 2 of the SPVAE paper: sizes of the models of Table 1, counted on models that are built for it.
    """
    from pyro_spvae.reproduce.sizes import size_table

    for line in size_table(data, recipe):
        say(line)


@_add("spvae-figure2")
def figure_2(
    fractions: Annotated[str, option("Parts of the training images, comma-separated.", _WHAT)] = "0.01,0.03,0.1,0.3,1",
    data: _Data = "mnist",
    pixels: _Pixels = "continuous",
    models: Annotated[str, option("Models, comma-separated.", _WHAT)] = "spvae,vae",
    budget: _Budget = "paper",
    recipe: _Recipe = "paper",
    seed: _Seed = 0,
    data_dir: _DataDir = None,
    out: _Out = _DEFAULT_OUT,
    device: _Device = "auto",
    overwrite: _Overwrite = False,
    download: _Download = False,
    dry_run: _DryRun = False,
) -> None:
    """
    Figure 2 of the SPVAE paper: five-sample test bound against the part of the training images that is used.

    The paper's recipe is the default: on few images the others overfit sooner.
    """
    runs = []
    for fraction in _numbers("fractions", fractions):
        for name in models.split(","):
            chosen: Any = name.strip()
            experiment = Experiment(data, pixels, chosen, budget, "paper", recipe, fraction, figure=2, seed=seed)
            runs.append((experiment, experiment.configuration(data_dir, device)))
    if dry_run:
        _plan("spvae-figure2", runs, download)
        return
    for experiment, config in runs:
        _run("spvae-figure2", experiment, config, out, overwrite, download)
    from pyro_spvae.reproduce.report import write_report

    write_report(out, say)


@_add("spvae-figure3")
def figure_3(
    data: _Data = "mnist",
    pixels: _Pixels = "continuous",
    latent_dim: Annotated[
        int, option("Latent size of a leaf; a plane of principal components is drawn above 2.", _WHAT, min=1)
    ] = 2,
    budget: _Budget = "paper",
    recipe: _Recipe = "tuned",
    seed: _Seed = 0,
    data_dir: _DataDir = None,
    out: _Out = _DEFAULT_OUT,
    device: _Device = "auto",
    overwrite: _Overwrite = False,
    download: _Download = False,
    dry_run: _DryRun = False,
) -> None:
    """
    Figure 3 of the SPVAE paper: the latent space of every leaf on the grid of super-pixels.
    """
    experiment = Experiment(data, pixels, "spvae", budget, "paper", recipe, latent_dim=latent_dim, figure=3, seed=seed)
    config = experiment.configuration(data_dir, device)
    if dry_run:
        _plan("spvae-figure3", [(experiment, config)], download)
        return
    path = _run("spvae-figure3", experiment, config, out, overwrite, download)
    from pyro_spvae.verbs.embed import embed

    embed(path, sums=False, report=say, progress=sys.stderr.isatty())


@_add("spvae-time")
def spvae_time(
    data: _Data = "mnist",
    pixels: _Pixels = "continuous",
    budget: _Budget = "paper",
    recipe: _Recipe = "best",
    seed: _Seed = 0,
    data_dir: _DataDir = None,
    out: _Out = _DEFAULT_OUT,
    device: _Device = "auto",
    overwrite: _Overwrite = False,
    download: _Download = False,
) -> None:
    """
    Seconds of training until the SPVAE passes the VAE's final test value, over the VAE's seconds to its own.

    The two take turns in one process.
    """
    from pyro_spvae.reproduce.race import race

    experiments = {
        model: Experiment(data, pixels, model, budget, "paper", recipe, seed=seed) for model in ("spvae", "vae")
    }
    configs = {name: experiment.configuration(data_dir, device) for name, experiment in experiments.items()}
    race(configs, out, overwrite, download, progress=sys.stderr.isatty(), report=say)


@_add("poster")
def poster(
    model: Annotated[str, option("spn, spvae or vae, or several with commas.", _WHAT)] = "spn,spvae,vae",
    budget: _Budget = "paper",
    seed: _Seed = 0,
    data_dir: _DataDir = None,
    out: _Out = _DEFAULT_OUT,
    device: _Device = "auto",
    overwrite: _Overwrite = False,
    download: _Download = False,
    dry_run: _DryRun = False,
) -> None:
    """
    The poster's three models of binary MNIST: a vanilla SPN, an SPN with VAE leaves, a VAE of the same size.
    """
    from pyro_spvae.reproduce.poster import PosterExperiment

    runs: list[tuple[Any, TrainConfig]] = []
    for name in model.split(","):
        experiment = PosterExperiment(name.strip(), budget, seed)
        runs.append((experiment, experiment.configuration(data_dir, device)))
    if dry_run:
        _plan("poster", runs, download)
        return
    for experiment, config in runs:
        _run("poster", experiment, config, out, overwrite, download)
    from pyro_spvae.reproduce.report import write_report

    write_report(out, say)


@_add("report")
def report(out: _Out = _DEFAULT_OUT) -> None:
    """
    Tables and plots of all experiments in a folder: report.md and pictures in it.
    """
    from pyro_spvae.reproduce.report import write_report

    write_report(out, say)


def _plan(table: str, runs: list[tuple[Any, TrainConfig]], download: bool) -> None:
    from pyro_spvae.reproduce.run import show_plan

    for experiment, config in runs:
        show_plan(table, experiment, config, say, download)


def _run(table: str, experiment: Any, config: TrainConfig, out: Path, overwrite: bool, download: bool) -> Path:
    """Runs an experiment and prints what came out beside the paper."""
    from pyro_spvae.reproduce.report import beside_paper
    from pyro_spvae.reproduce.run import run

    path = run(
        table,
        experiment,
        out,
        config=config,
        overwrite=overwrite,
        download=download,
        progress=sys.stderr.isatty(),
        report=say,
    )
    for line in beside_paper(path):
        say(line)
    return path


def _numbers(name: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{name} is {text!r}; numbers separated by commas are needed, such as 0.01,0.1,1") from None


from pyro_spvae.cli.app import app as _app  # noqa: E402

_app.add_typer(group, name="reproduce")

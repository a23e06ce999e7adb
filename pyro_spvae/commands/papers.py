# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""``reproduce``: the papers' tables and figures, each by one command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_spvae.commands.app import app, command, option, say
from pyro_spvae.commands.options import with_options
from pyro_spvae.reproduce.dlgmm import Bound, Table
from pyro_spvae.reproduce.dlgmm import Prior as ComponentPrior
from pyro_spvae.reproduce.dlgmm import Recipe as MixtureRecipe
from pyro_spvae.reproduce.published import MixtureData, Pixels, SpvaeData, SpvaeModel, VampData
from pyro_spvae.reproduce.spvae import Budget, Experiment, Protocol, Recipe, of_figure_2

_WHAT, _HOW, _RUN = "What is run", "How", "Files and machine"

group = typer.Typer(
    help="Retrain what the papers report, and print our numbers beside theirs.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(group, name="reproduce")

_Data = Annotated[SpvaeData, option("Data set; svhn and cifar10 in grey, as in the paper.", _WHAT)]
_Pixels = Annotated[Pixels, option("Gaussian on [0, 1], or binomial on 0..255.", _WHAT)]
_Model = Annotated[SpvaeModel, option("Which model of the table.", _WHAT)]
_Budget = Annotated[Budget, option("paper, or small: 20 minutes on two cores.", _HOW)]
_VampBudget = Annotated[
    Budget,
    option(
        "paper: at most 2000 epochs; small: 25, of the convhvae 500 steps; less than 30 minutes a model on two cores.",
        _HOW,
    ),
]
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
_OUT = Path("runs/reproduce")
_Out = Annotated[Path, option("Folder of all experiments.", _RUN, "--out", "-o", metavar="FOLDER")]


@dataclass(frozen=True)
class Where:
    """Options that all commands share which run experiments."""

    seed: Annotated[int, option("Decides split, initial parameters, order and noise.", _HOW, min=0)] = 0
    data_dir: Annotated[
        str | None, option("Folder of data sets.", _RUN, "--data-dir", metavar="FOLDER", show_default=False)
    ] = None
    out: _Out = _OUT
    device: Annotated[str, option("auto (cuda if there is one, else cpu), cpu, cuda, cuda:N or mps.", _RUN)] = "auto"
    overwrite: Annotated[bool, option("Train again what was run before.", _RUN, "--overwrite")] = False
    download: Annotated[bool, option("Download a missing data set into data_dir.", _RUN, "--download")] = False
    dry_run: Annotated[
        bool, option("Print the resolved protocol and parameter counts, and stop.", _RUN, "--dry-run")
    ] = False


def _add(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds a command of the group; the fields of :class:`Where` are options in place of the argument ``where``."""
    return lambda function: command(with_options(function), group, name)


@_add("spvae-table1")
def table_1(
    where: Where,
    data: _Data = "mnist",
    pixels: _Pixels = "continuous",
    model: _Model = "spvae",
    budget: _Budget = "paper",
    protocol: _Protocol = "paper",
    recipe: _Recipe = "best",
    layers: Annotated[int, option("Hidden layers; 3 is the paper's control of depth.", _WHAT, min=2, max=3)] = 2,
) -> None:
    """
    Table 1 of the SPVAE paper: test log-likelihood with 5000 samples.

    A command trains one cell, goes on with it if it was stopped, and prints it
    beside the paper's. All recipes train on all images in a proper shuffle;
    the authors' released code saw the first 17,384 only.
    """
    experiment = Experiment(data, pixels, model, budget, protocol, recipe, layers=layers, seed=where.seed)
    _run([experiment], where)


@_add("spvae-figure2")
def figure_2(
    where: Where,
    fractions: Annotated[str, option("Parts of the training images, comma-separated.", _WHAT)] = "0.01,0.03,0.1,0.3,1",
    data: _Data = "mnist",
    pixels: _Pixels = "continuous",
    models: Annotated[str, option("Models, comma-separated.", _WHAT)] = "spvae,vae",
    budget: _Budget = "paper",
    recipe: _Recipe = "best",
) -> None:
    """
    Figure 2 of the SPVAE paper: five-sample test bound against the part of the training images that is used.

    The fraction 1 is the cell of Table 1, as in the paper, and is trained as
    such unless it is there.
    """
    chosen = _words(models) or ()
    _run(
        of_figure_2(_numbers("fractions", fractions), chosen, data, pixels, budget, recipe, where.seed),
        where,
    )


@_add("spvae-figure3")
def figure_3(
    where: Where,
    data: _Data = "mnist",
    pixels: _Pixels = "continuous",
    latent_dim: Annotated[
        int, option("Latent size of a leaf; a plane of principal components is drawn above 2.", _WHAT, min=1)
    ] = 2,
    budget: _Budget = "paper",
    recipe: _Recipe = "tuned",
) -> None:
    """
    Figure 3 of the SPVAE paper: the latent space of every leaf on the grid of super-pixels.
    """
    experiment = Experiment(
        data, pixels, "spvae", budget, "paper", recipe, latent_dim=latent_dim, figure=3, seed=where.seed
    )
    for path in _run([experiment], where):
        from pyro_spvae.commands.embedding import embed

        embed(path, sums=False, report=say, progress=sys.stderr.isatty())


@_add("spvae-time")
def spvae_time(
    where: Where,
    data: _Data = "mnist",
    pixels: _Pixels = "continuous",
    budget: _Budget = "paper",
    recipe: _Recipe = "best",
) -> None:
    """
    Seconds of training until the SPVAE passes the VAE's final test value, over the VAE's seconds to its own.

    The two take turns in one process.
    """
    experiments = {
        model: Experiment(data, pixels, model, budget, "paper", recipe, seed=where.seed) for model in ("spvae", "vae")
    }
    if where.dry_run:
        _run(experiments.values(), where)
        return
    from pyro_spvae.reproduce.race import race

    configs = {name: chosen.configuration(where.data_dir, where.device) for name, chosen in experiments.items()}
    race(configs, where.out, where.overwrite, where.download, progress=sys.stderr.isatty(), report=say)


@_add("poster")
def poster(
    where: Where,
    model: Annotated[str, option("spn, spvae or vae, or several with commas.", _WHAT)] = "spn,spvae,vae",
    budget: _Budget = "paper",
) -> None:
    """
    The poster's three models of binary MNIST: a vanilla SPN, an SPN with VAE leaves, a VAE of the same size.
    """
    from pyro_spvae.reproduce.poster import PosterExperiment

    _run([PosterExperiment(name.strip(), budget, where.seed) for name in model.split(",")], where)


@_add("vampprior")
def vampprior(
    where: Where,
    table: Annotated[
        int | None, option("Table of the paper, 1 to 5, all its cells that are chosen.", _WHAT, show_default=False)
    ] = None,
    figure: Annotated[
        int | None, option("Figure of the paper, 2 to 6: its models, and the picture.", _WHAT, show_default=False)
    ] = None,
    data: Annotated[
        VampData | None,
        option(
            "Data set; mnist is binarised anew for every batch, but continuous for the spvae.",
            _WHAT,
            show_default="mnist",
        ),
    ] = None,
    model: Annotated[
        str | None, option("vae, hvae, convhvae or spvae, or several with commas.", _WHAT, show_default="vae")
    ] = None,
    prior: Annotated[
        str | None,
        option("standard, mog, vamp or vamp-data, or several with commas.", _WHAT, show_default="standard,vamp"),
    ] = None,
    components: Annotated[
        str | None,
        option("Components of a mixture, several with commas.", _WHAT, show_default="500, for OMNIGLOT 1000"),
    ] = None,
    budget: _VampBudget = "paper",
) -> None:
    """
    Tables and figures of the VampPrior paper: test log-likelihood with 5000 samples, with fewer of the budget small.

    Tables take all models that we have, unless some are named. Figure 2 trains
    the HVAE with several numbers of components, figures 3 to 6 take the runs of
    the models that they show.
    """
    from pyro_spvae.reproduce import vampprior as paper

    if table is not None and figure is not None:
        raise ValueError(f"table is {table} and figure is {figure}; give one of them")
    if figure is not None:
        chosen = paper.of_figure(
            figure, data, _words(model), _words(prior), _whole_numbers(components), budget, where.seed
        )
    else:
        chosen = paper.of_table(
            table, data, _words(model), _words(prior), _whole_numbers(components), budget, where.seed
        )
    paths = _run(chosen, where)
    if figure is not None and paths:
        from pyro_spvae.reproduce.figures import draw_vamp_figure

        say(f"written to  {draw_vamp_figure(figure, where.out, paths)}")


@_add("dlgmm")
def dlgmm(
    where: Where,
    table: Annotated[
        Table | None,
        option(
            "kNN: error of nearest neighbours in the latent spaces; likelihood: test log-likelihood, with 50 and 5000 "
            "samples.",
            _WHAT,
            show_default="likelihood",
        ),
    ] = None,
    figure: Annotated[
        int | None, option("Figure of the paper, 2: its models, and the picture.", _WHAT, show_default=False)
    ] = None,
    data: Annotated[
        MixtureData | None,
        option(
            "Data set of binary images; mnist and omniglot_burda are binarised once, by the seed.",
            _WHAT,
            show_default="static_mnist where its files are and no labels are needed, else mnist",
        ),
    ] = None,
    model: Annotated[
        str | None,
        option("gauss-vae, sb-vae, dlgmm or dldpmm, or several with commas.", _WHAT, show_default="the table's"),
    ] = None,
    bound: Annotated[
        Bound | None,
        option(
            "What mixtures are trained by: the mixture as a distribution, one decoder pass; the sum over components "
            "(enumerated); or the paper's eq. (1).",
            _HOW,
            show_default="the recipe's",
        ),
    ] = None,
    prior: Annotated[
        ComponentPrior, option("Components: all N(0, I) (zero), or the means of Figure 2 (spread).", _WHAT)
    ] = "zero",
    budget: Annotated[
        Budget, option("paper: at most 200 epochs; small: 20 to 40, an hour a model on one core.", _HOW)
    ] = "paper",
    recipe: Annotated[
        MixtureRecipe,
        option("best: the mixture's bound and a falling learning rate; paper: eq. (1), Adam with 0.0003.", _HOW),
    ] = "best",
) -> None:
    """
    Tables and Figure 2 of the DLGMM paper: VAEs with normal, stick-breaking and mixture posteriors.

    Mixtures are trained and scored by the bound of the recipe, unless another
    is named. Tables take all models that the paper's have, unless some are
    named; the figure takes a Gauss-VAE and a DLGMM whose components have means
    of their own.
    """
    from pyro_spvae.reproduce import dlgmm as paper

    if table is not None and figure is not None:
        raise ValueError(f"table is {table} and figure is {figure}; give one of them")
    asked: Table = table or "likelihood"
    if data is None:
        labels = figure is not None or asked == "kNN"
        data = "mnist" if labels else paper.usual_data(where.data_dir)
        if data == "mnist":
            why = "labels are needed" if labels else "the files of static_mnist are not in data_dir"
            say(f"data        mnist, binarised once by the seed {where.seed}, as {why}")
    if figure is not None:
        chosen = paper.of_figure(figure, data, budget, recipe, where.seed)
    else:
        chosen = paper.of_table(asked, data, _words(model), bound, prior, budget, recipe, where.seed)
    if figure is None:
        _run(chosen, where, partial(_add_mixture_score, table=asked, where=where))
        return
    paths = _run(chosen, where)
    if paths:
        from pyro_spvae.reproduce.mixture_figure import draw_figure_2

        say(f"written to  {draw_figure_2(where.out, *paths, data_dir=where.data_dir, device=where.device)}")


def _add_mixture_score(path: Path, table: Table, where: Where) -> None:
    from pyro_spvae.reproduce.mixture_scores import add_score

    add_score(
        path,
        table,
        data_dir=where.data_dir,
        device=where.device,
        overwrite=where.overwrite,
        progress=sys.stderr.isatty(),
        report=say,
    )


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


def report(out: _Out = _OUT) -> None:
    """
    Tables and plots of all experiments in a folder: report.md and pictures in it.
    """
    from pyro_spvae.reproduce.report import write_report

    write_report(out, say)


command(table_2, group, "spvae-table2")
command(report, group, "report")


def _run(experiments: Iterable[Any], where: Where, score: Callable[[Path], None] = lambda path: None) -> list[Path]:
    """
    Runs experiments, printing what came out beside the paper, and the report where they are several; or only says what
    would be run.

    :param callable score: adds to a finished run what it has not by itself.
    :returns: the run folders.
    """
    from pyro_spvae.reproduce.report import beside_paper, write_report
    from pyro_spvae.reproduce.run import run, show_plan

    paths = []
    for experiment in experiments:
        config = experiment.configuration(where.data_dir, where.device)
        if where.dry_run:
            show_plan(experiment, config, say, where.download)
            continue
        path = run(
            experiment,
            where.out,
            config=config,
            overwrite=where.overwrite,
            download=where.download,
            progress=sys.stderr.isatty(),
            report=say,
        )
        score(path)
        for line in beside_paper(path):
            say(line)
        paths.append(path)
    if len(paths) > 1:
        write_report(where.out, say)
    return paths


def _words(text: str | None) -> tuple[Any, ...] | None:
    return None if text is None else tuple(word.strip() for word in text.split(","))


def _whole_numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise ValueError(f"components is {text!r}; positive integers separated by commas are needed, such as 100,500")
    return tuple(map(int, words))


def _numbers(name: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{name} is {text!r}; numbers separated by commas are needed, such as 0.01,0.1,1") from None

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""``reproduce``: the SPVAE paper and the poster before it."""

from __future__ import annotations

import sys
from typing import Annotated, get_args

from pyro_spvae.commands.app import command, option, say
from pyro_spvae.commands.reproducing import HOW, WHAT, Where, add, group, numbers, run_experiments, several, words
from pyro_spvae.reproduce.budget import Budget
from pyro_spvae.reproduce.published import Pixels, SpvaeData, SpvaeModel
from pyro_spvae.reproduce.spvae import Experiment, Protocol, of_figure_2
from pyro_spvae.reproduce.spvae_recipes import Recipe

_Data = Annotated[SpvaeData, option("Data set; svhn and cifar10 in grey, as in the paper.", WHAT)]
_Pixels = Annotated[Pixels, option("Gaussian on [0, 1], or binomial on 0..255.", WHAT)]
_Budget = Annotated[
    Budget,
    option(
        "paper; small: 20 minutes a model on two cores; tiny: under three minutes of one core, to see that all works.",
        HOW,
    ),
]
_Protocol = Annotated[
    Protocol,
    option("paper: the authors' scaling and noise; clean: pixels as they are or dequantised, with bits/dim.", HOW),
]
_Recipe = Annotated[
    Recipe,
    option(
        "How it is parameterised and fitted. best: ours, with no more parameters than theirs; tuned: ours, with their "
        "sizes; paper: theirs.",
        HOW,
    ),
]


@add("spvae-table1")
def table_1(
    where: Where,
    data: Annotated[
        str,
        option("mnist, svhn or cifar10, the latter two in grey, as in the paper; several with commas, or all.", WHAT),
    ] = "mnist",
    pixels: Annotated[
        str, option("continuous: Gaussian on [0, 1]; discrete: binomial on 0..255; both with a comma, or all.", WHAT)
    ] = "continuous",
    model: Annotated[str, option("spvae, vae, conv-spvae or conv-vae; several with commas, or all.", WHAT)] = "spvae",
    budget: _Budget = "paper",
    protocol: _Protocol = "paper",
    recipe: _Recipe = "best",
    layers: Annotated[int, option("Hidden layers; 3 is the paper's control of depth.", WHAT, min=2, max=3)] = 2,
) -> None:
    """
    Table 1 of the SPVAE paper: test log-likelihood with 5000 samples.

    A command trains one cell, or several: --data all --pixels all --model all
    is the whole table. It goes on where it was stopped, and prints each cell
    beside the paper's. All recipes train on all images in a proper shuffle;
    the authors' released code saw the first 17,384 only.
    """
    chosen = [
        Experiment(one, kind, name, budget, protocol, recipe, layers=layers)
        for one in several(data, get_args(SpvaeData))
        for kind in several(pixels, get_args(Pixels))
        for name in several(model, get_args(SpvaeModel))
    ]
    run_experiments(chosen, where)


@add("spvae-figure2")
def figure_2(
    where: Where,
    fractions: Annotated[str, option("Parts of the training images, comma-separated.", WHAT)] = "0.01,0.03,0.1,0.3,1",
    data: _Data = "mnist",
    pixels: _Pixels = "continuous",
    models: Annotated[str, option("Models, comma-separated.", WHAT)] = "spvae,vae",
    budget: _Budget = "paper",
    recipe: _Recipe = "best",
) -> None:
    """
    Figure 2 of the SPVAE paper: five-sample test bound against the part of the training images that is used.

    The fraction 1 is the cell of Table 1, as in the paper, and is trained as
    such unless it is there.
    """
    chosen = words(models) or ()
    run_experiments(
        of_figure_2(numbers("fractions", fractions), chosen, data, pixels, budget, recipe),
        where,
    )


@add("spvae-figure3")
def figure_3(
    where: Where,
    data: _Data = "mnist",
    pixels: _Pixels = "continuous",
    latent_dim: Annotated[
        int, option("Latent size of a leaf; a plane of principal components is drawn above 2.", WHAT, min=1)
    ] = 2,
    budget: _Budget = "paper",
    recipe: _Recipe = "tuned",
) -> None:
    """
    Figure 3 of the SPVAE paper: the latent space of every leaf on the grid of super-pixels.
    """
    experiment = Experiment(data, pixels, "spvae", budget, "paper", recipe, latent_dim=latent_dim, figure=3)
    for path in run_experiments([experiment], where):
        from pyro_spvae.commands.embedding import embed
        from pyro_spvae.training.pace import Pace

        with Pace(say).during("embedding"):
            embed(path, sums=False, report=say, progress=sys.stderr.isatty())


@add("spvae-time")
def spvae_time(
    where: Where,
    data: _Data = "mnist",
    pixels: _Pixels = "continuous",
    budget: _Budget = "paper",
    recipe: _Recipe = "best",
) -> None:
    """
    Seconds of training until the SPVAE passes the VAE's final test value, over the VAE's seconds to its own.

    The two take turns in one process. One that was stopped goes on from the last
    turns.
    """
    from pyro_spvae.reproduce.timing import TimeExperiment

    run_experiments([TimeExperiment(data, pixels, budget, recipe)], where)


@add("poster")
def poster(
    where: Where,
    model: Annotated[str, option("spn, spvae or vae, or several with commas.", WHAT)] = "spn,spvae,vae",
    budget: _Budget = "paper",
) -> None:
    """
    The poster's three models of binary MNIST: a vanilla SPN, an SPN with VAE leaves, a VAE of the same size.
    """
    from pyro_spvae.reproduce.poster import PosterExperiment

    run_experiments([PosterExperiment(name, budget) for name in words(model) or ()], where)


def table_2(
    data: Annotated[SpvaeData | None, option("Data set; all by default.", WHAT, show_default=False)] = None,
    recipe: _Recipe = "tuned",
) -> None:
    """
    Table 2 of the SPVAE paper: sizes of the models of Table 1, counted on models that are built for it.
    """
    from pyro_spvae.reproduce.sizes import size_table

    for line in size_table(data, recipe):
        say(line)


command(table_2, group, "spvae-table2")

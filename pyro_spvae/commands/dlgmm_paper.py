# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""``reproduce``: the DLGMM paper."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

from pyro_spvae.commands.app import option, say
from pyro_spvae.commands.reproducing import HOW, WHAT, Where, add, binary_set, by_seed, run_experiments, words
from pyro_spvae.reproduce.budget import Budget
from pyro_spvae.reproduce.published import BinarySet, MixtureBound, MixturePrior, MixtureTable
from pyro_spvae.reproduce.recipes import Recipe


@add("dlgmm")
def dlgmm(
    where: Where,
    table: Annotated[
        MixtureTable | None,
        option(
            "kNN: error of nearest neighbours in the latent spaces; likelihood: test log-likelihood, with 50 and 5000 "
            "samples.",
            WHAT,
            show_default="likelihood",
        ),
    ] = None,
    figure: Annotated[
        int | None, option("Figure of the paper, 2: its models, and the picture.", WHAT, show_default=False)
    ] = None,
    data: Annotated[
        BinarySet | None,
        option(
            "Data set of binary images; mnist and omniglot_burda are binarised once, by the seed.",
            WHAT,
            show_default="static_mnist where its files are and no labels are needed, else mnist",
        ),
    ] = None,
    model: Annotated[
        str | None,
        option("gauss-vae, sb-vae, dlgmm or dldpmm, or several with commas.", WHAT, show_default="the table's"),
    ] = None,
    bound: Annotated[
        MixtureBound | None,
        option(
            "What mixtures are trained by: the mixture as a distribution, one decoder pass; the sum over components "
            "(enumerated); or the paper's eq. (1).",
            HOW,
            show_default="the recipe's",
        ),
    ] = None,
    prior: Annotated[
        MixturePrior,
        option("Components: all N(0, I) (zero), or the means of Figure 2 (spread), scored with 50 samples.", WHAT),
    ] = "zero",
    budget: Annotated[
        Budget,
        option(
            "paper: 100 to 200 epochs, of the recipe paper at most 1000; small: 20 to 40, an hour a model on one core; "
            "tiny: under three minutes, to see that all works.",
            HOW,
        ),
    ] = "paper",
    recipe: Annotated[
        Recipe,
        option("best: the mixture's bound and a falling learning rate; paper: eq. (1), Adam with 0.0003.", HOW),
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
    asked: MixtureTable = table or "likelihood"
    data = data or binary_set(where, labels=figure is not None or asked == "kNN")
    if figure is not None:
        for name, given in (("model", model), ("bound", bound), ("prior", None if prior == "zero" else prior)):
            if given is not None:
                raise ValueError(f"{name} is {given!r}, but figure {figure} has models of its own; leave it out")
        chosen = paper.of_figure(figure, data, budget, recipe)
        for seed, paths in by_seed(run_experiments(chosen, where), where).items():
            from pyro_spvae.reproduce.mixture_figure import draw_figure_2

            drawn = draw_figure_2(
                where.out, *paths, seed=seed, data_dir=where.data_dir, device=where.device, report=say
            )
            say(f"written to  {drawn}")
        return
    chosen = paper.of_table(asked, data, words(model), bound, prior, budget, recipe)
    samples = paper.SAMPLES[budget][0]
    run_experiments(chosen, where, partial(_add_mixture_score, table=asked, samples=samples, where=where))


def _add_mixture_score(path: Path, table: MixtureTable, samples: int, where: Where) -> None:
    from pyro_spvae.reproduce.mixture_scores import add_score

    add_score(
        path,
        table,
        samples,
        data_dir=where.data_dir,
        device=where.device,
        overwrite=where.overwrite,
        progress=sys.stderr.isatty(),
        report=say,
    )

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""``reproduce``: the VampPrior paper."""

from __future__ import annotations

from typing import Annotated

from pyro_spvae.commands.app import option, say
from pyro_spvae.commands.reproducing import HOW, WHAT, Where, add, by_seed, run_experiments, whole_numbers, words
from pyro_spvae.reproduce.budget import Budget
from pyro_spvae.reproduce.published import VampData
from pyro_spvae.reproduce.recipes import Recipe

_Budget = Annotated[
    Budget,
    option(
        "paper: at most 2000 epochs, of the recipe best 400; small: 25, of the convhvae 500 steps; less than 30 "
        "minutes a model on two cores; tiny: under three minutes of one core, to see that all works.",
        HOW,
    ),
]


@add("vampprior")
def vampprior(
    where: Where,
    table: Annotated[
        int | None, option("Table of the paper, 1 to 5, all its cells that are chosen.", WHAT, show_default=False)
    ] = None,
    figure: Annotated[
        int | None, option("Figure of the paper, 2 to 6: its models, and the picture.", WHAT, show_default=False)
    ] = None,
    data: Annotated[
        VampData | None,
        option(
            "Data set; mnist is binarised anew for every batch, but continuous for the spvae.",
            WHAT,
            show_default="mnist",
        ),
    ] = None,
    model: Annotated[
        str | None, option("vae, hvae, convhvae or spvae, or several with commas.", WHAT, show_default="vae")
    ] = None,
    prior: Annotated[
        str | None,
        option("standard, mog, vamp or vamp-data, or several with commas.", WHAT, show_default="standard,vamp"),
    ] = None,
    components: Annotated[
        str | None,
        option("Components of a mixture, several with commas.", WHAT, show_default="500, for OMNIGLOT 1000"),
    ] = None,
    budget: _Budget = "paper",
    recipe: Annotated[
        Recipe,
        option(
            "paper: a learning rate of 0.0005, batches of 100, and early stopping; best: a rate that rises to 0.004 "
            "and falls to 0 over 400 epochs, batches of 500 (of the convhvae 0.002 and 100). The spvae has that of its "
            "own table.",
            HOW,
        ),
    ] = "paper",
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
        chosen = paper.of_figure(figure, data, words(model), words(prior), whole_numbers(components), budget, recipe)
    else:
        chosen = paper.of_table(table, data, words(model), words(prior), whole_numbers(components), budget, recipe)
    paths = run_experiments(chosen, where)
    if figure is not None and paths:
        from pyro_spvae.reproduce.figures import draw_vamp_figure

        drawn = {None: paths} if figure == 2 else by_seed(paths, where)  # whose lines are means over seeds
        for seed, shown in drawn.items():
            say(f"written to  {draw_vamp_figure(figure, where.out, shown, seed or 0)}")

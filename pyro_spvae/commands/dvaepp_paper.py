# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""``reproduce``: Table 3 and Figure 4 of the DVAE++ paper."""

from __future__ import annotations

from typing import Annotated

from pyro_spvae.commands.app import option, say
from pyro_spvae.commands.reproducing import HOW, WHAT, Where, add, run_experiments, words
from pyro_spvae.reproduce.budget import Budget
from pyro_spvae.reproduce.published import GlobalData


@add("dvaepp")
def dvaepp(
    where: Where,
    table: Annotated[
        int | None,
        option("3: global and local variables of several kinds.", WHAT, min=3, max=3, show_default="3, unless figure"),
    ] = None,
    data: Annotated[
        GlobalData, option("Data set; mnist is binarised anew for every batch.", WHAT, show_default="mnist")
    ] = "mnist",
    model: Annotated[
        str | None,
        option(
            "Global and local variables: normal-normal, rolfe-normal (a Boltzmann machine smoothed by spike and "
            "exponential), rbm-normal, rbm-bernoulli, bernoulli-bernoulli, or several with commas.",
            WHAT,
            show_default="all of the table; of a figure alone rbm-normal",
        ),
    ] = None,
    figure: Annotated[
        int | None,
        option("4: five lines of five images that share their global variables.", WHAT, min=4, max=4),
    ] = None,
    groups: Annotated[int, option("Of the posterior of global bits: 1, 2 or 4.", WHAT)] = 2,
    budget: Annotated[
        Budget,
        option(
            "paper: for a GPU; small: at most 45 minutes of two cores a model of MNIST; tiny: under three minutes "
            "of one core, to see that all works.",
            HOW,
        ),
    ] = "paper",
) -> None:
    """
    Table 3 and Figure 4 of the DVAE++ paper: global bits with a Boltzmann prior over groups of convolutional variables.

    Scored is the test log-likelihood in the binary limit, with 4,000 samples,
    50 of the budget small. The table takes all five rows unless some are named.
    """
    from pyro_spvae.reproduce.dvaepp import of_table
    from pyro_spvae.reproduce.global_figure import draw_figure_4

    chosen = ("rbm-normal",) if model is None and table is None and figure is not None else words(model)
    for path in run_experiments(of_table(data, chosen, budget, groups), where):
        if figure is not None:
            say(f"written to  {draw_figure_4(where.out, path, device=where.device)}")

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""``reproduce``: the tables of the DVAE++ paper on discrete latent variables."""

from __future__ import annotations

from typing import Annotated

from pyro_spvae.commands.app import option
from pyro_spvae.commands.reproducing import HOW, WHAT, Where, add, binary_set, run_experiments, words
from pyro_spvae.reproduce.budget import Budget
from pyro_spvae.reproduce.published import BinarySet


@add("dvae")
def dvae(
    where: Where,
    table: Annotated[
        int | None,
        option(
            "1: gradients through 200 independent bits; 2: Boltzmann machines and directed priors.",
            WHAT,
            show_default="that of the nets, else 1",
        ),
    ] = None,
    data: Annotated[
        BinarySet | None,
        option(
            "Data set of binary images; mnist and omniglot_burda are binarised once, by the seed.",
            WHAT,
            show_default="static_mnist where its files are, else mnist",
        ),
    ] = None,
    net: Annotated[
        str | None,
        option(
            "linear or nonlinear (Table 1), 1-linear, 2-linear, 1-nonlinear or 2-nonlinear (Table 2), or several with "
            "commas.",
            WHAT,
            show_default="the table's",
        ),
    ] = None,
    method: Annotated[
        str | None,
        option(
            "nvil, muprop, rebar, concrete, joint or marginal (Table 1), rbm, rbm-rolfe, joint or marginal (Table 2), "
            "or several with commas.",
            WHAT,
            show_default="the table's",
        ),
    ] = None,
    budget: Annotated[
        Budget,
        option(
            "paper: two million steps of Table 1, one million of Table 2; small: at most half an hour of one core a "
            "model; tiny: under three minutes, to see that all works.",
            HOW,
        ),
    ] = "paper",
) -> None:
    """
    Tables 1 and 2 of the DVAE++ paper: VAEs of bits, by estimators of gradients and by smoothing transformations.

    Scored is the test log-likelihood in the binary limit, with 100 samples in
    Table 1 and 4,000 in Table 2, 500 of the budget small, and 5 of the budget
    tiny. Tables take all networks and methods that the paper's have, unless some
    are named.
    """
    from pyro_spvae.reproduce import dvae as paper

    nets = words(net)
    if table is None:
        table = 2 if nets is not None and set(nets) & set(paper.NETS[2]) else 1
    run_experiments(paper.of_table(table, data or binary_set(where), nets, words(method), budget), where)

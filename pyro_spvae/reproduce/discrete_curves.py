# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Validation bounds during training of the DVAE++ paper's models, methods side by side."""

from __future__ import annotations

from typing import Any

from pyro_spvae.plots import Line, Panel, line_plot
from pyro_spvae.reproduce.discrete_report import NAMES, over_seeds
from pyro_spvae.reproduce.dvae import DiscreteExperiment
from pyro_spvae.reproduce.finished import Finished

_COLOURS = {
    "nvil": "tab:purple",
    "muprop": "tab:brown",
    "rebar": "tab:green",
    "concrete": "tab:gray",
    "joint": "tab:orange",
    "marginal": "tab:blue",
    "rbm": "tab:red",
    "rbm-rolfe": "tab:pink",
}


def discrete_curves(runs: list[Finished]) -> dict[str, Any]:
    """
    For each table and set of images (and budget, if not the paper's) a picture with a panel for each kind of networks:
    bounds in the binary limit by steps, of the first seed of each method.

    :returns: figures by names such as ``table1-mnist-small``.
    """
    panels: dict[str, dict[str, list[Line]]] = {}
    for run, *_ in over_seeds(runs):
        one = DiscreteExperiment(**run.experiment)
        name = f"table{one.number}-{one.data}" + ("" if one.budget == "paper" else f"-{one.budget}")
        x, y = ([line[key] for line in run.metrics] for key in ("step", "val_elbo"))
        line = Line(NAMES[one.method], x, y, colour=_COLOURS[one.method])
        panels.setdefault(name, {}).setdefault(one.net, []).append(line)
    return {
        name: line_plot(
            *(Panel(lines, "steps", "validation bound (nats)", net, later=True) for net, lines in of_nets.items())
        )
        for name, of_nets in panels.items()
    }

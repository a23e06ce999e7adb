# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The figures of the VampPrior paper, drawn from finished runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pyro_spvae import plots
from pyro_spvae.reproduce.report import Finished

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# pictures in a run folder that a figure puts side by side
_PARTS = {
    3: ("pseudo_inputs.png", "generations.png"),
    4: ("samples.png",),
    5: ("reconstructions.png",),
    6: ("log_likelihoods.png",),
}
_COLOURS = {"standard": "tab:gray", "mog": "tab:green", "vamp": "tab:blue", "vamp-data": "tab:cyan"}


def draw(figure: int, out: str | os.PathLike[str], paths: Sequence[Path]) -> Path:
    """
    Draws a figure of the paper into the folder of all experiments.

    :param int figure: its number, 2 to 6.
    :param out: folder of all experiments.
    :param paths: finished runs that it shows.
    :returns: the picture.
    :raises ValueError: if a run has not the pictures that are wanted.
    """
    runs = [Finished.read(path) for path in paths]
    path = Path(out) / f"vampprior-figure{figure}.png"
    plots.save(_by_components(runs) if figure == 2 else _side_by_side(runs, _PARTS[figure]), path)
    return path


def _by_components(runs: list[Finished]) -> Figure:
    """(a) test bounds, (b) active units of the upper layer, against the number of components."""
    figure = plots.new_figure(9.0, 3.6)
    places = (
        (1, "test bound (nats)", lambda run: run.results["elbo"]),
        (2, "active units, upper layer", lambda run: _upper(run)),
    )
    for place, label, value in places:
        axes = figure.add_subplot(1, 2, place)
        for prior in dict.fromkeys(run.experiment["prior"] for run in runs):
            chosen = [run for run in runs if run.experiment["prior"] == prior]
            colour = _COLOURS[prior]
            if prior == "standard":
                axes.axhline(value(chosen[0]), color=colour, linestyle=":", label=prior)
                continue
            points = sorted((run.experiment["components"] or 500, value(run)) for run in chosen)
            axes.plot(*zip(*points, strict=True), "o-", color=colour, label=prior)
        axes.set_xlabel("components")
        axes.set_ylabel(label)
        axes.legend(frameon=False, fontsize=8)
    return figure


def _upper(run: Finished) -> int:
    units = run.results["active_units"]
    return int(units["z2"] if "z2" in units else units["z"])


def _side_by_side(runs: list[Finished], names: tuple[str, ...]) -> Figure:
    import matplotlib.image

    figure = plots.new_figure(3.2 * len(runs), 3.4 * len(names))
    for row, name in enumerate(names):
        for column, run in enumerate(runs):
            path = run.path / "figures" / name
            if not path.exists():
                raise ValueError(f"the run {run.path} has no picture {name}, which the figure shows; run it again")
            axes = figure.add_subplot(len(names), len(runs), row * len(runs) + column + 1)
            axes.imshow(matplotlib.image.imread(path))
            axes.set_axis_off()
            axes.set_title(f"{run.model}, {run.experiment['prior']}", fontsize=9)
    return figure

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
_STRIP = 0.4  # height over width below which pictures are put one below the other
_TITLE = 0.25  # inches
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
    """Pictures of every run; a row for each name, or a column where they are wide strips."""
    import matplotlib.image

    found = [[run.path / "figures" / name for run in runs] for name in names]
    for run, path in ((run, path) for row in found for run, path in zip(runs, row, strict=True)):
        if not path.exists():
            raise ValueError(f"the run {run.path} has no picture {path.name}, which the figure shows; run it again")
    pictures = [[matplotlib.image.imread(path) for path in row] for row in found]
    titles = [[f"{run.model}, {run.experiment['prior']}" for run in runs] for _ in names]
    width = 3.2
    if all(len(picture) < _STRIP * picture.shape[1] for row in pictures for picture in row):
        pictures = [[picture] for row in pictures for picture in row]
        titles = [[title] for row in titles for title in row]
        width = 7.0
    heights = [max(width * len(picture) / picture.shape[1] for picture in row) + _TITLE for row in pictures]
    figure = plots.new_figure(width * len(pictures[0]), sum(heights))
    grid = figure.add_gridspec(len(pictures), len(pictures[0]), height_ratios=heights)
    for row, (shown, named) in enumerate(zip(pictures, titles, strict=True)):
        for column, (picture, title) in enumerate(zip(shown, named, strict=True)):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(picture)
            axes.set_axis_off()
            axes.set_title(title, fontsize=9)
    return figure

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Figures of matplotlib without its global state: made, filled with pixels, and written as PNG files."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_spvae.checkpoint import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

DPI = 150  # dots an inch of a written picture
_STRIP = 0.4  # height over width below which pictures are put one below the other
_TITLE = 0.25  # inches


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, inches.

    Example::

        >>> from pyro_spvae.plots import new_figure
        >>> new_figure(4.0, 3.0).get_size_inches().tolist()
        [4.0, 3.0]
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def short_name(name: str, most: int = 24) -> str:
    """The name of a column, its beginning if it is long."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """
    Writes a figure as PNG, at one go.

    :raises ValueError: if the file cannot be written.

    Example::

        >>> from pathlib import Path
        >>> from pyro_spvae.plots import image_grid, save
        >>> save(image_grid(torch.rand(4, 1, 8, 8)), "samples.png")
        >>> Path("samples.png").read_bytes()[1:4]
        b'PNG'
    """
    atomic_write(path, lambda file: figure.savefig(file, dpi=DPI, format="png"))


def show_pixels(axes: Axes, pixels: NDArray[Any], title: str | None, interpolation: str = "nearest") -> None:
    """Pixels ``[height, width, 3]`` and nothing but a heading.

    Example::

        >>> from pyro_spvae.plots import mosaic, new_figure, show_pixels
        >>> axes = new_figure(3.0, 3.0).add_subplot()
        >>> show_pixels(axes, mosaic(torch.rand(4, 1, 8, 8), columns=2).numpy(), "four images")
        >>> axes.get_title()
        'four images'
    """
    axes.imshow(pixels, interpolation=interpolation)
    axes.set_axis_off()
    if title:
        axes.set_title(title, fontsize=9)


def picture_files(rows: Iterable[Sequence[tuple[str, Path]]]) -> Figure:
    """
    Pictures that were written before, side by side; wide strips one below the other.

    :param rows: of each row the headings and files of its pictures.

    Example::

        >>> from pathlib import Path
        >>> from pyro_spvae.plots import image_grid, picture_files, save
        >>> save(image_grid(torch.rand(4, 1, 8, 8)), "samples.png")
        >>> figure = picture_files([[("first", Path("samples.png")), ("again", Path("samples.png"))]])
        >>> len(figure.axes)
        2
    """
    from matplotlib.image import imread

    grid = [[(title, imread(path)) for title, path in row] for row in rows]
    width = 3.2
    if all(len(picture) < _STRIP * picture.shape[1] for row in grid for _, picture in row):
        grid, width = [[shown] for row in grid for shown in row], 7.0
    heights = [max(width * len(picture) / picture.shape[1] for _, picture in row) + _TITLE for row in grid]
    columns = max(map(len, grid))
    figure = new_figure(width * columns, math.fsum(heights))
    places = figure.add_gridspec(len(grid), columns, height_ratios=heights)
    for line, row in enumerate(grid):
        for column, (title, picture) in enumerate(row):
            show_pixels(figure.add_subplot(places[line, column]), picture, title, "auto")
    return figure

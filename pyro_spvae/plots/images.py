# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of images: in a grid, in labelled rows, and as tiles in their places."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pyro_spvae.plots.figures import DPI, new_figure, show_pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LINE = (0.35, 0.55, 0.8)  # red, green, blue
_MISSING = (0.98, 0.78, 0.62)  # likewise a colour that grey images lack
_DOTS = 2  # of a written picture that each pixel has, so that all pixels look of one size
_PATCH = 12  # dots to a side of the smallest patches that lines are drawn between
_LETTER, _LETTER_OF_ALL = 0.072, 0.082  # inches, of the headings of a panel and of all
_LOW, _HIGH = 0.75, 1.35  # of the number of columns of a square grid, among which the one that is filled best is taken


class Layout(NamedTuple):
    """
    :ivar int columns: panels side by side.
    :ivar float width: of a panel, inches.
    :ivar float column: of a panel with its heading, inches.
    """

    columns: int
    width: float
    column: float


def layout(number: int, height: int, width: int) -> Layout:
    """
    How panels of one shape are laid out: of about equal area whatever their shape, larger where their pixels would be
    too small, and side by side so that the figure is about as high as it is wide.

    :param int number: of panels.
    :param int height: of a panel, pixels.
    :param int width: of a panel, pixels.
    """
    shape = height / width
    own = min((4.0 if number == 1 else 3.4) / math.sqrt(shape), 9.0, 11.0 / shape)
    own = min(max(own, _DOTS * width / DPI), 20.0)
    column = max(own, 1.6)  # with room for a heading

    def unfit(columns: int) -> float:
        """How oblong the figure is, and how much of it is empty."""
        rows = math.ceil(number / columns)
        return abs(math.log(rows * (own * shape + 0.3) / (columns * column))) + 2 * math.log(rows * columns / number)

    return Layout(min(range(1, number + 1), key=unfit), own, column)


def grid_columns(number: int, height: int, width: int) -> int:
    """How many of some images stand side by side, so that a grid is about as high as wide and its last row is full."""
    square = math.sqrt(number * height / width)
    nearest = min(number, max(1, round(square)))
    others = range(math.ceil(_LOW * square), min(number, math.floor(_HIGH * square)) + 1)
    return min([nearest, *others], key=lambda columns: (-number % columns, abs(columns - square)))


def image_grid(
    images: Tensor, low: float = 0.0, high: float = 1.0, title: str | None = None, columns: int | None = None
) -> Figure:
    """
    Images in a grid, row by row, with blue lines between them.

    :param Tensor images: ``[N, C, H, W]``: grey with one channel, colour with three, else the channels side by side.
    :param float low: value drawn black.
    :param float high: value drawn white.
    :param str title: heading.
    :param int columns: images of a row; by default the grid is about as high as it is wide.

    Example::

        >>> from pyro_spvae.plots import image_grid
        >>> figure = image_grid(torch.rand(12, 1, 8, 8), columns=4)
        >>> len(figure.axes)
        1
    """
    if columns is None:
        channels, height, width = images.shape[1:]
        columns = grid_columns(len(images), height, width if channels in (1, 3) else channels * width)
    pixels = mosaic(images, columns, low, high)
    inches = max(4.0, _DOTS * pixels.size(1) / DPI)
    figure = new_figure(inches, inches * pixels.size(0) / pixels.size(1) + (0.3 if title else 0))
    show_pixels(figure.add_subplot(), pixels.numpy(), title)
    return figure


def image_rows(
    rows: dict[str, Tensor], low: float = 0.0, high: float = 1.0, seen: dict[str, Tensor] | None = None
) -> Figure:
    """
    One labelled row of images for every entry, images of a column belonging together.

    :param dict rows: label to ``[N, C, H, W]``, the same N in each.
    :param float low: value drawn black.
    :param float high: value drawn white.
    :param dict seen: label to ``bool [N, C, H, W]``: pixels none of whose channels is seen get a colour of their own.

    Example::

        >>> from pyro_spvae.plots import image_rows
        >>> images = torch.rand(5, 1, 8, 8)
        >>> figure = image_rows({"images": images, "inverted": 1 - images})
        >>> len(figure.axes)
        2
    """
    seen = seen or {}
    mosaics = {label: mosaic(images, len(images), low, high, seen.get(label)) for label, images in rows.items()}
    widest = max(pixels.size(1) / pixels.size(0) for pixels in mosaics.values())
    broad = max(pixels.size(1) for pixels in mosaics.values())
    width = max(4.0, min(10.0, 0.55 * widest), _DOTS * broad / DPI)
    figure = new_figure(width, len(rows) * (max(0.3, min(4.0, width / widest)) + 0.35))
    for place, (label, pixels) in enumerate(mosaics.items(), start=1):
        show_pixels(figure.add_subplot(len(rows), 1, place), pixels.numpy(), label)
    return figure


def tiled(
    pictures: dict[str, list[Tensor]],
    corners: Sequence[tuple[int, int]],
    low: float = 0.0,
    high: float = 1.0,
    title: str | None = None,
    divisions: int = 1,
) -> Figure:
    """
    Panels of tiles in their places, with blue lines between them.

    :param dict pictures: heading of a panel to its tiles ``[C, h, w]``.
    :param corners: top and left of each tile, as if there were no lines.
    :param float low: value drawn black.
    :param float high: value drawn white.
    :param str title: heading of all.
    :param int divisions: thin lines divide each tile into so many parts in either direction, unless these are smaller
        than 12 dots of the written picture.

    Example::

        >>> from pyro_spvae.plots import tiled
        >>> corners = [(0, 0), (0, 4), (4, 0), (4, 4)]
        >>> figure = tiled({"an image in four tiles": list(torch.rand(4, 1, 4, 4))}, corners)
        >>> len(figure.axes)
        1
    """
    canvases = {label: _tiles(tiles, corners, low, high) for label, tiles in pictures.items()}
    height, width, _ = next(iter(canvases.values()))[0].shape
    columns, own, column = layout(len(pictures), height, width)
    rows = math.ceil(len(pictures) / columns)
    headings = [textwrap.fill(label, int(column / _LETTER)) for label in pictures]
    above = 0.3 + 0.15 * max(heading.count("\n") for heading in headings)
    title = textwrap.fill(title or "", int(columns * column / _LETTER_OF_ALL))
    lines = title.count("\n") + 1 if title else 0
    figure = new_figure(columns * column, rows * (own * height / width + above) + (0.1 + 0.2 * lines if title else 0))
    dots = own * DPI / width  # of a pixel
    for place, (heading, (canvas, boxes)) in enumerate(zip(headings, canvases.values(), strict=True), start=1):
        axes = figure.add_subplot(rows, columns, place)
        show_pixels(axes, canvas.numpy(), heading, "nearest" if dots > 1 else "auto")
        for top, left, bottom, right in boxes:
            if divisions == 1 or dots * min(bottom - top, right - left) < _PATCH * divisions:
                continue
            ys, xs = (_between(*ends, divisions) for ends in ((top, bottom), (left, right)))
            axes.hlines(ys, left - 0.5, right - 0.5, color=_LINE, linewidth=0.4, alpha=0.6)
            axes.vlines(xs, top - 0.5, bottom - 0.5, color=_LINE, linewidth=0.4, alpha=0.6)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def mosaic(images: Tensor, columns: int, low: float = 0.0, high: float = 1.0, seen: Tensor | None = None) -> Tensor:
    """``[N, C, H, W]`` to ``[height, width, 3]`` with lines between images, in a colour that grey images lack.

    Example::

        >>> from pyro_spvae.plots import mosaic
        >>> mosaic(torch.rand(6, 1, 8, 8), columns=3).shape  # two rows of three, and lines of a pixel
        torch.Size([17, 26, 3])
    """
    images = _colours(images, low, high, seen)
    count, _, height, width = images.shape
    line = max(1, height // 14)
    rows = math.ceil(count / columns)
    canvas = images.new_tensor(_LINE).repeat(rows * (height + line) - line, columns * (width + line) - line, 1)
    used = (count - 1) % columns + 1
    if used < columns:  # nothing to frame behind the last image
        canvas[(rows - 1) * (height + line) :, used * (width + line) - line :] = 1.0
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + line), (i % columns) * (width + line)
        canvas[top : top + height, left : left + width] = image.movedim(0, -1)
    return canvas


def _between(start: int, stop: int, divisions: int) -> list[float]:
    """Where lines divide pixels ``start .. stop - 1`` into equal parts, in coordinates whose pixels are centred."""
    return [start + (stop - start) * i / divisions - 0.5 for i in range(1, divisions)]


def _tiles(
    tiles: list[Tensor], corners: Sequence[tuple[int, int]], low: float, high: float
) -> tuple[Tensor, list[tuple[int, int, int, int]]]:
    """
    Tiles ``[C, h, w]`` in their places, ``[height, width, 3]``, a line before each row and column but the first; and
    top, left, bottom and right of each.
    """
    colours = [_colours(tile.unsqueeze(0), low, high).squeeze(0) for tile in tiles]
    stretch = colours[0].size(-1) // tiles[0].size(-1)  # of channels side by side
    tops, lefts = (sorted(set(places)) for places in zip(*corners, strict=True))
    ends = [(top + tile.size(-2), left + tile.size(-1)) for (top, left), tile in zip(corners, tiles, strict=True)]
    line = max(1, max(map(max, ends)) // 100)
    placed = [
        (top + line * tops.index(top), stretch * left + line * lefts.index(left), tile)
        for (top, left), tile in zip(corners, colours, strict=True)
    ]
    height = max(top + tile.size(-2) for top, _, tile in placed)
    width = max(left + tile.size(-1) for _, left, tile in placed)
    canvas = colours[0].new_tensor(_LINE).repeat(height, width, 1)
    for top, left, tile in placed:
        canvas[top : top + tile.size(-2), left : left + tile.size(-1)] = tile.movedim(0, -1)
    return canvas, [(top, left, top + tile.size(-2), left + tile.size(-1)) for top, left, tile in placed]


def _colours(images: Tensor, low: float, high: float, seen: Tensor | None = None) -> Tensor:
    """Values ``[N, C, H, W]`` as red, green and blue in [0, 1], ``[N, 3, H, W]``; channels neither 1 nor 3 side by
    side."""
    images = ((images.detach().cpu().float() - low) / ((high - low) or 1.0)).clamp(0, 1)
    mask = None if seen is None else seen.cpu().expand(images.shape)
    if mask is not None:
        images = torch.where(mask, images, torch.zeros_like(images))
    if images.size(1) == 3:
        mask = None if mask is None else mask.any(1, keepdim=True)
    elif images.size(1) != 1:
        images = torch.cat(images.split(1, dim=1), dim=-1)
        mask = None if mask is None else torch.cat(mask.split(1, dim=1), dim=-1)
    images = images.expand(-1, 3, -1, -1)
    if mask is None:
        return images
    return torch.where(mask, images, images.new_tensor(_MISSING).reshape(3, 1, 1))

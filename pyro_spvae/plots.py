# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of images, training, log-likelihoods and latent spaces: matplotlib figures, without its global state."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_spvae.checkpoint import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

_LINE = (0.35, 0.55, 0.8)  # red, green, blue
_MISSING = (0.98, 0.78, 0.62)  # likewise a colour that grey images lack


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
    """
    height, width = images.shape[-2:]
    if columns is None:
        columns = min(len(images), max(1, round(math.sqrt(len(images) * height / width))))
    mosaic = _mosaic(images, columns, low, high)
    figure = new_figure(4.0, 4.0 * mosaic.size(0) / mosaic.size(1) + (0.3 if title else 0))
    _show(figure.add_subplot(), mosaic, title)
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
    """
    seen = seen or {}
    mosaics = {label: _mosaic(images, len(images), low, high, seen.get(label)) for label, images in rows.items()}
    widest = max(mosaic.size(1) / mosaic.size(0) for mosaic in mosaics.values())
    width = max(4.0, min(10.0, 0.55 * widest))
    figure = new_figure(width, len(rows) * (max(0.3, min(4.0, width / widest)) + 0.35))
    for place, (label, mosaic) in enumerate(mosaics.items(), start=1):
        _show(figure.add_subplot(len(rows), 1, place), mosaic, label)
    return figure


def learning_curve(metrics: list[dict[str, Any]]) -> Figure:
    """Training and validation bound (nats per datum) against epochs, from the lines of ``metrics.jsonl``."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(5.0, 3.2)
    axes = figure.add_subplot()
    epochs = [line["epoch"] for line in metrics]
    marker = "." if len(metrics) == 1 else None  # a line of one point is invisible
    axes.plot(epochs, [line["elbo"] for line in metrics], label="training", color="tab:grey", marker=marker)
    axes.plot(epochs, [line["val_elbo"] for line in metrics], label="validation", color="tab:blue", marker=marker)
    best = max(metrics, key=lambda line: line["val_elbo"])
    axes.plot(
        best["epoch"],
        best["val_elbo"],
        "o",
        color="tab:blue",
        label=f"best: {best['val_elbo']:.1f} in epoch {best['epoch']}",
    )
    later = sorted(value for line in metrics[len(metrics) // 10 :] for value in (line["elbo"], line["val_elbo"]))
    if later[-1] > later[0]:  # the first epochs would flatten the rest
        margin = 0.05 * (later[-1] - later[0])
        axes.set_ylim(later[0] - margin, later[-1] + margin)
    axes.set_xlabel("epoch")
    axes.set_ylabel("bound (nats per datum)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend(loc="lower right", frameon=False)
    return figure


def histogram(values: NDArray[Any], quantity: str, unit: str, error: float | None = None) -> Figure:
    """
    How values are distributed, with their mean.

    :param values: ``[N]``, finite.
    :param str quantity: what they are, with its unit.
    :param str unit: what is counted.
    :param float error: standard error of the mean.
    """
    figure = new_figure(5.0, 3.2)
    axes = figure.add_subplot()
    axes.hist(values, bins=max(5, min(60, round(2 * len(values) ** 0.5))), color="tab:blue", alpha=0.7)
    mean = float(values.mean())
    label = f"mean {mean:.2f}" + ("" if error is None else f" \u00b1 {error:.2f}")
    axes.axvline(mean, color="black", linewidth=1.2, label=label)
    axes.set_xlabel(quantity)
    axes.set_ylabel(unit)
    axes.legend(loc="upper left", frameon=False)
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
    :param int divisions: thin lines divide each tile into so many parts in either direction.
    """
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    canvases = {label: _tiles(tiles, corners, low, high) for label, tiles in pictures.items()}
    height, width, _ = next(iter(canvases.values()))[0].shape
    side = 4.0 if len(pictures) == 1 else 3.4
    figure = new_figure(columns * side, rows * (min(3.0, height / width) * side + 0.3) + (0.3 if title else 0))
    for place, (label, (canvas, boxes)) in enumerate(canvases.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        _show(axes, canvas, label)
        for top, left, bottom, right in boxes if divisions > 1 else []:
            ys, xs = (_between(*ends, divisions) for ends in ((top, bottom), (left, right)))
            axes.hlines(ys, left - 0.5, right - 0.5, color=_LINE, linewidth=0.4, alpha=0.6)
            axes.vlines(xs, top - 0.5, bottom - 0.5, color=_LINE, linewidth=0.4, alpha=0.6)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def clouds(points: dict[str, tuple[Tensor, Tensor]], columns: int, weight: str, title: str | None = None) -> Figure:
    """
    Scatter plots, each with a heading.

    :param dict points: heading to coordinates ``[N, 2]`` (or ``[N, 1]``: against the weights) and weights in [0, 1].
    :param int columns: plots side by side.
    :param str weight: what the weights, shown by colour, are.
    :param str title: heading of all.
    """
    columns = min(columns, len(points))
    rows = math.ceil(len(points) / columns)
    figure = new_figure(max(4.0, 2.0 * columns), 1.9 * rows + 0.6)
    grid = []
    for place, (label, (coordinates, weights)) in enumerate(points.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        second = coordinates[:, 1] if coordinates.size(1) > 1 else weights
        order = weights.argsort()  # what a leaf is probable for lies on top
        shown = axes.scatter(
            coordinates[order, 0].numpy(), second[order].numpy(), c=weights[order].numpy(), s=4, vmin=0, vmax=1, lw=0
        )
        axes.set_title(label, fontsize=8)
        axes.tick_params(labelsize=6)
        grid.append(axes)
    figure.colorbar(shown, ax=grid, label=weight, shrink=min(1.0, 2 / rows))
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """
    Writes a figure as PNG, at one go.

    :raises ValueError: if the file cannot be written.
    """
    atomic_write(path, lambda file: figure.savefig(file, dpi=150, format="png"))


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _show(axes: Axes, mosaic: Tensor, title: str | None) -> None:
    axes.imshow(mosaic.numpy(), interpolation="nearest")
    axes.set_axis_off()
    if title:
        axes.set_title(title, fontsize=9)


def _mosaic(images: Tensor, columns: int, low: float, high: float, seen: Tensor | None = None) -> Tensor:
    """``[N, C, H, W]`` to ``[height, width, 3]`` with lines between images, in a colour that grey images lack."""
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
    extent = max(top + tile.size(-2) for (top, _), tile in zip(corners, tiles, strict=True))
    line = max(1, extent // 100)
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

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of images and of training; matplotlib figures, without its global state."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINE = (0.35, 0.55, 0.8)  # red, green, blue


def image_grid(images: Tensor, low: float = 0.0, high: float = 1.0, title: str | None = None) -> Figure:
    """
    Images in a grid about as high as it is wide, row by row, with blue lines between them.

    :param Tensor images: ``[N, C, H, W]``: grey with one channel, colour with three, else the channels side by side.
    :param float low: value drawn black.
    :param float high: value drawn white.
    :param str title: heading.
    """
    height, width = images.shape[-2:]
    columns = min(len(images), max(1, round(math.sqrt(len(images) * height / width))))
    mosaic = _mosaic(images, columns, low, high)
    figure = _figure(4.0, 4.0 * mosaic.size(0) / mosaic.size(1) + (0.3 if title else 0))
    _show(figure.add_subplot(), mosaic, title)
    return figure


def image_rows(rows: dict[str, Tensor], low: float = 0.0, high: float = 1.0) -> Figure:
    """
    One labelled row of images for every entry, images of a column belonging together.

    :param dict rows: label to ``[N, C, H, W]``, the same N in each.
    """
    mosaics = {label: _mosaic(images, len(images), low, high) for label, images in rows.items()}
    widest = max(mosaic.size(1) / mosaic.size(0) for mosaic in mosaics.values())
    width = max(4.0, min(10.0, 0.55 * widest))
    figure = _figure(width, len(rows) * (max(0.3, min(4.0, width / widest)) + 0.35))
    for place, (label, mosaic) in enumerate(mosaics.items(), start=1):
        _show(figure.add_subplot(len(rows), 1, place), mosaic, label)
    return figure


def learning_curve(metrics: list[dict[str, Any]]) -> Figure:
    """Training and validation bound (nats per datum) against epochs, from the lines of ``metrics.jsonl``."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure(5.0, 3.2)
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


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure as PNG."""
    figure.savefig(path, dpi=150)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _show(axes: Axes, mosaic: Tensor, title: str | None) -> None:
    axes.imshow(mosaic.numpy(), interpolation="nearest")
    axes.set_axis_off()
    if title:
        axes.set_title(title, fontsize=9)


def _mosaic(images: Tensor, columns: int, low: float, high: float) -> Tensor:
    """``[N, C, H, W]`` to ``[height, width, 3]`` with lines between images, in a colour that grey images lack."""
    images = ((images.detach().cpu().float() - low) / ((high - low) or 1.0)).clamp(0, 1)
    if images.size(1) not in (1, 3):
        images = torch.cat(images.split(1, dim=1), dim=-1)
    images = images.expand(-1, 3, -1, -1)
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

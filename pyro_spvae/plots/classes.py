# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Points of a plane, coloured by class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def show_classes(axes: Axes, points: Tensor, labels: Tensor, title: str | None = None) -> None:
    """
    A scatter plot whose colours are classes, named in a legend.

    :param Axes axes: where to.
    :param Tensor points: ``[N, 2]``.
    :param Tensor labels: integers ``[N]``; colours repeat after ten.
    :param str title: heading.
    :raises ValueError: for labels of another length.

    Example::

        >>> from pyro_spvae.plots import new_figure, show_classes
        >>> axes = new_figure(3.0, 3.0).add_subplot()
        >>> show_classes(axes, torch.randn(20, 2), torch.arange(20) % 3)
        >>> len(axes.get_legend().get_texts())
        3
    """
    if labels.shape != points.shape[:1]:
        raise ValueError(f"labels has shape {list(labels.shape)}; one for each of the {len(points)} points is needed")
    for label in labels.unique().tolist():
        chosen = (labels == label).cpu()
        x, y = points[chosen].cpu().unbind(-1)
        colour = f"C{label % 10}"
        axes.scatter(x.numpy(), y.numpy(), s=4, lw=0, color=colour, label=str(label))
    axes.legend(markerscale=3, fontsize=6, ncols=2, loc="best", handletextpad=0, borderpad=0.2)
    axes.set_xticks([])
    axes.set_yticks([])
    if title:
        axes.set_title(title, fontsize=9)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""How often intervals hold the truth, over all entries and by column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_spvae.plots.figures import new_figure, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from torch import Tensor

_MOST = 40  # columns that are shown
_BINS = 20
_SIGMAS = 2
_LEVELS = ((0.5, "tab:orange"), (0.9, "tab:blue"))


def calibration(pit: NDArray[Any] | Tensor, of: NDArray[Any] | Tensor, names: Sequence[str]) -> Figure:
    """
    A histogram of the probability integral transform, how many central intervals hold the truth against their level,
    and, of a table, the shares of the 50 % and 90 % intervals by column, with bands of two standard errors under a
    calibrated model. Of more than 40 columns those that are farthest from it.

    :param pit: of each entry, ``[N]``, in [0, 1].
    :param of: the number of its column, int ``[N]``.
    :param names: of the columns; none for images.

    Example::

        >>> from pyro_spvae.plots import calibration
        >>> figure = calibration(torch.rand(200), torch.arange(200) % 2, ["age", "height"])
        >>> len(figure.axes)
        3
    """
    pit, of = np.asarray(pit), np.asarray(of)
    shown = [number for number in range(len(names)) if (of == number).any()]
    cut = len(shown) > _MOST
    if cut:
        shown = sorted(sorted(shown, key=lambda number: -_distance(pit[of == number]))[:_MOST])
    panels = 3 if shown else 2
    figure = new_figure(3.4 * panels, max(3.2, 0.9 + 0.19 * len(shown)))
    places = figure.add_gridspec(1, panels)
    _histogram(figure.add_subplot(places[0]), pit)
    _levels(figure.add_subplot(places[1]), pit)
    if shown:
        axes = figure.add_subplot(places[2])
        for level, colour in _LEVELS:
            counts = np.array([(of == number).sum() for number in shown])
            share = np.array([(np.abs(pit[of == number] - 0.5) <= level / 2).mean() for number in shown])
            error = _SIGMAS * np.sqrt(level * (1 - level) / counts)
            height = np.arange(len(shown))
            axes.barh(height, 2 * error, left=level - error, height=0.7, color=colour, alpha=0.2)
            axes.axvline(level, color=colour, linewidth=0.8)
            axes.plot(share, height, "o", color=colour, markersize=3.5, label=f"{level:.0%} interval")
        axes.set_yticks(range(len(shown)), [short_name(names[number]) for number in shown], fontsize=7)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(0, 1.02)
        axes.set_xlabel("share that holds the truth")
        title = f"the {_MOST} columns that are farthest off" if cut else None
        axes.legend(
            frameon=False,
            fontsize=7,
            title=title,
            title_fontsize=7,
            loc="lower center",
            bbox_to_anchor=(0.5, 1),
            ncols=2,
        )
    return figure


def _histogram(axes: Axes, pit: NDArray[Any]) -> None:
    bins = max(4, min(_BINS, len(pit) // 10))
    axes.hist(pit, bins=bins, range=(0, 1), density=True, color="tab:grey", alpha=0.7)
    error = _SIGMAS * ((bins - 1) / max(1, len(pit))) ** 0.5
    axes.axhspan(1 - error, 1 + error, color="tab:blue", alpha=0.2)
    axes.axhline(1, color="tab:blue", linewidth=1)
    axes.set_xlabel("place of the truth in the prediction (PIT)")
    axes.set_ylabel("density")
    axes.set_title(f"{len(pit):,} hidden entries", fontsize=9)


def _levels(axes: Axes, pit: NDArray[Any]) -> None:
    level = np.linspace(0, 1, 101)
    share = (np.abs(pit[:, None] - 0.5) <= level / 2).mean(0)
    error = _SIGMAS * np.sqrt(level * (1 - level) / max(1, len(pit)))
    axes.fill_between(level, level - error, level + error, color="tab:blue", alpha=0.2, linewidth=0)
    axes.plot(level, level, color="tab:blue", linewidth=1, label="calibrated")
    axes.plot(level, share, color="black", label="found")
    axes.set_xlabel("central interval")
    axes.set_ylabel("share that holds the truth")
    axes.legend(frameon=False, fontsize=8, loc="upper left")


def _distance(pit: NDArray[Any]) -> float:
    """How far a column is from calibrated, in standard errors."""
    shares = [((np.abs(pit - 0.5) <= level / 2).mean(), level) for level, _ in _LEVELS]
    return float(max(abs(share - level) / (level * (1 - level) / len(pit)) ** 0.5 for share, level in shares))

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Curves and histograms: bounds during training, any lines side by side, and how log-likelihoods are distributed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pyro_spvae.plots.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


class Line(NamedTuple):
    """
    A line of a panel.

    :ivar str label: of the legend.
    :ivar x: where its points are; ``None`` for a level, a horizontal line.
    :ivar y: their heights, or the one of a level.
    :ivar str style: as of matplotlib's ``plot``, for instance ``":"`` or ``"o-"``.
    :ivar str colour: chosen by matplotlib by default.

    Example::

        >>> from pyro_spvae.plots import Line, Panel, line_plot
        >>> lines = [Line("bound", [1, 2, 3], [-90.0, -85.0, -84.0]), Line("evidence", None, [-83.0], style=":")]
        >>> len(line_plot(Panel(lines, "epoch", "nats")).axes[0].lines)
        2
    """

    label: str
    x: Sequence[float] | None
    y: Sequence[float]
    style: str = "-"
    colour: str | None = None


class Panel(NamedTuple):
    """
    Axes with lines and a legend.

    :ivar lines: what is drawn.
    :ivar str x: what is on the horizontal axis, with its unit.
    :ivar str y: likewise on the vertical one.
    :ivar str title: heading.
    :ivar bool log: whether the horizontal axis is logarithmic.
    :ivar bool later: fit the vertical axis to all but the first tenth of each line, which would flatten the rest.

    Example::

        >>> from pyro_spvae.plots import Line, Panel, line_plot
        >>> panel = Panel([Line("bound", [1, 10, 100], [-90.0, -85.0, -84.0])], "samples", "nats", log=True)
        >>> line_plot(panel, panel).axes[0].get_xscale()
        'log'
    """

    lines: Sequence[Line]
    x: str
    y: str
    title: str | None = None
    log: bool = False
    later: bool = False


def line_plot(*panels: Panel) -> Figure:
    """Panels of lines, side by side.

    Example::

        >>> from pyro_spvae.plots import Line, Panel, line_plot
        >>> panel = Panel([Line("a", [1, 2], [3.0, 4.0])], "epoch", "nats")
        >>> len(line_plot(panel, panel).axes)
        2
    """
    figure = new_figure(5.4, 3.8) if len(panels) == 1 else new_figure(4.5 * len(panels), 3.6)
    for place, panel in enumerate(panels, start=1):
        axes = figure.add_subplot(1, len(panels), place)
        for line in panel.lines:
            if line.x is None:
                axes.axhline(line.y[0], color=line.colour, linestyle=line.style, label=line.label)
            else:
                axes.plot(line.x, line.y, line.style, color=line.colour, label=line.label)
        if panel.later:
            _fit_to_later(axes, (line.y for line in panel.lines))
        axes.set_xscale("log" if panel.log else "linear")
        axes.set_xlabel(panel.x)
        axes.set_ylabel(panel.y)
        if panel.title:
            axes.set_title(panel.title, fontsize=10)
        axes.legend(frameon=False, fontsize=8)
    return figure


def learning_curve(metrics: list[dict[str, Any]]) -> Figure:
    """Training and validation bound (nats per datum) against epochs, from the lines of ``metrics.jsonl``.

    Example::

        >>> from pyro_spvae.plots import learning_curve
        >>> metrics = [{"epoch": epoch, "elbo": -90.0 + epoch, "val_elbo": -91.0 + epoch} for epoch in range(1, 6)]
        >>> learning_curve(metrics).axes[0].get_xlabel()
        'epoch'
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(5.0, 3.2)
    axes = figure.add_subplot()
    epochs = [line["epoch"] for line in metrics]
    marker = "." if len(metrics) == 1 else None  # a line of one point is invisible
    bounds, validation = ([line[name] for line in metrics] for name in ("elbo", "val_elbo"))
    axes.plot(epochs, bounds, label="training", color="tab:grey", marker=marker)
    axes.plot(epochs, validation, label="validation", color="tab:blue", marker=marker)
    best = max(metrics, key=lambda line: line["val_elbo"])
    label = f"best: {best['val_elbo']:.1f} in epoch {best['epoch']}"
    axes.plot(best["epoch"], best["val_elbo"], "o", color="tab:blue", label=label)
    _fit_to_later(axes, (bounds, validation))
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

    Example::

        >>> from pyro_spvae.plots import histogram
        >>> figure = histogram(torch.randn(100).numpy(), "log-likelihood (nats)", "rows")
        >>> figure.axes[0].get_ylabel()
        'rows'
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


def _fit_to_later(axes: Axes, curves: Iterable[Sequence[float]]) -> None:
    """The first values of a curve would flatten the rest."""
    later = [value for curve in curves for value in curve[len(curve) // 10 :]]
    if later and max(later) > min(later):
        margin = 0.05 * (max(later) - min(later))
        axes.set_ylim(min(later) - margin, max(later) + margin)

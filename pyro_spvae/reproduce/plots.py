# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Plots of experiments: learning curves, Figure 2, samples side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_spvae import plots
from pyro_spvae.reproduce.published import TABLE_1, figure_2

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pyro_spvae.reproduce.report import Finished

_COLOURS = {
    "spvae": "tab:blue",
    "vae": "tab:orange",
    "conv-spvae": "tab:green",
    "conv-vae": "tab:red",
    "spn": "tab:purple",
}
_STYLES = {"best": "-", "tuned": "--", "paper": ":"}


def draw(folder: Path, runs: list[Finished], points: list[Finished]) -> dict[str, Path]:
    """
    Writes the plots that the experiments allow.

    :param Path folder: where to.
    :param list runs: the experiments.
    :param list points: those of them that are points of Figure 2.

    :returns: what is drawn to where.
    """
    pictures: dict[str, Path] = {}
    groups: dict[str, list[Finished]] = {}
    for run in runs:
        if run.table in ("spvae-table1", "poster"):
            groups.setdefault("-".join([run.table, *_kind(run)]), []).append(run)
    for name, members in groups.items():
        pictures[f"learning curves, {name}"] = _save(folder / f"curves-{name}.png", _curves(members))
        sampled = [run for run in members if (run.path / "figures" / "samples.png").exists()]
        if sampled:
            pictures[f"samples, {name}"] = _save(folder / f"samples-{name}.png", _samples(sampled))
    figures: dict[tuple[str, str], list[Finished]] = {}
    for run in points:
        figures.setdefault((run.experiment["data"], run.experiment["pixels"]), []).append(run)
    for (data, pixels), members in figures.items():
        path = folder / f"figure2-{data}-{pixels}.png"
        pictures[f"Figure 2, {data} {pixels}"] = _save(path, _figure_2(data, pixels, members))
    return pictures


def _kind(run: Finished) -> list[str]:
    return [str(run.experiment[name]) for name in ("data", "pixels", "protocol") if name in run.experiment]


def _save(path: Path, figure: Figure) -> Path:
    plots.save(figure, path)
    return path


def _label(run: Finished, runs: Iterable[Finished]) -> str:
    """The model, and what else sets a run apart from the others."""
    differing = [
        str(run.experiment[name])
        for name in ("recipe", "budget", "layers", "seed")
        if len({str(other.experiment.get(name)) for other in runs}) > 1 and name in run.experiment
    ]
    return " ".join([run.model, *differing])


def _curves(runs: list[Finished]) -> Figure:
    """Validation bounds against steps and against seconds of training."""
    figure = plots.new_figure(9.0, 3.6)
    places: tuple[tuple[str, Callable[[dict[str, Any]], float]], ...] = (
        ("steps", lambda line: line["step"]),
        ("seconds", lambda line: line["seconds"]),
    )
    for place, (name, along) in enumerate(places, start=1):
        axes = figure.add_subplot(1, 2, place)
        for run in runs:
            axes.plot(
                [along(line) for line in run.metrics],
                [line["val_elbo"] for line in run.metrics],
                color=_COLOURS.get(run.model),
                linestyle=_STYLES.get(str(run.experiment.get("recipe")), "-"),
                label=_label(run, runs),
            )
        _from_below(axes, [[line["val_elbo"] for line in run.metrics] for run in runs])
        axes.set_xlabel(name)
        axes.set_ylabel("validation bound (nats)")
        axes.legend(loc="lower right", frameon=False, fontsize=8)
    return figure


def _from_below(axes: Axes, curves: list[list[float]]) -> None:
    """The first values of a curve would flatten the rest."""
    later = [value for curve in curves for value in curve[len(curve) // 10 :]]
    if later and max(later) > min(later):
        margin = 0.05 * (max(later) - min(later))
        axes.set_ylim(min(later) - margin, max(later) + margin)


def _samples(runs: list[Finished]) -> Figure:
    import matplotlib.image

    columns = min(4, len(runs))
    rows = -(-len(runs) // columns)
    figure = plots.new_figure(3.2 * columns, 3.4 * rows)
    for place, run in enumerate(runs, start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(matplotlib.image.imread(run.path / "figures" / "samples.png"))
        axes.set_axis_off()
        axes.set_title(_label(run, runs), fontsize=9)
    return figure


def _figure_2(data: str, pixels: str, runs: list[Finished]) -> Figure:
    """Five-sample test bounds against the part of the training images, ours over the published curves."""
    figure = plots.new_figure(5.4, 3.8)
    axes = figure.add_subplot()
    for model in ("spvae", "vae"):
        theirs = dict(figure_2(data, pixels, model))  # type: ignore[arg-type]
        bound = TABLE_1[data, pixels, model].bound  # type: ignore[index]
        if bound is not None:
            theirs[1.0] = bound
        axes.plot(
            list(theirs),
            list(theirs.values()),
            ":",
            color=_COLOURS[model],
            alpha=0.7,
            label=f"{model}, paper (read off)",
        )
    for model in dict.fromkeys(run.model for run in runs):
        ours = sorted((run.experiment["fraction"], run.results["elbo"]) for run in runs if run.model == model)
        axes.plot(*zip(*ours, strict=True), "o-", color=_COLOURS.get(model), label=f"{model}, ours")
    axes.set_xscale("log")
    axes.set_xlabel("fraction of the training images")
    axes.set_ylabel("test bound, 5 samples (nats)")
    axes.set_title(f"{data}, {pixels}", fontsize=10)
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    return figure

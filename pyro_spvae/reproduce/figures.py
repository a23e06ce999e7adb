# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The papers' figures from finished experiments: learning curves, Figure 2, samples and VampPrior figures."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pyro_spvae import plots
from pyro_spvae.plots import Line, Panel
from pyro_spvae.reproduce.discrete_curves import discrete_curves
from pyro_spvae.reproduce.finished import Finished
from pyro_spvae.reproduce.over_seeds import seed_in_name
from pyro_spvae.reproduce.published import TABLE_1, figure_2

_COLOURS = {
    "spvae": "tab:blue",
    "vae": "tab:orange",
    "conv-spvae": "tab:green",
    "conv-vae": "tab:red",
    "spn": "tab:purple",
}
_STYLES = {"best": "-", "tuned": "--", "paper": ":"}
_PRIORS = {"standard": "tab:gray", "mog": "tab:green", "vamp": "tab:blue", "vamp-data": "tab:cyan"}
# pictures in a run folder that a figure of the VampPrior paper puts side by side
_PARTS = {
    3: ("pseudo_inputs.png", "generations.png"),
    4: ("samples.png",),
    5: ("reconstructions.png",),
    6: ("log_likelihoods.png",),
}


def draw_figures(folder: Path, runs: list[Finished], points: list[Finished]) -> dict[str, Path]:
    """
    Writes the plots that the experiments allow.

    :param Path folder: where to.
    :param list runs: the experiments.
    :param list points: those of them that are points of Figure 2.
    :returns: what is drawn to where.
    """
    pictures: dict[str, Path] = {}

    def save(title: str, figure: Any, name: str) -> None:
        pictures[title] = folder / f"{name}.png"
        plots.save(figure, pictures[title])

    for name, members in _grouped(runs, _kind).items():
        save(f"learning curves, {name}", _curves(members), f"curves-{name}")
        sampled = [run for run in members if (run.path / "figures" / "samples.png").exists()]
        if sampled:
            shown = [(_label(run, sampled), run.path / "figures" / "samples.png") for run in sampled]
            rows = [shown[start : start + 4] for start in range(0, len(shown), 4)]
            save(f"samples, {name}", plots.picture_files(rows), f"samples-{name}")
    for name, figure in discrete_curves([run for run in runs if run.table == "dvae"]).items():
        save(f"DVAE++, {name.replace('-', ' ')}", figure, f"dvae-curves-{name}")
    for name, members in _grouped(points, lambda run: f"{run.experiment['data']}-{run.experiment['pixels']}").items():
        save(f"Figure 2, {name.replace('-', ' ')}", _figure_2(members), f"figure2-{name}")
    return pictures


def draw_vamp_figure(figure: int, out: str | os.PathLike[str], paths: Sequence[Path], seed: int = 0) -> Path:
    """
    Draws a figure of the VampPrior paper into the folder of all experiments.

    :param int figure: its number, 2 to 6.
    :param out: folder of all experiments.
    :param paths: finished runs that it shows.
    :param int seed: of the runs, for the name.
    :returns: the picture.
    :raises ValueError: if a run has not the pictures that are wanted.
    """
    runs = [Finished.read(path) for path in paths]
    path = Path(out) / f"vampprior-figure{figure}{seed_in_name(seed)}.png"
    if figure == 2:
        drawn = plots.line_plot(
            Panel(_by_components(runs, lambda run: run.results["elbo"]), "components", "test bound (nats)"),
            Panel(_by_components(runs, _upper), "components", "active units, upper layer"),
        )
    else:
        drawn = plots.picture_files([[_picture(run, name) for run in runs] for name in _PARTS[figure]])
    plots.save(drawn, path)
    return path


def _kind(run: Finished) -> str | None:
    """The group of experiments whose curves stand in one picture."""
    if run.table not in ("spvae-table1", "poster"):
        return None
    named = [str(run.experiment[name]) for name in ("data", "pixels", "protocol") if name in run.experiment]
    return "-".join([run.table, *named])


def _grouped(runs: Iterable[Finished], key: Callable[[Finished], str | None]) -> dict[str, list[Finished]]:
    groups: dict[str, list[Finished]] = {}
    for run in runs:
        name = key(run)
        if name is not None:
            groups.setdefault(name, []).append(run)
    return groups


def _label(run: Finished, runs: Iterable[Finished]) -> str:
    """The model, and what else sets a run apart from the others."""
    differing = [
        str(run.experiment[name])
        for name in ("recipe", "budget", "layers", "seed")
        if len({str(other.experiment.get(name)) for other in runs}) > 1 and name in run.experiment
    ]
    return " ".join([run.model, *differing])


def _curves(runs: list[Finished]) -> Any:
    """Validation bounds against steps and against seconds of training."""

    def line(run: Finished, along: str) -> Line:
        x, y = ([metrics[name] for metrics in run.metrics] for name in (along, "val_elbo"))
        return Line(_label(run, runs), x, y, _STYLES.get(str(run.experiment.get("recipe")), "-"), _COLOURS[run.model])

    return plots.line_plot(
        *(
            Panel([line(run, along) for run in runs], label, "validation bound (nats)", later=True)
            for along, label in (("step", "steps"), ("seconds", "seconds"))
        )
    )


def _figure_2(runs: list[Finished]) -> Any:
    """Five-sample test bounds against the part of the training images, ours over the published curves."""
    data, pixels = (runs[0].experiment[name] for name in ("data", "pixels"))
    lines = []
    for model in ("spvae", "vae"):
        theirs = figure_2(data, pixels, model)
        bound = TABLE_1[data, pixels, model].bound
        theirs |= {} if bound is None else {1.0: bound}
        lines.append(Line(f"{model}, paper (read off)", [*theirs], [*theirs.values()], ":", _COLOURS[model]))
    for model in dict.fromkeys(run.model for run in runs):
        chosen = [run for run in runs if run.model == model]
        fractions, bounds = _means(chosen, lambda run: run.experiment["fraction"], lambda run: run.results["elbo"])
        lines.append(Line(f"{model}, ours", fractions, bounds, "o-", _COLOURS[model]))
    x, y = "fraction of the training images", "test bound, 5 samples (nats)"
    return plots.line_plot(Panel(lines, x, y, f"{data}, {pixels}", log=True))


def _by_components(runs: list[Finished], value: Callable[[Finished], float]) -> list[Line]:
    """A number of every run against the number of components of its prior, a line for each kind of prior."""
    lines = []
    for prior in dict.fromkeys(run.experiment["prior"] for run in runs):
        chosen = [run for run in runs if run.experiment["prior"] == prior]
        x, y = _means(chosen, lambda run: run.experiment["components"] or 500, value)
        level = prior == "standard"
        lines.append(Line(prior, None if level else x, y, ":" if level else "o-", _PRIORS[prior]))
    return lines


def _means(
    runs: list[Finished], at: Callable[[Finished], float], value: Callable[[Finished], float]
) -> tuple[list[float], list[float]]:
    """Means of a value of the runs that are at the same place, such as those of several seeds, from left to right."""
    found: dict[float, list[float]] = {}
    for run in sorted(runs, key=at):
        found.setdefault(at(run), []).append(value(run))
    return [*found], [statistics.mean(values) for values in found.values()]


def _upper(run: Finished) -> int:
    """Active units of the upper layer."""
    units = run.results["active_units"]
    return int(units["z2"] if "z2" in units else units["z"])


def _picture(run: Finished, name: str) -> tuple[str, Path]:
    path = run.path / "figures" / name
    if not path.exists():
        raise ValueError(f"the run {run.path} has no picture {name}, which the figure shows; run it again")
    return f"{run.model}, {run.experiment['prior']}", path

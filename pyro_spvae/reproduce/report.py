# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Gathers experiments: Markdown tables of our numbers beside the papers', plots, and what is unfinished."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pyro_spvae.checkpoint import atomic_write
from pyro_spvae.reproduce.asked import unfinished, unfinished_table
from pyro_spvae.reproduce.budget import remarks
from pyro_spvae.reproduce.discrete_report import discrete_lines, discrete_table
from pyro_spvae.reproduce.figures import draw_figures
from pyro_spvae.reproduce.finished import Finished, finished, with_error
from pyro_spvae.reproduce.global_report import global_table
from pyro_spvae.reproduce.mixture_report import mixture_lines, mixture_table
from pyro_spvae.reproduce.over_seeds import by_seed, likelihood, mean, note_on_seeds, seeds, spread
from pyro_spvae.reproduce.race_report import race_sections
from pyro_spvae.reproduce.vamp_report import vamp_lines, vamp_table
from pyro_spvae.training.json_file import read_json
from pyro_spvae.training.pace import Pace

REPORT = "report.md"


def beside_paper(path: Path) -> Iterator[str]:
    """Lines about one experiment, ours beside the paper's."""
    run = Finished.read(path)
    results, cell, bound = run.results, run.published, run.published_bound
    nats, bits = (None, run.published_score) if run.published_in_bits else (run.published_score, None)
    yield f"{'':28}{'ours':>22}  {'paper':>10}"
    rows = [
        (
            f"log-likelihood (nats, {_samples(results)})",
            with_error(results),
            nats,
        ),
        (_bound(run), f"{results['elbo']:.2f}", None if bound is None else f"{bound:.1f}"),
        ("parameters", f"{results['parameters']:,}", None if cell is None else f"{cell.parameters:,}k"),
        ("steps", f"{results['steps']:,}", None if cell is None or cell.steps is None else f"{cell.steps:,}"),
    ]
    if run.table == "vampprior":
        rows += vamp_lines(results)
    if run.table == "dlgmm":
        rows += mixture_lines(run)
    if run.table in ("dvae", "dvaepp"):
        rows += discrete_lines(run)
    if _in_bits(run) and results["bits_per_dim"] is not None:
        rows.append(("bits/dim", f"{results['bits_per_dim']:.3f}", bits))
    for name, ours, theirs in rows:
        yield f"{name:28}{ours:>22}  {theirs or '-':>10}"
    yield f"{'protocol':28}{run.how}, seed {run.experiment['seed']}; {results['rows']:,} test images"
    for line in remarks([run.experiment["budget"]]):
        yield f"{'note':28}{line}"
    if cell is not None and cell.note:
        yield f"{'note on the paper':28}{cell.note}"
    yield f"{'again by':28}{run.again}"


def write_report(out: str | os.PathLike[str], report: Callable[[str], None] = lambda line: None) -> Path:
    """
    Writes ``report.md`` and its pictures into the folder of the experiments, and prints the tables.

    :param out: folder of all experiments.
    :param callable report: takes the lines.
    :returns: the file.
    :raises ValueError: if there is no experiment, finished or begun, or a file cannot be read or written.
    """
    folder = Path(out)
    runs, open_ones = finished(folder), unfinished(folder)
    races = race_sections(folder)
    if not runs and not open_ones and not races:
        raise ValueError(
            f"the folder {folder} holds no finished experiments and none that was begun; run one by "
            "pyro-spvae reproduce"
        )
    lines = ["# Experiments of the papers, ours beside theirs", ""]
    for title, table in [*_sections(runs), *races]:
        lines += [f"## {title}", "", *table, ""]
    if open_ones:
        lines += ["## Unfinished", "", *unfinished_table(open_ones, folder), ""]
    for line in lines:
        report(line)
    with Pace(report).during("pictures"):
        pictures = draw_figures(folder, runs, points_of_figure_2(runs))
    if pictures:
        lines += ["## Pictures", "", *[f"![{name}]({path.name})" for name, path in pictures.items()], ""]
    if runs:
        lines += ["## Commands", "", "```bash", *[run.again for run in runs], "```", ""]
    text = "\n".join(lines)
    atomic_write(folder / REPORT, lambda file: file.write(text.encode()))
    report(f"written to  {folder / REPORT}" + "".join(f", {path.name}" for path in pictures.values()))
    return folder / REPORT


def _sections(runs: list[Finished]) -> Iterator[tuple[str, list[str]]]:
    tables = {
        "spvae-table1": "SPVAE, Table 1: test log-likelihood, nats an image, higher is better",
        "spvae-figure2": "SPVAE, Figure 2: five-sample test bound against the part of the training images",
        "spvae-figure3": "SPVAE, Figure 3: latent spaces",
        "poster": "Poster: binary MNIST, nats an image",
        "vampprior": "VampPrior: test log-likelihood, nats an image; of Frey Faces and Histopathology bits a pixel",
        "dlgmm": "DLGMM: test log-likelihood, nats an image, and test error of nearest neighbours on latent draws",
        "dvae": "DVAE++: test log-likelihood of VAEs of bits, nats an image, in the binary limit",
        "dvaepp": "DVAE++, Table 3: test log-likelihood, nats an image, in the binary limit; of CIFAR10 bits/dim",
    }
    tables_of = {"spvae-figure2": _figure_2, "vampprior": vamp_table, "dlgmm": mixture_table, "dvae": discrete_table}
    tables_of["dvaepp"] = global_table
    for table, title in tables.items():
        chosen = points_of_figure_2(runs) if table == "spvae-figure2" else [run for run in runs if run.table == table]
        if chosen:
            notes = remarks(run.experiment["budget"] for run in chosen)
            yield title, [*tables_of.get(table, _table)(chosen), *([""] if notes else []), *notes]


def _table(runs: list[Finished]) -> list[str]:
    lines = [
        "| data | pixels | model | ours | samples | paper | bound, 5 samples: ours | paper | parameters: ours | paper "
        "| steps | training seconds | how |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups = by_seed(runs)
    for group in groups:
        run = group[0]
        results, cell = run.results, run.published
        cells = (
            run.experiment.get("data", "mnist"),
            run.experiment.get("pixels", "binary"),
            run.model,
            likelihood(group),
            _samples(results),
            "" if cell is None else f"{cell.log_likelihood:.1f}" + ("*" if cell.note else ""),
            spread([each.results["elbo"] for each in group], 1),
            "" if cell is None or cell.bound is None else f"{cell.bound:.1f}",
            f"{results['parameters']:,}",
            "" if cell is None else f"{cell.parameters:,}k",
            mean(group, lambda each: each.results["steps"], 0),
            mean(group, lambda each: each.results["train_seconds"], 0),
            f"{run.how}, {seeds(group)}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    lines += note_on_seeds(groups)
    notes = {f"{run.published.note}" for run in runs if run.published is not None and run.published.note}
    return lines + ["", *[f"\\* {note}" for note in sorted(notes)]] if notes else lines


def points_of_figure_2(runs: list[Finished]) -> list[Finished]:
    """
    The runs of Figure 2, and as its last points those of Table 1, which had all images, with the same data, model,
    budget and recipe.
    """

    def curve(run: Finished) -> list[Any]:
        return [run.experiment[name] for name in ("data", "pixels", "model", "budget", "recipe", "protocol", "seed")]

    points = [run for run in runs if run.table == "spvae-figure2"]
    curves = [curve(run) for run in points]
    cells = [run for run in runs if run.table == "spvae-table1" and run.experiment["layers"] == 2]
    return points + [run for run in cells if curve(run) in curves]


def _figure_2(runs: list[Finished]) -> list[str]:
    lines = [
        "| data | pixels | fraction | model | ours | paper, read off | parameters | how |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups = by_seed(runs, lambda run: (run.experiment["data"], run.experiment["pixels"], run.experiment["fraction"]))
    for group in groups:
        run, experiment = group[0], group[0].experiment
        theirs = run.published_bound  # the last point of the page is the entry of Table 1
        cells = (
            experiment["data"],
            experiment["pixels"],
            f"{experiment['fraction']:g}",
            run.model,
            spread([each.results["elbo"] for each in group], 1),
            "" if theirs is None else f"{theirs:.0f}",
            f"{run.results['parameters']:,}",
            f"{run.how}, {seeds(group)}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return lines + note_on_seeds(groups)


def _bound(run: Finished) -> str:
    """What the bound of the results is."""
    particles = read_json(run.path / "config.json")["particles"]
    return f"bound, {particles} sample{'s' if particles > 1 else ''}"


def _in_bits(run: Finished) -> bool:
    """Whether the paper, or the protocol, speaks of bits."""
    return run.experiment.get("protocol") == "clean" or run.published_in_bits


def _samples(results: dict[str, Any]) -> str:
    """Importance samples of the log-likelihood; where nothing is latent none are drawn."""
    return f"{results['samples']:,}" if results["samples"] else "exact"

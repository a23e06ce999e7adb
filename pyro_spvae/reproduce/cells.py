# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""All experiments of a command, one after the other, each with its seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pyro_spvae.reproduce.asked import note_asked
from pyro_spvae.reproduce.race import race, show_race
from pyro_spvae.reproduce.report import beside_paper, write_report
from pyro_spvae.reproduce.run import run, show_plan
from pyro_spvae.reproduce.timing import TimeExperiment
from pyro_spvae.training import cost
from pyro_spvae.training.pace import minutes

Report = Callable[[str], None]


def run_cells(
    experiments: Iterable[Any],
    out: Path,
    report: Report,
    score: Callable[[Path], None] = lambda path: None,
    **options: Any,
) -> list[Path]:
    """
    Runs experiments, each beside the paper, and reports on the folder where they are several. What is finished is used
    as it is, what was stopped goes on, so that the same call again ends what a call before has begun.

    :param experiments: what is run.
    :param Path out: folder of all experiments.
    :param callable report: takes lines of text.
    :param callable score: adds to a finished run what it has not by itself.
    :param options: as of :func:`pyro_spvae.reproduce.run.run`.
    :returns: the folders.
    """
    cells, start = list(experiments), cost.clock()
    for cell in cells:
        note_asked(cell, out, options.get("data_dir"))
    paths = []
    for number, cell in enumerate(cells, start=1):
        if len(cells) > 1:
            report(f"cell        {number} of {len(cells)}, after {minutes(cost.clock() - start)}")
        if isinstance(cell, TimeExperiment):
            path = race(cell, out, report=report, **options)
        else:
            path = run(cell, out, report=report, **options)
            score(path)
            for line in beside_paper(path):
                report(line)
        paths.append(path)
    if len(paths) > 1:
        write_report(out, report)
    return paths


def show_cells(
    experiments: Iterable[Any], report: Report, data_dir: str | None, device: str, download: bool = False
) -> float:
    """
    Says what experiments would be, and about how long each and all would take on this machine as it is now; writes
    nothing.

    :returns: seconds of all.
    """
    total, cells = 0.0, list(experiments)
    for cell in cells:
        show = show_race if isinstance(cell, TimeExperiment) else show_plan
        seconds = show(cell, data_dir, device, report, download)
        report(f"time        about {cost.in_words(seconds)} at most, and its pictures")
        total += seconds
    if len(cells) > 1:
        report(f"time        about {cost.in_words(total)} at most of all {len(cells)} cells")
    return total

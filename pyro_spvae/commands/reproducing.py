# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""``reproduce``: the papers' tables and figures, each by one command; what these commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from pyro_spvae.commands.app import app, command, option, say
from pyro_spvae.commands.options import with_options
from pyro_spvae.reproduce.published import BinarySet

WHAT, HOW, RUN = "What is run", "How", "Files and machine"

group = typer.Typer(
    help="Retrain what the papers report, and print our numbers beside theirs.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(group, name="reproduce")

_OUT = Path("runs/reproduce")
_Out = Annotated[Path, option("Folder of all experiments.", RUN, "--out", "-o", metavar="FOLDER")]


@dataclass(frozen=True)
class Where:
    """Options that all commands share which run experiments."""

    seed: Annotated[int, option("Decides split, initial parameters, order and noise.", HOW, min=0)] = 0
    data_dir: Annotated[
        str | None, option("Folder of data sets.", RUN, "--data-dir", metavar="FOLDER", show_default=False)
    ] = None
    out: _Out = _OUT
    device: Annotated[str, option("auto (cuda if there is one, else cpu), cpu, cuda, cuda:N or mps.", RUN)] = "auto"
    overwrite: Annotated[bool, option("Train again what was run before.", RUN, "--overwrite")] = False
    download: Annotated[bool, option("Download a missing data set into data_dir.", RUN, "--download")] = False
    dry_run: Annotated[
        bool, option("Print the resolved protocol and parameter counts, and stop.", RUN, "--dry-run")
    ] = False


def add(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds a command of the group; the fields of :class:`Where` are options in place of the argument ``where``."""
    return lambda function: command(with_options(function), group, name)


def report(out: _Out = _OUT) -> None:
    """
    Tables and plots of all experiments in a folder: report.md and pictures in it.
    """
    from pyro_spvae.reproduce.report import write_report

    write_report(out, say)


command(report, group, "report")


def binary_set(where: Where, labels: bool = False, seeds: str | None = None) -> BinarySet:
    """
    The usual set of binary images, and says why where it is not Larochelle's.

    :param bool labels: whether labels are needed, which his files have not.
    :param str seeds: what it is drawn by, where that is not one seed.
    """
    from pyro_spvae.reproduce.binary_sets import usual_data

    data: BinarySet = "mnist" if labels else usual_data(where.data_dir)
    if data == "mnist":
        why = "labels are needed" if labels else "the files of static_mnist are not in data_dir"
        say(f"data        mnist, binarised once by the {seeds or f'seed {where.seed}'}, as {why}")
    return data


def run_experiments(
    experiments: Iterable[Any], where: Where, score: Callable[[Path], None] = lambda path: None
) -> list[Path]:
    """
    Runs experiments, printing what came out beside the paper, and the report where they are several; or only says what
    would be run.

    :param callable score: adds to a finished run what it has not by itself.
    :returns: the run folders.
    """
    from pyro_spvae.reproduce.report import beside_paper, write_report
    from pyro_spvae.reproduce.run import run, show_plan

    paths = []
    for experiment in experiments:
        config = experiment.configuration(where.data_dir, where.device)
        if where.dry_run:
            show_plan(experiment, config, say, where.download)
            continue
        path = run(
            experiment,
            where.out,
            config=config,
            overwrite=where.overwrite,
            download=where.download,
            progress=sys.stderr.isatty(),
            report=say,
        )
        score(path)
        for line in beside_paper(path):
            say(line)
        paths.append(path)
    if len(paths) > 1:
        write_report(where.out, say)
    return paths


def words(text: str | None) -> tuple[Any, ...] | None:
    """What stands between commas."""
    return None if text is None else tuple(word.strip() for word in text.split(","))


def whole_numbers(text: str | None) -> tuple[int, ...] | None:
    """
    Numbers of components between commas.

    :raises ValueError: if one is no positive integer.
    """
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise ValueError(f"components is {text!r}; positive integers separated by commas are needed, such as 100,500")
    return tuple(map(int, words))


def numbers(name: str, text: str) -> list[float]:
    """
    Numbers between commas.

    :param str name: of the option, for messages.
    :raises ValueError: if one is none.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{name} is {text!r}; numbers separated by commas are needed, such as 0.01,0.1,1") from None

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
from pyro_spvae.reproduce.places import OUT
from pyro_spvae.reproduce.published import BinarySet

WHAT, HOW, RUN = "What is run", "How", "Files and machine"

group = typer.Typer(
    help="Retrain what the papers report, and print our numbers beside theirs.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(group, name="reproduce")

_Out = Annotated[Path, option("Folder of all experiments.", RUN, "--out", "-o", metavar="FOLDER")]


@dataclass(frozen=True)
class Where:
    """Options that all commands share which run experiments."""

    seed: Annotated[int, option("Decides split, initial parameters, order and noise.", HOW, min=0)] = 0
    seeds: Annotated[
        int | None, option("Run seeds 0 to one less than this; tables show mean and standard deviation.", HOW, min=1)
    ] = None
    data_dir: Annotated[
        str | None, option("Folder of data sets.", RUN, "--data-dir", metavar="FOLDER", show_default=False)
    ] = None
    out: _Out = OUT
    device: Annotated[str, option("auto (cuda if there is one, else cpu), cpu, cuda, cuda:N or mps.", RUN)] = "auto"
    overwrite: Annotated[bool, option("Train again what was run before.", RUN, "--overwrite")] = False
    download: Annotated[bool, option("Download a missing data set into data_dir.", RUN, "--download")] = False
    dry_run: Annotated[
        bool,
        option(
            "Print the resolved protocol, parameter counts and about how long it will take, and stop.", RUN, "--dry-run"
        ),
    ] = False

    def __post_init__(self) -> None:
        if self.seeds is not None and self.seed:
            raise ValueError(f"seeds is {self.seeds} and seed is {self.seed}; give one of them")

    @property
    def every(self) -> tuple[int, ...]:
        """All seeds."""
        return (self.seed,) if self.seeds is None else tuple(range(self.seeds))


def add(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds a command of the group; the fields of :class:`Where` are options in place of the argument ``where``."""
    return lambda function: command(with_options(function), group, name)


def report(
    folder: Annotated[Path | None, typer.Argument(help="Folder of all experiments.", show_default=str(OUT))] = None,
    out: Annotated[
        Path | None,
        option("The same, as of the other commands.", RUN, "--out", "-o", metavar="FOLDER", show_default=False),
    ] = None,
) -> None:
    """
    Tables and plots of all experiments in a folder: report.md and pictures in it.

    Experiments that were begun, or asked for by a command that was stopped, stand
    in a table of their own: the epoch that they have reached, and their best
    validation bound so far.
    """
    from pyro_spvae.reproduce.report import write_report

    if folder is not None and out is not None:
        raise ValueError(f"folder is {folder} and out is {out}; give one of them")
    write_report(folder or out or OUT, say)


command(report, group, "report")


def binary_set(where: Where, labels: bool = False) -> BinarySet:
    """
    The usual set of binary images, and says why where it is not Larochelle's.

    :param bool labels: whether labels are needed, which his files have not.
    """
    from pyro_spvae.reproduce.binary_sets import usual_data

    data: BinarySet = "mnist" if labels else usual_data(where.data_dir)
    if data == "mnist":
        why = "labels are needed" if labels else "the files of static_mnist are not in data_dir"
        first, *_, last = (*where.every, where.every[-1])
        by = f"seed {first}" if first == last else f"seeds {first} to {last}"
        say(f"data        mnist, binarised once by the {by}, as {why}")
    return data


def run_experiments(
    experiments: Iterable[Any], where: Where, score: Callable[[Path], None] = lambda path: None
) -> list[Path]:
    """
    Runs experiments with all seeds, printing what came out beside the paper, and the report where they are several; or
    only says what would be run and how long it would take.

    :param callable score: adds to a finished run what it has not by itself.
    :returns: the run folders, those of each experiment's seeds together.
    """
    from pyro_spvae.reproduce.cells import run_cells, show_cells
    from pyro_spvae.reproduce.over_seeds import with_seeds

    cells = with_seeds(experiments, where.every)
    if where.dry_run:
        show_cells(cells, say, where.data_dir, where.device, where.download)
        return []
    return run_cells(
        cells,
        where.out,
        say,
        score,
        data_dir=where.data_dir,
        device=where.device,
        overwrite=where.overwrite,
        download=where.download,
        progress=sys.stderr.isatty(),
    )


def by_seed(paths: list[Path], where: Where) -> dict[int, list[Path]]:
    """The folders of :func:`run_experiments` for each seed; empty if nothing was run."""
    number = len(where.every)
    return {seed: paths[place::number] for place, seed in enumerate(where.every)} if paths else {}


def words(text: str | None) -> tuple[Any, ...] | None:
    """What stands between commas."""
    return None if text is None else tuple(word.strip() for word in text.split(","))


def several(text: str, known: tuple[Any, ...]) -> tuple[Any, ...]:
    """What stands between commas, or all that there is."""
    return known if text.strip() == "all" else words(text) or ()


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

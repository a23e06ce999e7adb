# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""
Options that commands share, as dataclasses; and what makes a function with options a command.

Each option is stated once, in the signature of the function that does the work or in a dataclass that stands in it: its
type, its help, its default. The command line, the function for Python and its documentation are made from that.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import typer

from pyro_spvae.commands.app import command, option, say

T = TypeVar("T")
Report = Callable[[str], None]
Split = Literal["test", "validation", "train", "all"]
Missing = Literal["auto", "none", "nan"]

ROWS, WHAT, HOW = "Rows", "What is computed", "Seed, device and files"
_HELP = {  # in Python
    "progress": "Show a progress bar.",
    "report": "Takes lines of text.",
    "sums": "Include the posteriors of sum nodes, which are large.",
}
MASK = (
    "What is seen: left, right, top or bottom names the half of an image that is SEEN (of a table: left or right, its "
    "first or last columns); checkerboard, every other pixel or column; random:P, each pixel or column of each row "
    "with probability P; or a .npy file of bool or 0/1, True = seen, of shape [H, W], [C, H, W] or [D], or of one such "
    "mask for each row of the split (of the file with --split all)."
)

RunPath = Annotated[Path, typer.Argument(help="Folder of a run.", metavar="RUN", show_default=False)]
Particles = Annotated[int, option("Importance samples of each leaf that latent variables are drawn from.", WHAT, min=1)]


def silent(line: str) -> None:
    """Takes a line of report and drops it."""


def number(text: str, default: str) -> object:
    """The option for how many."""
    return option(text, ROWS, "--num", "-n", min=1, show_default=default)


@dataclass(frozen=True)
class RowOptions:
    """Which rows a run is asked about."""

    data: Annotated[
        str | None,
        option(
            "Other data of the same shape and kind: a name, or a file, all of whose rows are taken unless a split is "
            "named. Columns of a table are found by their names.",
            ROWS,
            "--data",
            metavar="NAME|FILE",
            show_default="the run's own",
        ),
    ] = None
    data_dir: Annotated[
        str | None,
        option("Folder of data sets that are not bundled.", ROWS, metavar="FOLDER", show_default="the run's"),
    ] = None
    download: Annotated[bool, option("Download a missing data set into data_dir.", ROWS, "--download")] = False
    missing: Annotated[
        Missing | None,
        option(
            "Entries of a file that are missing: none, or those that are NaN or empty (nan).",
            ROWS,
            metavar="NAME",
            show_default="as in training",
        ),
    ] = None
    split: Annotated[
        Split | None,
        option(
            "Split of the data: train, validation, test, or all of their rows, in the order of the file.",
            ROWS,
            "--split",
            metavar="NAME",
            show_default="test, or all of a file that is given as data",
        ),
    ] = None


@dataclass(frozen=True)
class RunOptions:
    """How a run is asked, and where files go."""

    seed: Annotated[
        int | None, option("Same seed, same numbers and pictures.", HOW, min=0, show_default="the run's")
    ] = None
    device: Annotated[
        str | None,
        option(
            "auto (cuda if there is one, else cpu), cpu, cuda, cuda:N or mps.",
            HOW,
            metavar="NAME",
            show_default="the run's",
        ),
    ] = None
    out: Annotated[
        Path | None, option("Folder for the files.", HOW, "--out", "-o", metavar="FOLDER", show_default="RUN/{}")
    ] = None
    report: Report = silent


def with_options(function: Callable[..., T]) -> Callable[..., T]:
    """
    A function that takes the options of its dataclasses one by one.

    Parameters whose types are dataclasses are replaced by their fields, as keywords.
    """
    parameters: list[inspect.Parameter] = []
    groups: dict[str, Any] = {}
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        kind = parameter.annotation
        if not dataclasses.is_dataclass(kind):
            parameters.append(parameter)
            continue
        groups[parameter.name] = kind
        types = get_type_hints(kind, include_extras=True)
        for field in dataclasses.fields(kind):
            keyword = inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default)
            parameters.append(keyword.replace(annotation=types[field.name]))
    parameters.sort(key=lambda parameter: parameter.kind)
    signature = inspect.Signature(parameters)

    @functools.wraps(function)
    def wrapper(*args: Any, **given: Any) -> T:
        bound = signature.bind(*args, **given)
        bound.apply_defaults()
        values = dict(bound.arguments)
        for name, kind in groups.items():
            values[name] = kind(**{field.name: values.pop(field.name) for field in dataclasses.fields(kind)})
        return function(**values)

    _sign(wrapper, parameters)
    return wrapper


def query(function: Callable[..., T]) -> Callable[..., T]:
    """
    Makes a function that asks a run a command; its annotated parameters are the options.

    :returns: the function for Python, with the help of the options in its documentation.
    """
    asked, name = with_options(function), function.__name__
    parameters = [_of_command(parameter, name) for parameter in inspect.signature(asked).parameters.values()]
    text, field, rest = inspect.cleandoc(function.__doc__ or "").partition("\n:")

    def on_command_line(**values: Any) -> None:
        own = {"report": say, "progress": sys.stderr.isatty()}  # which are no options
        asked(**values, **{p.name: own[p.name] for p in parameters if not _is_option(p)})

    on_command_line.__name__, on_command_line.__doc__ = name, text
    _sign(on_command_line, list(filter(_is_option, parameters)))
    command(on_command_line)

    asked.__doc__ = "\n".join([text, *map(_documented, parameters)]) + field + rest
    _sign(asked, [p.replace(annotation=get_args(p.annotation)[0]) if _is_option(p) else p for p in parameters])
    return asked


def _sign(function: Any, parameters: list[inspect.Parameter]) -> None:
    function.__signature__ = inspect.Signature(parameters)
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}


def _is_option(parameter: inspect.Parameter) -> bool:
    return get_origin(parameter.annotation) is Annotated


def _of_command(parameter: inspect.Parameter, name: str) -> inspect.Parameter:
    """An option whose default that is shown has the name of the command in it."""
    if not _is_option(parameter):
        return parameter
    kind, info = get_args(parameter.annotation)
    info = copy.copy(info)
    if isinstance(info.show_default, str):
        info.show_default = info.show_default.format(name)
    return parameter.replace(annotation=Annotated[kind, info])


def _documented(parameter: inspect.Parameter) -> str:
    if parameter.name in _HELP:
        return f":param {parameter.name}: {_HELP[parameter.name]}"
    _, info = get_args(parameter.annotation)
    default = f" Default: {info.show_default}." if isinstance(info.show_default, str) else ""
    return f":param {parameter.name}: {info.help}{default}"

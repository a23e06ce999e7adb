# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The application that commands are added to: how usage errors, refusals and interruptions end."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Annotated, Any, NoReturn, TextIO, cast

import typer
from typer.core import TyperGroup

from pyro_spvae.commands.allocator import keep_freed_memory

_UsageError = cast(type[Exception], typer.BadParameter.__base__)  # not exported; its home depends on typer's version
INTERRUPTED = 130
LOST = 1  # a connection, so that starting again may help
_WRAPPED = "Value error, "  # what typer puts before the words that an option knows


class _Commands(TyperGroup):
    """Wrong usage is told in one line, as every other error is; without arguments there is help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])

    def list_commands(self, ctx: Any) -> list[str]:
        order = "train evaluate sample reconstruct impute interpolate embed info reproduce demo".split()
        return sorted(super().list_commands(ctx), key=lambda name: order.index(name) if name in order else len(order))

    def main(
        self,
        args: Any = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except _UsageError as error:
            message = error.format_message() if hasattr(error, "format_message") else str(error)
            _say(f"Error: {' '.join(message.replace(_WRAPPED, '').split())}")
            sys.exit(2)
        except (typer.Abort, KeyboardInterrupt):
            sys.exit(INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    cls=_Commands,
    help="Sum-product networks whose leaves are variational autoencoders, in Pyro.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from pyro_spvae import __version__

        typer.echo(f"pyro-spvae {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Sum-product networks whose leaves are variational autoencoders, in Pyro."""


def option(text: str, panel: str | None, *names: str, **settings: Any) -> Any:
    """An option of a command with its help, under a heading."""
    return typer.Option(*names, help=text, rich_help_panel=panel, **settings)


def command(
    function: Callable[..., None], group: typer.Typer | None = None, name: str | None = None, computes: bool = True
) -> Callable[..., None]:
    """
    Adds a command, to a group if one is given, whose refusals end in one sentence and exit code 2, and whose
    interruption ends in 130. A connection that is lost, such as to other processes, ends it likewise in 1.

    :param bool computes: whether it needs torch, whose threads are made then.
    """

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        if computes:
            from pyro_spvae.denormals import flush_in_threads

            flush_in_threads()
        if "" not in sys.path:
            sys.path.append("")  # a user's own parts ("package.module:Class") may lie in the current folder
        try:
            function(*args, **kwargs)
        except BrokenPipeError:  # what reads the output has ended, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or closing it would fail again
            raise typer.Exit(1) from None
        except ConnectionError as error:
            _fail(str(error), LOST)
        except (ValueError, TypeError, OSError) as error:
            refuse(error)
        except KeyboardInterrupt as error:
            _say(str(error) or "interrupted")
            raise typer.Exit(INTERRUPTED) from None

    return (app if group is None else group).command(name)(wrapper)


def refuse(error: Exception) -> NoReturn:
    """Ends the command with one sentence and exit code 2."""
    text = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.filename else str(error)
    _fail(text, 2)


def _fail(text: str, code: int) -> NoReturn:
    """
    Ends the command with one sentence.

    Several processes need not fail alike: the first on every machine tells, torchrun is left what to say of any other,
    and those that wait for one that has not joined them are told.
    """
    text = " ".join(text.split())
    if os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")) == "0":
        typer.echo(f"Error: {text}", err=True)
    report = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if report is not None:
        details = {"py_callstack": text, "timestamp": str(int(time.time()))}
        with open(report, "w") as file:
            json.dump({"message": {"message": text, "extraInfo": details}}, file)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from pyro_spvae.joining import decline

        decline(text)
    raise typer.Exit(code)


def _note(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Shows a warning as what it says."""
    _say(f"note        {' '.join(str(message).split())}")


def say(line: str) -> None:
    """Prints a line, in the first of several processes."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(line)


def _say(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        typer.echo(line, err=True)


def main() -> None:
    """Entry point of the command ``pyro-spvae``."""
    # Read when torch is loaded: threads that wait without spinning cost a little on an idle machine and save a busy one
    # from being ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    keep_freed_memory()
    warnings.showwarning = _note
    app()

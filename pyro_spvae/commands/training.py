# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""``train`` and ``demo``. The options of ``train`` are the fields of the configuration, one for one."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from pyro_spvae.checks import choices
from pyro_spvae.commands.app import command, option, say
from pyro_spvae.registry import names
from pyro_spvae.training.config import TrainConfig, options, read_config

_RUN = "Run"
_ALIASES = {"optimiser": ("--optimiser", "--optimizer")}
_LISTS = {"hidden": "32,32", "delta": "4,1", "shape": "28,20"}
_PARTS = {kind: kind for kind in ("leaf", "guide", "prior", "likelihood", "network", "estimator")}
_PARTS["decoder"] = "network"


def train(
    data: Annotated[
        str | None,
        typer.Argument(
            help="digits (bundled), mnist, fashion_mnist, omniglot, svhn, cifar10, static_mnist, omniglot_burda, "
            "caltech101_silhouettes, frey_faces, histopathology; a table in a .csv, .csv.gz, .tsv, .data or .parquet "
            "file; a .npy, .npz or .pt file of [N, H, W], [N, C, H, W] or [N, D]; or a folder of images. Default: "
            "digits.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, option("Folder to make for the run.", _RUN, "--out", "-o", show_default=False)] = None,
    resume: Annotated[
        Path | None,
        option(
            "Continue this run where it stopped, or train a finished one on by more --epochs or --patience.",
            _RUN,
            metavar="RUN",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        option("Options from a JSON file, such as config.json of a run; flags win.", _RUN, metavar="FILE"),
    ] = None,
    overwrite: Annotated[bool, option("Replace the run in the folder out.", _RUN, "--overwrite")] = False,
    dry_run: Annotated[
        bool, option("Print the resolved configuration and parameter counts, and stop.", _RUN, "--dry-run")
    ] = False,
    download: Annotated[bool, option("Download a missing data set into data_dir.", _RUN, "--download")] = False,
    quiet: Annotated[bool, option("Print nothing but errors.", _RUN, "--quiet", "-q")] = False,
    **given: Any,
) -> None:
    """
    Train a sum-product VAE or what the data ask for, stop when validation stops rising, and print the test
    log-likelihood.

    Log-likelihoods and bounds are in nats per row, higher is better. The run
    folder holds config.json, metrics.jsonl (a line a validation), status.json,
    results.json, last.pt, best.pt, log.txt and figures/. A run that was stopped
    or killed continues by --resume, and ends as if it never had been, with the
    same figures if --samples are given. A finished run is trained on by --resume
    RUN --epochs 400, if it had fewer, or by more --patience, if that stopped it;
    its results stay until there are new ones.
    """
    with warnings.catch_warnings():
        if quiet:
            warnings.simplefilter("ignore")
        flags = {name: _read(name, value) for name, value in given.items() if value is not None}
        if data is not None:
            flags["data"] = data
        report = (lambda line: None) if quiet else say
        progress = sys.stderr.isatty() and not quiet
        if resume is not None:
            for name, value in {"--out": out, "--config": config}.items():
                if value is not None:
                    raise ValueError(
                        f"{name} is given, but --resume continues a run with its own folder and configuration"
                    )
            if overwrite or dry_run:
                raise ValueError("--overwrite and --dry-run describe new runs; leave them out with --resume")
            from pyro_spvae.training.train import resume as run

            run(resume, changes=flags, progress=progress, report=report, download=download)
            return
        values = {} if config is None else read_config(config).to_dict()
        chosen = TrainConfig.from_dict(values | flags, "")
        from pyro_spvae.training.build import check_described
        from pyro_spvae.training.candidates import as_stated
        from pyro_spvae.training.optimiser_options import check_taken

        chosen = as_stated(chosen, flags)
        check_described(chosen, flags)
        check_taken(chosen, flags)
        if dry_run:
            from pyro_spvae.training.train import plan

            plan(chosen, report=say, download=download)
            return
        if out is None:
            raise ValueError("--out is missing; give the folder to make for the run")
        from pyro_spvae.training.train import train as run_new

        run_new(chosen, out, progress=progress, report=report, download=download, overwrite=overwrite)


def _signature() -> inspect.Signature:
    """The parameters of ``train`` with an option for every field of the configuration in place of ``**given``."""
    parameters = [p for p in inspect.signature(train, eval_str=True).parameters.values() if p.name != "given"]
    for field, kind in options(TrainConfig):
        if field.name == "data":
            continue
        parameters.append(
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(field, kind)
            )
        )
    return inspect.Signature(parameters)


def _annotation(field: dataclasses.Field[Any], kind: Any) -> Any:
    """All options are ``None`` unless given, so that those of ``--config`` stay; help shows the default."""
    text = field.metadata["help"]
    settings: dict[str, Any] = {"show_default": False}
    if type(None) in get_args(kind):
        *_, kind = (part for part in get_args(kind) if part is not type(None))
    flags: tuple[str, ...] = _ALIASES.get(field.name, ())
    known = choices(kind)
    if known is not None:
        settings["metavar"] = "NAME"
        text += "" if all(name in text for name in known) else f" One of {', '.join(known)}."
    elif field.name in _PARTS:
        settings["metavar"] = "NAME"
        text += f" One of {', '.join(names(_PARTS[field.name]))}, or package.module:Class; options in brackets."
    elif get_origin(kind) is tuple:
        kind, settings["metavar"] = str, "SIZES"
    elif kind is bool:
        flags = (f"--{field.name}",)
    if field.default is not None and kind is not bool:
        text += f" Default: {_shown(field.default)}."
    return Annotated[kind | None, option(text, field.metadata["panel"], *flags, **settings)]


def _shown(default: Any) -> str:
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _read(name: str, value: Any) -> Any:
    """What typer read, as the configuration has it."""
    if name not in _LISTS:
        return value
    try:
        numbers = [int(part) for part in value.split(",")] if value.strip() else []
    except ValueError:
        raise ValueError(
            f"{name} is {value!r}; positive integers separated by commas are needed, such as {_LISTS[name]}"
        ) from None
    return numbers[0] if name == "delta" and len(numbers) == 1 else numbers


signature = _signature()
train.__signature__ = signature  # type: ignore[attr-defined]
train.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
command(train)


@command
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the two runs; numbered if it exists.")] = Path(
        "runs/demo"
    ),
    seed: Annotated[int, typer.Option(help="Same seed, same runs.")] = 0,
) -> None:
    """
    Train the default sum-product VAE and a plain VAE of no fewer parameters on the bundled digits, and compare them.
    """
    from pyro_spvae.training.demo import demo as run

    run(out, seed=seed, progress=sys.stderr.isatty(), report=say)

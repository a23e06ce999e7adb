# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Commands that use trained runs: options and help; the work is in :mod:`pyro_spvae.verbs`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from pyro_spvae.cli.app import command, option, say

_ROWS, _WHAT, _HOW = "Rows", "What is computed", "Seed, device and files"

_Split = Literal["test", "validation", "train"]

_Run = Annotated[Path, typer.Argument(help="Folder of a run.", metavar="RUN", show_default=False)]
_Data = Annotated[
    str | None,
    option(
        "Other data of the same shape and kind: a name, or a file.",
        _ROWS,
        "--data",
        metavar="NAME|FILE",
        show_default="the run's own",
    ),
]
_DataDir = Annotated[
    str | None,
    option("Folder of data sets that are not bundled.", _ROWS, metavar="FOLDER", show_default="the run's"),
]
_Download = Annotated[bool, option("Download a missing data set into data_dir.", _ROWS, "--download")]
_SplitOption = Annotated[_Split, option("Split of the data.", _ROWS, "--split")]
_Seed = Annotated[int | None, option("Same seed, same numbers and pictures.", _HOW, min=0, show_default="the run's")]
_Device = Annotated[
    str | None,
    option(
        "auto (cuda if there is one, else cpu), cpu, cuda, cuda:N or mps.",
        _HOW,
        metavar="NAME",
        show_default="the run's",
    ),
]
_Particles = Annotated[
    int, option("Importance samples of each leaf that latent variables are drawn from.", _WHAT, min=1)
]
_MASK = (
    "What is seen: left, right, top or bottom names the half of an image that is SEEN (of a table: left or right, its "
    "first or last columns); checkerboard, every other pixel or column; random:P, each pixel or column of each row "
    "with probability P; or a .npy file of bool or 0/1, True = seen, of shape [H, W], [C, H, W] or [D], or of one such "
    "mask for each row of the split."
)


def _out(verb: str) -> object:
    """The option for the folder that files go to."""
    return option("Folder for the files.", _HOW, "--out", "-o", metavar="FOLDER", show_default=f"RUN/{verb}")


def _num(text: str, default: str) -> object:
    """The option for how many."""
    return option(text, _ROWS, "--num", "-n", min=1, show_default=default)


@command
def evaluate(
    run: _Run,
    data: _Data = None,
    data_dir: _DataDir = None,
    download: _Download = False,
    split: _SplitOption = "test",
    samples: Annotated[
        int | None,
        option("Importance samples of each leaf for log-likelihoods.", _WHAT, min=1, show_default="the run's"),
    ] = None,
    particles: Annotated[
        int | None,
        option("Importance samples of each leaf in the bounds.", _WHAT, min=1, show_default="the run's"),
    ] = None,
    observed: Annotated[
        str | None,
        option(
            f"Marginals of the seen entries. {_MASK} Then nats of the seen entries are given, in all and for each; no "
            "bits/dim, which stand for a code of every entry of a row.",
            _WHAT,
            metavar="MASK",
            show_default="everything",
        ),
    ] = None,
    chunk_size: Annotated[
        int | None,
        option("Pairs of row and sample decoded at a time; bounds memory.", _HOW, min=1, show_default="the run's"),
    ] = None,
    seed: _Seed = None,
    device: _Device = None,
    out: Annotated[Path | None, _out("evaluate")] = None,
) -> None:
    """
    Log-likelihood of every row, its mean and standard error, bounds, KL terms and active units.

    All in nats per row, higher is better for log-likelihood and elbo; bits/dim,
    lower is better, for images of grey levels. With the run's own options the
    figures are those of its results.json. Writes .json, .npz (a value for each
    row, and for each latent dimension how much it varies with the data) and a
    histogram. Several processes share the rows:
    torchrun --nproc-per-node 2 -m pyro_spvae evaluate RUN
    """
    from pyro_spvae.verbs.evaluate import evaluate as verb

    verb(
        run,
        data=data,
        data_dir=data_dir,
        download=download,
        split=split,
        samples=samples,
        chunk_size=chunk_size,
        particles=particles,
        observed=observed,
        seed=seed,
        device=device,
        out=out,
        report=say,
        progress=sys.stderr.isatty(),
    )


@command
def sample(
    run: _Run,
    num: Annotated[int, option("How many.", _WHAT, "--num", "-n", min=1)] = 64,
    means: Annotated[bool, option("The likelihood's means instead of draws.", _WHAT, "--means")] = False,
    seed: _Seed = None,
    device: _Device = None,
    out: Annotated[Path | None, _out("sample")] = None,
) -> None:
    """
    Draw new data from the model.

    Writes samples.npz (or means.npz), in the units that the model was trained
    on, and for images a picture.
    """
    from pyro_spvae.verbs.sample import sample as verb

    verb(run, num=num, means=means, seed=seed, device=device, out=out, progress=sys.stderr.isatty(), report=say)


@command
def reconstruct(
    run: _Run,
    num: Annotated[int | None, _num("How many rows, from the first of the split.", "16")] = None,
    data: _Data = None,
    data_dir: _DataDir = None,
    download: _Download = False,
    split: _SplitOption = "test",
    particles: _Particles = 100,
    seed: _Seed = None,
    device: _Device = None,
    out: Annotated[Path | None, _out("reconstruct")] = None,
) -> None:
    """
    Rows and their reconstructions: means of the likelihood given a draw of tree and latent variables.

    Writes .npz and, for images, a picture.
    """
    from pyro_spvae.verbs.reconstruct import reconstruct as verb

    verb(
        run,
        num=num,
        particles=particles,
        data=data,
        data_dir=data_dir,
        download=download,
        split=split,
        seed=seed,
        device=device,
        out=out,
        report=say,
    )


@command
def impute(
    run: _Run,
    observed: Annotated[str, option(_MASK, _WHAT, metavar="MASK", show_default=False)],
    num: Annotated[int | None, _num("How many rows, from the first of the split.", "8")] = None,
    completions: Annotated[int, option("Completions of each row.", _WHAT, min=1)] = 3,
    means: Annotated[bool, option("Fill with the likelihood's means instead of draws.", _WHAT, "--means")] = False,
    particles: _Particles = 100,
    data: _Data = None,
    data_dir: _DataDir = None,
    download: _Download = False,
    split: _SplitOption = "test",
    seed: _Seed = None,
    device: _Device = None,
    out: Annotated[Path | None, _out("impute")] = None,
) -> None:
    """
    Draw what is missing given what is seen.

    Seen entries stay as they are. Writes .npz and, for images, a picture of the
    rows: original, seen (missing pixels orange) and completions.
    """
    from pyro_spvae.verbs.impute import impute as verb

    verb(
        run,
        observed=observed,
        num=num,
        completions=completions,
        particles=particles,
        means=means,
        data=data,
        data_dir=data_dir,
        download=download,
        split=split,
        seed=seed,
        device=device,
        out=out,
        progress=sys.stderr.isatty(),
        report=say,
    )


@command
def interpolate(
    run: _Run,
    num: Annotated[int | None, _num("How many pairs: rows 0 and 1, 2 and 3, ... of the split.", "4")] = None,
    steps: Annotated[int, option("Points of a path, both ends included.", _WHAT, min=2)] = 10,
    particles: Annotated[int, option("Importance samples of each leaf.", _WHAT, min=1)] = 100,
    data: _Data = None,
    data_dir: _DataDir = None,
    download: _Download = False,
    split: _SplitOption = "test",
    seed: _Seed = None,
    device: _Device = None,
    out: Annotated[Path | None, _out("interpolate")] = None,
) -> None:
    """
    Paths between rows, through the latent spaces of the leaves and of the circuit.

    Writes .npz and, for images, a picture: on each line a row, the path, and
    the other row.
    """
    from pyro_spvae.verbs.interpolate import interpolate as verb

    verb(
        run,
        num=num,
        steps=steps,
        particles=particles,
        data=data,
        data_dir=data_dir,
        download=download,
        split=split,
        seed=seed,
        device=device,
        out=out,
        report=say,
    )


@command
def embed(
    run: _Run,
    num: Annotated[int | None, _num("How many rows, from the first of the split.", "all")] = None,
    data: _Data = None,
    data_dir: _DataDir = None,
    download: _Download = False,
    split: _SplitOption = "test",
    no_sums: Annotated[
        bool, option("Leave out the posteriors of sum nodes, which are large.", _WHAT, "--no-sums")
    ] = False,
    particles: Annotated[int, option("Importance samples of each leaf for the posteriors.", _WHAT, min=1)] = 100,
    panels: Annotated[int, option("VAEs of a leaf region that are drawn, at most.", _WHAT, min=1)] = 4,
    grid: Annotated[int, option("Patches to a side of each leaf's picture.", _WHAT, min=1)] = 8,
    seed: _Seed = None,
    device: _Device = None,
    out: Annotated[Path | None, _out("embed")] = None,
) -> None:
    """
    Latent means of every leaf, and posterior probabilities of leaves and sum nodes.

    Writes .npz and a picture: the latent space of every leaf as decoded patches,
    in the leaf's place on the image; for tables scatter plots.
    """
    from pyro_spvae.verbs.embed import embed as verb

    verb(
        run,
        num=num,
        sums=not no_sums,
        particles=particles,
        panels=panels,
        grid=grid,
        data=data,
        data_dir=data_dir,
        download=download,
        split=split,
        seed=seed,
        device=device,
        out=out,
        report=say,
        progress=sys.stderr.isatty(),
    )


@command
def info(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders, or folders that hold runs.", metavar="RUN", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """
    One table of runs: data, model, parameters, status, test log-likelihood, bits/dim and seconds.

    Log-likelihoods are means over the test split in nats per row, higher is
    better, with their standard error; the best run on the same data comes first.
    """
    from pyro_spvae.verbs.info import info as verb
    from pyro_spvae.verbs.info import table

    rows = verb(runs, report=lambda line: typer.echo(line, err=True))
    for line in [json.dumps(rows, indent=2)] if as_json else table(rows):
        say(line)

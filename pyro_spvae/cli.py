# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""The command line; it only reads options and calls the library."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast, get_args

import typer
from typer.core import TyperGroup

from pyro_spvae.training.config import Activation, Gradient, LikelihoodName, Networks, Structure, TrainConfig

# torch takes seconds to import: commands import what needs it, help does not

_DEFAULTS = TrainConfig()
_DATA, _MODEL, _OBJECTIVE, _TRAINING = "Data", "Model", "Objective", "Training and evaluation"
_UsageError = cast(type[Exception], typer.BadParameter.__base__)  # not exported; its home depends on typer's version


class _Commands(TyperGroup):
    """Wrong usage is told in one line, as every other error is; without arguments there is help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])

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
            typer.echo(f"Error: {' '.join(message.split())}", err=True)
            sys.exit(2)
        except typer.Abort:
            sys.exit(130)
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


def _option(text: str, panel: str, *names: str, **options: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, **options)


@app.command()
def train(
    data: Annotated[
        str,
        typer.Argument(help="digits (bundled), mnist, or a .npy/.npz file of [N, H, W], [N, C, H, W] or [N, D]."),
    ] = _DEFAULTS.data,
    out: Annotated[Path, _option("Folder to make for the run.", _DATA, "--out", show_default=False)] = ...,  # type: ignore[assignment]
    data_dir: Annotated[
        str | None, _option("Folder of data sets that are not bundled (torchvision's layout).", _DATA)
    ] = None,
    download: Annotated[bool, _option("Download a missing data set.", _DATA, "--download")] = _DEFAULTS.download,
    likelihood: Annotated[
        LikelihoodName,
        _option(
            "Of the pixels: bernoulli, binomial, categorical or normal (of grey levels with uniform noise, scaled to "
            "[0, 1]); auto: bernoulli for binary values, binomial up to 32 grey levels, else normal.",
            _MODEL,
            metavar="NAME",
        ),
    ] = _DEFAULTS.likelihood,
    structure: Annotated[
        Structure,
        _option(
            "Region graph: poon-domingos, quad-tree, random-binary-tree or whole; auto: poon-domingos for images, "
            "random-binary-tree for tables.",
            _MODEL,
            metavar="NAME",
        ),
    ] = _DEFAULTS.structure,
    delta: Annotated[
        int | None, _option("Side of a cell in pixels; by default a quarter of the longer side, at least 4.", _MODEL)
    ] = None,
    depth: Annotated[int | None, _option("Depth of random binary trees; 2 by default.", _MODEL)] = None,
    repetitions: Annotated[int | None, _option("Number of random binary trees; 4 by default.", _MODEL)] = None,
    units: Annotated[int, _option("Sum nodes of every inner region.", _MODEL)] = _DEFAULTS.units,
    leaves: Annotated[int | None, _option("VAEs of every leaf region; as many as units by default.", _MODEL)] = None,
    latent_dim: Annotated[int, _option("Latent size of a leaf VAE.", _MODEL)] = _DEFAULTS.latent_dim,
    hidden: Annotated[
        str, _option("Hidden layers of the leaf networks, comma-separated.", _MODEL, metavar="SIZES")
    ] = ",".join(map(str, _DEFAULTS.hidden)),
    activation: Annotated[
        Activation,
        _option(f"Activation of the leaf networks: {', '.join(get_args(Activation))}.", _MODEL, metavar="NAME"),
    ] = _DEFAULTS.activation,
    networks: Annotated[
        Networks, _option("Separate mean and scale networks, or one shared trunk with two heads.", _MODEL)
    ] = _DEFAULTS.networks,
    particles: Annotated[
        int, _option("Importance samples of each leaf in training and validation.", _OBJECTIVE)
    ] = _DEFAULTS.particles,
    alpha: Annotated[
        float, _option("Order of the leaf bounds: 0 importance weighted, 1 ELBO, -inf largest weight.", _OBJECTIVE)
    ] = _DEFAULTS.alpha,
    gradient: Annotated[
        Gradient, _option("Plain, or doubly reparameterised gradients of the guide.", _OBJECTIVE)
    ] = _DEFAULTS.gradient,
    lr: Annotated[
        float, _option("Learning rate of Adam; halved when validation stalls for a third of the patience.", _TRAINING)
    ] = _DEFAULTS.lr,
    batch_size: Annotated[int, _option("Rows of a step.", _TRAINING)] = _DEFAULTS.batch_size,
    epochs: Annotated[int, _option("Most epochs.", _TRAINING)] = _DEFAULTS.epochs,
    patience: Annotated[
        int, _option("Epochs without a better validation bound before training stops.", _TRAINING)
    ] = _DEFAULTS.patience,
    samples: Annotated[
        int, _option("Importance samples of each leaf for the test log-likelihood.", _TRAINING)
    ] = _DEFAULTS.samples,
    chunk_size: Annotated[
        int, _option("Pairs of row and sample decoded at a time in evaluation; bounds memory.", _TRAINING)
    ] = _DEFAULTS.chunk_size,
    seed: Annotated[int, _option("Same seed, same run.", _TRAINING)] = _DEFAULTS.seed,
) -> None:
    """
    Train a sum-product VAE, stop when validation stops rising, and print the test log-likelihood.

    Log-likelihoods and bounds are in nats per row, higher is better. The run
    folder holds config.json, metrics.jsonl (a line an epoch), results.json,
    last.pt, best.pt and figures/.
    """
    options = dict(locals())
    out = options.pop("out")
    options["hidden"] = _sizes(hidden)
    try:
        config = TrainConfig(**options)
        from pyro_spvae.training.train import train as run

        run(config, out, progress=sys.stderr.isatty(), report=typer.echo)
    except (ValueError, TypeError, OSError) as error:
        _refuse(error)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the two runs; numbered if it exists.")] = Path(
        "runs/demo"
    ),
    seed: Annotated[int, typer.Option(help="Same seed, same runs.")] = 0,
) -> None:
    """
    Train the default sum-product VAE and a plain VAE of no fewer parameters on the bundled digits, and compare them.
    """
    try:
        from pyro_spvae.training.demo import demo as run

        run(out, seed=seed, progress=sys.stderr.isatty(), report=typer.echo)
    except (ValueError, TypeError, OSError) as error:
        _refuse(error)


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        _refuse(ValueError(f"hidden is {text!r}; positive integers separated by commas are needed, such as 32,32"))


def _refuse(error: Exception) -> NoReturn:
    typer.echo(f"Error: {error}", err=True)
    raise typer.Exit(2)


def main() -> None:
    """Entry point of the command ``pyro-spvae``."""
    # Read when torch is loaded: threads that wait without spinning cost a little on an idle machine and save a busy one
    # from being ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    app()

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""``sample``, ``reconstruct``, ``impute`` and ``interpolate``: what a trained model draws, as arrays and pictures."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from pyro_spvae.checks import is_positive, positive_integer
from pyro_spvae.commands.app import option
from pyro_spvae.commands.options import MASK, WHAT, Particles, RowOptions, RunOptions, RunPath, number, query


@query
def sample(
    path: RunPath,
    *,
    num: Annotated[
        int | None,
        option("How many.", WHAT, "--num", "-n", min=1, show_default="64, in whole lines of copies"),
    ] = None,
    means: Annotated[bool, option("The likelihood's means instead of draws.", WHAT, "--means")] = False,
    given: Annotated[
        list[str] | None,
        option(
            "A latent variable that is held fixed in all leaves, such as c=2, the component of a mixture; of a vector "
            "z=0.5,-1. May be given several times.",
            WHAT,
            "--given",
            metavar="SITE=VALUE",
            show_default=False,
        ),
    ] = None,
    hold: Annotated[
        list[str] | None,
        option(
            "A latent variable of which copies share one draw, besides the tree. May be given several times.",
            WHAT,
            "--hold",
            metavar="SITE",
            show_default=False,
        ),
    ] = None,
    copies: Annotated[int, option("Data that share a draw of tree and held variables.", WHAT, min=1)] = 1,
    how: RunOptions,
    progress: bool = False,
) -> dict[str, Any]:
    """
    Draw new data from the model, or given values of latent variables.

    With copies each line of the picture shares what is held: of --hold z
    --copies 5 one draw of z, with all other latent variables drawn anew.

    Writes samples.npz (or means.npz), in the units that the model was trained
    on, and for images a picture; for tables samples.csv, in the names of columns
    and categories. File names tell what was given.

    :returns: what was written: ``samples`` or ``means`` ``[num, *event]`` in the model's units, ``low``, ``high``; see
        :meth:`pyro_spvae.models.SPVAE.sample`.
    :raises ValueError: if it is no run, or an option is unfit.
    """
    from pyro_spvae import plots
    from pyro_spvae.commands.given import given_name, parse_given
    from pyro_spvae.commands.query import Query, to_array

    copies = positive_integer("copies", copies)
    num = max(64 // copies, 1) * copies if num is None else positive_integer("num", num)
    asked = Query.open("sample", path, how)
    fixed = parse_given(given, next(asked.spvae.parameters()))
    with asked.drawing():
        x = asked.spvae.sample(num, fixed, means=means, hold=hold or (), copies=copies, progress=progress)
    kind, title = ("means", "sampled means") if means else ("samples", "samples")
    shared = None if copies == 1 else "-".join([*(hold or ()), f"{copies}-copies"])
    name = asked.name(kind, given_name(given), shared)
    columns = None if copies == 1 else copies
    asked.write_rows(name, x)
    return asked.answer(name, {kind: to_array(x)}, partial(plots.image_grid, x, title=title, columns=columns))


@query
def reconstruct(
    path: RunPath,
    *,
    num: Annotated[int | None, number("How many rows, from the first of the split.", "16")] = None,
    rows: RowOptions,
    particles: Particles = 100,
    how: RunOptions,
) -> dict[str, Any]:
    """
    Rows and their reconstructions: means of the likelihood given a draw of tree and latent variables.

    Writes .npz and, for images, a picture.

    :returns: what was written: ``original`` and ``reconstruction`` ``[row, *event]`` in the model's units, ``low``,
        ``high``; see :meth:`pyro_spvae.models.SPVAE.reconstruct`.
    :raises ValueError: if it is no run, or an option is unfit.
    """
    from pyro_spvae import plots
    from pyro_spvae.commands.query import Query, to_array

    particles = positive_integer("particles", particles)
    asked = Query.open("reconstruct", path, how)
    selection = asked.select(rows)
    x, seen = asked.read(selection, asked.count(selection, num, default=16))
    with asked.drawing():
        reconstruction = asked.spvae.reconstruct(x, seen, num_particles=particles)
    found = {"original": x, "reconstruction": reconstruction}
    arrays = {name: to_array(values) for name, values in found.items()}
    name = asked.name(selection.label, particles=(particles, 100))
    masks = {} if seen is None else {"original": seen}
    return asked.answer(name, arrays, partial(plots.image_rows, found, seen=masks))


@query
def impute(
    path: RunPath,
    *,
    observed: Annotated[
        str | None, option(MASK, WHAT, metavar="MASK", show_default="what is not missing from the data")
    ] = None,
    num: Annotated[int | None, number("How many rows, from the first of the split.", "8, of tables all")] = None,
    completions: Annotated[int | None, option("Completions of each row.", WHAT, min=1, show_default="3")] = None,
    means: Annotated[
        bool,
        option("One completion by the conditional mean of what is missing given what is seen.", WHAT, "--means"),
    ] = False,
    particles: Particles = 100,
    rows: RowOptions,
    how: RunOptions,
    progress: bool = False,
) -> dict[str, Any]:
    """
    Draw what is missing given what is seen.

    Seen entries stay as they are; entries that are missing from the data are
    drawn in any case. Writes .npz and, for images, a picture of the
    rows: original, seen (missing pixels orange) and completions. For tables
    imputed.csv holds the rows of the file with all of its columns, holes filled
    in, and imputed-2.csv, .. the further completions; other rows than the test
    rows, or other options, are in its name as in the others. With means it is the
    mean over all trees and latent variables, of categories the most probable.

    :returns: what was written: ``original`` and the mask ``observed`` ``[row, *event]``, ``imputed``
        ``[completion, row, *event]`` in the model's units, ``low``, ``high``; see
        :meth:`pyro_spvae.models.SPVAE.impute` and, of means, :meth:`pyro_spvae.models.SPVAE.conditional_mean`.
    :raises ValueError: if it is no run, or an option is unfit.
    """
    from pyro_spvae import plots
    from pyro_spvae.commands.observed import ACCEPTED, observed_name, parse_observed
    from pyro_spvae.commands.query import Query, to_array

    if means and completions not in (None, 1):
        raise ValueError(
            f"completions is {completions!r}, but the means of all are one completion; leave one of them out"
        )
    completions = positive_integer("completions", (1 if means else 3) if completions is None else completions)
    particles = positive_integer("particles", particles)
    asked = Query.open("impute", path, how)
    selection = asked.select(rows)
    few = 8 if asked.run.is_image else None
    x, there = asked.read(selection, asked.count(selection, num, default=few))
    mask = there
    if observed is not None:
        mask = parse_observed(observed, x.shape[1:], len(selection.rows), asked.seed, first=len(x))
        mask = mask.to(x.device).expand(x.shape)
        mask = mask if there is None else mask & there
    if mask is None:
        raise ValueError(
            f"observed is not given, but no entry of {selection.described} is missing; accepted are {ACCEPTED}"
        )
    with asked.drawing():
        how_drawn: dict[str, Any] = {"num_particles": particles, "progress": progress}
        if means:
            imputed = asked.spvae.conditional_mean(x, mask, **how_drawn).unsqueeze(0)
        else:
            imputed = asked.spvae.impute(x, mask, completions, **how_drawn)
    arrays = {"original": to_array(x), "observed": to_array(mask), "imputed": to_array(imputed)}
    labels = ["imputed"] if completions == 1 else [f"imputed {i + 1}" for i in range(completions)]
    shown = {"original": x, "seen": x, **dict(zip(labels, imputed, strict=True))}
    seen = "missing" if observed is None else observed_name(observed)
    name = asked.name(selection.label, seen, "means" if means else None, particles=(particles, 100))
    masks = {"seen": mask} if there is None else {"original": there, "seen": mask}
    if not asked.run.is_image:
        hint = "" if selection.split == "all" else "; --split all: every row"
        asked.report(f"rows        {len(x):,} of {len(selection.rows):,} in {selection.described}{hint}")
    of_rows = asked.table_name("imputed", name, "test-missing")
    for place, completed in enumerate(imputed, start=1):
        asked.write_completed(of_rows if place == 1 else f"{of_rows}-{place}", selection, completed, mask)
    asked.remove_further(of_rows, len(imputed))
    return asked.answer(name, arrays, partial(plots.image_rows, shown, seen=masks))


@query
def interpolate(
    path: RunPath,
    *,
    num: Annotated[int | None, number("How many pairs: rows 0 and 1, 2 and 3, ... of the split.", "4")] = None,
    steps: Annotated[int, option("Points of a path, both ends included.", WHAT, min=2)] = 10,
    particles: Annotated[int, option("Importance samples of each leaf.", WHAT, min=1)] = 100,
    rows: RowOptions,
    how: RunOptions,
) -> dict[str, Any]:
    """
    Paths between rows, through the latent spaces of the leaves and of the circuit.

    Writes .npz and, for images, a picture: on each line a row, the path, and
    the other row.

    :returns: what was written: ``start`` and ``end`` ``[pair, *event]``, ``path`` ``[step, pair, *event]`` in the
        model's units, ``low``, ``high``; see :meth:`pyro_spvae.models.SPVAE.interpolate`.
    :raises ValueError: if it is no run, or an option is unfit.
    """
    import torch

    from pyro_spvae import plots
    from pyro_spvae.commands.query import Query, to_array

    particles = positive_integer("particles", particles)
    if not is_positive(steps) or steps < 2:
        raise ValueError(f"steps is {steps!r}; an integer of at least 2 is needed")
    steps = int(steps)
    asked = Query.open("interpolate", path, how)
    selection = asked.select(rows)
    pairs = len(selection.rows) // 2
    wanted = 1 if num is None else positive_integer("num", num)
    if wanted > pairs:
        raise ValueError(f"num is {wanted} pairs, but {selection.described} has {len(selection.rows)} rows")
    x, seen = asked.read(selection, 2 * (min(4, pairs) if num is None else wanted))
    if seen is not None and not bool(seen.all()):
        raise ValueError(
            f"entries of the first {len(x)} rows of {selection.described} are missing, and "
            "paths need whole rows; give others by --data or --split"
        )
    start, end = x[0::2], x[1::2]
    with asked.drawing():
        between = asked.spvae.interpolate(start, end, steps, particles)
    arrays = {"start": to_array(start), "end": to_array(end), "path": to_array(between)}
    lines = torch.cat([start.unsqueeze(0), between, end.unsqueeze(0)])  # [step, pair, ...]
    shown = {f"original {2 * i} | path | original {2 * i + 1}": lines[:, i] for i in range(len(start))}
    name = asked.name(selection.label, particles=(particles, 100))
    return asked.answer(name, arrays, partial(plots.image_rows, shown))

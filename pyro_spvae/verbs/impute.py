# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""``impute``: what may stand where nothing was seen."""

from __future__ import annotations

import os

from torch import Tensor

from pyro_spvae import plots
from pyro_spvae.verbs.observed import observed_name, parse_observed
from pyro_spvae.verbs.query import Arrays, Query, Report, check_positive, silent, to_array


def impute(
    path: str | os.PathLike[str],
    *,
    observed: str,
    num: int | None = None,
    completions: int = 3,
    particles: int = 100,
    means: bool = False,
    data: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    split: str = "test",
    seed: int | None = None,
    device: str | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = False,
    report: Report = silent,
) -> Arrays:
    """
    Draws the missing entries of the first rows of a split, see :meth:`pyro_spvae.models.SPVAE.impute`.

    :param path: the run folder.
    :param str observed: what is seen, see :func:`pyro_spvae.verbs.observed.parse_observed`.
    :param int num: how many rows; 8, or all if there are fewer, by default.
    :param int completions: how many for each row.
    :param int particles: importance samples of each leaf that latent variables are drawn from.
    :param bool means: fill with the likelihood's means instead of draws.
    :param str data: other data than the run's, a name or a file.
    :param data_dir: folder of data sets that are not bundled; the run's by default.
    :param bool download: whether missing files may be fetched.
    :param str split: ``test``, ``validation`` or ``train``.
    :param int seed: also of random masks; the run's by default.
    :param str device: the run's by default.
    :param out: folder for the files; ``RUN/impute`` by default.
    :param bool progress: show a progress bar where pixels are drawn one after the other.
    :param callable report: takes lines of text.
    :returns: what was written: ``original`` and the mask ``observed`` ``[row, *event]``, ``imputed``
        ``[completion, row, *event]`` in the model's units, ``low``, ``high``.
    :raises ValueError: if it is no run, or an option is unfit.
    """
    check_positive("completions", completions)
    check_positive("particles", particles)
    query = Query.open("impute", path, seed=seed, device=device, out=out, report=report)
    selection = query.select(data, data_dir, download, split)
    x = query.place(selection.rows[: query.count(selection, num, default=8)])
    mask = parse_observed(observed, x.shape[1:], len(selection.rows), query.seed, first=len(x))
    mask = mask.to(x.device).expand(x.shape)
    with query.drawing():
        imputed = query.spvae.impute(x, mask, completions, num_particles=particles, means=means, progress=progress)
    arrays = {
        "original": to_array(x),
        "observed": to_array(mask),
        "imputed": to_array(imputed),
        **query.range(),
    }
    figure = None
    if query.run.is_image:
        rows: dict[str, Tensor] = {"original": x, "seen": x}
        if completions == 1:
            rows["imputed"] = imputed[0]
        else:
            rows |= {f"imputed {i}": completion for i, completion in enumerate(imputed, start=1)}
        values = query.run.values
        figure = plots.image_rows(rows, values.low, values.high, seen={"seen": mask})
    name = query.name(selection.label, observed_name(observed), "means" if means else None, particles=(particles, 100))
    query.write(name, arrays, figure=figure)
    return arrays

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""``sample``: new data from a trained model."""

from __future__ import annotations

import os

from pyro_spvae import plots
from pyro_spvae.verbs.query import Arrays, Query, Report, check_positive, silent, to_array


def sample(
    path: str | os.PathLike[str],
    *,
    num: int = 64,
    means: bool = False,
    seed: int | None = None,
    device: str | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: bool = False,
    report: Report = silent,
) -> Arrays:
    """
    Draws data, see :meth:`pyro_spvae.models.SPVAE.sample`, and writes ``samples`` (or ``means``): the array, and for
    images a picture.

    :param path: the run folder.
    :param int num: how many.
    :param bool means: the likelihood's means instead of draws.
    :param int seed: the run's by default.
    :param str device: the run's by default.
    :param out: folder for the files; ``RUN/sample`` by default.
    :param bool progress: show a progress bar where pixels are drawn one after the other.
    :param callable report: takes lines of text.
    :returns: what was written: ``samples`` or ``means`` ``[num, *event]`` in the model's units, ``low``, ``high``.
    :raises ValueError: if it is no run, or an option is unfit.
    """
    check_positive("num", num)
    query = Query.open("sample", path, seed=seed, device=device, out=out, report=report)
    with query.drawing():
        x = query.spvae.sample(num, means=means, progress=progress)
    kind = "means" if means else "samples"
    arrays = {kind: to_array(x), **query.range()}
    figure = None
    if query.run.is_image:
        values = query.run.values
        figure = plots.image_grid(x, values.low, values.high, title="sampled means" if means else "samples")
    query.write(query.name(kind), arrays, figure=figure)
    return arrays

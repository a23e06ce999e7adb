# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""``reconstruct``: data through their posterior and back."""

from __future__ import annotations

import os

from pyro_spvae import plots
from pyro_spvae.verbs.query import Arrays, Query, Report, check_positive, silent, to_array


def reconstruct(
    path: str | os.PathLike[str],
    *,
    num: int | None = None,
    particles: int = 100,
    data: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    split: str = "test",
    seed: int | None = None,
    device: str | None = None,
    out: str | os.PathLike[str] | None = None,
    report: Report = silent,
) -> Arrays:
    """
    The first rows of a split and their reconstructions, see :meth:`pyro_spvae.models.SPVAE.reconstruct`.

    :param path: the run folder.
    :param int num: how many rows; 16, or all if there are fewer, by default.
    :param int particles: importance samples of each leaf that latent variables are drawn from.
    :param str data: other data than the run's, a name or a file.
    :param data_dir: folder of data sets that are not bundled; the run's by default.
    :param bool download: whether missing files may be fetched.
    :param str split: ``test``, ``validation`` or ``train``.
    :param int seed: the run's by default.
    :param str device: the run's by default.
    :param out: folder for the files; ``RUN/reconstruct`` by default.
    :param callable report: takes lines of text.
    :returns: what was written: ``original`` and ``reconstruction`` ``[row, *event]`` in the model's units, ``low``,
        ``high``.
    :raises ValueError: if it is no run, or an option is unfit.
    """
    check_positive("particles", particles)
    query = Query.open("reconstruct", path, seed=seed, device=device, out=out, report=report)
    selection = query.select(data, data_dir, download, split)
    x = query.place(selection.rows[: query.count(selection, num, default=16)])
    with query.drawing():
        reconstruction = query.spvae.reconstruct(x, num_particles=particles)
    arrays = {"original": to_array(x), "reconstruction": to_array(reconstruction), **query.range()}
    figure = None
    if query.run.is_image:
        values = query.run.values
        figure = plots.image_rows({"original": x, "reconstruction": reconstruction}, values.low, values.high)
    query.write(query.name(selection.label, particles=(particles, 100)), arrays, figure=figure)
    return arrays

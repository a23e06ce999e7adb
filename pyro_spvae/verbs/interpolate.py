# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""``interpolate``: paths between data."""

from __future__ import annotations

import os

import torch

from pyro_spvae import plots
from pyro_spvae.verbs.query import Arrays, Query, Report, check_positive, silent, to_array


def interpolate(
    path: str | os.PathLike[str],
    *,
    num: int | None = None,
    steps: int = 10,
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
    Paths between the rows 0 and 1, 2 and 3, ... of a split, see :meth:`pyro_spvae.models.SPVAE.interpolate`.

    :param path: the run folder.
    :param int num: how many pairs; 4, or as many as there are, by default.
    :param int steps: points of a path, both ends included.
    :param int particles: importance samples of each leaf.
    :param str data: other data than the run's, a name or a file.
    :param data_dir: folder of data sets that are not bundled; the run's by default.
    :param bool download: whether missing files may be fetched.
    :param str split: ``test``, ``validation`` or ``train``.
    :param int seed: the run's by default.
    :param str device: the run's by default.
    :param out: folder for the files; ``RUN/interpolate`` by default.
    :param callable report: takes lines of text.
    :returns: what was written: ``start`` and ``end`` ``[pair, *event]``, ``path`` ``[step, pair, *event]`` in the
        model's units, ``low``, ``high``.
    :raises ValueError: if it is no run, or an option is unfit.
    """
    check_positive("particles", particles)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
        raise ValueError(f"steps is {steps!r}; an integer of at least 2 is needed")
    query = Query.open("interpolate", path, seed=seed, device=device, out=out, report=report)
    selection = query.select(data, data_dir, download, split)
    pairs = len(selection.rows) // 2
    if num is not None:
        check_positive("num", num)
    if not pairs or (num or 1) > pairs:
        raise ValueError(
            f"num is {num or 1} pairs, but the split {split} of {selection.data.name} has {len(selection.rows)} rows"
        )
    x = query.place(selection.rows[: 2 * (min(4, pairs) if num is None else num)])
    start, end = x[0::2], x[1::2]
    with query.drawing():
        steps_between = query.spvae.interpolate(start, end, steps, particles)
    arrays = {"start": to_array(start), "end": to_array(end), "path": to_array(steps_between), **query.range()}
    figure = None
    if query.run.is_image:
        rows = {
            f"original {2 * i} | path | original {2 * i + 1}": torch.cat(
                [start[i : i + 1], steps_between[:, i], end[i : i + 1]]
            )
            for i in range(len(start))
        }
        values = query.run.values
        figure = plots.image_rows(rows, values.low, values.high)
    query.write(query.name(selection.label, particles=(particles, 100)), arrays, figure=figure)
    return arrays

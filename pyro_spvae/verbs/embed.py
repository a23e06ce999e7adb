# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""``embed``: where data lie in the latent spaces of the leaves and of the circuit."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from pyro_spvae.models import SPVAE, Embedding
from pyro_spvae.verbs.latent_space import has_prior_grid, latent_picture
from pyro_spvae.verbs.query import Arrays, Query, Report, Selection, check_positive, silent, to_array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_SUMS = 2**31  # bytes of posteriors of sum nodes
_LATENT = "latent_"
_ROWS = 1024  # embedded at a time


def embed(
    path: str | os.PathLike[str],
    *,
    num: int | None = None,
    sums: bool = True,
    particles: int = 100,
    panels: int = 4,
    grid: int = 8,
    data: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    split: str = "test",
    seed: int | None = None,
    device: str | None = None,
    out: str | os.PathLike[str] | None = None,
    report: Report = silent,
    progress: bool = False,
) -> Arrays:
    """
    Embeds rows, see :meth:`pyro_spvae.models.SPVAE.embed`, and draws the latent spaces as in Figure 3 of the paper.

    The picture has a panel for each of the leaf programs of a leaf region. In it the leaf regions lie in their places,
    each filled with the means of patches over a grid on its latent space: where the latent space has one or two
    dimensions and a standard normal prior, equally likely values under the prior; otherwise a plane up to two standard
    deviations from the middle along the first two principal components of the embedded rows. Where leaf regions do not
    tile an image by rectangles, the rows are shown in the coordinates of these components instead. Where leaves have no
    latent variables, there is no picture, and the arrays are the posteriors over induced trees.

    :param path: the run folder.
    :param int num: how many rows of the split; all by default.
    :param bool sums: include the posteriors of sum nodes, which are large.
    :param int particles: importance samples of each leaf for posteriors.
    :param int panels: leaf programs of a region that are drawn.
    :param int grid: patches to a side of a grid.
    :param str data: other data than the run's, a name or a file.
    :param data_dir: folder of data sets that are not bundled; the run's by default.
    :param bool download: whether missing files may be fetched.
    :param str split: ``test``, ``validation`` or ``train``.
    :param int seed: the run's by default.
    :param str device: the run's by default.
    :param out: folder for the files; ``RUN/embed`` by default.
    :param callable report: takes lines of text.
    :param bool progress: show a progress bar.
    :returns: what was written: ``latent_<site> [row, leaf, latent]``, the guide's means; ``leaf_posterior
        [row, leaf]``; ``sum_posterior_<i> [row, region, sum, product]``, ``sum_regions_<i> [region]`` their numbers;
        ``leaf_region [leaf]`` and ``leaf_scope [leaf region, variable]`` padded by -1; and ``explained_variance
        [leaf, component]`` where principal components were drawn.
    :raises ValueError: if it is no run, an option is unfit, or posteriors of sum nodes would take more than 2 GiB.
    """
    for name, value in {"particles": particles, "panels": panels, "grid": grid}.items():
        check_positive(name, value)
    query = Query.open("embed", path, seed=seed, device=device, out=out, report=report)
    selection = query.select(data, data_dir, download, split)
    rows = query.count(selection, num)
    if sums:
        _check_size(query.spvae, rows)
    arrays = _embed(query, selection, rows, sums, particles, progress)
    arrays |= _structure(query.spvae, sums)
    sites = {name.removeprefix(_LATENT): torch.from_numpy(array) for name, array in arrays.items() if _LATENT in name}
    figure: Figure | None = None
    if not sites:
        report("note        the leaves have no latent variables, so there is no picture of latent spaces")
    elif rows > 1 or has_prior_grid(query.spvae, sites):
        drawn = latent_picture(
            query.spvae,
            sites,
            torch.from_numpy(arrays["leaf_posterior"]),
            query.run.values,
            panels,
            grid,
        )
        figure = drawn.figure
        if drawn.explained is not None:
            arrays["explained_variance"] = to_array(drawn.explained)
    else:
        report("note        one row has no principal components, so there is no picture")
    query.write(query.name(selection.label, particles=(particles, 100)), arrays, figure=figure)
    return arrays


def _check_size(spvae: SPVAE, rows: int) -> None:
    weights = sum(weight.numel() * weight.element_size() for weight in spvae.circuit.log_weights())
    if rows * weights > MAX_SUMS:
        raise ValueError(
            f"the posteriors of sum nodes of {rows:,} rows would take {rows * weights / 2**30:.1f} GiB, more than "
            f"{MAX_SUMS // 2**30} GiB; leave them out by --no-sums, or embed fewer rows by --num"
        )


def _embed(query: Query, selection: Selection, rows: int, sums: bool, particles: int, progress: bool) -> Arrays:
    """The embedding of the first rows, made block by block in place."""
    arrays: Arrays = {}
    bar = tqdm(total=rows, desc="embed", unit="row", disable=not progress)
    with bar, query.drawing():
        for start in range(0, rows, _ROWS):
            x = query.place(selection.rows[start : min(start + _ROWS, rows)])
            for name, values in _flat(query.spvae.embed(x, num_particles=particles, sums=sums)).items():
                block = to_array(values)
                if start == 0:
                    arrays[name] = np.empty((rows, *block.shape[1:]), block.dtype)
                arrays[name][start : start + len(x)] = block
            bar.update(len(x))
    return arrays


def _flat(embedding: Embedding) -> dict[str, Tensor]:
    found = {f"{_LATENT}{site}": means for site, means in embedding.latents.items()}
    found["leaf_posterior"] = embedding.leaf_posterior
    for i, posterior in enumerate(embedding.sum_posterior or []):
        found[f"sum_posterior_{i}"] = posterior
    return found


def _structure(spvae: SPVAE, sums: bool) -> Arrays:
    """What the axes of the embedding are: regions of leaves and of sum nodes."""
    circuit = spvae.circuit
    scopes = circuit.regions.leaf_scopes
    longest = max(map(len, scopes))
    arrays: Arrays = {
        "leaf_region": np.arange(circuit.num_leaf_regions).repeat(circuit.leaves),
        "leaf_scope": np.array([[*scope, *[-1] * (longest - len(scope))] for scope in scopes]),
    }
    for i, layer in enumerate(circuit.layers if sums else ()):
        arrays[f"sum_regions_{i}"] = np.array(layer.regions)
    return arrays

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""``embed``: where data lie in the latent spaces of the leaves and of the circuit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

from pyro_spvae.checks import positive_integer
from pyro_spvae.commands.app import option
from pyro_spvae.commands.options import WHAT, RowOptions, RunOptions, RunPath, number, query

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from pyro_spvae.commands.query import Arrays, Query, Selection
    from pyro_spvae.models import SPVAE, Embedding

MAX_SUMS = 2**31  # bytes of posteriors of sum nodes
_LATENT, _COMPONENTS, _MOST_PROBABLE = "latent_", "components_", "most_probable_"
_ROWS = 1024  # embedded at a time


@query
def embed(
    path: RunPath,
    *,
    num: Annotated[int | None, number("How many rows, from the first of the split.", "all")] = None,
    rows: RowOptions,
    sums: Annotated[
        bool,
        option("Leave out the posteriors of sum nodes, which are large.", WHAT, " /--no-sums", show_default=False),
    ] = True,
    particles: Annotated[int, option("Importance samples of each leaf for the posteriors.", WHAT, min=1)] = 100,
    panels: Annotated[int, option("VAEs of a leaf region that are drawn, at most.", WHAT, min=1)] = 4,
    grid: Annotated[int, option("Patches to a side of each leaf's picture.", WHAT, min=1)] = 8,
    how: RunOptions,
    progress: bool = False,
) -> dict[str, Any]:
    """
    Latent means of every leaf, mixture components, and posterior probabilities of leaves and sum nodes.

    Writes .npz and a picture: the latent space of every leaf as decoded patches,
    in the leaf's place on the image; for tables and discrete latent variables
    scatter plots. Where the data have labels, these too, and how well the
    components agree with them.

    :returns: what was written, see :meth:`pyro_spvae.models.SPVAE.embed`: ``latent_<site> [row, leaf, latent]``, the
        guide's means; ``components_<site> [row, leaf, component]``, probabilities of kinds or of the components of
        mixtures, and ``most_probable_<site> [row, leaf]``; ``labels [row]`` if there are any; ``leaf_posterior [row,
        leaf]``; ``sum_posterior_<i> [row, region, sum, product]``, ``sum_regions_<i> [region]`` their numbers;
        ``leaf_region [leaf]`` and ``leaf_scope [leaf region, variable]`` padded by -1; and ``explained_variance [leaf,
        component]`` where principal components were drawn. The picture is that of
        :func:`pyro_spvae.plots.latent_picture`; where leaves have no latent variables, there is none.
    :raises ValueError: if it is no run, an option is unfit, or posteriors of sum nodes would take more than 2 GiB.
    """
    import torch

    from pyro_spvae import plots
    from pyro_spvae.commands.query import Query, to_array

    particles = positive_integer("particles", particles)
    panels, grid = positive_integer("panels", panels), positive_integer("grid", grid)
    asked = Query.open("embed", path, how)
    selection = asked.select(rows)
    number = asked.count(selection, num)
    if sums:
        _check_size(asked.spvae, number)
    arrays = _embed(asked, selection, number, sums, particles, progress)
    arrays |= _structure(asked.spvae, sums)
    labels = selection.rows.labels
    if labels is not None:
        arrays["labels"] = to_array(labels[:number])
        for line in _agreement(arrays):
            how.report(line)
    sites = {site: torch.from_numpy(array) for site, array in _of_sites(arrays, _LATENT)}
    figure = None
    if not sites:
        how.report("note        the leaves have no latent variables, so there is no picture of latent spaces")
    elif number > 1 or plots.has_prior_grid(asked.spvae, sites):
        posterior = torch.from_numpy(arrays["leaf_posterior"])
        figure, explained = plots.latent_picture(asked.spvae, sites, posterior, asked.run.values, panels, grid)
        if explained is not None:
            arrays["explained_variance"] = to_array(explained)
    else:
        how.report("note        one row has no principal components, so there is no picture")
    asked.write(asked.name(selection.label, particles=(particles, 100)), arrays, figure=figure)
    return arrays


def _check_size(spvae: SPVAE, rows: int) -> None:
    weights = sum(weight.numel() * weight.element_size() for weight in spvae.circuit.log_weights())
    if rows * weights > MAX_SUMS:
        raise ValueError(
            f"the posteriors of sum nodes of {rows:,} rows would take {rows * weights / 2**30:.1f} GiB, more than "
            f"{MAX_SUMS // 2**30} GiB; leave them out by --no-sums, or embed fewer rows by --num"
        )


def _embed(asked: Query, selection: Selection, rows: int, sums: bool, particles: int, progress: bool) -> Arrays:
    """The embedding of the first rows, made block by block in place."""
    import numpy as np
    from tqdm.auto import tqdm

    from pyro_spvae.commands.query import to_array

    arrays: Arrays = {}
    bar = tqdm(total=rows, desc="embed", unit="row", disable=not progress)
    with bar, asked.drawing():
        for start in range(0, rows, _ROWS):
            x, seen = asked.read(selection, min(start + _ROWS, rows), start)
            for name, values in _flat(asked.spvae.embed(x, seen, num_particles=particles, sums=sums)).items():
                block = to_array(values)
                if start == 0:
                    arrays[name] = np.empty((rows, *block.shape[1:]), block.dtype)
                arrays[name][start : start + len(x)] = block
            bar.update(len(x))
    return arrays


def _flat(embedding: Embedding) -> dict[str, Tensor]:
    found = {f"{_LATENT}{site}": means for site, means in embedding.latents.items()}
    found |= {f"{_COMPONENTS}{site}": probs for site, probs in embedding.components.items()}
    found |= {f"{_MOST_PROBABLE}{site}": best for site, best in embedding.most_probable.items()}
    found["leaf_posterior"] = embedding.leaf_posterior
    for i, posterior in enumerate(embedding.sum_posterior or []):
        found[f"sum_posterior_{i}"] = posterior
    return found


def _of_sites(arrays: Arrays, prefix: str) -> Iterator[tuple[str, NDArray[Any]]]:
    """The arrays of one kind, with the names of their sites."""
    return ((name.removeprefix(prefix), array) for name, array in arrays.items() if name.startswith(prefix))


def _agreement(arrays: Arrays) -> Iterator[str]:
    """A line for each mixture: the clustering accuracy of its most probable components, by leaves that have it."""
    import torch

    from pyro_spvae.queries import clustering_accuracy

    labels = torch.from_numpy(arrays["labels"])
    for site, best in _of_sites(arrays, _MOST_PROBABLE):
        leaves = [leaf for leaf in range(best.shape[1]) if (best[:, leaf] >= 0).all()]
        found = {leaf: clustering_accuracy(torch.from_numpy(best[:, leaf]), labels) for leaf in leaves}
        line = f"accuracy    {site} by labels of {len(labels):,} rows: "
        if len(found) == 1:
            yield line + f"{found[leaves[0]]:.4f}"
        else:
            first = max(leaves, key=lambda leaf: found[leaf])
            mean = sum(found.values()) / len(found)
            yield line + f"{found[first]:.4f} of the best leaf, {first}, {mean:.4f} in the mean of {len(found)}"


def _structure(spvae: SPVAE, sums: bool) -> Arrays:
    """What the axes of the embedding are: regions of leaves and of sum nodes."""
    import numpy as np

    circuit = spvae.circuit
    scopes = circuit.regions.leaf_scopes
    longest = max(map(len, scopes))
    arrays: Arrays = {
        "leaf_region": np.arange(circuit.num_leaf_regions).repeat(circuit.leaves),
        "leaf_scope": np.array([[*scope, *[-1] * (longest - len(scope))] for scope in scopes]),
    }
    for i, group in enumerate(circuit.groups() if sums else ()):
        arrays[f"sum_regions_{i}"] = np.array(group.regions)
    return arrays

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of latent spaces: what the leaves decode on planes in them, or the data in them as clouds of points."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pyro_spvae.circuits import RegionGraph
from pyro_spvae.data import Values
from pyro_spvae.data.column import own_names
from pyro_spvae.distributions import LeafStandardNormal
from pyro_spvae.models import SPVAE
from pyro_spvae.plots.figures import new_figure
from pyro_spvae.plots.images import tiled
from pyro_spvae.plots.latent_planes import (
    SPAN,
    Components,
    component_grid,
    decode,
    in_coordinates,
    principal_components,
    prior_grid,
)
from pyro_spvae.plots.region_graphs import listed_names
from pyro_spvae.queries.programs import model_laws

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SCATTERED = 24  # scatter plots of a picture
_NAMED = 3  # columns of a region in a heading


class Tile(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


class Drawn(NamedTuple):
    """
    :ivar Figure figure: the picture.
    :ivar Tensor explained: share of the variance that each drawn component explains, ``[leaf, component]``, if any.
    """

    figure: Figure
    explained: Tensor | None


def latent_picture(
    spvae: SPVAE,
    latents: Mapping[str, Tensor],
    leaf_posterior: Tensor,
    values: Values,
    panels: int,
    grid: int,
) -> Drawn:
    """
    The latent spaces of the leaves, as in Figure 3 of the SPVAE paper.

    There is a panel for each of the leaf programs of a leaf region. In it the leaf regions lie in their places, each
    filled with the means of patches over a grid on its latent space: where the latent space has one or two dimensions
    and a standard normal prior, equally likely values under the prior; otherwise a plane up to two standard deviations
    from the middle along the first two principal components of the data. Where leaf regions do not tile an image by
    rectangles, or a latent variable is discrete, has a support that torch knows no transform to, or has values on the
    edge of it, the data are shown in the coordinates of these components instead.
    Components are those of unconstrained values, of which values inside of the supports are made.

    :param dict latents: what is known of each latent site, ``[data, leaf, *event]``, as in
        :class:`~pyro_spvae.queries.Embedding`; at least two data unless :func:`has_prior_grid`.
    :param Tensor leaf_posterior: ``[data, leaf]``; colours the data where they are drawn.
    :param Values values: range of the pixels.
    :param int panels: leaf programs of a region that are drawn, at most.
    :param int grid: patches to a side.

    Example::

        >>> from pyro_spvae.data import Values
        >>> from pyro_spvae.plots import latent_picture
        >>> spvae = SPVAE(poon_domingos((4, 4), delta=2), units=2, latent_dim=2, likelihood=Bernoulli())
        >>> embedding = spvae.embed(spvae.sample(5))
        >>> values = Values.grey_levels(2)
        >>> drawn = latent_picture(spvae, embedding.latents, embedding.leaf_posterior, values, panels=2, grid=3)
        >>> len(drawn.figure.axes), drawn.explained
        (2, None)
    """
    places, leaves = tiles(spvae.circuit.regions), spvae.circuit.leaves
    shown = range(min(panels, leaves))
    like = next(spvae.parameters())
    sites = {name: in_coordinates(spvae.latents[name], known, like) for name, known in latents.items()}
    means = torch.cat([site.values for site in sites.values()], -1)  # [data, leaf, coordinate]
    if has_prior_grid(spvae, latents):
        components = None
        points = prior_grid(means.size(-1), means.size(1), grid)
        heading = "latent spaces of the leaves: quantiles of the prior"
    else:
        components = principal_components(means)
        points = component_grid(components, grid)
        number = "one principal component" if components.axes.size(1) == 1 else "two principal components"
        heading = f"latent spaces of the leaves: \u00b1{SPAN:g} sd of {number}"
    if places is None or any(site.transform is None for site in sites.values()):
        components = components or principal_components(means)
        return Drawn(_scatter(spvae, components, leaf_posterior, shown), components.explained)
    parts = points.split([site.values.size(-1) for site in sites.values()], -1)
    with torch.no_grad():
        grids = {name: site.value(part) for (name, site), part in zip(sites.items(), parts, strict=True)}
    patches = decode(spvae, grids).cpu()  # [point, leaf, pixel]
    channels = spvae.event_shape[0] if len(spvae.event_shape) == 3 else 1
    pictures = {}
    for i in shown:
        title = f"VAE {i + 1}"
        if components is not None:
            title += f", {components.explained[i::leaves].sum(-1).mean():.0%} of the variance on average"
        pictures[title] = [
            manifold(patches[:, cell * leaves + i], place, channels) for cell, place in enumerate(places)
        ]
    corners = [(place.top * grid, place.left * grid) for place in places]
    figure = tiled(pictures, corners, values.low, values.high, heading, divisions=grid)
    return Drawn(figure, None if components is None else components.explained)


def has_prior_grid(spvae: SPVAE, latents: Mapping[str, Tensor]) -> bool:
    """Whether :func:`prior_grid` fits: one latent site of one or two dimensions with a standard normal prior.

    Example::

        >>> from pyro_spvae.plots import has_prior_grid
        >>> spvae = SPVAE(poon_domingos((4, 4), delta=2), units=2, latent_dim=2, likelihood=Bernoulli())
        >>> has_prior_grid(spvae, spvae.embed(spvae.sample(5)).latents)
        True
    """
    (name, *others) = latents
    if others or spvae.latents[name].event_shape not in ((1,), (2,)) or tiles(spvae.circuit.regions) is None:
        return False
    return isinstance(model_laws(spvae)[name], LeafStandardNormal)


def clouds(points: dict[str, tuple[Tensor, Tensor]], columns: int, weight: str, title: str | None = None) -> Figure:
    """
    Scatter plots, each with a heading.

    :param dict points: heading to coordinates ``[N, 2]`` (or ``[N, 1]``: against the weights) and weights in [0, 1].
    :param int columns: plots side by side.
    :param str weight: what the weights, shown by colour, are.
    :param str title: heading of all.

    Example::

        >>> from pyro_spvae.plots import clouds
        >>> points = {name: (torch.randn(20, 2), torch.rand(20)) for name in ("first", "second")}
        >>> type(clouds(points, columns=2, weight="posterior of the leaf")).__name__
        'Figure'
    """
    columns = min(columns, len(points))
    rows = math.ceil(len(points) / columns)
    lines = max(label.count("\n") for label in points)  # of headings beside the first
    figure = new_figure(max(4.0, 2.0 * columns), (1.9 + 0.13 * lines) * rows + 0.6)
    grid = []
    for place, (label, (coordinates, weights)) in enumerate(points.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        second = coordinates[:, 1] if coordinates.size(1) > 1 else weights
        order = weights.argsort()  # what a leaf is probable for lies on top
        shown = axes.scatter(
            coordinates[order, 0].numpy(), second[order].numpy(), c=weights[order].numpy(), s=4, vmin=0, vmax=1, lw=0
        )
        axes.set_title(label, fontsize=8)
        axes.tick_params(labelsize=6)
        grid.append(axes)
    figure.colorbar(shown, ax=grid, label=weight, shrink=min(1.0, 2 / rows))
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def tiles(regions: RegionGraph) -> list[Tile] | None:
    """
    The leaf regions as rectangles of an image, if they are rectangles and tile it; ``None`` otherwise.
    """
    if len(regions.shape) != 2:
        return None
    found, width = [], regions.shape[1]
    for scope in regions.leaf_scopes:
        rows, columns = [place // width for place in scope], [place % width for place in scope]
        tile = Tile(min(rows), min(columns), max(rows) - min(rows) + 1, max(columns) - min(columns) + 1)
        if tile.height * tile.width != len(scope):
            return None
        found.append(tile)
    return found if sum(map(len, regions.leaf_scopes)) == regions.num_variables else None


def manifold(patches: Tensor, tile: Tile, channels: int) -> Tensor:
    """
    The patches of one leaf over a grid as one picture.

    :param Tensor patches: ``[size * size, pixel]``, each channel padded to the largest leaf region, see
        :class:`~pyro_spvae.circuits.leaf_view.LeafView`.
    :returns: ``[channel, size * height, size * width]``.
    """
    size = round(len(patches) ** 0.5)
    used = patches.unflatten(-1, (channels, -1))[..., : tile.height * tile.width]
    grid = used.reshape(size, size, channels, tile.height, tile.width)  # [row, column, C, h, w]
    return grid.permute(2, 0, 3, 1, 4).reshape(channels, size * tile.height, size * tile.width)


def _scatter(spvae: SPVAE, components: Components, leaf_posterior: Tensor, shown: range) -> Figure:
    """The data in the coordinates of each leaf's components."""
    leaves, scopes = spvae.circuit.leaves, spvae.circuit.regions.leaf_scopes
    drawn = min(len(scopes), max(1, _SCATTERED // len(shown)))
    names = own_names(spvae.columns)

    def named(cell: int) -> str:
        text = f"region {cell}"
        return text if names is None else f"{listed_names(scopes[cell], names, _NAMED)}\n{text}"

    points = {
        f"{named(cell)}, VAE {i + 1}": (components.scores[:, leaf], leaf_posterior[:, leaf])
        for cell in range(drawn)
        for i in shown
        for leaf in [cell * leaves + i]
    }
    heading = "rows by principal components of their latent means"
    if drawn < len(scopes):
        heading += f"; the first {drawn} of {len(scopes)} leaf regions"
    return clouds(points, len(shown) * max(1, 4 // len(shown)), "probability of the leaf", heading)

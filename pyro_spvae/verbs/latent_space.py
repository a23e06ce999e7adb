# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Planes in the latent spaces of the leaves, and what the leaves make of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from pyro_spvae import plots
from pyro_spvae.circuits import RegionGraph
from pyro_spvae.data import Values
from pyro_spvae.distributions import LeafStandardNormal
from pyro_spvae.distributions.autoregressive import pixel_means
from pyro_spvae.models import SPVAE
from pyro_spvae.nn.mode import in_mode
from pyro_spvae.training.lean import lean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SPAN = 2.0  # standard deviations from the middle of a grid to its sides
_SCATTERED = 24  # scatter plots of a picture


class Components(NamedTuple):
    """
    The principal components of each leaf's latent means.

    :ivar Tensor centre: ``[leaf, latent]``.
    :ivar Tensor axes: unit vectors ``[leaf, component, latent]``.
    :ivar Tensor deviations: standard deviations along them, ``[leaf, component]``.
    :ivar Tensor explained: share of the variance, ``[leaf, component]``; 0 where nothing varies.
    :ivar Tensor scores: the data in these coordinates, ``[data, leaf, component]``.
    """

    centre: Tensor
    axes: Tensor
    deviations: Tensor
    explained: Tensor
    scores: Tensor


class Tile(NamedTuple):
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def principal_components(means: Tensor) -> Components:
    """
    The first two principal components (or one, where there is no second) of every leaf.

    :param Tensor means: ``[data, leaf, latent]``, at least two data.
    """
    from sklearn.decomposition import PCA

    found = []
    for leaf in means.cpu().double().unbind(1):
        pca = PCA(min(2, *leaf.shape), svd_solver="full")
        with np.errstate(invalid="ignore"):  # 0 / 0 where nothing varies
            scores = pca.fit_transform(leaf.numpy())
        ratio = np.nan_to_num(pca.explained_variance_ratio_)
        found.append((pca.mean_, pca.components_, pca.explained_variance_**0.5, ratio, scores))
    centre, axes, deviations, explained, scores = (
        torch.from_numpy(np.stack(part)) for part in zip(*found, strict=True)
    )
    return Components(centre, axes, deviations, explained, scores.movedim(0, 1))


def component_grid(components: Components, size: int) -> Tensor:
    """
    Points of the plane of two components, evenly spaced up to two standard deviations to either side; of the line of
    one component, read row by row.

    :returns: ``[size * size, leaf, latent]``; rows of the grid from the highest second component to the lowest.
    """
    if components.axes.size(1) == 1:
        steps = torch.linspace(-_SPAN, _SPAN, size * size, dtype=torch.float64).unsqueeze(-1)  # [point, component]
    else:
        steps = _square(torch.linspace(-_SPAN, _SPAN, size, dtype=torch.float64))
    offsets = steps[:, None, :] * components.deviations  # [point, leaf, component]
    return components.centre + torch.einsum("plc,lcd->pld", offsets, components.axes)


def prior_grid(latent_dim: int, leaves: int, size: int) -> Tensor:
    """
    Points that a standard normal prior finds equally likely to fall between: the inverse normal distribution function
    of an even grid on the unit square (Kingma and Welling 2014, figure 4), or on the unit interval, read row by row.

    :param int latent_dim: 1 or 2.
    :returns: ``[size * size, leaf, latent]``; rows of the grid from the highest second coordinate to the lowest.
    """
    number = size if latent_dim == 2 else size * size
    steps = torch.special.ndtri((torch.arange(number, dtype=torch.float64) + 0.5) / number)
    points = _square(steps) if latent_dim == 2 else steps.unsqueeze(-1)
    return points.unsqueeze(1).expand(-1, leaves, -1)


def decode(spvae: SPVAE, latents: Mapping[str, Tensor]) -> Tensor:
    """
    The means of all leaves' patches given values of their latent sites.

    :param dict latents: site to values ``[data, leaf, latent]``.
    :returns: ``[data, leaf, pixel]``; pixels of a leaf in the order of its scope, channel by channel.
    """
    parameter = next(spvae.parameters())
    values = {site: value.to(parameter.device, parameter.dtype) for site, value in latents.items()}
    number = len(next(iter(values.values())))
    with lean(), in_mode(spvae, training=False), torch.no_grad():
        model = poutine.condition(spvae.model, data=values)
        trace: Any = poutine.trace(model).get_trace(num=number)
        means = pixel_means(trace.nodes["x"]["fn"], trace.nodes["x"]["value"])
    return means.expand(number, spvae.num_leaves, means.size(-1))


def has_prior_grid(spvae: SPVAE, latents: Mapping[str, Tensor]) -> bool:
    """Whether :func:`prior_grid` fits: one latent site of one or two dimensions with a standard normal prior."""
    if len(latents) != 1 or next(iter(latents.values())).size(-1) > 2 or tiles(spvae.circuit.regions) is None:
        return False
    with lean(), torch.no_grad():
        trace: Any = poutine.trace(spvae.model).get_trace(num=1)
    return isinstance(trace.nodes[next(iter(latents))]["fn"], LeafStandardNormal)


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

    :param Tensor patches: ``[size * size, pixel]``, padded to the largest leaf region.
    :returns: ``[channel, size * height, size * width]``.
    """
    size = round(len(patches) ** 0.5)
    used = patches[:, : channels * tile.height * tile.width]
    grid = used.reshape(size, size, channels, tile.height, tile.width)  # [row, column, C, h, w]
    return grid.permute(2, 0, 3, 1, 4).reshape(channels, size * tile.height, size * tile.width)


def _square(steps: Tensor) -> Tensor:
    """All pairs of steps ``[size * size, 2]``, the first rising to the right, the second upwards."""
    second, first = torch.meshgrid(steps.flip(0), steps, indexing="ij")
    return torch.stack([first, second], -1).reshape(-1, 2)


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
    The latent spaces of the leaves, as :func:`pyro_spvae.verbs.embed.embed` describes.

    :param dict latents: each latent site's means ``[data, leaf, latent]``; at least two data unless
        :func:`has_prior_grid`.
    :param Tensor leaf_posterior: ``[data, leaf]``; colours the data where they are drawn.
    :param Values values: range of the pixels.
    :param int panels: leaf programs of a region that are drawn, at most.
    :param int grid: patches to a side.
    """
    places, leaves = tiles(spvae.circuit.regions), spvae.circuit.leaves
    shown = range(min(panels, leaves))
    means = torch.cat([mean.cpu().double() for mean in latents.values()], -1)  # [data, leaf, latent]
    if has_prior_grid(spvae, latents):
        components = None
        points = prior_grid(means.size(-1), means.size(1), grid)
        heading = "latent spaces of the leaves: quantiles of the prior"
    else:
        components = principal_components(means)
        points = component_grid(components, grid)
        number = "one principal component" if components.axes.size(1) == 1 else "two principal components"
        heading = f"latent spaces of the leaves: \u00b1{_SPAN:g} sd of {number}"
    if places is None:
        assert components is not None
        return Drawn(_scatter(spvae, components, leaf_posterior, shown), components.explained)
    split = dict(zip(latents, points.split([mean.size(-1) for mean in latents.values()], -1), strict=True))
    patches = decode(spvae, split).cpu()  # [point, leaf, pixel]
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
    figure = plots.tiled(pictures, corners, values.low, values.high, heading, divisions=grid)
    return Drawn(figure, None if components is None else components.explained)


def _scatter(spvae: SPVAE, components: Components, leaf_posterior: Tensor, shown: range) -> Figure:
    """The data in the coordinates of each leaf's components."""
    leaves, scopes = spvae.circuit.leaves, spvae.circuit.regions.leaf_scopes
    drawn = min(len(scopes), max(1, _SCATTERED // len(shown)))
    clouds = {
        f"region {cell}, VAE {i + 1}": (components.scores[:, leaf], leaf_posterior[:, leaf])
        for cell in range(drawn)
        for i in shown
        for leaf in [cell * leaves + i]
    }
    heading = "rows by principal components of their latent means"
    if drawn < len(scopes):
        heading += f"; the first {drawn} of {len(scopes)} leaf regions"
    return plots.clouds(clouds, len(shown) * max(1, 4 // len(shown)), "probability of the leaf", heading)

# Copyright Contributors to the pyro-spvae project.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of region graphs: small ones whole, of larger ones the leaf regions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_spvae.circuits import RegionGraph
from pyro_spvae.plots.figures import short_name
from pyro_spvae.plots.region_trees import draw_tree, size_of_tree

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# larger graphs are too tangled to follow an edge
MAX_DRAWN_REGIONS = 20
MAX_DRAWN_PARTITIONS = 24
# leaf regions shown one by one when they overlap or are scattered
MAX_DRAWN_LEAF_REGIONS = 64
_LETTERS = 15  # of a name under a thumbnail
# variables that are labelled one by one when the leaf regions are scattered
MAX_LABELLED_VARIABLES = 100

INNER_COLOR, LEAF_COLOR, OUTSIDE_COLOR, EDGE_COLOR = "#4477aa", "#ee8866", "#e4e4e4", "#555555"
# soft enough for black numbers
CELL_COLORS = ["#77aadd", "#ee8866", "#eedd88", "#ffaabb", "#99ddff", "#44bb99", "#bbcc33", "#dddddd"]


def region_graph(graph: RegionGraph, ax: Axes | None = None, names: Sequence[str] | None = None) -> Axes:
    """
    Draws a region graph.

    A small graph is drawn whole: each region as a thumbnail of the array with its variables filled, the root on top,
    each partition as a dot that joins a region to its two parts. Of a larger one the leaf regions are drawn: as
    numbered cells in one picture of the array if they tile it, or else (when those of random trees overlap) a
    thumbnail each. A table is drawn as one row; an array of more than two axes as its last two, once for each entry of
    the others, side by side.

    A table's graph that is a tree, such as a hidden Chow-Liu tree, is drawn as a dendrogram with its variables if their
    names are given, or if it is not small: the root at the left, a dot for each inner region.

    :param RegionGraph graph: the graph.
    :param ax: matplotlib axes to draw into; a new figure by default.
    :param names: of the variables, such as the columns of a table, which are written to the leaf regions.
    :raises ValueError: if there is not one for each variable.
    :return: the axes.

    Example::

        >>> from pyro_spvae.plots import region_graph
        >>> axes = region_graph(quad_tree((4, 4), delta=2))
        >>> type(axes.figure).__name__
        'Figure'
    """
    import matplotlib.pyplot as plt

    if names is not None and len(names) != graph.num_variables:
        raise ValueError(
            f"names are {len(names)}, but the graph has {graph.num_variables} variables; give one for each"
        )
    disjoint = sum(len(scope) for scope in graph.leaf_scopes) == graph.num_variables
    small = graph.num_regions <= MAX_DRAWN_REGIONS and len(graph.partitions) <= MAX_DRAWN_PARTITIONS
    compact = all(_is_box(graph.shape, scope) for scope in graph.leaf_scopes)
    tree = size_of_tree(graph, names) if len(graph.shape) == 1 and (names is not None or not small) else None
    if tree is not None:
        width, height = tree
    elif small and graph.partitions:
        rows = [range(graph.num_leaf_regions), *graph.levels]
        width, height = 1.1 * max(len(row) for row in rows), 1.5 * len(rows)
    elif len(graph.shape) == 1 and disjoint:
        width, height = min(24.0, 0.3 * graph.num_variables), 1.2 if names is None else 2.4
    else:
        width, height = 6.0, 6.0
    if ax is None:
        _, ax = plt.subplots(figsize=(max(width, 5.0), height), layout="constrained")
    if tree is not None:
        draw_tree(graph, ax, names)
    elif small and graph.partitions:
        _draw_graph(graph, ax)
        if names is not None:
            _name_leaves_below(graph, ax, names)
    elif disjoint and (compact or graph.num_variables <= MAX_LABELLED_VARIABLES):
        _draw_cells(graph, ax, compact, names)
    else:
        _draw_leaf_regions(graph, ax, names)
    ax.set_title(
        f"{graph.num_regions} regions ({graph.num_leaf_regions} leaf), {len(graph.partitions)} partitions",
        fontsize=11,
    )
    ax.set_axis_off()
    # the one row of a table may be as high as the figure
    ax.set_aspect("auto" if tree is not None or (len(graph.shape) == 1 and not small) else "equal")
    return ax


def _draw_graph(graph: RegionGraph, ax: Axes) -> None:
    aspect = _aspect(graph.shape)
    step = 1.5  # between centres of a row, thumbnails being 1 wide
    rows = [tuple(range(graph.num_leaf_regions)), *graph.levels]
    drop = aspect + 0.55 + 0.12 * max(len(row) for row in rows)  # between rows; edges of a wide row need more
    centre = {
        region: (step * (place - (len(row) - 1) / 2), drop * level)
        for level, row in enumerate(rows)
        for place, region in enumerate(row)
    }
    for region, (x, y) in centre.items():
        _draw_region(graph, region, ax, x, y, aspect)
        ax.text(x + 0.54, y, str(region), fontsize=8, ha="left", va="center", color=EDGE_COLOR)
    for partitions in graph.region_partitions:
        for place, partition in enumerate(partitions):
            x, y = centre[partition.region]
            bottom = y - aspect / 2
            dot = (x + 0.26 * (place - (len(partitions) - 1) / 2), bottom - 0.22)
            color = f"C{place % 10}"
            ax.plot([x, dot[0]], [bottom, dot[1]], color=color, lw=1.0, zorder=1)
            for part in partition.parts:
                end = centre[part]
                ax.plot([dot[0], end[0]], [dot[1], end[1] + aspect / 2], color=color, lw=1.0, alpha=0.75, zorder=1)
            ax.plot(*dot, "o", color=color, ms=4.5, zorder=3)
    low, high = -aspect / 2 - 0.15, drop * (len(rows) - 1) + aspect / 2 + 0.15
    side = step * max(len(row) for row in rows) / 2 + 0.1
    ax.set_xlim(-side, side)
    ax.set_ylim(low, high)


def _draw_region(graph: RegionGraph, region: int, ax: Axes, x: float, y: float, aspect: float) -> None:
    """A thumbnail of width 1 with the variables of one region filled."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Rectangle

    inside = torch.zeros(graph.num_variables, device="cpu")
    inside[list(graph.scope(region))] = 1.0
    picture = _picture(graph.shape, inside)
    color = LEAF_COLOR if graph.is_leaf(region) else INNER_COLOR
    ax.imshow(
        picture.numpy(),
        cmap=ListedColormap([OUTSIDE_COLOR, color]),
        vmin=0,
        vmax=1,
        extent=(x - 0.5, x + 0.5, y - aspect / 2, y + aspect / 2),
        interpolation="nearest",
        zorder=2,
    )
    ax.add_patch(Rectangle((x - 0.5, y - aspect / 2), 1, aspect, fill=False, ec=EDGE_COLOR, lw=0.5, zorder=2.5))


def listed_names(scope: Sequence[int], names: Sequence[str], most: int = 8, separator: str = "\n") -> str:
    """
    The names of the variables of a region, of many the first ones, each shortened.

    :param int most: that are named.
    """
    found = [short_name(names[variable], _LETTERS) for variable in scope[:most]]
    return separator.join(found if len(scope) <= most else [*found, f".. {len(scope)} in all"])


def _name_leaves_below(graph: RegionGraph, ax: Axes, names: Sequence[str]) -> None:
    """Names under the leaf regions, which are the lowest row of a graph that is drawn whole."""
    low, _ = ax.get_ylim()
    for place, scope in enumerate(graph.leaf_scopes):
        x = 1.5 * (place - (graph.num_leaf_regions - 1) / 2)
        text = listed_names(scope, names)
        ax.text(x, low, text, fontsize=7, ha="center", va="top", rotation=0 if len(scope) > 1 else 20)


def _draw_leaf_regions(graph: RegionGraph, ax: Axes, names: Sequence[str] | None) -> None:
    """A thumbnail for each leaf region, row by row."""
    number = min(graph.num_leaf_regions, MAX_DRAWN_LEAF_REGIONS)
    aspect = _aspect(graph.shape)
    below = 0.35 if names is None else 0.35 + 0.12 * min(10, 1 + max(map(len, graph.leaf_scopes)))  # for texts
    columns = max(1, round(math.sqrt(number * (aspect + below) / 1.25)))
    for region in range(number):
        row, column = divmod(region, columns)
        x, y = 1.25 * column, -(aspect + below) * row
        _draw_region(graph, region, ax, x, y, aspect)
        text = str(region) if names is None else f"{region}\n{listed_names(graph.scope(region), names)}"
        size = 8 if names is None else max(4.0, min(8.0, 40.0 / columns))
        ax.text(x, y - aspect / 2 - 0.03, text, fontsize=size, ha="center", va="top", color=EDGE_COLOR)
    rows = math.ceil(number / columns)
    ax.set_xlim(-0.6, 1.25 * (columns - 1) + 0.6)
    ax.set_ylim(-(aspect + below) * (rows - 1) - aspect / 2 - below - 0.05, aspect / 2 + 0.1)
    if number < graph.num_leaf_regions:
        ax.text(
            0.5, 0.0, f"the first {number} of {graph.num_leaf_regions} leaf regions",
            transform=ax.transAxes, fontsize=9, ha="center", va="bottom",
        )  # fmt: skip


def _draw_cells(graph: RegionGraph, ax: Axes, compact: bool, names: Sequence[str] | None) -> None:
    """The array, coloured and numbered by the leaf regions, which tile it."""
    from matplotlib.colors import ListedColormap

    cell = torch.empty(graph.num_variables, device="cpu")
    for region, scope in enumerate(graph.leaf_scopes):
        cell[list(scope)] = float(region)
    picture = _picture(graph.shape, cell)
    height, width = picture.shape
    # boxes get borders and shades of their own; neighbours of a grid must not share a shade
    ax.imshow(
        _shades(graph, picture).numpy(), cmap=ListedColormap(CELL_COLORS), vmin=-0.5, vmax=len(CELL_COLORS) - 0.5,
        interpolation="nearest", extent=(0, width, height, 0),
    )  # fmt: skip
    _draw_borders(ax, picture)
    size = max(5.0, min(11.0, 60.0 / math.sqrt(graph.num_leaf_regions)))
    if names is not None and len(graph.shape) == 1 and width <= MAX_LABELLED_VARIABLES:
        for place, name in enumerate(names):  # under the one row of a table
            ax.text(place + 0.5, height + 0.08, short_name(name), fontsize=7, rotation=90, ha="center", va="top")
    sides = (torch.arange(side, device=picture.device) for side in (height, width))
    ys, xs = torch.meshgrid(*sides, indexing="ij")
    for region in range(graph.num_leaf_regions):
        own = picture == region
        places = list(zip(xs[own].tolist(), ys[own].tolist(), strict=True))
        if compact and len(graph.shape) <= 2:
            places = [(sum(x for x, _ in places) / len(places), sum(y for _, y in places) / len(places))]
        for x, y in places if compact or len(places) <= MAX_LABELLED_VARIABLES else []:
            ax.text(x + 0.5, y + 0.5, str(region), fontsize=size, ha="center", va="center")


def _shades(graph: RegionGraph, picture: Tensor) -> Tensor:
    """A colour number for each entry: greedily one that no neighbouring cell of smaller number has."""
    neighbours: dict[int, set[int]] = {region: set() for region in range(graph.num_leaf_regions)}
    for one, other in ((picture[1:], picture[:-1]), (picture[:, 1:], picture[:, :-1])):
        for a, b in set(zip(one.flatten().tolist(), other.flatten().tolist(), strict=True)):
            if a != b and not math.isnan(a) and not math.isnan(b):
                neighbours[int(a)].add(int(b))
                neighbours[int(b)].add(int(a))
    shade: dict[int, int] = {}
    for region, around in neighbours.items():
        taken = {shade[other] for other in around if other in shade}
        start = region % len(CELL_COLORS)
        free = [color % len(CELL_COLORS) for color in range(start, start + len(CELL_COLORS))]
        shade[region] = next((color for color in free if color not in taken), start)
    shades = torch.full_like(picture, math.nan)
    for region, color in shade.items():
        shades[picture == region] = float(color)
    return shades


def _draw_borders(ax: Axes, picture: Tensor) -> None:
    """Lines between entries of different value, and around the array."""
    height, width = picture.shape
    filled = picture.new_full((height + 2, width + 2), -1.0)
    filled[1:-1, 1:-1] = picture.nan_to_num(-1.0)
    across = (filled[1:] != filled[:-1]).nonzero().tolist()  # between rows
    along = (filled[:, 1:] != filled[:, :-1]).nonzero().tolist()  # between columns
    for y, x in across:
        ax.plot([x - 1, x], [y, y], color="black", lw=1.0, solid_capstyle="round")
    for y, x in along:
        ax.plot([x, x], [y - 1, y], color="black", lw=1.0, solid_capstyle="round")
    ax.set_xlim(-0.1, width + 0.1)
    ax.set_ylim(height + 0.1, -0.1)


def _picture(shape: tuple[int, ...], values: Tensor) -> Tensor:
    """One value for each variable as a picture ``[height, width]``; empty columns (NaN) part the slices of high
    ranks."""
    slices = values.reshape(-1, shape[-2] if len(shape) > 1 else 1, shape[-1])  # [S, H, W]
    gap = slices.new_full((slices.shape[1], 1), math.nan)
    return torch.cat([piece for own in slices for piece in (own, gap)][:-1], dim=1)


def _aspect(shape: tuple[int, ...]) -> float:
    """Height of a thumbnail of width 1, within limits that keep a long row visible."""
    height, width = _picture(shape, torch.zeros(math.prod(shape), device="cpu")).shape
    return min(3.0, max(0.15, height / width))


def _is_box(shape: tuple[int, ...], scope: tuple[int, ...]) -> bool:
    """Whether a scope is an axis-aligned box of the array."""
    coordinates = torch.stack(torch.unravel_index(torch.tensor(scope, device="cpu"), shape))  # [axis, variable]
    sides = coordinates.amax(1) - coordinates.amin(1) + 1
    return int(sides.prod()) == len(scope)
